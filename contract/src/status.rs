//! What a replica says of itself at `GET /v1/status`.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    fleet::IntakeFault,
    ids::{CollectionName, Digest, DocumentId, Epoch, Revision},
};

/// Refusals that are shown of a collection.
pub const MAX_REFUSALS: usize = 20;

/// How far a replica may be trusted. Computed when it is read, never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ReplicaState {
    /// Nothing was ever loaded: there is nothing to serve.
    Loading,
    /// It knows of a revision that it has lacked for longer than the grace.
    Behind,
    /// No publisher has confirmed it for 2.5 check-in intervals; it serves the last good values.
    Stale,
    /// It held everything that was committed 2.5 check-in intervals ago.
    Current,
}

impl ReplicaState {
    /// The word on the wire and in the `Confcast-ReplicaState` header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::Behind => "behind",
            Self::Stale => "stale",
            Self::Current => "current",
        }
    }
}

/// Body of `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ReplicaStatus {
    /// Name of the replica.
    pub instance: String,
    /// The worst state of its collections.
    pub state: ReplicaState,
    /// The history it follows; absent before the first load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// Milliseconds since a publisher confirmed it, in this life of the process or, for what was
    /// read from disk, before; absent when that never was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed_ms_ago: Option<u64>,
    /// One row per followed collection, by name.
    pub collections: Vec<CollectionStatus>,
    /// Events since the start, by what became of them.
    pub events: EventCounts,
    /// The newest drops, oldest first; the list is bounded.
    pub drops: Vec<DroppedEvent>,
    /// Marks one life of the process.
    #[serde(default)]
    pub boot_id: String,
    /// What is wrong with the way events come, when something is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intake: Option<IntakeFault>,
    /// How it was kept in step besides events, since the start.
    #[serde(default)]
    pub sync: SyncCounts,
    /// Why the last load or check-in failed, when it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// What is told of changes inside the service, in the order in which it was registered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub handlers: Vec<HandlerStatus>,
}

/// One followed collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct CollectionStatus {
    /// The collection.
    pub collection: CollectionName,
    /// Its own state.
    pub state: ReplicaState,
    /// What the reader must know besides: `unversioned`, `other-store`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The watermark: every revision up to it was seen.
    pub revision: Revision,
    /// The highest revision heard of.
    pub known: Revision,
    /// Members of incomplete change sets, and what waits behind them.
    #[serde(default)]
    pub staged: u64,
    /// Live documents.
    pub count: u64,
    /// Digest over the live documents.
    pub digest: Digest,
    /// Values that do not fit the type which the service reads them as, by id; at most
    /// [`MAX_REFUSALS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<RefusedValue>,
}

/// A value that does not fit the type which a service reads it as. The service goes on with the
/// last one that did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct RefusedValue {
    /// The document.
    pub id: DocumentId,
    /// The revision that gave it this value.
    pub revision: Revision,
    /// JSON pointer to what does not fit; empty for the whole value.
    pub pointer: String,
    /// Why it does not fit.
    pub error: String,
}

/// Something inside the service that is told of changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct HandlerStatus {
    /// Its name.
    pub name: String,
    /// What it is told of.
    pub collection: CollectionName,
    /// How it does.
    pub state: HandlerState,
    /// The watermark of the newest moment that it has handled whole; 0 before its first.
    pub revision: Revision,
    /// What it said when it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How a handler does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum HandlerState {
    /// It was not told everything yet: the configuration is not loaded, or others come first, or it
    /// is at it.
    Waiting,
    /// It was told everything, and is told of each change as it comes.
    InStep,
    /// It failed, and will be told everything again.
    Failing,
}

/// How many events came to which end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct EventCounts {
    /// The document changed.
    pub applied: u64,
    /// The revision had been seen before.
    pub duplicate: u64,
    /// The document was already newer.
    pub superseded: u64,
    /// It counts in another history.
    pub other_epoch: u64,
    /// It came before the first load and waits for it.
    pub early: u64,
    /// It belongs to a change set that is not complete yet, or stands behind one.
    #[serde(default)]
    pub staged: u64,
    /// Its collection is not held here.
    pub ignored: u64,
    /// It had no revision, though its collection has: the heads were read instead.
    #[serde(default)]
    pub without_revision: u64,
    /// An event of an unversioned collection that came after its `expiration`.
    pub expired: u64,
    /// The value had to be fetched from the publisher.
    pub fetched: u64,
    /// Answered RETRY.
    pub retried: u64,
    /// Answered DROP.
    pub dropped: u64,
}

/// How a replica was kept in step besides events.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct SyncCounts {
    /// Snapshots that were installed.
    pub loads: u64,
    /// Pages of the change feed that were applied.
    pub pages: u64,
    /// Changes that came by those pages first.
    pub changes: u64,
    /// Collections that had to be loaded anew because they had diverged. Each is an alarm.
    pub resets: u64,
}

/// An event that can never succeed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct DroppedEvent {
    /// When it came.
    pub time: DateTime<Utc>,
    /// Why: `not-a-cloudevent`, `wrong-type`, `too-large`, …
    pub reason: String,
    /// The error in words.
    pub error: String,
}
