//! Why files give no TLS. No error shows what is in a file, also where that was given as a path.

use std::{
    io,
    path::{Path, PathBuf},
};

use contract::text::paths::ShownPath;

/// Why files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{}: {cause}", ShownPath(path))]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A file does not have what it is for, or it is malformed.
    #[error("{}: expected {expected}", ShownPath(path))]
    Form {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        expected: &'static str,
    },
    /// A file has no private key that can be used.
    #[error("{}: {reason}", ShownPath(path))]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A certificate and its key do not belong together, or cannot be used.
    #[error(
        "{}, with the certificate {}: {reason}",
        ShownPath(key),
        ShownPath(certificate)
    )]
    Pair {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// What is wrong with them.
        reason: String,
    },
    /// The certificates of a file cannot be authorities.
    #[error("{}: {reason}", ShownPath(path))]
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

impl TlsError {
    /// The name of the file that the error is about. The files are given with their names: the
    /// certificate, its key, and the authorities of others; the same file may have several uses.
    pub fn name_of<N>(&self, [certificate, key, authorities]: [(N, Option<&Path>); 3]) -> N {
        let path = match self {
            Self::Key { .. } | Self::Pair { .. } => return key.0,
            Self::Authorities { .. } => return authorities.0,
            Self::HalfPair => return certificate.0,
            Self::File { path, .. } | Self::Form { path, .. } => Some(path.as_path()),
        };
        if certificate.1 == path {
            certificate.0
        } else if key.1 == path {
            key.0
        } else if authorities.1 == path {
            authorities.0
        } else {
            certificate.0
        }
    }
}
