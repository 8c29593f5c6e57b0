//! The key that signs events, and its file.
//!
//! The file is read again every few seconds, so the key is exchanged without a restart; a file that
//! cannot be used changes nothing. The key is never shown. Nothing here sends.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use contract::{
    Change, EventData,
    signature::{KeyError, KeyId, PublicKeys, SigningKey, UnprovenEvent},
    text::paths::ShownPath,
};
use service::runtime::{log_rate::LogRate, regular_file};
use tokio_util::sync::CancellationToken;

/// Time between two readings of the file. Kubernetes needs longer to change a mounted file.
const PERIOD: Duration = Duration::from_secs(5);
/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 16 << 10;
/// Keys that are remembered, at most.
const KNOWN: usize = 4;

/// Signs events. Cloning shares the key.
#[derive(Debug, Clone)]
pub struct EventSigner {
    keys: Arc<ArcSwap<Keys>>,
    file: PathBuf,
    /// Whether a log line says that the file cannot be used.
    is_reported: Arc<AtomicBool>,
}

/// The keys of one moment.
#[derive(Debug)]
struct Keys {
    /// Signs.
    signing: SigningKey,
    /// The public keys of all keys that have signed since the start of the process: an event comes
    /// back when another key signs already.
    known: PublicKeys,
}

/// Why a file has no key to sign with.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// Other users can read it.
    #[error(
        "every user of this host can read or change it (mode {0:03o}): chmod 640, or defaultMode: 0440 \
         for a Kubernetes Secret"
    )]
    Open(u32),
    /// It has no key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl EventSigner {
    /// The key of a file: an Ed25519 private key in PEM (PKCS #8).
    ///
    /// # Errors
    /// When the file cannot be read, others can read it, or it has no such key.
    pub fn from_file(file: &Path) -> Result<Self, SignerError> {
        let key = read(file)?;
        Ok(Self {
            keys: Arc::new(ArcSwap::from_pointee(Keys {
                known: key.public(),
                signing: key,
            })),
            file: file.to_owned(),
            is_reported: Arc::default(),
        })
    }

    /// The name of the key that signs now.
    pub fn id(&self) -> KeyId {
        self.keys.load().signing.id()
    }

    /// Whether an event is of this publisher, or of another one with the same key.
    ///
    /// # Errors
    /// When it is not.
    pub fn verify(&self, data: &EventData) -> Result<(), UnprovenEvent> {
        data.verify(&self.keys.load().known)
    }

    /// The event data of a change, with its signature.
    pub fn sign(&self, data: EventData, change: &Change) -> EventData {
        data.signed(change, &self.keys.load().signing)
    }

    /// Reads the file again and again until `stop`.
    ///
    /// # Errors
    /// Never.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        while stop
            .run_until_cancelled(tokio::time::sleep(PERIOD))
            .await
            .is_some()
        {
            let file = self.file.clone();
            // The file may be on a disk that hangs.
            if let Ok(read) = tokio::task::spawn_blocking(move || read(&file)).await {
                self.replace(read);
            }
        }
        Ok(())
    }

    /// Takes the key that was read, if it is another one.
    fn replace(&self, read: Result<SigningKey, SignerError>) {
        match read {
            Ok(key) if key.id() != self.id() => {
                let id = key.id();
                tracing::info!(%id, "events are signed with the key {id} from now on");
                // The newest few are enough.
                let before = &self.keys.load().known;
                let known = key.public().with(before).first(KNOWN);
                let signing = key;
                self.keys.store(Arc::new(Keys { signing, known }));
                self.is_reported.store(false, Ordering::Relaxed);
            }
            Ok(_same) => {
                if self.is_reported.swap(false, Ordering::Relaxed) {
                    let (file, id) = (ShownPath(&self.file), self.id());
                    tracing::info!(%id, "the signing key {file} can be used again: it is the key {id}");
                }
            }
            Err(error) => {
                static LINES: LogRate = LogRate::new();
                if let Some(left_out) = LINES.due() {
                    self.is_reported.store(true, Ordering::Relaxed);
                    let (file, id) = (ShownPath(&self.file), self.id());
                    tracing::warn!(
                        %id,
                        "the signing key {file} cannot be used, events are still signed with the key \
                         {id}: {error}{left_out}"
                    );
                }
            }
        }
    }
}

/// The key of a file.
///
/// # Errors
/// As [`EventSigner::from_file`].
fn read(path: &Path) -> Result<SigningKey, SignerError> {
    let bytes = regular_file::read(path, MAX_FILE)?;
    let text = std::str::from_utf8(&bytes).map_err(io::Error::other)?;
    // First: the mode of a file that has no private key says nothing.
    let key = SigningKey::from_pem(text)?;
    if let Some(mode) = ::tls::regular_file::open_to_all(path) {
        return Err(SignerError::Open(mode));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_that_others_can_read_or_that_has_no_key_is_refused_and_keeps_the_key_in_use() {
        let directory = tempfile::tempdir().expect("a folder");
        let path = directory.path().join("signing-key.pem");
        let [one, two] = [1, 2].map(|byte| SigningKey::from_seed(&[byte; 32]));
        let write = |text: &str, mode| {
            std::fs::write(&path, text).expect("written");
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&path, mode).expect("a mode");
        };
        let error = |path: &Path| {
            EventSigner::from_file(path)
                .expect_err("refused")
                .to_string()
        };
        assert!(error(&path).contains("cannot be read"));
        assert!(error(directory.path()).contains("no regular file"));
        write(&one.to_pem().expect("pem"), 0o644);
        assert!(error(&path).contains("chmod 640"), "{}", error(&path));
        write(&one.public().to_pem().expect("pem"), 0o600);
        assert!(error(&path).contains("openssl genpkey"), "{}", error(&path));
        write(&one.to_pem().expect("pem"), 0o640);
        let signer = EventSigner::from_file(&path).expect("a key");
        assert_eq!(signer.id(), one.id());
        write("", 0o600);
        signer.replace(read(&path));
        assert_eq!(signer.id(), one.id(), "an empty file changes nothing");
        write(&two.to_pem().expect("pem"), 0o400);
        signer.clone().replace(read(&path));
        assert_eq!(signer.id(), two.id());
        let known: Vec<_> = signer.keys.load().known.ids().collect();
        assert_eq!(
            known,
            [two.id(), one.id()],
            "an event of before may come back"
        );
    }
}
