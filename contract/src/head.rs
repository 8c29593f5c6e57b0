//! Where a collection stands.

use serde::{Deserialize, Serialize};

use crate::ids::{CollectionName, Digest, Epoch, Revision};

/// The head of a collection: committed with every change, and what replicas compare themselves
/// with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Head {
    /// The collection.
    pub collection: CollectionName,
    /// The history that `revision` counts in.
    pub epoch: Epoch,
    /// Revision of the newest change; 0 before the first.
    pub revision: Revision,
    /// Live documents.
    pub count: u64,
    /// Digest over the live documents.
    pub digest: Digest,
    /// Last revision of the newest multi-document set; 0 when there was none.
    #[serde(default)]
    pub last_set: Revision,
    /// Oldest revision that the change log still holds; one more than `revision` when it holds
    /// none.
    pub oldest: Revision,
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
        }
    }

    /// Entity tag of the collection at this revision: `"<epoch>-<revision>"`, quotes included.
    pub fn etag(&self) -> String {
        format!("\"{}-{}\"", self.epoch, self.revision)
    }
}

/// Body of `GET /v1/collections`: one consistent reading of all asked heads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct Heads {
    /// One head per collection, by name.
    pub heads: Vec<Head>,
}
