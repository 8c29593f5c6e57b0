//! How far the subscribers of each topic are, on disk: after a restart of the program a service that lived
//! on is told what was deleted meanwhile.
//!
//! A position may be a second old, and then names a deletion twice. Without a folder nothing is saved.

use std::{path::PathBuf, time::Duration};

use contract::{CollectionName, Epoch, Revision};
use serde::{Deserialize, Serialize};
use tokio::{
    fs, io,
    time::{Instant, timeout},
};

/// Time between two saves of one topic.
pub(super) const SAVE_EVERY: Duration = Duration::from_secs(1);
/// How long a file system may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// The largest file.
const MAX_BYTES: u64 = 1_024;

/// Every change up to a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    pub(super) epoch: Epoch,
    pub(super) revision: Revision,
}

/// The file of one topic.
#[derive(Debug)]
pub(super) struct SavedPosition {
    file: Option<PathBuf>,
    saved: Option<Position>,
    /// No save before.
    next: Instant,
}

impl SavedPosition {
    /// The file of a topic in a folder.
    pub(super) fn new(folder: Option<&PathBuf>, topic: &CollectionName) -> Self {
        Self {
            file: folder.map(|folder| folder.join(format!("component-{topic}.json"))),
            saved: None,
            next: Instant::now(),
        }
    }

    /// What was saved before; `None` also where it cannot be read.
    pub(super) async fn load(&mut self) -> Option<Position> {
        let file = self.file.as_ref()?;
        let read = async {
            if fs::metadata(file).await?.len() > MAX_BYTES {
                return Err(io::Error::other("the file is too long"));
            }
            Ok(serde_json::from_slice(&fs::read(file).await?)?)
        };
        match within(read).await {
            Ok(position) => self.saved = Some(position),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(
                "the position in {} cannot be read, so what was deleted meanwhile is not named: {error}",
                file.display()
            ),
        }
        self.saved
    }

    /// When a position is to be saved; `None` when it is.
    pub(super) fn due(&self, position: Option<Position>) -> Option<Instant> {
        (self.file.is_some() && position.is_some() && position != self.saved).then_some(self.next)
    }

    /// Saves a position. Dropping the future leaves the one before.
    pub(super) async fn save(&mut self, position: Position) {
        let Some(file) = &self.file else {
            return;
        };
        self.next = Instant::now() + SAVE_EVERY;
        let written = async {
            if let Some(folder) = file.parent() {
                fs::create_dir_all(folder).await?;
            }
            let new = file.with_extension("new");
            fs::write(&new, serde_json::to_vec(&position)?).await?;
            fs::rename(&new, file).await
        };
        match within(written).await {
            Ok(()) => self.saved = Some(position),
            Err(error) => {
                tracing::warn!("a position cannot be saved in {}: {error}", file.display());
            }
        }
    }
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(DEADLINE, work)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_position_is_there_after_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path().to_owned();
        let topic = "A".parse().expect("a name");
        let mut saved = SavedPosition::new(Some(&folder), &topic);
        assert_eq!(saved.load().await, None);
        let position = Position {
            epoch: "9f86d081-1".parse().expect("an epoch"),
            revision: 7,
        };
        assert!(saved.due(Some(position)).is_some());
        saved.save(position).await;
        assert_eq!(saved.due(Some(position)), None);
        let mut again = SavedPosition::new(Some(&folder), &topic);
        assert_eq!(again.load().await, Some(position));
        std::fs::write(folder.join("component-A.json"), "{").expect("a file");
        let mut damaged = SavedPosition::new(Some(&folder), &topic);
        assert_eq!(damaged.load().await, None);
        let mut without = SavedPosition::new(None, &topic);
        assert_eq!(without.due(Some(position)), None);
        assert_eq!(without.load().await, None);
    }
}
