//! The value that a write gives to its document, and the constraints on every value.
//!
//! Nothing is changed here: a value is computed, or refused with a pointer to the fault.

use contract::{
    CanonicalJson, CollectionName, Document, DocumentId, Expected, Revision, canonical,
    references::Reference,
};
use serde_json::Value;

use crate::decide::{Action, Checked, Rules, Write, WriteError};

/// Largest sum of the stored and the given value that is evaluated inside a transaction. Anything
/// larger is evaluated before, so that it does not delay the writes of others.
pub const IN_TRANSACTION_BYTES: usize = 64 << 10;

/// Largest document as BSON. MongoDB stores at most 16 MiB; the rest is for the fields around the
/// value.
const STORED_BYTES: usize = 15 << 20;

/// Most bytes that BSON adds to one element of an object or array: its type, its index as text, and
/// the eight bytes of a number.
const STORED_ELEMENT_BYTES: usize = 17;

impl Rules {
    /// The value of the document after the write, as it is stored in `revision`; `None` for a
    /// deletion.
    ///
    /// # Errors
    /// When the write does not match the presence of the document, or the new value breaks a
    /// constraint. [`WriteError::Outdated`] when the value has to be evaluated before the
    /// transaction, again, because the document changed since.
    pub(super) fn next_value(
        &self,
        write: &Write,
        stored: Option<&Document>,
        revision: Revision,
    ) -> Result<Option<CanonicalJson>, WriteError> {
        match (&write.action, stored) {
            (Action::Create(_), Some(stored)) => {
                return Err(WriteError::Exists {
                    collection: write.collection.clone(),
                    id: write.id.clone(),
                    stored: stored.clone(),
                });
            }
            (Action::Delete, Some(_)) => return Ok(None),
            (Action::Rewrap, Some(stored)) => {
                return self.rewrapped(&write.key(), stored).map(Some);
            }
            // Only an explicit condition turns a PUT into a creation: a PUT to an id with a typing
            // error is refused.
            (Action::Put(_) | Action::Replace(_), None) if write.expected == Expected::Absent => {}
            (Action::Create(_), None) => {}
            (_, Some(_)) => {}
            (_, None) => {
                return Err(WriteError::NoData {
                    collection: write.collection.clone(),
                    id: write.id.clone(),
                });
            }
        }
        if let Some(checked) = &write.checked
            && let Some(value) = checked.value_for(stored)
        {
            return self.sealed(value, &write.key(), revision, stored).map(Some);
        }
        let size = write.action.size() + stored.map_or(0, |stored| stored.config_data().len());
        let in_transaction = matches!(write.checked, Some(Checked::InTransaction));
        if write.needs_stored() && size > IN_TRANSACTION_BYTES && !in_transaction {
            return Err(WriteError::Outdated);
        }
        let Some((value, _references)) = self.new_value(write, stored, stored)? else {
            return Ok(None);
        };
        self.sealed(&value, &write.key(), revision, stored)
            .map(Some)
    }

    /// Checks size, form and schema of a new value, and gives its references. A merged value is checked as a whole: each part
    /// may be valid and the sum not.
    pub(super) fn check(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
        value: &CanonicalJson,
    ) -> Result<Vec<Reference>, WriteError> {
        if value.as_str().len() > self.document_limit {
            return Err(WriteError::TooLarge {
                limit: self.document_limit,
            });
        }
        if stored_size(value) > STORED_BYTES {
            return Err(WriteError::TooLarge {
                limit: STORED_BYTES,
            });
        }
        let document = parse(value.as_str().as_bytes())?;
        if !document.is_object() {
            return Err(WriteError::invalid_value("", "A document is a JSON object"));
        }
        // An `id` member is optional, but it must not contradict the key of the document.
        if document.get("id").is_some_and(|given| given != id.as_str()) {
            let reason = format!(
                "The id in the body must be {:?}, as in the path, or be left out",
                id
            );
            return Err(WriteError::invalid_value("/id", reason));
        }
        self.schemas.check(collection, &document)
    }
}

/// The value that an action gives to its document, not yet checked; `None` for a deletion.
pub(super) fn value_of(
    action: &Action,
    stored: Option<&Document>,
) -> Result<Option<CanonicalJson>, WriteError> {
    Ok(match (action, stored) {
        (Action::Create(value) | Action::Replace(value), _) | (Action::Put(value), None) => {
            Some(value.clone())
        }
        (Action::Put(value), Some(stored)) => Some(merge_metadata(stored, value)?),
        (Action::Patch(patch), stored) => {
            let mut value = stored.map_or(Ok(Value::Null), |stored| parse(stored.config_data()))?;
            json_patch::merge(&mut value, &parse(patch.as_str().as_bytes())?);
            Some(canonical_of(&value)?)
        }
        (Action::Delete | Action::Rewrap, _) => None,
    })
}

/// The given value with the stored `metadata` fields that it does not set (requirement
/// A18). If one of the two has no `metadata` object, there is nothing to merge and the given value
/// is taken as it is.
fn merge_metadata(stored: &Document, given: &CanonicalJson) -> Result<CanonicalJson, WriteError> {
    let mut stored = parse(stored.config_data())?;
    let Some(Value::Object(stored)) = stored.get_mut("metadata").map(Value::take) else {
        return Ok(given.clone());
    };
    let mut merged = parse(given.as_str().as_bytes())?;
    let Some(fields) = merged.as_object_mut() else {
        return Ok(given.clone());
    };
    match fields.get_mut("metadata") {
        None => {
            fields.insert("metadata".to_owned(), Value::Object(stored));
        }
        Some(Value::Object(metadata)) => {
            for (key, value) in stored {
                metadata.entry(key).or_insert(value);
            }
        }
        Some(_not_an_object) => return Ok(given.clone()),
    }
    canonical_of(&merged)
}

/// An upper bound for the size of a value as BSON, in bytes.
pub(super) fn stored_size(value: &CanonicalJson) -> usize {
    let text = value.as_str();
    // Each element follows a comma or the bracket of its container.
    let elements = text
        .bytes()
        .filter(|byte| matches!(byte, b',' | b'[' | b'{'))
        .count();
    text.len() + STORED_ELEMENT_BYTES * elements
}

pub(super) fn parse(json: &[u8]) -> Result<Value, WriteError> {
    canonical::value(json).map_err(|error| WriteError::Unreadable(error.to_string()))
}

pub(super) fn canonical_of(value: &Value) -> Result<CanonicalJson, WriteError> {
    CanonicalJson::of(value).map_err(WriteError::InvalidValue)
}
