//! Authentication as a layer: every request gets the [`Identity`] of its caller, or is refused with
//! 401 before any handler.
//!
//! The layer belongs inside of the guard and outside of the routes. It finds what the request presents;
//! crate `auth` decides what that is worth. What an identity may do is decided later, per route.
//!
//! Three kinds of routes need no credential: `/healthz` and `/readyz`, because orchestrators have
//! none, and `/dapr/*` where the sidecar has a token of its own (`APP_API_TOKEN`), for which the route
//! asks.
//!
//! Sources: RFC 9110 section 11, RFC 6750 section 3.

use std::{path::Path, sync::Arc, time::Duration};

use actix_web::{
    Error, HttpMessage, HttpRequest, ResponseError,
    body::BoxBody,
    dev::{ServiceRequest, ServiceResponse},
    http::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE},
    middleware::Next,
    web::Data,
};
use auth::{Authenticator, Presented, Refused};
use contract::{
    Problem, ProblemKind,
    access::{Identity, Right, Target},
};

use ::tls::{ClientFiles, ClientTls};

use super::{
    connections::PeerCertificate,
    problem::ProblemError,
    rate::{BadCredentials, Exceeded},
};
use crate::runtime::log_rate::LogRate;

mod settings;

pub use self::settings::AccessArgs;

/// Paths that need no credential.
const WITHOUT_CREDENTIAL: [&str; 2] = ["/healthz", "/readyz"];
/// How the paths of the sidecar begin, which has a token of its own.
const SIDECAR: &str = "/dapr/";
/// Headers that a proxy adds: the peer of the connection is not the caller then.
const FORWARDING: [&str; 3] = ["forwarded", "via", "x-forwarded-for"];

/// What the layer needs to know of its service. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Decides who a caller is.
    pub authenticator: Arc<Authenticator>,
    /// Whether the routes of the sidecar ask for a token of their own.
    pub sidecar_has_token: bool,
}

/// Middleware: puts the [`Identity`] of the caller into the extensions of the request, or refuses it.
///
/// # Errors
/// As the inner services.
pub async fn authenticate(
    layer: Layer,
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let path = request.path();
    let is_of_sidecar = path.starts_with(SIDECAR);
    if WITHOUT_CREDENTIAL.contains(&path) || is_of_sidecar && layer.sidecar_has_token {
        return next.call(request).await;
    }
    let mut identified = identify(&layer.authenticator, &request).await;
    if is_of_sidecar {
        // An event changes what a replica answers: no right to read gives that.
        identified = identified.and_then(|identity| {
            let allowed = identity.require(Right::Operate, Target::Service);
            allowed
                .map(|()| identity)
                .map_err(|_missing| not_the_sidecar())
        });
    }
    match identified {
        Ok(identity) => {
            request.extensions_mut().insert(identity);
            next.call(request).await
        }
        Err(refused) => {
            if let Err(exceeded) = count_invalid(&request, &refused) {
                return Ok(request.into_response(exceeded.response()));
            }
            let mut answer = refused.error_response();
            if refused.problem().kind == ProblemKind::Unauthenticated {
                let challenge = HeaderValue::from_static("Bearer");
                answer.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            }
            Ok(request.into_response(answer))
        }
    }
}

/// Counts a credential that is not valid. A missing one is none.
fn count_invalid(request: &ServiceRequest, refused: &ProblemError) -> Result<(), Exceeded> {
    let is_invalid = refused.problem().kind == ProblemKind::Unauthenticated
        && request.headers().contains_key(AUTHORIZATION);
    match (
        request.app_data::<Data<BadCredentials>>(),
        request.peer_addr(),
    ) {
        (Some(bad), Some(peer)) if is_invalid => bad.count(peer.ip()),
        _valid_or_missing => Ok(()),
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
    // Which of several decides is not defined, so none does.
    let authorization = match headers.get_all(AUTHORIZATION).count() {
        0 | 1 => authorization,
        _ => Some(""),
    };
    let peer = request.peer_addr();
    let certificate = request.conn_data::<PeerCertificate>();
    let presented = Presented {
        authorization,
        certificate: certificate.and_then(|certificate| certificate.0.as_deref()),
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

fn not_the_sidecar() -> ProblemError {
    let detail = "Only a sidecar may send this, and this service has no token for it: set APP_API_TOKEN \
                  here and at the sidecar";
    Problem::new(ProblemKind::Unauthenticated, detail).into()
}

/// A client that asks an issuer for its keys. The issuer must not lead it elsewhere.
fn issuer_client(authorities: Option<&Path>) -> Result<reqwest::Client, String> {
    let files = ClientFiles {
        ca: authorities.map(Path::to_owned),
        identity: None,
    };
    let tls = ClientTls::open(files).map_err(|error| error.to_string())?;
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls.config())
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(2));
    client.build().map_err(|error| error.to_string())
}

/// The caller of a request. A request that did not pass the layer has no right.
pub fn identity(request: &HttpRequest) -> Identity {
    let extensions = request.extensions();
    extensions.get::<Identity>().cloned().unwrap_or(Identity {
        name: "unknown".into(),
        grants: [].into(),
    })
}
