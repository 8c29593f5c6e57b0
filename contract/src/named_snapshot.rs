//! Named snapshots: the heads of all collections of one moment, under a name. While one exists, the
//! state of that moment is kept, whatever the retention of the change log removes.
//!
//! It is not a [`crate::snapshot`], which is a complete copy of collections that a replica loads.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    context::Context,
    history::SnapshotName,
    ids::{CollectionName, Digest, Epoch, Revision},
};

/// Most named snapshots of a store.
pub const MAX_SNAPSHOTS: usize = 100;

/// A named snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct NamedSnapshot {
    /// Its name.
    pub name: SnapshotName,
    /// When it was made, by the clock of the publisher.
    pub time: DateTime<Utc>,
    /// User, organisation, correlation and reason of the request that made it; serialised as members
    /// of the same JSON object.
    #[serde(flatten)]
    pub context: Context,
    /// The collections of that moment, by name.
    pub collections: Vec<SnapshotCollection>,
}

/// A collection in a named snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct SnapshotCollection {
    /// The collection.
    pub collection: CollectionName,
    /// The epoch of `revision`.
    pub epoch: Epoch,
    /// Its newest revision at that moment.
    pub revision: Revision,
    /// Number of documents at that moment.
    pub count: u64,
    /// Digest over these documents.
    pub digest: Digest,
}

/// Answer to `GET /v1/snapshots`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct NamedSnapshots {
    /// All named snapshots, by name.
    pub items: Vec<NamedSnapshot>,
}
