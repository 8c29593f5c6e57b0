//! Authorities and certificates for tests, in files. Nothing of the product uses them.

use std::{fs, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};

use crate::{ClientCertificates, ClientFiles, ServerFiles};

/// An authority that was made for a test.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate with its key, in PEM form.
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl Authority {
    /// A new authority. Two with the same name have different keys.
    ///
    /// # Panics
    /// When no key can be made.
    #[allow(clippy::new_without_default, reason = "it makes a key")]
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(DnType::CommonName, "test authority");
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        let issuer = Issuer::new(params, key);
        Self { issuer, pem }
    }

    /// The certificate of the authority, in PEM form.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate with these alternative names: addresses, host names, or URIs with `://`. It is
    /// for servers and for clients.
    ///
    /// # Panics
    /// When a name is malformed.
    pub fn issue(&self, names: &[&str]) -> Issued {
        self.make(names, |_params| {})
    }

    /// A certificate for 127.0.0.1 and `localhost` that expired long ago.
    ///
    /// # Panics
    /// When no key can be made.
    pub fn issue_expired(&self) -> Issued {
        self.make(&["127.0.0.1", "localhost"], |params| {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2001, 2, 1);
        })
    }

    /// A certificate with a common name alone.
    ///
    /// # Panics
    /// When no key can be made.
    pub fn issue_common_name(&self, name: &str) -> Issued {
        self.make(&[], |params| {
            params.distinguished_name.push(DnType::CommonName, name);
        })
    }

    fn make(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = names
            .iter()
            .map(|name| match name.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) if name.contains("://") => SanType::URI((*name).try_into().expect("a URI")),
                Err(_) => SanType::DnsName((*name).try_into().expect("a name")),
            })
            .collect();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Issued {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    /// Writes `server.crt`, `server.key` (for 127.0.0.1 and `localhost`), `client.crt`, `client.key`
    /// (for the URI `spiffe://test/client`) and `ca.crt` into a folder.
    ///
    /// # Panics
    /// When a file cannot be written.
    pub fn write_to(&self, folder: &Path) {
        self.issue(&["127.0.0.1", "localhost"])
            .write_to(folder, "server");
        self.issue(&["spiffe://test/client"])
            .write_to(folder, "client");
        fs::write(folder.join("ca.crt"), &self.pem).expect("written");
    }
}

impl Issued {
    /// Writes `{name}.crt` and `{name}.key` into a folder.
    ///
    /// # Panics
    /// When a file cannot be written.
    pub fn write_to(&self, folder: &Path, name: &str) {
        fs::write(folder.join(format!("{name}.crt")), &self.certificate).expect("written");
        fs::write(folder.join(format!("{name}.key")), &self.key).expect("written");
    }
}

/// The files of a server as [`Authority::write_to`] names them.
pub fn server_files(folder: &Path) -> ServerFiles {
    ServerFiles {
        certificate: folder.join("server.crt"),
        key: folder.join("server.key"),
        clients: ClientCertificates::None,
    }
}

/// The files of a client as [`Authority::write_to`] names them; it shows its certificate if it is
/// `known`.
pub fn client_files(folder: &Path, known: bool) -> ClientFiles {
    ClientFiles {
        ca: Some(folder.join("ca.crt")),
        identity: known.then(|| (folder.join("client.crt"), folder.join("client.key"))),
    }
}
