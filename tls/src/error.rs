//! Why files give no TLS. No error shows what is in a file.

use std::{io, path::PathBuf};

/// Why files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{}: {cause}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A file does not have what it is for, or it is malformed.
    #[error("{}: expected {expected}", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        expected: &'static str,
    },
    /// A certificate and its key do not belong together, or cannot be used.
    #[error("{} and {}: {reason}", certificate.display(), key.display())]
    Pair {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// What is wrong with them.
        reason: String,
    },
    /// The certificates of a file cannot be authorities.
    #[error("{}: {reason}", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Only one file of a certificate and its key is named.
    #[error("a certificate needs its key, and a key its certificate: name both files")]
    HalfPair,
}
