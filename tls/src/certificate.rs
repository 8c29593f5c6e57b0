//! Name and lifetime of a certificate. Nothing here verifies a certificate.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::pki_types::CertificateDer;
use x509_cert::{
    Certificate,
    der::Decode,
    ext::pkix::{SubjectAltName, name::GeneralName},
};

/// Longest name of a certificate, in bytes; a longer one is no name.
const MAX_NAME: usize = 512;

/// The name of the holder of a certificate: the first URI among its alternative names (the form of
/// SPIFFE identities), else the first DNS name, else the common name. `None` where there is none, or
/// none that can be shown.
///
/// A common name is free text: one with `://` is no name, so that it cannot look like a URI.
pub fn name(certificate: &CertificateDer<'_>) -> Option<Arc<str>> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let tbs = certificate.tbs_certificate();
    let names = match tbs.get_extension::<SubjectAltName>() {
        Ok(Some((_critical, SubjectAltName(names)))) => names,
        Ok(None) => Vec::new(),
        Err(_malformed) => return None,
    };
    let uri = names.iter().find_map(|name| match name {
        GeneralName::UniformResourceIdentifier(uri) => Some(uri.as_str()),
        _ => None,
    });
    let dns = names.iter().find_map(|name| match name {
        GeneralName::DnsName(name) => Some(name.as_str()),
        _ => None,
    });
    let name = match uri.or(dns) {
        Some(name) => name.to_owned(),
        None => {
            let common = tbs.subject().common_name().ok()??.value().into_owned();
            if common.contains("://") {
                return None;
            }
            common
        }
    };
    let is_name =
        !name.is_empty() && name.len() <= MAX_NAME && !name.chars().any(|c| c.is_control());
    is_name.then(|| name.into())
}

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// Its first moment.
    pub from: SystemTime,
    /// Its last moment.
    pub until: SystemTime,
}

/// How much of its lifetime a certificate has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remaining {
    /// More than a fifth.
    Enough,
    /// Less than a fifth: it should have been replaced by now.
    Little(Duration),
    /// Nothing.
    Expired,
}

impl Lifetime {
    /// The lifetime of a certificate; `None` when it is malformed.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let certificate = Certificate::from_der(certificate).ok()?;
        let validity = certificate.tbs_certificate().validity();
        Some(Self {
            from: validity.not_before.to_system_time(),
            until: validity.not_after.to_system_time(),
        })
    }

    /// How much of it is left at a time.
    pub fn remaining(&self, now: SystemTime) -> Remaining {
        let whole = self.until.duration_since(self.from).unwrap_or_default();
        match self.until.duration_since(now) {
            Err(_over) => Remaining::Expired,
            Ok(left) if left < whole / 5 => Remaining::Little(left),
            Ok(_enough) => Remaining::Enough,
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::pem::PemObject;

    use super::*;
    use crate::testing::Authority;

    fn der(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")
    }

    #[test]
    fn a_name_that_cannot_be_shown_or_looks_like_a_uri_is_none() {
        let authority = Authority::new();
        let long = "n".repeat(MAX_NAME + 1);
        for (name, expected) in [
            ("a person", Some("a person")),
            ("spiffe://test/a", None),
            ("two\nlines", None),
            (&long, None),
            ("", None),
        ] {
            let issued = authority.issue_common_name(name);
            assert_eq!(super::name(&der(&issued.certificate)).as_deref(), expected);
        }
        assert_eq!(super::name(&CertificateDer::from(vec![0x30, 0])), None);
    }

    #[test]
    fn little_of_a_lifetime_is_less_than_a_fifth() {
        let from = SystemTime::UNIX_EPOCH;
        let at = |seconds| from + Duration::from_secs(seconds);
        let lifetime = Lifetime {
            from,
            until: at(100),
        };
        for (now, expected) in [
            (0, Remaining::Enough),
            (80, Remaining::Enough),
            (81, Remaining::Little(Duration::from_secs(19))),
            (101, Remaining::Expired),
        ] {
            assert_eq!(lifetime.remaining(at(now)), expected, "{now}");
        }
        let expired = Authority::new().issue_expired();
        let expired = Lifetime::of(&der(&expired.certificate)).expect("a lifetime");
        assert_eq!(expired.remaining(SystemTime::now()), Remaining::Expired);
    }
}
