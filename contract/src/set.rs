//! A change set as a client asks for it: several documents that change together or not at all.
//!
//! How a set travels in the log and in events is [`crate::ChangeSet`]; this is the request and its
//! answer.

use serde::{Deserialize, Serialize};

use crate::{
    canonical::{CanonicalJson, JsonError},
    ids::{CollectionName, DocumentId, FormatError, Revision},
};

/// Most operations of a set.
pub const MAX_OPERATIONS: usize = 256;
/// Most bytes of the values of a set.
pub const MAX_BYTES: usize = 4 << 20;

/// Body of `POST /v1/changes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ChangeSetRequest {
    /// The members, in order; no document twice.
    #[cfg_attr(feature = "utoipa", schema(min_items = 1, max_items = 256))]
    pub changes: Vec<ChangeRequest>,
}

/// One operation of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ChangeRequest {
    /// The collection.
    pub collection: CollectionName,
    /// What to do.
    pub op: RequestOperation,
    /// The document.
    pub id: DocumentId,
    /// The value, or the merge patch; absent on Delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_data: Option<CanonicalJson>,
    /// The revision that the document must be at; 0 = it must be absent; missing = any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<Revision>,
}

/// Why something cannot be made a change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeRequestError {
    /// The collection has no name.
    #[error(transparent)]
    Collection(FormatError),
    /// The document has no id.
    #[error(transparent)]
    Id(FormatError),
    /// The value has no canonical spelling, or cannot be written as JSON.
    #[error("the value cannot be stored: {0}")]
    Value(JsonError),
}

impl ChangeRequest {
    /// A new document.
    ///
    /// # Errors
    /// When a name or the value cannot be used at all.
    pub fn create(
        collection: &str,
        id: &str,
        value: &impl Serialize,
    ) -> Result<Self, ChangeRequestError> {
        Self::with_value(RequestOperation::Create, collection, id, value)
    }

    /// A new value of a document that exists; its `metadata` is merged. With `expecting(0)` the
    /// document is new.
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

    /// A merge patch (RFC 7396) of a document that exists: `null` takes a member away.
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

    /// The end of a document.
    ///
    /// # Errors
    /// When a name cannot be used.
    pub fn delete(collection: &str, id: &str) -> Result<Self, ChangeRequestError> {
        Self::named(RequestOperation::Delete, collection, id)
    }

    /// The same, if the document is at this revision; 0 = if it is absent.
    #[must_use]
    pub fn expecting(mut self, revision: Revision) -> Self {
        self.expected = Some(revision);
        self
    }

    fn named(op: RequestOperation, collection: &str, id: &str) -> Result<Self, ChangeRequestError> {
        let collection = collection.parse().map_err(ChangeRequestError::Collection)?;
        let id = id.parse().map_err(ChangeRequestError::Id)?;
        Ok(Self {
            collection,
            op,
            id,
            config_data: None,
            expected: None,
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

/// What an operation of a set does: as POST, PUT, PATCH and DELETE of one document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub enum RequestOperation {
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
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct ChangeSetWritten {
    /// Id of the set.
    pub id: String,
    /// What each member came to, in order.
    pub items: Vec<SetItemWritten>,
}

/// What one member of a set came to.
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
