//! Authentication as a layer: every request gets the [`Identity`] of its caller, or is refused with
//! 401 before any handler.
//!
//! The layer belongs inside of the guard and outside of the routes. It finds what the request presents;
//! crate `auth` decides what that is worth. What an identity may do is decided later, per route.
//!
//! Three kinds of routes need no credential: `/healthz` and `/readyz`, because orchestrators have
//! none, and `/dapr/*`, which asks for the token of the sidecar (`APP_API_TOKEN`) instead.
//!
//! Sources: RFC 9110 section 11, RFC 6750 section 3.

use std::sync::Arc;

use actix_web::{
    Error, HttpMessage, HttpRequest, ResponseError,
    body::BoxBody,
    dev::{ServiceRequest, ServiceResponse},
    http::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE},
    middleware::Next,
};
use auth::{Authenticator, Presented, Refused};
use contract::{Problem, ProblemKind, access::Identity};

use super::problem::ProblemError;
use crate::runtime::log_rate::LogRate;

/// Paths that need no credential.
const WITHOUT_CREDENTIAL: [&str; 2] = ["/healthz", "/readyz"];
/// How the paths of the sidecar begin, which has a token of its own.
const SIDECAR: &str = "/dapr/";
/// Headers that a proxy adds: the peer of the connection is not the caller then.
const FORWARDING: [&str; 3] = ["forwarded", "via", "x-forwarded-for"];

/// Middleware: puts the [`Identity`] of the caller into the extensions of the request, or refuses it.
///
/// # Errors
/// As the inner services.
pub async fn authenticate(
    authenticator: Arc<Authenticator>,
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let path = request.path();
    if WITHOUT_CREDENTIAL.contains(&path) || path.starts_with(SIDECAR) {
        return next.call(request).await;
    }
    match identify(&authenticator, &request).await {
        Ok(identity) => {
            request.extensions_mut().insert(identity);
            next.call(request).await
        }
        Err(refused) => {
            let mut answer = refused.error_response();
            if refused.problem().kind == ProblemKind::Unauthenticated {
                let challenge = HeaderValue::from_static("Bearer");
                answer.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            }
            Ok(request.into_response(answer))
        }
    }
}

/// # Errors
/// 401 `unauthenticated`, 503 `busy`.
async fn identify(
    authenticator: &Authenticator,
    request: &ServiceRequest,
) -> Result<Identity, ProblemError> {
    let headers = request.headers();
    let authorization = match headers.get(AUTHORIZATION) {
        // What is no text is no credential that is accepted.
        Some(value) => Some(value.to_str().unwrap_or_default()),
        None => None,
    };
    let peer = request.peer_addr();
    let presented = Presented {
        authorization,
        is_local: peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback())
            && !FORWARDING.iter().any(|name| headers.contains_key(*name)),
    };
    let refused = match authenticator.authenticate(presented).await {
        Ok(identity) => return Ok(identity),
        Err(refused) => refused,
    };
    static LINES: LogRate = LogRate::new();
    if let Some(left_out) = LINES.due() {
        tracing::warn!(
            peer = peer.map(tracing::field::display),
            method = %request.method(),
            "a request was refused, its caller is not known: {refused}{left_out}"
        );
    }
    let kind = match refused {
        Refused::Missing | Refused::Invalid(_) => ProblemKind::Unauthenticated,
        Refused::Unavailable(_) => ProblemKind::Busy,
    };
    Err(Problem::new(kind, refused.to_string())
        .field("Authorization")
        .into())
}

/// The caller of a request. A request that did not pass the layer has no right.
pub fn identity(request: &HttpRequest) -> Identity {
    let extensions = request.extensions();
    extensions.get::<Identity>().cloned().unwrap_or(Identity {
        name: "unknown".into(),
        grants: [].into(),
    })
}
