//! The calls of a store for named snapshots. While one exists, retention keeps the base records that
//! its states need ([`past`](crate::store::past)).

use chrono::{DateTime, Utc};
use contract::{
    Context,
    history::SnapshotName,
    named_snapshot::{NamedSnapshot, SnapshotCollection},
};

use crate::store::{Head, Store, past::PastError};

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

    /// All named snapshots, by name.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn snapshots(&self) -> anyhow::Result<Vec<NamedSnapshot>> {
        match self {
            Self::Embedded(store) => store.snapshots().await,
            Self::Mongo(store) => store.opened()?.snapshots().await,
        }
    }

    /// The named snapshot of a name.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn snapshot(&self, name: &SnapshotName) -> anyhow::Result<Option<NamedSnapshot>> {
        let all = self.snapshots().await?;
        Ok(all.into_iter().find(|snapshot| snapshot.name == *name))
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
