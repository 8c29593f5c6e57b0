//! The reasons why a write is refused or fails.
//!
//! One error type serves the rules, the checks of change sets, the queue, the commit of the store
//! and embedded units of work. It knows no HTTP status and no header: [`WriteError::kind`] names
//! the entry of the problem list that clients see, and `api::error` makes the HTTP answer of it.

use contract::{
    CollectionName, Document, DocumentId, FormatError, JsonError, ProblemKind, Revision,
    problem::Violation,
    references::DanglingReference,
    set::{ChangeRequestError, MAX_BYTES, MAX_OPERATIONS},
};
use service::nearest::unknown_collection;

use super::references;

/// The reason why nothing was written; or, with [`WriteError::OutcomeUnknown`] alone, why it is not
/// known whether anything was written.
///
/// JSON pointers (RFC 6901) begin at the value of the document until the caller puts the pointer
/// to the value in front. Inside [`WriteError::InChangeSet`] they begin at the change
/// request, `/changes/<index>` of the body of a change set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The publisher does not serve the collection. Holds the name as it was given, and the one that
    /// was probably meant, in words: see [`service::nearest::unknown_collection`].
    #[error("{0}")]
    UnknownCollection(String),
    /// The document id has no valid form.
    #[error(transparent)]
    InvalidId(FormatError),
    /// A change request has a value where none is allowed, lacks one, or repeats a document.
    #[error("{detail}")]
    InvalidChange {
        /// Pointer to the field at fault.
        pointer: String,
        /// The fault and its remedy.
        detail: String,
    },
    /// The value is not a document: no canonical JSON, no object, or an object with another id.
    #[error("{}", .0.reason)]
    InvalidValue(JsonError),
    /// The document does not exist (requirement A18).
    #[error("{collection} with id: {id} cannot be found")]
    NoData {
        /// Its collection.
        collection: CollectionName,
        /// The document.
        id: DocumentId,
    },
    /// The document to be created exists.
    #[error("{collection} with id: {id} exists already; change it with PUT or PATCH")]
    Exists {
        /// Its collection.
        collection: CollectionName,
        /// The document.
        id: DocumentId,
        /// The stored document.
        stored: Document,
    },
    /// The precondition of the write does not hold.
    #[error("{}", condition_failed(stored.as_ref()))]
    ConditionFailed {
        /// The stored document; `None` when the document does not exist.
        stored: Option<Document>,
    },
    /// The collection was changed since the revision that the set expects.
    #[error(
        "{collection} was changed since: it is at revision {revision}, not {expected}; read what \
         changed before you decide"
    )]
    HeadMoved {
        /// The collection.
        collection: CollectionName,
        /// Its newest revision.
        revision: Revision,
        /// The expected one.
        expected: Revision,
    },
    /// The document is larger than `limit` bytes.
    #[error("The document is larger than {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The change set is larger than a replica applies in one step.
    #[error(
        "A change set has at most {MAX_OPERATIONS} changes, and its values have at most \
         {MAX_BYTES} bytes and {added} new references together; split it into two sets",
        added = references::ADDED_REFERENCES
    )]
    SetTooLarge {
        /// The first change beyond a limit, from 0.
        index: usize,
    },
    /// The JSON Schema of the collection refuses the document.
    #[error("{}", schema_detail(violations, *more))]
    Schema {
        /// The rules of the schema that are broken: the first ones, at least one.
        violations: Vec<Violation>,
        /// Whether there are more.
        more: bool,
    },
    /// The write would leave references to documents that do not exist: it adds them, or it deletes
    /// what is in use.
    #[error("{}", references::detail(references, *more))]
    DanglingReference {
        /// The first ones, at least one.
        references: Vec<DanglingReference>,
        /// Whether there are more.
        more: bool,
        /// Pointer to the value at fault, from the body of the request; `None` for a deletion.
        pointer: Option<String>,
    },
    /// The document has secrets, and there is no key to seal or open them. Holds what is missing and
    /// the remedy.
    #[error("{0}")]
    NoSecretKey(String),
    /// The stored document cannot be decoded.
    #[error("{0}")]
    Unreadable(String),
    /// The document changed between the check of the new value and the transaction, or too much that
    /// may refer to it did. The writer tries again.
    #[error("The document changes too often to be written now; nothing was written, try again")]
    Outdated,
    /// The queue of writes is full.
    #[error(
        "Too many writes are waiting, by number (AURA_CONFIGURATION_LIMIT_QUEUED_WRITES) or by bytes; \
         nothing was written"
    )]
    Busy,
    /// The publisher is stopping or has stopped.
    #[error("The publisher is stopping; nothing was written")]
    Stopping,
    /// The store did not commit, and this is certain.
    #[error("The store did not commit the write; nothing was written, try again")]
    NotCommitted,
    /// The disk of the store is full.
    #[error(
        "The disk of the store is full; nothing was written. Free space on that disk, then try again"
    )]
    DiskFull,
    /// The store did not say whether it committed.
    #[error("The store did not confirm the write: read the document before you try again")]
    OutcomeUnknown,
    /// One change of a set has this error; the whole set is refused.
    #[error("{error}")]
    InChangeSet {
        /// Position of the change in the set, from 0.
        index: usize,
        /// The error of the change.
        error: Box<Self>,
    },
}

impl WriteError {
    /// An [`InvalidChange`](Self::InvalidChange).
    pub(crate) fn invalid_change(
        pointer: impl Into<String>,
        detail: impl std::fmt::Display,
    ) -> Self {
        Self::InvalidChange {
            pointer: pointer.into(),
            detail: detail.to_string(),
        }
    }

    /// An [`InvalidValue`](Self::InvalidValue).
    pub(crate) fn invalid_value(pointer: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::InvalidValue(JsonError {
            pointer: pointer.into(),
            reason: reason.into(),
        })
    }

    /// The same error with `prefix` in front of its pointer, if it has one.
    #[must_use]
    pub(crate) fn under(mut self, prefix: &str) -> Self {
        match &mut self {
            Self::InvalidChange { pointer, .. } | Self::InvalidValue(JsonError { pointer, .. }) => {
                pointer.insert_str(0, prefix)
            }
            Self::Schema { violations, .. } => violations
                .iter_mut()
                .for_each(|violation| violation.pointer.insert_str(0, prefix)),
            _ => {}
        }
        self
    }

    /// The same error as the error of one change of a set.
    #[must_use]
    pub(crate) fn in_change_set(self, index: usize) -> Self {
        Self::InChangeSet {
            index,
            error: Box::new(self),
        }
    }

    /// The error itself, without its position in a change set. Match on this.
    pub fn cause(&self) -> &Self {
        match self {
            Self::InChangeSet { error, .. } => error.cause(),
            other => other,
        }
    }

    /// The entry of the problem list, the same that a client of the HTTP API gets.
    pub fn kind(&self) -> ProblemKind {
        match self {
            Self::UnknownCollection(_) => ProblemKind::UnknownCollection,
            Self::InvalidId(_) => ProblemKind::BadRequest,
            Self::InvalidChange { .. } => ProblemKind::BadSet,
            Self::InvalidValue(_) => ProblemKind::BadBody,
            Self::NoData { .. } => ProblemKind::NoData,
            Self::Exists { .. } => ProblemKind::Exists,
            Self::ConditionFailed { .. } | Self::HeadMoved { .. } => ProblemKind::ConditionFailed,
            Self::TooLarge { .. } => ProblemKind::TooLarge,
            Self::SetTooLarge { .. } => ProblemKind::SetTooLarge,
            Self::Schema { .. } => ProblemKind::Schema,
            Self::DanglingReference { .. } => ProblemKind::DanglingReference,
            Self::NoSecretKey(_) => ProblemKind::NoSecretKey,
            Self::Unreadable(_) => ProblemKind::Unreadable,
            Self::Busy | Self::Outdated => ProblemKind::Busy,
            Self::Stopping => ProblemKind::Stopping,
            Self::NotCommitted | Self::DiskFull => ProblemKind::NotCommitted,
            Self::OutcomeUnknown => ProblemKind::OutcomeUnknown,
            Self::InChangeSet { error, .. } => error.kind(),
        }
    }

    /// Position of the change at fault in its change set, from 0.
    pub fn index(&self) -> Option<usize> {
        match self {
            Self::InChangeSet { index, .. } | Self::SetTooLarge { index } => Some(*index),
            Self::DanglingReference { references, .. } => references.first()?.index,
            _ => None,
        }
    }

    /// JSON pointer (RFC 6901) to the value at fault.
    pub fn pointer(&self) -> Option<String> {
        match self {
            Self::InvalidChange { pointer, .. } | Self::InvalidValue(JsonError { pointer, .. }) => {
                Some(pointer.clone())
            }
            Self::Schema { violations, .. } => violations
                .first()
                .map(|violation| violation.pointer.clone()),
            Self::SetTooLarge { .. } => Some("/changes".to_owned()),
            Self::DanglingReference { pointer, .. } => pointer.clone(),
            Self::InChangeSet { index, error } => error
                .pointer()
                .map(|pointer| format!("/changes/{index}{pointer}")),
            _ => None,
        }
    }

    /// The broken rules of a schema, with pointers as [`WriteError::pointer`]; empty for all other
    /// errors.
    pub fn violations(&self) -> Vec<Violation> {
        match self {
            Self::Schema { violations, .. } => violations.clone(),
            Self::InChangeSet { index, error } => {
                let mut violations = error.violations();
                for violation in &mut violations {
                    violation
                        .pointer
                        .insert_str(0, &format!("/changes/{index}"));
                }
                violations
            }
            _ => Vec::new(),
        }
    }

    /// The references that would be without their documents; empty for all other errors.
    pub fn references(&self) -> &[DanglingReference] {
        match self.cause() {
            Self::DanglingReference { references, .. } => references,
            _ => &[],
        }
    }

    /// What is stored, when the document is not in the expected state; the inner `None` stands for a
    /// document that does not exist.
    pub fn stored(&self) -> Option<Option<&Document>> {
        match self.cause() {
            Self::Exists { stored, .. } => Some(Some(stored)),
            Self::ConditionFailed { stored } => Some(stored.as_ref()),
            _ => None,
        }
    }

    /// Entity tag of the stored document, when the document is not in the expected state.
    pub fn etag(&self) -> Option<String> {
        self.stored().flatten().map(Document::etag)
    }
}

impl From<ChangeRequestError> for WriteError {
    fn from(error: ChangeRequestError) -> Self {
        match error {
            // A name of the wrong form is not a collection of this publisher either.
            ChangeRequestError::Collection(error) => {
                Self::UnknownCollection(unknown_collection(error.given(), []))
            }
            ChangeRequestError::Id(error) => Self::InvalidId(error),
            ChangeRequestError::Value(error) => Self::InvalidValue(error).under("/configData"),
        }
    }
}

/// All violations in one line. The first has its pointer in the problem.
fn schema_detail(violations: &[Violation], more: bool) -> String {
    let lines = violations.iter().enumerate().map(|(index, violation)| {
        if index == 0 {
            violation.detail.clone()
        } else {
            format!("{}: {}", violation.pointer, violation.detail)
        }
    });
    let mut text = lines.collect::<Vec<_>>().join("; ");
    if more {
        text.push_str("; and more");
    }
    text
}

fn condition_failed(stored: Option<&Document>) -> String {
    match stored.map(Document::etag) {
        Some(etag) => format!("The document is at {etag}; read it again before you decide"),
        None => "The document does not exist".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_in_a_change_set_keeps_its_kind_and_gets_index_and_pointer() {
        let error = WriteError::invalid_value("/id", "wrong")
            .under("/configData")
            .in_change_set(3);
        assert_eq!(error.kind(), ProblemKind::BadBody);
        assert_eq!(error.index(), Some(3));
        assert_eq!(error.pointer().as_deref(), Some("/changes/3/configData/id"));
        assert_eq!(error.to_string(), "wrong", "the text is that of the cause");
    }

    #[test]
    fn a_condition_that_failed_names_the_stored_document() {
        let document = Document::from_canonical("a".parse().expect("an id"), 7, "{}");
        let etag = document.etag();
        let error = WriteError::ConditionFailed {
            stored: Some(document.clone()),
        };
        assert_eq!(error.etag(), Some(etag.clone()));
        assert_eq!(error.in_change_set(1).stored(), Some(Some(&document)));
        let stored = Some(document);
        assert!(
            WriteError::ConditionFailed { stored }
                .to_string()
                .contains(&etag)
        );
        let absent = WriteError::ConditionFailed { stored: None };
        assert_eq!(absent.to_string(), "The document does not exist");
    }
}
