//! What the store keeps about replicas. Nothing here concerns documents.
//!
//! Rows of replicas are a view, never the truth: a replica checks in again within seconds, so a
//! lost row is soon written again. Writes are therefore not durable at once.

use std::{collections::BTreeSet, sync::Arc};

use chrono::{DateTime, Utc};
use contract::{CollectionName, fleet::ReplicaRecord};
use serde::{Deserialize, Serialize};

use crate::store::Store;

/// Replicas that a store keeps and that a request reads. Above this number the ones that did not
/// check in for the longest time are forgotten.
pub const MAX_REPLICAS: usize = 20_000;
/// What a record takes of [`FLEET_BYTES`] at least.
pub const REPLICA_BYTES: usize = 4 << 10;
/// Bytes for the records of all replicas, for whichever is more: their memory or their rows.
pub const FLEET_BYTES: usize = MAX_REPLICAS * REPLICA_BYTES;
/// Bytes of rows that one read goes through. A publisher before this version admitted its records by
/// other sizes, so there may be more than [`FLEET_BYTES`].
pub(super) const READ_BYTES: usize = FLEET_BYTES / 2 * 3;

/// A replica as the store keeps it: one JSON object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaRow {
    /// The part that the API returns.
    #[serde(flatten)]
    pub record: ReplicaRecord,
    /// How the last check-in was received. The default, which trusts nothing, if the row does not
    /// contain it.
    #[serde(default)]
    pub source: CheckInSource,
}

/// How a check-in was received. The transport `LOCAL` decides with it whether it may send events to
/// the address in the check-in, and which.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CheckInSource {
    /// Identifies the loopback interface over which the check-in came, if it came over one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loopback: Option<String>,
    /// Whether the check-in carried the token of the publisher.
    pub token: bool,
    /// The name of the caller; `None` in the row of an older publisher.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    /// The collections whose events the caller may get; `None` for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub follows: Option<BTreeSet<CollectionName>>,
    /// Collections in which the check-in was ahead of the store, which was perhaps restored: the replica
    /// has applied nothing there.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub ahead: BTreeSet<CollectionName>,
}

/// A row as the store has it. Whoever reads it decides whether its text is parsed.
#[derive(Debug, Clone, Copy)]
pub struct StoredReplica<'a> {
    /// Name of the replica; what is there instead, where the row has no name.
    pub name: &'a str,
    /// Time of the check-in; `None` where the row has none.
    pub seen: Option<DateTime<Utc>>,
    /// The JSON of a [`ReplicaRow`]; empty where the row has none.
    pub text: &'a [u8],
}

impl Store {
    /// Writes rows, each unless the store has a newer one of that replica by another publisher.
    ///
    /// # Errors
    /// When the store cannot be written. Some of the rows may have been written.
    pub async fn put_replicas(&self, rows: Vec<Arc<ReplicaRow>>) -> anyhow::Result<()> {
        match self {
            Self::Embedded(store) => store.put_replicas(rows).await,
            Self::Mongo(store) => store.opened()?.put_replicas(&rows).await,
        }
    }

    /// Hands each row to `each`, at most `MAX_REPLICAS` and about 120 MB, and returns what `reader` became.
    /// No row is kept here. MongoDB has the latest check-ins first; the embedded store, which never has
    /// too many, orders by name.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn replicas<T: Send + 'static>(
        &self,
        reader: T,
        each: fn(&mut T, StoredReplica<'_>),
    ) -> anyhow::Result<T> {
        match self {
            Self::Embedded(store) => store.replicas(reader, each).await,
            Self::Mongo(store) => store.opened()?.replicas(reader, each).await,
        }
    }

    /// Removes the rows of replicas whose last check-in was before `before`, and those above
    /// `MAX_REPLICAS`.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn forget_replicas(&self, before: DateTime<Utc>) -> anyhow::Result<()> {
        match self {
            Self::Embedded(store) => store.forget_replicas(before).await,
            Self::Mongo(store) => store.opened()?.forget_replicas(before).await,
        }
    }
}
