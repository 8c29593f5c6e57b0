//! Every error answer of the API, in one list: the problem types that clients may rely on.
//!
//! Nothing here logs: a refusal is the client's to read, and a failure of ours is logged where it
//! happened.

use std::time::Duration;

use actix_web::{HttpResponse, ResponseError, http::StatusCode};
use contract::{CollectionName, Document, DocumentId, JsonError, Problem, ProblemKind, set};
use service::http::problem::{self, ProblemError};

/// An error answer: a [`Problem`] on its way out.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{} {}: {}", problem.status, problem.title, problem.detail)]
pub struct ApiError {
    /// What the client reads.
    pub problem: Box<Problem>,
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        Self {
            problem: Box::new(problem),
        }
    }
}

impl From<ProblemError> for ApiError {
    fn from(error: ProblemError) -> Self {
        Self {
            problem: error.into_problem(),
        }
    }
}

impl ApiError {
    /// 400: a parameter or header that cannot be read.
    pub fn bad_field(field: &str, detail: impl std::fmt::Display) -> Self {
        ProblemError::bad_request(field, detail).into()
    }

    /// 400: a body that is not a document.
    pub fn bad_body(refusal: JsonError) -> Self {
        Problem::new(ProblemKind::BadBody, refusal.reason)
            .at(refusal.pointer)
            .into()
    }

    /// 404: no such collection.
    pub fn unknown_collection(name: &str) -> Self {
        ProblemError::unknown_collection(name).into()
    }

    /// 404: a collection without a schema, or a schema without a sample, or not any more in that
    /// version.
    pub fn no_schema(detail: impl Into<String>) -> Self {
        Problem::new(ProblemKind::NoSchema, detail).into()
    }

    /// 404: no such document (`NoData`, requirement A18).
    pub fn no_data(collection: &CollectionName, id: &DocumentId) -> Self {
        ProblemError::no_data(collection, id).into()
    }

    /// 409: a document that is there already.
    pub fn exists(collection: &CollectionName, id: &DocumentId, held: &Document) -> Self {
        let detail =
            format!("{collection} with id: {id} exists already; change it with PUT or PATCH");
        let mut problem = Problem::new(ProblemKind::Exists, detail).field("id");
        problem.etag = Some(held.etag());
        problem.into()
    }

    /// 412: a condition that does not hold. `held` is what is there.
    pub fn condition_failed(held: Option<&Document>) -> Self {
        let detail = match held {
            Some(held) => format!(
                "The document is at {}; read it again and decide anew",
                held.etag()
            ),
            None => "The document does not exist".to_owned(),
        };
        let mut problem = Problem::new(ProblemKind::ConditionFailed, detail);
        problem.etag = held.map(Document::etag);
        problem.into()
    }

    /// 413: a body beyond the limit.
    pub fn too_large(limit: usize) -> Self {
        let detail = format!("The body is larger than {limit} bytes");
        Problem::new(ProblemKind::TooLarge, detail).into()
    }

    /// 413: a change set beyond what replicas take as one. The member is the one that goes beyond.
    pub fn set_too_large(index: usize) -> Self {
        let detail = format!(
            "The values of a set are at most {} bytes together, and it has at most {} changes; make it two sets",
            set::MAX_BYTES,
            set::MAX_OPERATIONS
        );
        let problem = Problem::new(ProblemKind::SetTooLarge, detail);
        Problem {
            index: Some(index),
            ..problem.at("/changes")
        }
        .into()
    }

    /// 408: a body that did not arrive in time.
    pub fn body_late(limit: Duration) -> Self {
        let detail = format!(
            "The body did not arrive within {} s; nothing was done",
            limit.as_secs()
        );
        Problem::new(ProblemKind::BodyLate, detail).into()
    }

    /// The same, its pointer beginning further up.
    #[must_use]
    pub fn under(mut self, prefix: &str) -> Self {
        if let Some(pointer) = &mut self.problem.pointer {
            pointer.insert_str(0, prefix);
        }
        self
    }

    /// The same, of one member of a change set.
    #[must_use]
    pub fn of_member(mut self, index: usize) -> Self {
        self.problem.index = Some(index);
        self.under(&format!("/changes/{index}"))
    }

    /// 415: a body of another media type.
    pub fn media_type(expected: &str) -> Self {
        let detail = format!("Send the body as {expected}");
        Problem::new(ProblemKind::MediaType, detail)
            .field("Content-Type")
            .into()
    }

    /// 422: a document that its schema refuses.
    pub fn schema(pointer: String, detail: String) -> Self {
        Problem::new(ProblemKind::Schema, detail).at(pointer).into()
    }

    /// 503: more writes wait than can be held.
    pub fn busy() -> Self {
        Self::unavailable(
            ProblemKind::Busy,
            "Too many writes are waiting; nothing was written",
        )
    }

    /// 503: the publisher has ended, or is about to.
    pub fn stopping() -> Self {
        Self::unavailable(
            ProblemKind::Stopping,
            "The publisher is stopping; nothing was written",
        )
    }

    /// 503: the store did not take the write, and it is certain that it did not.
    pub fn not_committed() -> Self {
        Self::unavailable(
            ProblemKind::NotCommitted,
            "The store could not commit in time; nothing was written, try again",
        )
    }

    /// 503: the store did not say whether it took the write.
    pub fn outcome_unknown() -> Self {
        Self::unavailable(
            ProblemKind::OutcomeUnknown,
            "The store did not confirm the write: read the document before trying again",
        )
    }

    /// 503: the store cannot be read now.
    pub fn store_unavailable() -> Self {
        Self::unavailable(
            ProblemKind::StoreUnavailable,
            "The store does not answer; try again",
        )
    }

    /// 503: more check-ins wait than can be held.
    pub fn fleet_too_busy() -> Self {
        Self::unavailable(
            ProblemKind::Busy,
            "Too many check-ins are waiting; come back in a moment",
        )
    }

    /// 503: as many snapshots are under way as may be.
    pub fn loads_under_way() -> Self {
        Self::unavailable(
            ProblemKind::LoadsUnderWay,
            "Other replicas are loading; come back in a moment",
        )
    }

    fn unavailable(kind: ProblemKind, detail: &str) -> Self {
        Problem::new(kind, detail).into()
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        problem::status(&self.problem)
    }

    fn error_response(&self) -> HttpResponse {
        problem::respond(HttpResponse::Ok(), &self.problem)
    }
}
