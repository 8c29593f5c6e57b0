//! The error answers of the HTTP API: the only place that makes a status and headers of a
//! [`Problem`] (RFC 9457).
//!
//! Modules below the routes have error types of their own, which know nothing of HTTP. Each gets one
//! `impl From<…> for ApiError`: here, or beside the only routes that it comes from. Nothing here
//! logs: a refusal is for the client to read, and a failure of the publisher is logged where it
//! happens.

use actix_web::{HttpResponse, ResponseError, http::StatusCode};
use contract::{JsonError, Problem, ProblemKind, problem::Current};
use service::http::problem::{self, ProblemError};

use crate::{decide::WriteError, fleet::FleetError};

/// An error answer: a [`Problem`] with the headers that belong to it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{} {}: {}", problem.status, problem.title, problem.detail)]
pub struct ApiError {
    /// The body.
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

/// The HTTP answer to a write that was refused or failed.
impl From<WriteError> for ApiError {
    fn from(error: WriteError) -> Self {
        let kind = error.kind();
        let mut problem = Problem::new(kind, error.to_string());
        // A part of the path is named as a field. A change of a set has it in the body, under the
        // same name.
        problem.field = match kind {
            ProblemKind::UnknownCollection => Some("collection".to_owned()),
            ProblemKind::BadRequest | ProblemKind::NoData | ProblemKind::Exists => {
                Some("id".to_owned())
            }
            _ => None,
        };
        problem.pointer = error.pointer();
        problem.etag = error.etag();
        problem.current = error.stored().map(Current::of);
        problem.index = error.index();
        problem.errors = error.violations();
        problem.references = error.references().to_vec();
        problem.into()
    }
}

impl ApiError {
    /// 400: a body that is not a document.
    pub fn bad_body(error: JsonError) -> Self {
        WriteError::InvalidValue(error).into()
    }

    /// 404: the collection has no schema, the schema has no sample, or not in the requested version.
    pub fn no_schema(detail: impl Into<String>) -> Self {
        Problem::new(ProblemKind::NoSchema, detail).into()
    }

    /// 500: something stored is damaged. `detail` names it.
    pub fn damaged(detail: impl Into<String>) -> Self {
        Problem::new(ProblemKind::Unreadable, detail).into()
    }

    /// 503: the store cannot be read now.
    pub fn store_unavailable() -> Self {
        Self::unavailable(
            ProblemKind::StoreUnavailable,
            "The store does not answer; try again",
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

/// The answer to what the fleet refuses; the detail is the text of the error.
impl From<FleetError> for ApiError {
    fn from(error: FleetError) -> Self {
        let kind = match &error {
            FleetError::Busy => ProblemKind::Busy,
            FleetError::Stopping => ProblemKind::Stopping,
            FleetError::StoreUnavailable => ProblemKind::StoreUnavailable,
            FleetError::InvalidInstance { .. } => ProblemKind::BadRequest,
            FleetError::InvalidCheckIn { .. } | FleetError::InvalidEpochRequest { .. } => {
                ProblemKind::BadBody
            }
            FleetError::Forbidden(_) => ProblemKind::Forbidden,
            FleetError::NotDeclared(_) => ProblemKind::NotDeclared,
            FleetError::NotDeclaredNow(_) => ProblemKind::NotDeclaredNow,
        };
        let problem = Problem::new(kind, error.to_string());
        match error {
            FleetError::InvalidInstance { .. } => problem.field("instance").into(),
            FleetError::InvalidCheckIn { pointer, .. } => problem.at(pointer).into(),
            FleetError::InvalidEpochRequest { pointer, .. } => problem.at(pointer).into(),
            _ => problem.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use contract::{Crc, Document, set::ChangeRequest};
    use serde_json::json;

    use super::*;

    #[test]
    fn an_unavailable_answer_has_retry_after() {
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

    #[test]
    fn a_write_error_keeps_kind_text_pointer_index_and_etag() {
        let error = WriteError::invalid_value("/id", "An id is a string")
            .under("/configData")
            .in_change_set(2);
        let problem = *ApiError::from(error).problem;
        let expected = Problem {
            index: Some(2),
            ..Problem::new(ProblemKind::BadBody, "An id is a string").at("/changes/2/configData/id")
        };
        assert_eq!(problem, expected);

        let exists = WriteError::Exists {
            collection: "Skills".parse().expect("a name"),
            id: "a".parse().expect("an id"),
            stored: Document::from_canonical("a".parse().expect("an id"), 1, "{}"),
        };
        let answer = ApiError::from(exists).error_response();
        assert_eq!(answer.status(), StatusCode::CONFLICT);
        assert_eq!(
            answer
                .headers()
                .get("ETag")
                .and_then(|etag| etag.to_str().ok()),
            Some(&*format!("\"1-{}\"", Crc::of(b"{}")))
        );
    }

    #[test]
    fn a_change_that_cannot_be_built_has_the_problem_of_its_http_request() {
        let nan_as_key = std::collections::BTreeMap::from([((1, 2), 3)]);
        let too_large_a_number = json!({"a": {"b": u64::MAX}});
        for (change, kind, field) in [
            (
                ChangeRequest::delete("a b", "a"),
                ProblemKind::UnknownCollection,
                Some("collection"),
            ),
            (
                ChangeRequest::delete("Skills", "a/b"),
                ProblemKind::BadRequest,
                Some("id"),
            ),
            (
                ChangeRequest::create("Skills", "a", &too_large_a_number),
                ProblemKind::BadBody,
                None,
            ),
            (
                ChangeRequest::create("Skills", "a", &nan_as_key),
                ProblemKind::BadBody,
                None,
            ),
        ] {
            let error = WriteError::from(change.expect_err("an invalid change"));
            let problem = *ApiError::from(error).problem;
            assert_eq!(
                (problem.kind, problem.field.as_deref()),
                (kind, field),
                "{problem:?}"
            );
        }
    }
}
