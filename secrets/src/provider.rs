//! Where the keys of a process come from: a file or the environment.
//!
//! A file is read again when it changes, so that keys are rotated without a restart. A file that has
//! become unusable changes nothing: the keys that were read stay.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use contract::text::paths::ShownPath;
use tls::regular_file;
use zeroize::Zeroizing;

use crate::keys::{Keyring, KeyringError};

/// Most bytes of a file of keys.
const MAX_FILE: u64 = 64 << 10;

/// The variable that names a file of keys.
pub const FILE_VARIABLE: &str = "AURA_CONFIGURATION_SECRET_KEYS_FILE";
/// The variable that has keys as text.
pub const TEXT_VARIABLE: &str = "AURA_CONFIGURATION_SECRET_KEYS";

/// Where the keys come from.
#[derive(Clone)]
pub enum KeyProvider {
    /// A file, read again by [`SecretKeys::reload`].
    File(PathBuf),
    /// A text of the environment, which is the same for the life of the process.
    Environment(Zeroizing<String>),
}

/// Without the text.
impl std::fmt::Debug for KeyProvider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "File({})", ShownPath(path)),
            Self::Environment(_) => f.write_str("Environment"),
        }
    }
}

/// Why the keys cannot be read. No variant holds a part of a key.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file cannot be read.
    #[error("the file of secret keys {}: {error}", ShownPath(path))]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The text is no keyring.
    #[error("the secret keys of {from}: {error}")]
    Keyring {
        /// The file, or "the environment".
        from: String,
        /// Why.
        error: KeyringError,
    },
}

/// The keys of a process, as they were last read.
#[derive(Debug)]
pub struct SecretKeys {
    provider: KeyProvider,
    keys: ArcSwap<Keyring>,
}

impl KeysError {
    /// What is wrong, without the place that the keys come from.
    pub fn reason(&self) -> &dyn std::error::Error {
        match self {
            Self::File { error, .. } => error,
            Self::Keyring { error, .. } => error,
        }
    }
}

impl SecretKeys {
    /// Reads the keys.
    ///
    /// # Errors
    /// When the keys cannot be read.
    pub fn read(provider: KeyProvider) -> Result<Self, KeysError> {
        let keys = provider.keyring()?;
        Ok(Self {
            provider,
            keys: ArcSwap::from_pointee(keys),
        })
    }

    /// Reads the keys that the environment of the process names; `None` when it names none. The file
    /// comes first.
    ///
    /// # Errors
    /// When the keys cannot be read.
    pub fn from_environment() -> Result<Option<Self>, KeysError> {
        let variable = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
        let provider = match (variable(FILE_VARIABLE), variable(TEXT_VARIABLE)) {
            (Some(path), _) => KeyProvider::File(path.into()),
            (None, Some(text)) => KeyProvider::Environment(Zeroizing::new(text)),
            (None, None) => return Ok(None),
        };
        Self::read(provider).map(Some)
    }

    /// The keys.
    pub fn keyring(&self) -> Arc<Keyring> {
        self.keys.load_full()
    }

    /// Where they come from.
    pub fn provider(&self) -> &KeyProvider {
        &self.provider
    }

    /// Reads the keys again, and says whether the ids of the keys or the active one changed.
    ///
    /// # Errors
    /// When the keys cannot be read; those that were read before stay.
    pub fn reload(&self) -> Result<bool, KeysError> {
        if let KeyProvider::Environment(_) = self.provider {
            return Ok(false);
        }
        let new = self.provider.keyring()?;
        let old = self.keyring();
        let changed = old.active() != new.active() || !old.ids().eq(new.ids());
        // Also when only the bytes of a key changed: the operator corrected it.
        self.keys.store(Arc::new(new));
        Ok(changed)
    }
}

impl KeyProvider {
    fn keyring(&self) -> Result<Keyring, KeysError> {
        let (from, text) = match self {
            Self::Environment(text) => ("the environment".to_owned(), text.clone()),
            Self::File(path) => {
                let text = read(path).map_err(|error| KeysError::File {
                    path: path.clone(),
                    error,
                })?;
                (ShownPath(path).to_string(), text)
            }
        };
        Keyring::parse(&text).map_err(|error| KeysError::Keyring { from, error })
    }
}

fn read(path: &Path) -> io::Result<Zeroizing<String>> {
    let bytes = Zeroizing::new(regular_file::read(path, MAX_FILE)?);
    let text = std::str::from_utf8(&bytes).map_err(io::Error::other)?;
    Ok(Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use base64::{Engine, prelude::BASE64_STANDARD};

    use super::*;

    fn text(active: &str) -> String {
        let [a, b] = [1, 2].map(|byte| BASE64_STANDARD.encode([byte; 32]));
        format!(r#"{{"active": "{active}", "keys": {{"a": "{a}", "b": "{b}"}}}}"#)
    }

    #[test]
    fn a_changed_file_is_read_and_a_broken_one_changes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys.json");
        fs::write(&path, text("a")).expect("written");
        let keys = SecretKeys::read(KeyProvider::File(path.clone())).expect("keys");
        assert!(!keys.reload().expect("read"), "nothing changed");
        fs::write(&path, text("b")).expect("written");
        assert!(keys.reload().expect("read"));
        assert_eq!(keys.keyring().active().as_str(), "b");
        fs::write(&path, "torn").expect("written");
        let error = keys.reload().expect_err("torn").to_string();
        assert!(
            error.contains("keys.json") && !error.contains("torn"),
            "{error}"
        );
        assert_eq!(keys.keyring().active().as_str(), "b");
        assert!(SecretKeys::read(KeyProvider::File(folder.path().into())).is_err());
    }

    #[test]
    fn the_environment_gives_keys_and_is_never_shown() {
        let provider = KeyProvider::Environment(Zeroizing::new(text("a")));
        assert_eq!(format!("{provider:?}"), "Environment");
        let keys = SecretKeys::read(provider).expect("keys");
        assert_eq!(keys.keyring().active().as_str(), "a");
    }
}
