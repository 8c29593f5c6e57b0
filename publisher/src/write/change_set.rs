//! From change requests to commands: the checks that are the same for HTTP and for embedded units
//! of work.
//!
//! Only the request itself is checked here. Its effect on the documents is decided by
//! [`Rules::evaluate`](crate::decide::Rules::evaluate).

use std::collections::HashMap;

use contract::{
    Context,
    set::{
        ChangeRequest, ChangeSetWritten, MAX_BYTES, MAX_OPERATIONS, RequestOperation,
        SetItemWritten,
    },
};
use uuid::Uuid;

use crate::{
    decide::{Action, ChangeSetCommand, DocumentKey, Write, WriteError, WriteOutcome},
    store::PublisherPolicy,
};

/// A change set that is being built, change by change.
#[derive(Debug, Default)]
pub struct ChangeSetBuilder {
    writes: Vec<Write>,
    /// Position of each document in the set.
    positions: HashMap<DocumentKey, usize>,
    value_bytes: usize,
}

impl ChangeSetBuilder {
    /// Adds a change.
    ///
    /// # Errors
    /// When the change can never be written, is beyond the limits of a set, or repeats a document
    /// of the set. The error names the position of the change.
    pub fn add(
        &mut self,
        policy: &PublisherPolicy,
        context: &Context,
        request: ChangeRequest,
    ) -> Result<(), WriteError> {
        let index = self.writes.len();
        if index == MAX_OPERATIONS {
            return Err(WriteError::SetTooLarge { index });
        }
        let value_bytes = request
            .config_data
            .as_ref()
            .map_or(0, |value| value.as_str().len());
        let write = check(policy, context, request).map_err(|error| error.in_change_set(index))?;
        // Counted after the check, so that an invalid change is reported as such and not as too
        // large.
        self.value_bytes += value_bytes;
        if self.value_bytes > MAX_BYTES {
            return Err(WriteError::SetTooLarge { index });
        }
        if let Some(other) = self.positions.insert(write.key(), index) {
            let detail = format!(
                "/changes/{other} has the same document; a set has a document at most once"
            );
            return Err(WriteError::invalid_change("/id", detail).in_change_set(index));
        }
        self.writes.push(write);
        Ok(())
    }

    /// Whether no change was added.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// The set as a command, with a new id.
    pub fn build(self) -> ChangeSetCommand {
        ChangeSetCommand {
            id: new_id(),
            writes: self.writes,
            ..ChangeSetCommand::default()
        }
    }
}

/// A new id for a change set: a UUID of version 7 (RFC 9562), so ids sort by time.
pub fn new_id() -> String {
    Uuid::now_v7().to_string()
}

/// Checks a change request and makes a write of it.
///
/// # Errors
/// When the publisher does not serve the collection, or the request has a value where none is
/// allowed or lacks one. Pointers begin at the change request.
pub fn check(
    policy: &PublisherPolicy,
    context: &Context,
    request: ChangeRequest,
) -> Result<Write, WriteError> {
    let ChangeRequest {
        collection,
        op,
        id,
        config_data,
        expected,
    } = request;
    let collection = policy.collections.find(collection.as_str())?;
    let action = match (op, config_data) {
        (RequestOperation::Delete, None) => Action::Delete,
        // Refused and not ignored: a client that sends a value probably means an Update.
        (RequestOperation::Delete, Some(_)) => {
            let detail = "A Delete has no value; leave it out";
            return Err(WriteError::invalid_change("/configData", detail));
        }
        (_, None) => {
            let detail = "The value is missing; only a Delete has none";
            return Err(WriteError::invalid_change("/configData", detail));
        }
        (RequestOperation::Create, Some(value)) => Action::Create(value),
        // As PUT: the stored `metadata` member is merged (requirement A18).
        (RequestOperation::Update, Some(value)) => Action::Put(value),
        (RequestOperation::Replace, Some(value)) => Action::Replace(value),
        (RequestOperation::Patch, Some(patch)) => Action::Patch(patch),
    };
    Ok(Write::new(
        (collection, id),
        action,
        expected,
        context.clone(),
    ))
}

/// The answer to a change set: the revision of each document, in the order of the request.
pub(super) fn written(
    id: String,
    keys: Vec<DocumentKey>,
    outcomes: Vec<WriteOutcome>,
) -> ChangeSetWritten {
    let items = keys
        .into_iter()
        .zip(outcomes)
        .map(|((collection, id), outcome)| SetItemWritten {
            collection,
            id,
            revision: outcome.written.revision,
        })
        .collect();
    ChangeSetWritten {
        id,
        items,
        applied: None,
    }
}
