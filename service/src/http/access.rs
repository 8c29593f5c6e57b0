//! Authentication as a layer: every request gets the [`Identity`] of its caller, or is refused with
//! 401 before any handler.
//!
//! The layer belongs inside of the guard and outside of the bodies: a caller that is not known has no
//! share in them. It finds what the request presents;
//! crate `auth` decides what that is worth. What an identity may do is decided later, per route.
//!
//! Three kinds of routes need no credential: `/healthz` and `/readyz`, because orchestrators have
//! none, and `/dapr/*` where the sidecar has a token of its own (`APP_API_TOKEN`), for which the layer
//! or the route asks. Keys of signed events do not replace it: whoever may post can ask for collections, and have
//! signatures checked and the feed read.
//!
//! Sources: RFC 9110 section 11, RFC 6750 section 3.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use actix_web::{
    Error, HttpMessage, HttpRequest, ResponseError,
    body::BoxBody,
    dev::{ServiceRequest, ServiceResponse},
    http::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE},
    middleware::Next,
    web::Data,
};
use auth::{Authenticator, Presented, Refused, Session};
use contract::{
    Problem, ProblemKind,
    access::{Identity, Right, Target},
    sidecar::TOKEN_HEADER,
};
use subtle::ConstantTimeEq;

use ::tls::{ClientFiles, ClientTls};

use super::{
    bodies,
    connections::PeerCertificate,
    problem::ProblemError,
    rate::{BadCredentials, Exceeded},
    refusals::Refusals,
    source::is_forwarded,
};
use crate::runtime::log_rate::LogRate;

mod long_answer;
mod settings;

use self::long_answer::while_valid;
pub use self::settings::{AccessArgs, sidecar_needs_token};

/// Paths that need no credential.
const WITHOUT_CREDENTIAL: [&str; 2] = ["/healthz", "/readyz"];
/// How the paths of the sidecar begin, which has a token of its own.
const SIDECAR: &str = "/dapr/";

/// What the layer needs to know of its service. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Decides who a caller is.
    pub authenticator: Arc<Authenticator>,
    /// What callers of the routes of the sidecar must send.
    pub sidecar_token: SidecarToken,
}

/// The token of the routes of the sidecar (`APP_API_TOKEN`).
#[derive(Clone, Default)]
pub enum SidecarToken {
    /// There is none.
    #[default]
    None,
    /// The routes ask for it themselves, before they read a body.
    AskedByRoutes,
    /// The layer asks for this one, before a body is received.
    Asked(Arc<str>),
}

/// Without the token.
impl std::fmt::Debug for SidecarToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::AskedByRoutes => "AskedByRoutes",
            Self::Asked(_token) => "Asked",
        })
    }
}

impl SidecarToken {
    /// # Errors
    /// 401 `unauthorized`. A sidecar takes it for a failure that may pass and sends the event again, so
    /// a mistyped token loses none.
    fn check(&self, request: &ServiceRequest) -> Result<(), ProblemError> {
        let Self::Asked(token) = self else {
            return Ok(());
        };
        let given = request.headers().get(TOKEN_HEADER);
        let given = given.map(HeaderValue::as_bytes).unwrap_or_default();
        // In constant time: the duration must not tell where the difference is.
        if token.as_bytes().ct_eq(given).into() {
            return Ok(());
        }
        Refusals::of(request.request()).count(ProblemKind::Unauthorized, None);
        static LINES: LogRate = LogRate::new();
        if let Some(left_out) = LINES.due() {
            tracing::warn!(
                "a caller of {SIDECAR}* was refused with 401: its {TOKEN_HEADER} is missing or is not \
                 the APP_API_TOKEN of this service; what a sidecar sends does not arrive until it is \
                 the same for the service and its sidecar{left_out}"
            );
        }
        let detail =
            format!("The header {TOKEN_HEADER} must carry the APP_API_TOKEN of this service");
        Err(Problem::new(ProblemKind::Unauthorized, detail)
            .field(TOKEN_HEADER)
            .into())
    }
}

/// Marks a request that was judged as one of a sidecar. Its routes take no other.
struct OfSidecar;

/// Whether a request to a route of the sidecar was judged as such.
///
/// # Errors
/// 401 `unauthenticated`.
pub(super) fn check_sidecar(request: &HttpRequest) -> Result<(), ProblemError> {
    if request.extensions().contains::<OfSidecar>() {
        return Ok(());
    }
    Err(not_the_sidecar())
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
    // Decoded, as the router reads it: an encoded letter must not lead around.
    let path = request.match_info().as_str();
    let is_of_sidecar = path.starts_with(SIDECAR);
    let is_for_anyone = WITHOUT_CREDENTIAL.contains(&path);
    if is_of_sidecar {
        request.extensions_mut().insert(OfSidecar);
    }
    if is_of_sidecar && let Err(refused) = layer.sidecar_token.check(&request) {
        return Ok(bodies::refuse(request, refused.error_response()).await);
    }
    if layer.authenticator.is_open() {
        // Nothing that a request presents is looked at.
        request.extensions_mut().insert(Identity::unrestricted());
        return next.call(request).await;
    }
    let has_token = is_of_sidecar && !matches!(layer.sidecar_token, SidecarToken::None);
    if has_token || is_for_anyone {
        return next.call(request).await;
    }
    let session = session(&layer.authenticator, request.request());
    if let Err(exceeded) = check_invalid(&request)
        && session.must_verify()
    {
        // Not one more signature is checked for this address before its time.
        return Ok(bodies::refuse(request, exceeded.response()).await);
    }
    let mut identified = identify(&session, &request).await;
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
            request.extensions_mut().insert(identity.clone());
            let answer = next.call(request).await?;
            Ok(answer.map_body(|_head, body| while_valid(body, session, identity)))
        }
        Err(refused) => {
            if let Err(exceeded) = count_invalid(&request, &refused) {
                return Ok(bodies::refuse(request, exceeded.response()).await);
            }
            let kind = refused.problem().kind;
            Refusals::of(request.request()).count(kind, None);
            let mut answer = refused.error_response();
            if kind == ProblemKind::Unauthenticated {
                let challenge = HeaderValue::from_static("Bearer");
                answer.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            }
            Ok(bodies::refuse(request, answer).await)
        }
    }
}

/// Counts a credential that is not valid. A missing one is none.
fn count_invalid(request: &ServiceRequest, refused: &ProblemError) -> Result<(), Exceeded> {
    let is_invalid = refused.problem().kind == ProblemKind::Unauthenticated
        && request.headers().contains_key(AUTHORIZATION);
    match bad_credentials(request) {
        Some((bad, address)) if is_invalid => bad.count(address),
        _valid_or_missing => Ok(()),
    }
}

/// Whether the address of a request may send one more credential that is not valid. Nothing is counted.
fn check_invalid(request: &ServiceRequest) -> Result<(), Exceeded> {
    let counted = bad_credentials(request);
    counted.map_or(Ok(()), |(bad, address)| bad.check(address))
}

fn bad_credentials(request: &ServiceRequest) -> Option<(&BadCredentials, IpAddr)> {
    let bad = request.app_data::<Data<BadCredentials>>()?;
    Some((bad, request.peer_addr()?.ip()))
}

/// What a request presents, for as long as something is done for its caller.
pub fn session(authenticator: &Arc<Authenticator>, request: &HttpRequest) -> Session {
    let headers = request.headers();
    let mut given = headers.get_all(AUTHORIZATION);
    let authorization = match (given.next(), given.next()) {
        (None, _) => None,
        // What is no text is no credential that is accepted.
        (Some(one), None) => Some(one.to_str().unwrap_or_default()),
        // Which of several decides is not defined, so none does.
        (Some(_), Some(_)) => Some(""),
    };
    let certificate = request.conn_data::<PeerCertificate>();
    let is_loopback = |peer: SocketAddr| peer.ip().to_canonical().is_loopback();
    let presented = Presented {
        authorization,
        certificate: certificate.and_then(|certificate| certificate.0.as_deref()),
        is_local: request.peer_addr().is_some_and(is_loopback) && !is_forwarded(headers),
    };
    Session::new(Arc::clone(authenticator), presented)
}

/// # Errors
/// 401 `unauthenticated`, 503 `busy`.
async fn identify(session: &Session, request: &ServiceRequest) -> Result<Identity, ProblemError> {
    let refused = match session.check().await {
        Ok(identity) => return Ok(identity),
        Err(refused) => refused,
    };
    let peer = request.peer_addr();
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
    Refusals::of(request.request()).count(kind, None);
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
