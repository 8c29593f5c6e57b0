//! What readers are told when it does not work: RFC 9457 problems with stable types.
//!
//! Events never get one of these: their answer is always 200 (see `replica::actix`).

use actix_web::{
    HttpResponse, HttpResponseBuilder, ResponseError,
    http::{StatusCode, header::RETRY_AFTER},
};
use contract::{CollectionName, DocumentId, Problem, problem};

/// Seconds after which asking again may help.
const RETRY_SECONDS: u64 = 1;

/// An error answer.
#[derive(Debug)]
pub struct ApiError(Box<Problem>);

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.0.title, self.0.detail)
    }
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        Self(Box::new(problem))
    }
}

impl ApiError {
    /// Nothing is served at this path.
    pub fn not_found(path: &str) -> Self {
        Problem::new(
            contract::ProblemKind::NoSuchRoute,
            format!("Nothing is served at {path}"),
        )
        .into()
    }

    /// No such document.
    pub fn no_data(collection: &CollectionName, id: &DocumentId) -> Self {
        let detail = format!("{collection} with id: {id} cannot be found");
        Problem::new(contract::ProblemKind::NoData, detail)
            .field("id")
            .into()
    }

    /// The collection is not followed here.
    pub fn unknown_collection(name: &str) -> Self {
        let detail = format!(
            "There is no collection {name:?} here; add it to AURA_CONFIGURATION_COLLECTIONS."
        );
        Problem::new(contract::ProblemKind::UnknownCollection, detail)
            .field("collection")
            .into()
    }

    /// The collection has no head, because its publisher counts no revisions.
    pub fn unversioned(name: &str) -> Self {
        let detail =
            format!("The publisher of {name} counts no revisions; read its documents instead.");
        Problem::new(contract::ProblemKind::Unversioned, detail)
            .field("collection")
            .into()
    }

    /// The request cannot be understood.
    pub fn bad_request(field: &str, detail: impl std::fmt::Display) -> Self {
        Problem::new(contract::ProblemKind::BadRequest, detail.to_string())
            .field(field)
            .into()
    }

    /// Nothing was loaded yet, so nothing can be said about any document.
    pub fn loading() -> Self {
        let detail = "The first load is not complete; /v1/status says what it waits for";
        Problem::new(contract::ProblemKind::Loading, detail).into()
    }

    /// As many readers follow the feed as may.
    pub fn streams_full() -> Self {
        let detail = "As many readers follow the feed here as may; come back in a moment";
        Problem::new(contract::ProblemKind::StreamsFull, detail).into()
    }

    /// No publisher has confirmed the configuration for too long, and a setting says that this is
    /// not ready.
    pub fn stale() -> Self {
        let detail = "No publisher has confirmed the configuration in time (AURA_CONFIGURATION_READY_WHEN_STALE=false)";
        Problem::new(contract::ProblemKind::Stale, detail).into()
    }

    /// The answer, with what its headers say already.
    pub fn answer(&self, mut answer: HttpResponseBuilder) -> HttpResponse {
        if self.0.status == 503 {
            answer.insert_header((RETRY_AFTER, RETRY_SECONDS));
        }
        let body = serde_json::to_string(&self.0).expect("a problem has string keys only");
        answer
            .status(self.status_code())
            .content_type(problem::MEDIA_TYPE)
            .body(body)
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        self.answer(HttpResponse::Ok())
    }
}
