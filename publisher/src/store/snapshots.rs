//! The calls of a store for named snapshots. While one exists, retention keeps the base records that
//! its states need ([`past`](crate::store::past)).

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use contract::{
    CollectionName, Context, Revision,
    history::SnapshotName,
    named_snapshot::{NamedSnapshot, SnapshotCollection},
};

use service::runtime::log_rate::LogRate;

use crate::store::{
    Head, Store,
    integrity::DamagedPast,
    past::{PastError, bases::Coverage},
};

/// Why a named snapshot was not made.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// There is one of this name.
    #[error("there is a snapshot {0} already")]
    Exists(SnapshotName),
    /// The store has as many as it may.
    #[error(
        "the store has {} snapshots, which is the limit",
        contract::named_snapshot::MAX_SNAPSHOTS
    )]
    Full,
    /// [`PastError::NotKept`]: records of a collection were removed by other means and its base
    /// records are not complete yet. The next change of the collection helps. Else the store failed.
    #[error(transparent)]
    Past(PastError),
}

impl From<anyhow::Error> for SnapshotError {
    fn from(error: anyhow::Error) -> Self {
        Self::Past(error.into())
    }
}

/// A row of a named snapshot.
#[derive(Debug)]
pub(super) struct StoredSnapshot {
    /// Its key.
    pub(super) name: String,
    /// `None` where the row is not what a publisher wrote.
    pub(super) snapshot: Option<NamedSnapshot>,
}

impl StoredSnapshot {
    /// The snapshot of a row, if its text fits the checksum.
    pub(super) fn new(name: String, text: &str, is_whole: bool) -> Self {
        let read = serde_json::from_str(text).ok();
        let snapshot = read.filter(|read: &NamedSnapshot| is_whole && read.name.as_str() == name);
        Self { name, snapshot }
    }

    fn read(self) -> Result<NamedSnapshot, DamagedPast> {
        let Self { name, snapshot } = self;
        snapshot.ok_or(DamagedPast::Snapshot { name })
    }
}

/// The revisions of a collection that named snapshots pin. Which one a damaged row pins is not known,
/// so what was pinned stays.
pub(super) fn pinned(
    stored: &[StoredSnapshot],
    collection: &CollectionName,
    coverage: &Coverage,
) -> BTreeSet<Revision> {
    let readable = stored.iter().filter_map(|stored| stored.snapshot.as_ref());
    let pins = readable.flat_map(|snapshot| &snapshot.collections);
    let pins = pins.filter(|pin| pin.collection == *collection);
    let mut pins: BTreeSet<_> = pins.map(|pin| pin.revision).collect();
    if stored.iter().any(|stored| stored.snapshot.is_none()) {
        pins.extend(&coverage.pins);
    }
    pins
}

impl Store {
    /// Makes a named snapshot of the present state of all served collections, of one moment.
    ///
    /// # Errors
    /// `SnapshotError`
    pub async fn create_snapshot(
        &self,
        name: SnapshotName,
        context: Context,
        time: DateTime<Utc>,
    ) -> Result<NamedSnapshot, SnapshotError> {
        let collections = self.policy().collections.all();
        let snapshot = NamedSnapshot {
            name,
            time,
            context,
            collections: Vec::new(),
        };
        Ok(match self {
            Self::Embedded(store) => store.create_snapshot(snapshot, &collections).await?,
            Self::Mongo(store) => {
                let store = store.opened()?;
                store.create_snapshot(snapshot, &collections).await?
            }
        })
    }

    /// All named snapshots that can be read, by name. One whose row is damaged is logged.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn snapshots(&self) -> anyhow::Result<Vec<NamedSnapshot>> {
        let mut snapshots = Vec::new();
        for stored in self.stored_snapshots().await? {
            match stored.read() {
                Ok(snapshot) => snapshots.push(snapshot),
                Err(damaged) => {
                    static DAMAGED: LogRate = LogRate::new();
                    if let Some(left_out) = DAMAGED.due() {
                        tracing::warn!("a list of named snapshots lacks one: {damaged}{left_out}");
                    }
                }
            }
        }
        Ok(snapshots)
    }

    /// The named snapshot of a name.
    ///
    /// # Errors
    /// When the store cannot be read, or `DamagedPast::Snapshot`.
    pub async fn snapshot(&self, name: &SnapshotName) -> anyhow::Result<Option<NamedSnapshot>> {
        let all = self.stored_snapshots().await?;
        let stored = all.into_iter().find(|stored| stored.name == name.as_str());
        Ok(stored.map(StoredSnapshot::read).transpose()?)
    }

    async fn stored_snapshots(&self) -> anyhow::Result<Vec<StoredSnapshot>> {
        match self {
            Self::Embedded(store) => store.snapshots().await,
            Self::Mongo(store) => store.opened()?.snapshots().await,
        }
    }

    /// Deletes a named snapshot; `false` when there is none of this name. What only it kept is
    /// removed with the next round of retention.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn delete_snapshot(&self, name: &SnapshotName) -> anyhow::Result<bool> {
        match self {
            Self::Embedded(store) => store.delete_snapshot(name).await,
            Self::Mongo(store) => store.opened()?.delete_snapshot(name).await,
        }
    }
}

/// The collections of a snapshot that is made of heads.
pub(super) fn collections_of(heads: &[Head]) -> Vec<SnapshotCollection> {
    let collections = heads.iter().map(|head| SnapshotCollection {
        collection: head.collection.clone(),
        epoch: head.epoch,
        revision: head.revision,
        count: head.count,
        digest: head.digest,
    });
    collections.collect()
}
