//! From the text of PEM files to certificates and keys. Pure, apart from the file names in errors.

use std::{path::Path, sync::Arc};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};

use crate::{TlsError, provider};

/// A certificate with its chain, and its key. They belong together.
pub(crate) fn certified_key(
    (certificate_file, certificate): (&Path, &[u8]),
    (key_file, key): (&Path, &[u8]),
) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain = certificates(certificate_file, certificate)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_malformed| TlsError::Key {
        path: key_file.to_owned(),
        reason: if is_encrypted(key) {
            "the private key is encrypted: expected one without a passphrase (`openssl pkey -in \
             ENCRYPTED -out PLAIN` writes it)"
        } else {
            "expected a private key in PEM form"
        },
    })?;
    let pair = CertifiedKey::from_der(chain, key, provider());
    pair.map(Arc::new).map_err(|error| TlsError::Pair {
        certificate: certificate_file.to_owned(),
        key: key_file.to_owned(),
        reason: match error {
            rustls::Error::InconsistentKeys(_) => {
                "the key is not that of the certificate".to_owned()
            }
            error => error.to_string(),
        },
    })
}

/// Whether a PEM text has an encrypted key: of PKCS #8, or of the older form with a header.
fn is_encrypted(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED")
}

/// The authorities of a file; every certificate in it counts.
pub(crate) fn authorities(path: &Path, text: &[u8]) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, text)? {
        let added = roots.add(certificate);
        added.map_err(|error| TlsError::Authorities {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
    }
    Ok(Arc::new(roots))
}

/// The certificates of a file, at least one.
fn certificates(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(TlsError::Form {
            path: path.to_owned(),
            expected: "a certificate in PEM form",
        }),
    }
}
