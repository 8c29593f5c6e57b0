//! The head of a collection: its newest revision, count and digest.

use serde::{Deserialize, Serialize};

use crate::{
    ids::{CollectionName, Digest, Epoch, Revision},
    proof::Proof,
};

/// The head of a collection. It is committed with every change, and replicas compare their own state
/// with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Head {
    /// The collection.
    pub collection: CollectionName,
    /// The epoch of `revision`.
    pub epoch: Epoch,
    /// Revision of the newest change; 0 before the first.
    pub revision: Revision,
    /// Number of live documents.
    pub count: u64,
    /// Digest over the live documents.
    pub digest: Digest,
    /// Last revision of the newest change set; 0 when there was none.
    #[serde(default)]
    pub last_set: Revision,
    /// Oldest revision that the change log still holds; `revision` + 1 when the log is empty.
    pub oldest: Revision,
    /// Proof that `revision` was committed in `epoch`; absent where a publisher has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
}

impl Head {
    /// The head of a collection that never had a change.
    pub fn empty(collection: CollectionName, epoch: Epoch) -> Self {
        Self {
            collection,
            epoch,
            revision: 0,
            count: 0,
            digest: Digest::default(),
            last_set: 0,
            oldest: 1,
            proof: None,
        }
    }

    /// Entity tag of the collection at this revision: `"<epoch>-<revision>"`, quotes included.
    pub fn etag(&self) -> String {
        format!("\"{}-{}\"", self.epoch, self.revision)
    }
}

/// Body of `GET /v1/collections`: the requested heads of one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct Heads {
    /// One head per collection, by name.
    pub heads: Vec<Head>,
}
