//! How far the subscribers of a topic are, on disk: after a restart of the program a service that lived on
//! is notified of what was deleted meanwhile.
//!
//! A position may be a second old, and then names a deletion twice. Without a folder nothing is saved.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use contract::{CollectionName, Epoch, Revision};
use serde::{Deserialize, Serialize};
use tokio::{sync::Mutex, task::spawn_blocking, time::timeout};

/// How long a file system may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// The largest file.
const MAX_BYTES: u64 = 1_024;

/// Every change up to a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Position {
    pub(super) epoch: Epoch,
    pub(super) revision: Revision,
}

/// What a file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Saved {
    /// Every subscriber has these changes.
    #[serde(flatten)]
    pub(super) position: Position,
    /// The most subscriptions that were open at once.
    #[serde(default)]
    pub(super) subscribers: usize,
}

/// The file of one topic. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct PositionFile {
    path: Arc<Path>,
    /// One write at a time, also where its caller gave up.
    writing: Arc<Mutex<()>>,
}

impl PositionFile {
    /// The file of a topic in a folder.
    pub(super) fn new(folder: &Path, topic: &CollectionName) -> Self {
        Self {
            path: folder.join(format!("component-{topic}.json")).into(),
            writing: Arc::default(),
        }
    }

    /// What was saved before; `None` also where it cannot be read.
    pub(super) async fn load(&self) -> Option<Saved> {
        let path = Arc::clone(&self.path);
        let read = move || {
            let mut text = Vec::new();
            fs::File::open(&path)?
                .take(MAX_BYTES)
                .read_to_end(&mut text)?;
            Ok(serde_json::from_slice(&text)?)
        };
        match within(read).await {
            Ok(saved) => Some(saved),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(
                    "the position in {} cannot be read, so what was deleted meanwhile is not named: {error}",
                    self.path.display()
                );
                None
            }
        }
    }

    /// Saves a position. Dropping the future leaves the one before, or saves it.
    ///
    /// # Errors
    /// When the file system refuses, or still writes the one before.
    pub(super) async fn save(&self, saved: Saved) -> io::Result<()> {
        let path = Arc::clone(&self.path);
        let writing = Arc::clone(&self.writing).try_lock_owned();
        let writing = writing.map_err(|_| io::Error::other("the one before is still written"))?;
        within(move || {
            let _one = writing;
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            let new: PathBuf = path.with_extension("new");
            fs::write(&new, serde_json::to_vec(&saved)?)?;
            fs::rename(&new, &path)
        })
        .await
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

async fn within<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match timeout(DEADLINE, spawn_blocking(work)).await {
        Ok(done) => done?,
        Err(_late) => Err(io::ErrorKind::TimedOut.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_position_is_there_after_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let topic = "A".parse().expect("a name");
        let file = PositionFile::new(&folder.path().join("new"), &topic);
        assert_eq!(file.load().await, None);
        let saved = Saved {
            position: Position {
                epoch: "9f86d081-1".parse().expect("an epoch"),
                revision: 7,
            },
            subscribers: 2,
        };
        file.save(saved).await.expect("saved");
        assert_eq!(file.load().await, Some(saved));
        // A write that hangs is not followed by another one.
        let hangs = file.writing.lock().await;
        file.save(saved).await.expect_err("it is being written");
        drop(hangs);
        for damaged in ["{", &" ".repeat(5_000)] {
            fs::write(&*file.path, damaged).expect("a file");
            assert_eq!(file.load().await, None);
        }
    }
}
