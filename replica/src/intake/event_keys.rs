//! The public keys that events are checked with, and their file.
//!
//! The file is read again every few seconds, so keys are exchanged without a restart. A file that
//! cannot be read or has no keys changes nothing: the keys of before stay. Nothing here says what
//! becomes of an event.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use contract::{
    signature::{KeyError, KeyId, PublicKeys, UnprovenEvent},
    text::paths::ShownPath,
};
use state::SignedChange;
use tls::regular_file;

use crate::failure_log::LogRate;

/// Time between two readings of the file. Kubernetes needs longer to change a mounted file.
const PERIOD: Duration = Duration::from_secs(5);
/// Largest file that is read, in bytes: far more than its keys need.
const MAX_FILE: u64 = 64 << 10;

/// The public keys of the publishers. Cloning shares them.
#[derive(Debug, Clone)]
pub struct EventKeys {
    keys: Arc<ArcSwap<PublicKeys>>,
    /// `None` for keys that never change.
    file: Option<PathBuf>,
}

/// Why a file has no keys.
#[derive(Debug, thiserror::Error)]
pub enum EventKeysError {
    /// It cannot be read.
    #[error("the file of public keys {} cannot be read: {}", ShownPath(.0), .1)]
    Unreadable(PathBuf, io::Error),
    /// What it has is no key.
    #[error("the file of public keys {} cannot be used: {}", ShownPath(.0), .1)]
    Invalid(PathBuf, KeyError),
}

impl EventKeys {
    /// Keys that never change.
    pub fn fixed(keys: PublicKeys) -> Self {
        Self {
            keys: Arc::new(ArcSwap::from_pointee(keys)),
            file: None,
        }
    }

    /// The keys of a file, which [`Replica::run`](crate::Replica::run) reads again every few
    /// seconds: public keys in PEM, one after the other.
    ///
    /// # Errors
    /// When the file cannot be read, or has no key that can be used.
    pub fn from_file(path: impl Into<PathBuf>) -> Result<Self, EventKeysError> {
        let path = path.into();
        Ok(Self {
            file: Some(path.clone()),
            ..Self::fixed(read(&path)?)
        })
    }

    /// The ids of the keys at this moment.
    pub fn ids(&self) -> Vec<KeyId> {
        self.keys.load().ids().collect()
    }

    /// Whether one of the keys has signed a change.
    ///
    /// # Errors
    /// When none has.
    pub(crate) fn verify(&self, signed: &SignedChange) -> Result<(), UnprovenEvent> {
        // Before the value is hashed.
        if signed.signature.is_none() {
            return Err(UnprovenEvent::Unsigned);
        }
        let keys = self.keys.load();
        keys.verify(&signed.statement(), signed.signature.as_ref())
    }

    /// As [`EventKeys::verify`], of the data of an event.
    #[cfg(feature = "redis")]
    pub(crate) fn verify_event(&self, data: &contract::EventData) -> Result<(), UnprovenEvent> {
        data.verify(&self.keys.load())
    }

    /// Reads the file again and again, and never ends.
    pub(crate) async fn reload(&self) {
        let Some(file) = &self.file else {
            return std::future::pending().await;
        };
        loop {
            tokio::time::sleep(PERIOD).await;
            let path = file.clone();
            // The file may be on a disk that hangs.
            match tokio::task::spawn_blocking(move || read(&path)).await {
                Ok(read) => self.replace(read),
                // The runtime ends.
                Err(_cancelled) => return std::future::pending().await,
            }
        }
    }

    /// Takes what was read, if it is other than before.
    fn replace(&self, read: Result<PublicKeys, EventKeysError>) {
        let keys = match read {
            Ok(keys) => keys,
            Err(error) => {
                static LINES: LogRate = LogRate::every(Duration::from_secs(60));
                if let Some(left_out) = LINES.due() {
                    tracing::warn!("{error}; the public keys of before stay in use{left_out}");
                }
                return;
            }
        };
        if keys != **self.keys.load() {
            tracing::info!(?keys, "the public keys of events are now {keys:?}");
            self.keys.store(Arc::new(keys));
        }
    }
}

/// The keys of a file.
///
/// # Errors
/// When it cannot be read, or has no keys.
fn read(path: &Path) -> Result<PublicKeys, EventKeysError> {
    let read = || {
        let bytes = regular_file::read(path, MAX_FILE)?;
        String::from_utf8(bytes).map_err(io::Error::other)
    };
    let text = read().map_err(|error| EventKeysError::Unreadable(path.to_owned(), error))?;
    PublicKeys::from_pem(&text).map_err(|error| EventKeysError::Invalid(path.to_owned(), error))
}

#[cfg(test)]
mod tests {
    use contract::signature::SigningKey;

    use super::*;

    #[test]
    fn a_changed_file_changes_the_keys_and_a_wrong_one_does_not() {
        let directory = tempfile::tempdir().expect("a folder");
        let path = directory.path().join("event-keys.pem");
        let [one, two] = [1, 2].map(|byte| SigningKey::from_seed(&[byte; 32]));
        let write = |text: &str| std::fs::write(&path, text).expect("written");
        let pem = |key: &SigningKey| key.public().to_pem().expect("pem");
        let missing = EventKeys::from_file(&path).expect_err("there is no file");
        assert!(missing.to_string().contains("event-keys.pem"), "{missing}");
        write(&pem(&one));
        let keys = EventKeys::from_file(&path).expect("keys");
        assert_eq!(keys.ids(), [one.id()]);
        write(&(pem(&one) + &pem(&two)));
        let shared = keys.clone();
        shared.replace(read(&path));
        assert_eq!(keys.ids(), [one.id(), two.id()], "clones share the keys");
        for wrong in [
            String::new(),
            "x".repeat(70_000),
            two.to_pem().expect("pem"),
        ] {
            write(&wrong);
            keys.replace(read(&path));
            assert_eq!(keys.ids(), [one.id(), two.id()], "{wrong:.20}");
        }
        write(&pem(&two));
        keys.replace(read(&path));
        assert_eq!(keys.ids(), [two.id()]);
    }
}
