//! Why a call is refused, and the answers of both protocols.
//!
//! Where Dapr has a code for the case, it is that of `pkg/api` of dapr/dapr 1.14. No text repeats a
//! credential or a value.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use contract::text::Escaped;
use http::{HeaderValue, StatusCode, header::RETRY_AFTER};
use serde::Serialize;
use tonic::{Code, Status};

/// The reason of a refusal. The text is for the caller.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// No collection of this name is followed.
    #[error("configuration store {} not found: it is the name of a collection that this subscriber follows", Escaped(.0))]
    UnknownStore(String),
    /// The collections are not loaded yet.
    #[error("the configuration is not loaded yet; try again")]
    Loading,
    /// A request that cannot be answered in any state.
    #[error("{0}")]
    BadRequest(String),
    /// The answer does not fit into one message.
    #[error("{0}")]
    TooLarge(String),
    /// There is no capacity for the call now.
    #[error("{0}")]
    Busy(String),
    /// The token of the sidecar is missing or wrong.
    #[error(
        "the metadata {} must carry the DAPR_API_TOKEN of this subscriber",
        contract::sidecar::TOKEN_HEADER
    )]
    Token,
    /// The caller is not known.
    #[error("{0}")]
    Unauthenticated(String),
    /// The caller lacks a right.
    #[error("{0}")]
    Forbidden(String),
    /// Too many credentials of the address were not valid.
    #[error("too many credentials of this address were not valid; try again later")]
    TooManyAttempts,
    /// No address of an application is configured, so nothing can be posted to it.
    #[error(
        "app channel is not initialized. cannot subscribe to configuration updates: set AURA_CONFIGURATION_DAPR_API_APP_URL"
    )]
    NoApp,
    /// The sidecar cannot be reached.
    #[error("{0}")]
    Sidecar(String),
}

/// The body of a refusal, as Dapr writes it.
#[derive(Serialize)]
struct Refusal {
    #[serde(rename = "errorCode")]
    code: &'static str,
    message: String,
}

impl ApiError {
    /// The code of gRPC, the status of HTTP, and the code of Dapr.
    fn codes(&self) -> (Code, StatusCode, &'static str) {
        match self {
            Self::UnknownStore(_) => (
                Code::InvalidArgument,
                StatusCode::BAD_REQUEST,
                "ERR_CONFIGURATION_STORE_NOT_FOUND",
            ),
            Self::Loading => (
                Code::Unavailable,
                StatusCode::SERVICE_UNAVAILABLE,
                "ERR_CONFIGURATION_LOADING",
            ),
            Self::BadRequest(_) => (
                Code::InvalidArgument,
                StatusCode::BAD_REQUEST,
                "ERR_MALFORMED_REQUEST",
            ),
            Self::TooLarge(_) => (
                Code::ResourceExhausted,
                StatusCode::PAYLOAD_TOO_LARGE,
                "ERR_CONFIGURATION_TOO_LARGE",
            ),
            Self::Busy(_) | Self::TooManyAttempts => (
                Code::ResourceExhausted,
                StatusCode::TOO_MANY_REQUESTS,
                "ERR_CONFIGURATION_BUSY",
            ),
            Self::Token | Self::Unauthenticated(_) => (
                Code::Unauthenticated,
                StatusCode::UNAUTHORIZED,
                "ERR_UNAUTHENTICATED",
            ),
            Self::Forbidden(_) => (
                Code::PermissionDenied,
                StatusCode::FORBIDDEN,
                "ERR_PERMISSION_DENIED",
            ),
            Self::NoApp => (
                Code::FailedPrecondition,
                StatusCode::INTERNAL_SERVER_ERROR,
                "ERR_APP_CHANNEL_NIL",
            ),
            Self::Sidecar(_) => (
                Code::Unavailable,
                StatusCode::BAD_GATEWAY,
                "ERR_SIDECAR_UNREACHABLE",
            ),
        }
    }

    /// The answer to a gRPC call.
    pub(crate) fn status(&self) -> Status {
        let (code, _status, _name) = self.codes();
        Status::new(code, self.to_string())
    }

    /// The answer to a call by its protocol.
    pub(crate) fn answer(&self, is_grpc: bool) -> Response {
        if is_grpc {
            return self.status().into_http::<axum::body::Body>();
        }
        let (_code, status, code) = self.codes();
        let message = self.to_string();
        let mut answer = (status, Json(Refusal { code, message })).into_response();
        if matches!(
            status,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
        ) {
            let headers = answer.headers_mut();
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        answer
    }
}
