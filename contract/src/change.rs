//! One record of the change log, and the feed that hands records on in order.
//!
//! The log is outbox, feed, history and audit at once; an event is a record on its way (see [`crate::event`]).

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    canonical::CanonicalJson,
    head::Head,
    ids::{CollectionName, Crc, Digest, DocumentId, Epoch, Revision},
};

/// What a change does to its document (seeds.md A6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Operation {
    /// The document did not exist before.
    Create,
    /// The document existed and has a new value.
    Update,
    /// The document is gone.
    Delete,
}

/// A committed change: an item of the feed, and what an event is made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// The collection it belongs to.
    pub collection: CollectionName,
    /// What it does.
    pub op: Operation,
    /// The document it concerns.
    pub id: DocumentId,
    /// Its place in the collection: one more than the change before.
    pub revision: Revision,
    /// The history that `revision` counts in.
    pub epoch: Epoch,
    /// Last revision of the newest multi-document set of the collection before this change; 0 when there was none.
    pub last_set: Revision,
    /// The new value; present on Create and Update, absent on Delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_data: Option<CanonicalJson>,
    /// Checksum of `config_data`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc: Option<Crc>,
    /// The set it is a member of, when several documents change together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change_set: Option<ChangeSet>,
    /// When it was committed, by the publisher's clock. Never used to order anything.
    pub time: DateTime<Utc>,
    /// Live documents of the collection after it.
    pub count: u64,
    /// Digest of the collection after it.
    pub digest: Digest,
    /// `X-Correlation-Id` of the request that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// `traceparent` (W3C Trace Context) of the request that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// The set that a change belongs to: its parts become visible together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeSet {
    /// Id of the set.
    pub id: String,
    /// The revisions it takes up, per collection.
    pub parts: Vec<SetPart>,
}

/// A run of revisions of one collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetPart {
    /// The collection.
    pub collection: CollectionName,
    /// First revision of the run.
    pub first: Revision,
    /// Last revision of the run.
    pub last: Revision,
}

/// A page of the change feed: contiguous and in order per collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feed {
    /// Where the collections stand.
    pub heads: Vec<Head>,
    /// The changes after the asked revisions.
    pub items: Vec<Change>,
    /// Whether there is more to ask for.
    pub more: bool,
}
