//! The value that a write makes of what is held, and what every value must obey.
//!
//! Nothing is changed here; a value is worked out, or refused with the pointer at fault.

use contract::{CanonicalJson, Document};
use serde_json::Value;

use crate::{
    api::error::ApiError,
    decide::{Action, Condition, Rules, Write},
};

/// Largest document as BSON, which a store may have to write: 16 MiB, less what stands around the
/// value.
const STORED_BYTES: usize = 15 << 20;

impl Rules {
    /// The value that the write asks for; `None` = the document goes.
    pub(super) fn next_value(
        &self,
        write: &Write,
        held: Option<&Document>,
    ) -> Result<Option<CanonicalJson>, ApiError> {
        let missing = || ApiError::no_data(&write.collection, &write.id);
        let config = match &write.action {
            Action::Delete => return held.map(|_gone| None).ok_or_else(missing),
            Action::Create(config) => match held {
                Some(held) => return Err(ApiError::exists(&write.collection, &write.id, held)),
                None => config.clone(),
            },
            Action::Put(config) => match held {
                Some(held) => merge_metadata(held, config)?,
                None if write.condition == Condition::Absent => config.clone(),
                None => return Err(missing()),
            },
            Action::Patch(patch) => {
                let mut value = parse(held.ok_or_else(missing)?)?;
                json_patch::merge(&mut value, patch);
                canonical(&value)?
            }
        };
        self.check(write, &config)?;
        Ok(Some(config))
    }

    fn check(&self, write: &Write, config: &CanonicalJson) -> Result<(), ApiError> {
        if config.as_str().len() > self.document_limit {
            return Err(ApiError::too_large(self.document_limit));
        }
        if stored_size(config) > STORED_BYTES {
            return Err(ApiError::too_large(STORED_BYTES));
        }
        let value: Value =
            serde_json::from_str(config.as_str()).map_err(|error| unreadable(&error))?;
        if !value.is_object() {
            let detail = "A document is a JSON object";
            return Err(
                contract::Problem::new(contract::ProblemKind::BadBody, detail)
                    .at("")
                    .into(),
            );
        }
        if value.get("id").is_some_and(|id| id != write.id.as_str()) {
            let detail = format!(
                "The id in the body must be {:?}, as in the path, or be left out",
                write.id
            );
            return Err(
                contract::Problem::new(contract::ProblemKind::BadBody, detail)
                    .at("/id")
                    .into(),
            );
        }
        self.schemas.check(&write.collection, &value)
    }
}

/// The given value, its `metadata` laid over the stored one. What is not an object cannot be
/// merged: the given one wins.
fn merge_metadata(held: &Document, config: &CanonicalJson) -> Result<CanonicalJson, ApiError> {
    let mut stored = parse(held)?;
    let Some(Value::Object(stored)) = stored.get_mut("metadata").map(Value::take) else {
        return Ok(config.clone());
    };
    let mut given: Value =
        serde_json::from_str(config.as_str()).map_err(|error| unreadable(&error))?;
    let Some(members) = given.as_object_mut() else {
        return Ok(config.clone());
    };
    match members.get_mut("metadata") {
        None => {
            members.insert("metadata".to_owned(), Value::Object(stored));
        }
        Some(Value::Object(metadata)) => {
            for (key, value) in stored {
                metadata.entry(key).or_insert(value);
            }
        }
        Some(_not_an_object) => return Ok(config.clone()),
    }
    canonical(&given)
}

/// At most so many bytes as BSON, where an element of an array carries its index and eight bytes of
/// number.
pub(super) fn stored_size(config: &CanonicalJson) -> usize {
    let text = config.as_str();
    text.len()
        + 17 * text
            .bytes()
            .filter(|byte| matches!(byte, b',' | b'[' | b'{'))
            .count()
}

fn parse(held: &Document) -> Result<Value, ApiError> {
    serde_json::from_slice(&held.config_data()).map_err(|error| unreadable(&error))
}

fn canonical(value: &Value) -> Result<CanonicalJson, ApiError> {
    CanonicalJson::parse(value.to_string().as_bytes()).map_err(ApiError::bad_body)
}

fn unreadable(error: &serde_json::Error) -> ApiError {
    contract::Problem::new(contract::ProblemKind::Unreadable, error.to_string()).into()
}
