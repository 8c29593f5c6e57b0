//! Why a change was not published, for programs: the problem that HTTP gives, and its type as a
//! value to match on.
//!
//! Nothing is decided here.

use contract::{Problem, ProblemKind, set::ChangeRequestError};

use crate::api::error::ApiError;

/// Why nothing was published; or, with [`Reason::OutcomeUnknown`] alone, why nobody can tell.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {}", problem.title, problem.detail)]
pub struct Failure {
    /// What to match on.
    pub reason: Reason,
    /// The same with its particulars, as HTTP answers it: the pointer at fault, the entity tag of
    /// what is there.
    pub problem: Box<Problem>,
}

impl Failure {
    /// Which change is at fault, from 0, in the order they were given.
    pub fn index(&self) -> Option<usize> {
        self.problem.index
    }
}

/// The problem types of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// No such collection is served here.
    UnknownCollection,
    /// The id has no valid form.
    BadId,
    /// A value where none belongs, none where one does, or a document twice.
    BadChange,
    /// The value is not a document.
    BadValue,
    /// The document does not exist.
    NoData,
    /// The document exists already.
    Exists,
    /// The document is not at the expected revision.
    ConditionFailed,
    /// The document is too large.
    TooLarge,
    /// Too many changes in one set, or too many bytes.
    SetTooLarge,
    /// The schema of the collection refuses the document.
    Schema,
    /// Too many writes wait: come back in a moment.
    Busy,
    /// The publisher has ended, or is about to.
    Stopping,
    /// The store could not commit in time: try again.
    NotCommitted,
    /// The store did not say whether it committed: read before trying again.
    OutcomeUnknown,
    /// Something else, see the problem.
    Other,
}

impl Reason {
    fn of(problem: &Problem) -> Self {
        match problem.kind {
            ProblemKind::UnknownCollection => Self::UnknownCollection,
            ProblemKind::BadRequest => Self::BadId,
            ProblemKind::BadSet => Self::BadChange,
            ProblemKind::BadBody => Self::BadValue,
            ProblemKind::NoData => Self::NoData,
            ProblemKind::Exists => Self::Exists,
            ProblemKind::ConditionFailed => Self::ConditionFailed,
            ProblemKind::TooLarge => Self::TooLarge,
            ProblemKind::SetTooLarge => Self::SetTooLarge,
            ProblemKind::Schema => Self::Schema,
            ProblemKind::Busy => Self::Busy,
            ProblemKind::Stopping => Self::Stopping,
            ProblemKind::NotCommitted => Self::NotCommitted,
            ProblemKind::OutcomeUnknown => Self::OutcomeUnknown,
            _ => Self::Other,
        }
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self {
            reason: Reason::of(&error.problem),
            problem: error.problem,
        }
    }
}

impl From<ChangeRequestError> for Failure {
    fn from(unfit: ChangeRequestError) -> Self {
        let error = match unfit {
            ChangeRequestError::Collection(malformed) => {
                ApiError::unknown_collection(malformed.given())
            }
            ChangeRequestError::Id(malformed) => ApiError::bad_field("id", malformed),
            ChangeRequestError::Value(refusal) => ApiError::bad_body(refusal).under("/configData"),
        };
        error.into()
    }
}
