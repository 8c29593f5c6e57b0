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

/// What a file of TLS is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileUse {
    /// The certificate that is shown.
    Certificate,
    /// Its private key.
    Key,
    /// The authorities of others.
    Authorities,
}

impl TlsError {
    /// The file that the error is about, by its use. `files` are the paths by their uses, the
    /// certificate first; the same file may have several uses.
    pub fn concerns(&self, files: &[(FileUse, Option<&Path>)]) -> FileUse {
        let path = match self {
            Self::Key { .. } | Self::Pair { .. } => return FileUse::Key,
            Self::Authorities { .. } => return FileUse::Authorities,
            Self::HalfPair => return FileUse::Certificate,
            Self::File { path, .. } | Self::Form { path, .. } => path.as_path(),
        };
        let found = files.iter().find(|(_use, file)| *file == Some(path));
        found.map_or(FileUse::Certificate, |(of, _file)| *of)
    }
}
