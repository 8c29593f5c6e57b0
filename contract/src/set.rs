//! The request for a change set and its answer: several documents that change together or not at
//! all.
//!
//! In the log and in events a change set is [`crate::ChangeSet`]. Nothing here decides whether a
//! request is possible.

use serde::{Deserialize, Serialize};

use crate::{
    applied::Applied,
    canonical::{CanonicalJson, JsonError},
    expected::Expected,
    ids::{CollectionName, DocumentId, FormatError, Revision},
};

/// Largest number of changes in a change set.
pub const MAX_OPERATIONS: usize = 256;
/// Largest size of all values of a change set, in bytes.
pub const MAX_BYTES: usize = 4 << 20;

/// Header of a PUT: `exact` gives the document exactly the value of the body, `merge` (as without
/// the header) keeps the stored members of `metadata` that the body does not name.
pub const WRITE_HEADER: &str = "Confcast-Write";

/// Body of `POST /v1/changes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ChangeSetRequest {
    /// The changes, in order; no document twice.
    #[cfg_attr(feature = "utoipa", schema(min_items = 1, max_items = 256))]
    pub changes: Vec<ChangeRequest>,
}

/// One change of a change set request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ChangeRequest {
    /// The collection.
    pub collection: CollectionName,
    /// The operation.
    pub op: RequestOperation,
    /// The document.
    pub id: DocumentId,
    /// The value, or the merge patch; absent on Delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_data: Option<CanonicalJson>,
    /// The state that the document must have; any when it is missing.
    #[serde(default, skip_serializing_if = "Expected::is_any")]
    pub expected: Expected,
}

/// Why a change request cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeRequestError {
    /// The name of the collection is not valid.
    #[error(transparent)]
    Collection(FormatError),
    /// The id of the document is not valid.
    #[error(transparent)]
    Id(FormatError),
    /// The value has no canonical form, or cannot be serialised as JSON.
    #[error("the value cannot be stored: {0}")]
    Value(JsonError),
}

impl ChangeRequest {
    /// Creates a document.
    ///
    /// # Errors
    /// When a name or the value is not valid.
    pub fn create(
        collection: &str,
        id: &str,
        value: &impl Serialize,
    ) -> Result<Self, ChangeRequestError> {
        Self::with_value(RequestOperation::Create, collection, id, value)
    }

    /// Sets a new value of a document that exists; its `metadata` is merged. With `expecting(0)` the
    /// document is created.
    ///
    /// # Errors
    /// As [`ChangeRequest::create`].
    pub fn update(
        collection: &str,
        id: &str,
        value: &impl Serialize,
    ) -> Result<Self, ChangeRequestError> {
        Self::with_value(RequestOperation::Update, collection, id, value)
    }

    /// A merge patch (RFC 7396) of a document that exists: `null` removes a member.
    ///
    /// # Errors
    /// As [`ChangeRequest::create`].
    pub fn patch(
        collection: &str,
        id: &str,
        patch: &impl Serialize,
    ) -> Result<Self, ChangeRequestError> {
        Self::with_value(RequestOperation::Patch, collection, id, patch)
    }

    /// Deletes a document.
    ///
    /// # Errors
    /// When a name is not valid.
    pub fn delete(collection: &str, id: &str) -> Result<Self, ChangeRequestError> {
        Self::named(RequestOperation::Delete, collection, id)
    }

    /// The same request on the condition that the document has this revision; 0 = does not exist.
    #[must_use]
    pub fn expecting(self, revision: Revision) -> Self {
        self.when(Expected::revision(revision))
    }

    /// The same request on the condition that the document has this state.
    #[must_use]
    pub fn when(self, expected: Expected) -> Self {
        Self { expected, ..self }
    }

    fn named(op: RequestOperation, collection: &str, id: &str) -> Result<Self, ChangeRequestError> {
        let collection = collection.parse().map_err(ChangeRequestError::Collection)?;
        let id = id.parse().map_err(ChangeRequestError::Id)?;
        Ok(Self {
            collection,
            op,
            id,
            config_data: None,
            expected: Expected::Any,
        })
    }

    fn with_value(
        op: RequestOperation,
        collection: &str,
        id: &str,
        value: &impl Serialize,
    ) -> Result<Self, ChangeRequestError> {
        let member = Self::named(op, collection, id)?;
        let unwritable = |error: serde_json::Error| JsonError {
            pointer: String::new(),
            reason: error.to_string(),
        };
        let json = serde_json::to_vec(value)
            .map_err(unwritable)
            .map_err(ChangeRequestError::Value)?;
        let config = CanonicalJson::parse(&json).map_err(ChangeRequestError::Value)?;
        Ok(Self {
            config_data: Some(config),
            ..member
        })
    }
}

/// The operation of a change request: the same as POST, PUT, PATCH and DELETE of one document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub enum RequestOperation {
    /// The document is new.
    Create,
    /// The document gets a new value; its stored `metadata` is merged.
    Update,
    /// The document gets exactly this value.
    Replace,
    /// The document is patched (RFC 7396).
    Patch,
    /// The document is deleted.
    Delete,
}

/// Answer to `POST /v1/changes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct ChangeSetWritten {
    /// Id of the set.
    pub id: String,
    /// The result of each change, in order.
    pub items: Vec<SetItemWritten>,
    /// Where the set has arrived, if the request waited for replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<Applied>,
}

/// The result of one change of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct SetItemWritten {
    /// The collection.
    pub collection: CollectionName,
    /// The document.
    pub id: DocumentId,
    /// Its revision; of a deletion, the revision that deleted it.
    pub revision: Revision,
}
