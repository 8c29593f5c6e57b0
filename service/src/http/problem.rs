//! Error answers of both services: an RFC 9457 problem becomes an HTTP response here, and nowhere
//! else.
//!
//! A kind of problem decides the status and the headers: every 503 and 429 has `Retry-After`, a problem
//! with the entity tag of a document has `ETag`. Nothing here logs: an error of the client needs no
//! log line, and a failure of the service is logged where it happens.

use std::fmt;

use actix_web::{
    HttpResponse, HttpResponseBuilder, ResponseError,
    http::{
        StatusCode,
        header::{ETAG, RETRY_AFTER},
    },
};
use contract::{
    CollectionName, DocumentId, Problem, ProblemKind, access::Right, problem::MEDIA_TYPE,
};

use super::limits::{HISTORIES, LISTS, LOADS};
use crate::nearest::unknown_collection;

/// Value of `Retry-After`: seconds after which a request that was answered 503 or 429 may be sent
/// again. [`super::rate`] knows the time and gives it instead.
const RETRY_SECONDS: u64 = 1;

/// An error answer: a [`Problem`] that a handler returns as its error. actix-web turns it into a
/// response with [`respond`].
#[derive(Debug, Clone)]
pub struct ProblemError(Box<Problem>);

impl ProblemError {
    /// 400 `bad-request`: a parameter or a header is not of its form.
    pub fn bad_request(field: &str, detail: impl fmt::Display) -> Self {
        Problem::new(ProblemKind::BadRequest, detail.to_string())
            .field(field)
            .into()
    }

    /// 400 `bad-request`: a path or a query that serde cannot read. Serde names the field in
    /// backticks when it knows which field is wrong.
    pub fn unreadable(error: impl fmt::Display) -> Self {
        let detail = error.to_string();
        // serde has no other way to give the name of a field.
        let field = detail.split('`').nth(1).map(str::to_owned);
        Problem {
            field,
            ..Problem::new(ProblemKind::BadRequest, detail)
        }
        .into()
    }

    /// 404 `unknown-collection`: the collection is none of those that are served here.
    pub fn unknown_collection<'a>(
        name: &str,
        served: impl IntoIterator<Item = &'a CollectionName>,
    ) -> Self {
        let detail = unknown_collection(name, served);
        Problem::new(ProblemKind::UnknownCollection, detail)
            .field("collection")
            .into()
    }

    /// 404 `no-data`: the document does not exist (requirement A18).
    pub fn no_data(collection: &CollectionName, id: &DocumentId) -> Self {
        let detail = format!("{collection} with id: {id} cannot be found");
        Problem::new(ProblemKind::NoData, detail).field("id").into()
    }

    /// 503 `streams-full`: as many readers follow the feed as the setting allows.
    pub fn streams_full(setting: &str, limit: usize) -> Self {
        let detail = format!(
            "The limit of {limit} readers that follow the feed or wait here is reached ({setting}); try \
             again later"
        );
        Problem::new(ProblemKind::StreamsFull, detail).into()
    }

    /// 503 `loads-under-way`: as many snapshots are being sent as the limit allows.
    pub fn loads_under_way() -> Self {
        let detail = format!("Other replicas are loading, as many as {LOADS} allows; try again");
        Problem::new(ProblemKind::LoadsUnderWay, detail).into()
    }

    /// 503 `loads-under-way`: as many lists are being sent as the limit allows.
    pub fn lists_under_way() -> Self {
        let detail = format!("As many lists are being sent as {LISTS} allows; try again");
        Problem::new(ProblemKind::LoadsUnderWay, detail).into()
    }

    /// 503 `loads-under-way`: as many pages of history are read as the limit allows.
    pub fn histories_under_way() -> Self {
        let detail = format!(
            "As many pages of history are read, or rollbacks planned, as {HISTORIES} allows; try again"
        );
        Problem::new(ProblemKind::LoadsUnderWay, detail).into()
    }

    /// The problem.
    pub fn problem(&self) -> &Problem {
        &self.0
    }

    /// The problem, by value.
    pub fn into_problem(self) -> Box<Problem> {
        self.0
    }
}

impl From<Problem> for ProblemError {
    fn from(problem: Problem) -> Self {
        Self(Box::new(problem))
    }
}

impl fmt::Display for ProblemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem {
            status,
            title,
            detail,
            ..
        } = &*self.0;
        write!(f, "{status} {title}: {detail}")
    }
}

impl std::error::Error for ProblemError {}

impl ResponseError for ProblemError {
    fn status_code(&self) -> StatusCode {
        status(&self.0)
    }

    fn error_response(&self) -> HttpResponse {
        respond(HttpResponse::Ok(), &self.0)
    }
}

/// What a layer finds in the extensions of a response that is a problem.
#[derive(Debug, Clone, Copy)]
pub struct Answered {
    /// Its kind.
    pub kind: ProblemKind,
    /// The right that was missing.
    pub right: Option<Right>,
}

/// The HTTP status of a problem. 500 for a number that is no status, which no [`ProblemKind`] has.
pub fn status(problem: &Problem) -> StatusCode {
    StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// The answer for a problem: JSON of the media type `application/problem+json` (RFC 9457), with
/// `Retry-After` for a 503 or a 429, and `ETag` if the problem has an entity tag. It keeps the headers that
/// `answer` has already.
pub fn respond(mut answer: HttpResponseBuilder, problem: &Problem) -> HttpResponse {
    let status = status(problem);
    answer.status(status).content_type(MEDIA_TYPE);
    // Both are temporary, so the client learns when to try again.
    if matches!(
        status,
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
    ) {
        answer.insert_header((RETRY_AFTER, RETRY_SECONDS));
    }
    if status == StatusCode::REQUEST_TIMEOUT {
        // The rest of the body may never arrive, so the connection cannot be used again.
        answer.force_close();
    }
    if let Some(etag) = &problem.etag {
        answer.insert_header((ETAG, etag.as_str()));
    }
    let body = serde_json::to_vec(problem).expect("a problem has string keys only");
    let mut answer = answer.body(body);
    answer.extensions_mut().insert(Answered {
        kind: problem.kind,
        right: problem.right,
    });
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_temporary_refusal_says_when_to_try_again() {
        for (kind, seconds) in [
            (ProblemKind::Busy, Some("1")),
            (ProblemKind::TooManyRequests, Some("1")),
            (ProblemKind::Exists, None),
        ] {
            let answer = ProblemError::from(Problem::new(kind, "detail")).error_response();
            let header = answer.headers().get(RETRY_AFTER);
            assert_eq!(header.and_then(|seconds| seconds.to_str().ok()), seconds);
        }
    }

    #[test]
    fn the_entity_tag_of_a_problem_is_also_a_header() {
        let mut problem = Problem::new(ProblemKind::ConditionFailed, "detail");
        problem.etag = Some("\"7-6a4d3f2e\"".to_owned());
        let answer = ProblemError::from(problem).error_response();
        assert_eq!(answer.status(), StatusCode::PRECONDITION_FAILED);
        assert_eq!(
            answer.headers().get(ETAG).expect("an entity tag"),
            "\"7-6a4d3f2e\""
        );
    }

    #[test]
    fn an_unreadable_query_names_the_field_when_serde_does() {
        let error = ProblemError::unreadable("missing field `since`");
        assert_eq!(error.problem().field.as_deref(), Some("since"));
        assert_eq!(
            ProblemError::unreadable("invalid digit").problem().field,
            None
        );
    }
}
