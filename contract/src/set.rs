//! A change set as a client asks for it: several documents that change together or not at all.
//!
//! How a set travels in the log and in events is [`crate::ChangeSet`]; this is the request and its answer.

use serde::{Deserialize, Serialize};

use crate::{
    canonical::CanonicalJson,
    ids::{CollectionName, DocumentId, Revision},
};

/// Most operations of a set.
pub const MAX_OPERATIONS: usize = 256;
/// Most bytes of the values of a set.
pub const MAX_BYTES: usize = 4 << 20;

/// Body of `POST /v1/changes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetRequest {
    /// The members, in order; no document twice.
    pub changes: Vec<SetMember>,
}

/// One operation of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SetMember {
    /// The collection.
    pub collection: CollectionName,
    /// What to do.
    pub op: SetOperation,
    /// The document.
    pub id: DocumentId,
    /// The value, or the merge patch; absent on Delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_data: Option<CanonicalJson>,
    /// The revision that the document must be at; 0 = it must be absent; missing = any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<Revision>,
}

/// What an operation of a set does: as POST, PUT, PATCH and DELETE of one document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetOperation {
    /// The document is new.
    Create,
    /// The document gets a new value.
    Update,
    /// The document is patched (RFC 7396).
    Patch,
    /// The document goes.
    Delete,
}

/// Answer to `POST /v1/changes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetDone {
    /// Id of the set.
    pub id: String,
    /// What each member came to, in order.
    pub items: Vec<SetItem>,
}

/// What one member of a set came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetItem {
    /// The collection.
    pub collection: CollectionName,
    /// The document.
    pub id: DocumentId,
    /// Its revision; of a deletion, the revision that deleted it.
    pub revision: Revision,
}
