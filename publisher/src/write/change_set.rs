//! Members of a change set on their way to become writes: the rules that hold for them however they
//! came, over HTTP or from the same process.
//!
//! What a write does to its document is not asked here; [`crate::fold`] decides that.

use std::collections::HashMap;

use contract::{
    Context, Problem,
    set::{ChangeRequest, MAX_BYTES, MAX_OPERATIONS, RequestOperation, SetItemWritten},
};

use crate::{
    api::error::ApiError,
    decide::{Action, Condition, DocumentKey, Done, Write},
    store::PublisherPolicy,
};

/// The members of one set so far, in order.
#[derive(Debug, Default)]
pub struct Members {
    writes: Vec<Write>,
    places: HashMap<DocumentKey, usize>,
    bytes: usize,
}

impl Members {
    /// Takes one more member.
    ///
    /// # Errors
    /// When it can never be written, is beyond the limits of a set, or has the document of another
    /// member. The error names it.
    pub fn add(
        &mut self,
        terms: &PublisherPolicy,
        context: &Context,
        member: ChangeRequest,
    ) -> Result<(), ApiError> {
        let index = self.writes.len();
        if index == MAX_OPERATIONS {
            return Err(ApiError::set_too_large(index));
        }
        let size = member
            .config_data
            .as_ref()
            .map_or(0, |config| config.as_str().len());
        let write = write(terms, context, member).map_err(|error| error.of_member(index))?;
        self.bytes += size;
        if self.bytes > MAX_BYTES {
            return Err(ApiError::set_too_large(index));
        }
        if let Some(other) = self
            .places
            .insert((write.collection.clone(), write.id.clone()), index)
        {
            let twice =
                format!("/changes/{other} has the same document; a set has a document once");
            return Err(refused("/id", twice).of_member(index));
        }
        self.writes.push(write);
        Ok(())
    }

    /// The writes, in order.
    pub fn into_writes(self) -> Vec<Write> {
        self.writes
    }
}

/// What a member asks for.
///
/// # Errors
/// When its collection is not served here, or it has a value where none belongs, or none where one
/// does.
pub fn write(
    terms: &PublisherPolicy,
    context: &Context,
    member: ChangeRequest,
) -> Result<Write, ApiError> {
    let ChangeRequest {
        collection,
        op,
        id,
        config_data,
        expected,
    } = member;
    if !terms.collections.contains(&collection) {
        return Err(ApiError::unknown_collection(collection.as_str()));
    }
    let action = match (op, config_data) {
        (RequestOperation::Delete, None) => Action::Delete,
        (RequestOperation::Delete, Some(_)) => {
            return Err(refused(
                "/configData",
                "A Delete has no value; leave it out",
            ));
        }
        (_, None) => {
            return Err(refused(
                "/configData",
                "The value is missing; only a Delete has none",
            ));
        }
        (RequestOperation::Create, Some(config)) => Action::Create(config),
        (RequestOperation::Update, Some(config)) => Action::Put(config),
        (RequestOperation::Patch, Some(patch)) => Action::Patch(
            serde_json::from_str(patch.as_str()).map_err(|error| refused("/configData", error))?,
        ),
    };
    let condition = match expected {
        None => Condition::Any,
        Some(0) => Condition::Absent,
        Some(revision) => Condition::At(revision, None),
    };
    Ok(Write {
        collection,
        id,
        action,
        condition,
        context: context.clone(),
    })
}

/// What the members came to, beside where they are.
pub fn items(places: Vec<DocumentKey>, done: &[Done]) -> Vec<SetItemWritten> {
    let revisions = done.iter().map(|done| done.revision);
    places
        .into_iter()
        .zip(revisions)
        .map(|((collection, id), revision)| SetItemWritten {
            collection,
            id,
            revision,
        })
        .collect()
}

/// 400: what is no change set.
pub fn refused(pointer: &str, detail: impl std::fmt::Display) -> ApiError {
    Problem::new(contract::ProblemKind::BadSet, detail.to_string())
        .at(pointer)
        .into()
}
