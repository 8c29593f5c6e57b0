//! Every error answer of the API, in one list: the problem types that clients may rely on.
//!
//! Nothing here logs: a refusal is the client's to read, and a failure of ours is logged where it
//! happened.

use std::time::Duration;

use actix_web::{HttpResponse, ResponseError, http::StatusCode};
use contract::{
    CollectionName, Document, DocumentId, JsonError, Problem, ProblemKind, problem, set,
};

use crate::fleet::FleetError;

/// An error answer: a [`Problem`] on its way out.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{} {}: {}", problem.status, problem.title, problem.detail)]
pub struct ApiError {
    /// What the client reads.
    pub problem: Box<Problem>,
    retry_after: Option<Duration>,
    allow: Option<String>,
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        let retry_after = (problem.status == 503).then_some(Duration::from_secs(1));
        Self {
            problem: Box::new(problem),
            retry_after,
            allow: None,
        }
    }
}

impl ApiError {
    /// 400: a parameter or header that cannot be read.
    pub fn bad_field(field: &str, detail: impl std::fmt::Display) -> Self {
        Problem::new(ProblemKind::BadRequest, detail.to_string())
            .field(field)
            .into()
    }

    /// 400: a path or query of the wrong form. Serde names the field in backticks, when it names
    /// one.
    pub fn unreadable(error: impl std::fmt::Display) -> Self {
        let detail = error.to_string();
        let field = detail.split('`').nth(1).map(str::to_owned);
        Problem {
            field,
            ..Problem::new(ProblemKind::BadRequest, detail)
        }
        .into()
    }

    /// 400: a body that is not a document.
    pub fn bad_body(refusal: JsonError) -> Self {
        Problem::new(ProblemKind::BadBody, refusal.reason)
            .at(refusal.pointer)
            .into()
    }

    /// 404: no such collection.
    pub fn unknown_collection(name: &str) -> Self {
        let detail = format!(
            "There is no collection {name:?} here; add it to AURA_CONFIGURATION_COLLECTIONS."
        );
        Problem::new(ProblemKind::UnknownCollection, detail)
            .field("collection")
            .into()
    }

    /// 404: a collection without a schema, or a schema without a sample, or not any more in that
    /// version.
    pub fn no_schema(detail: impl Into<String>) -> Self {
        Problem::new(ProblemKind::NoSchema, detail).into()
    }

    /// 404: no such document (`NoData`, requirement A18).
    pub fn no_data(collection: &CollectionName, id: &DocumentId) -> Self {
        let detail = format!("{collection} with id: {id} cannot be found");
        Problem::new(ProblemKind::NoData, detail).field("id").into()
    }

    /// 405: a path that does not have the method, but these.
    pub fn method(allow: &str) -> Self {
        let problem = Problem::new(
            ProblemKind::MethodNotAllowed,
            format!("Send one of {allow}"),
        );
        Self {
            allow: Some(allow.to_owned()),
            ..problem.into()
        }
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

    /// 503: as many snapshots are under way as may be.
    pub fn loads_under_way() -> Self {
        Self::unavailable(
            ProblemKind::LoadsUnderWay,
            "Other replicas are loading; come back in a moment",
        )
    }

    /// 503: as many readers follow the feed as may.
    pub fn streams_full() -> Self {
        Self::unavailable(
            ProblemKind::StreamsFull,
            "As many readers follow the feed here as may; come back in a moment",
        )
    }

    fn unavailable(kind: ProblemKind, detail: &str) -> Self {
        Problem::new(kind, detail).into()
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        response.content_type(problem::MEDIA_TYPE);
        if self.status_code() == StatusCode::REQUEST_TIMEOUT {
            // What is left of the body may never come.
            response.force_close();
        }
        if let Some(delay) = self.retry_after {
            response.insert_header(("Retry-After", delay.as_secs().to_string()));
        }
        if let Some(allow) = &self.allow {
            response.insert_header(("Allow", allow.as_str()));
        }
        if let Some(etag) = &self.problem.etag {
            response.insert_header(("ETag", etag.as_str()));
        }
        response.body(serde_json::to_vec(&self.problem).unwrap_or_default())
    }
}

/// The answer to what the fleet refuses; the detail is the text of the error.
impl From<FleetError> for ApiError {
    fn from(error: FleetError) -> Self {
        let kind = match &error {
            FleetError::Busy => ProblemKind::Busy,
            FleetError::Stopping => ProblemKind::Stopping,
            FleetError::StoreUnavailable => ProblemKind::StoreUnavailable,
            FleetError::InvalidInstance { .. } => ProblemKind::BadRequest,
            FleetError::InvalidCheckIn { .. } => ProblemKind::BadBody,
            FleetError::NotDeclared(_) => ProblemKind::NotDeclared,
            FleetError::NotDeclaredNow(_) => ProblemKind::NotDeclaredNow,
        };
        let problem = Problem::new(kind, error.to_string());
        match error {
            FleetError::InvalidInstance { .. } => problem.field("instance").into(),
            FleetError::InvalidCheckIn { pointer, .. } => problem.at(pointer).into(),
            _ => problem.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_tried_again_says_when() {
        for (kind, delay) in [(ProblemKind::Busy, Some("1")), (ProblemKind::Exists, None)] {
            let answer = ApiError::from(Problem::new(kind, "detail")).error_response();
            assert_eq!(
                answer
                    .headers()
                    .get("Retry-After")
                    .and_then(|delay| delay.to_str().ok()),
                delay
            );
        }
    }
}
