//! The guard before all routes of a service: it refuses what web pages send without the consent of
//! the user.
//!
//! A page in any browser can send requests to a loopback address or to a private network. It cannot
//! send a `Host` of its choice, and it cannot leave out `Origin` of a write. So a name in `Host` that
//! is not a name of the service is refused with 421 (DNS rebinding), and a foreign `Origin` or
//! `Sec-Fetch-Site` with 403. Media types, which make a browser ask first, are checked per route in
//! `rules`. The reasons are in `docs/decisions/0018-requests-of-browsers.md`.
//!
//! The guard knows no route and authenticates no client. Sources: RFC 9110 sections 7.2 and 7.4, RFC
//! 6454, Fetch Metadata Request Headers (W3C), the CORS protocol of the Fetch standard (WHATWG).

use std::{cell::RefCell, net::SocketAddr, rc::Rc};

use actix_web::{
    Error, HttpResponse, ResponseError,
    body::BoxBody,
    dev::{ServiceRequest, ServiceResponse},
    http::{
        Method, header,
        header::{HeaderMap, HeaderName, HeaderValue},
    },
    middleware::Next,
};
use contract::{Problem, ProblemKind};

use self::names::{Host, Origin};
use super::{bodies, problem::ProblemError};

mod names;
mod settings;

pub use self::settings::{ALLOWED_HOSTS, CORS_ORIGINS, GuardArgs, GuardSettings};

/// Headers of an answer that a page of a listed origin may read.
const EXPOSED: &str = "etag, retry-after, location, confcast-revision, confcast-digest, \
                       confcast-count, confcast-state, confcast-settled";
/// Headers that a page of a listed origin may send with a read.
const ALLOWED: &str = "accept, confcast-min-revision, if-match, if-none-match, last-event-id, \
                       traceparent";
/// How long a browser may remember the answer to a preflight, in seconds.
const PREFLIGHT_SECONDS: &str = "600";
/// Which site or origin causes a request, says a browser.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// A longer `Host` is judged each time.
const MAX_REMEMBERED: usize = 256;

/// The guard of one worker.
#[derive(Debug)]
pub struct Guard {
    settings: GuardSettings,
    /// The `Host` that was accepted last. Nearly every request names the host of the one before.
    accepted: RefCell<Option<HeaderValue>>,
}

impl Guard {
    /// A guard that has seen no request.
    pub fn new(settings: GuardSettings) -> Self {
        Self {
            settings,
            accepted: RefCell::default(),
        }
    }

    /// As [`GuardSettings::judge`]; the host of the request before it is not read again.
    fn judge(&self, request: &ServiceRequest) -> Result<Verdict, ProblemError> {
        let headers = request.headers();
        let host = headers
            .get(header::HOST)
            .filter(|_host| request.uri().authority().is_none());
        let is_accepted = host.is_some() && self.accepted.borrow().as_ref() == host;
        if is_accepted && !headers.contains_key(header::ORIGIN) && !foreign_fetch(request) {
            return Ok(Verdict::Pass);
        }
        let verdict = self.settings.judge(request)?;
        let host = host.filter(|host| host.len() <= MAX_REMEMBERED && !is_accepted);
        if let Some(host) = host {
            // A copy, which does not keep the buffer of the connection.
            self.accepted
                .replace(HeaderValue::from_bytes(host.as_bytes()).ok());
        }
        Ok(verdict)
    }
}

/// Middleware: passes a request on, or refuses it. It belongs outside of everything that decides or
/// answers.
///
/// # Errors
/// As the inner services.
pub async fn guard(
    guard: Rc<Guard>,
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let settings = &guard.settings;
    let reader = match guard.judge(&request) {
        Ok(Verdict::Pass) => None,
        Ok(Verdict::Reader(origin)) => Some(origin),
        Ok(Verdict::Preflight(origin)) => {
            let mut answer = request.into_response(preflight());
            settings.add_headers(answer.headers_mut(), Some(origin));
            return Ok(answer);
        }
        Err(refused) => {
            let mut refusal = refused.error_response();
            settings.add_headers(refusal.headers_mut(), None);
            return Ok(bodies::refuse(request, refusal).await);
        }
    };
    let mut answer = next.call(request).await?;
    settings.add_headers(answer.headers_mut(), reader);
    Ok(answer)
}

/// What becomes of a request that is not refused.
#[derive(Debug)]
enum Verdict {
    /// The routes answer it.
    Pass,
    /// The routes answer it, and a page of this origin may read the answer.
    Reader(HeaderValue),
    /// A browser asks whether a page of this origin may send a read.
    Preflight(HeaderValue),
}

impl GuardSettings {
    /// Decides about a request from its head alone.
    ///
    /// # Errors
    /// 400 `bad-request`, 403 `foreign-origin`, 421 `unknown-host`.
    fn judge(&self, request: &ServiceRequest) -> Result<Verdict, ProblemError> {
        let headers = request.headers();
        let host = self.host(request)?;
        let Some(given) = headers.get(header::ORIGIN) else {
            return match foreign_fetch(request) {
                false => Ok(Verdict::Pass),
                true => Err(foreign(
                    "Sec-Fetch-Site",
                    "A page of another site sent this request".to_owned(),
                )),
            };
        };
        let origin = given
            .to_str()
            .ok()
            .and_then(|text| text.parse::<Origin>().ok());
        let same = |origin: &Origin| host.as_ref().is_some_and(|host| origin.is_of(host));
        if origin.as_ref().is_some_and(same) {
            return Ok(Verdict::Pass);
        }
        let listed = origin.is_some_and(|origin| self.origins.contains(&origin));
        if !listed {
            let detail = format!(
                "A page of the origin {} may not use this service; add the origin to {CORS_ORIGINS} to let its pages read",
                String::from_utf8_lossy(given.as_bytes()).escape_debug()
            );
            return Err(foreign("Origin", detail));
        }
        let asked = headers.get(header::ACCESS_CONTROL_REQUEST_METHOD);
        if let Some(method) = asked.filter(|_method| request.method() == Method::OPTIONS) {
            if [&b"GET"[..], b"HEAD"].contains(&method.as_bytes()) {
                return Ok(Verdict::Preflight(given.clone()));
            }
        } else if request.method().is_safe() {
            return Ok(Verdict::Reader(given.clone()));
        }
        let detail = format!("{CORS_ORIGINS} lets pages read and not write");
        Err(foreign("Origin", detail))
    }

    /// The host that the request is for; `None` when an HTTP/1.0 client names none, which no browser
    /// does.
    fn host(&self, request: &ServiceRequest) -> Result<Option<Host>, ProblemError> {
        // A target with a host overrides `Host` (RFC 9112 section 3.2.2).
        let named = match request.uri().authority() {
            Some(authority) => authority.as_str(),
            None => match request.headers().get(header::HOST) {
                Some(host) => host.to_str().unwrap_or("\u{fffd}"),
                None => return Ok(None),
            },
        };
        let host: Host = named.parse().map_err(|_malformed| {
            let problem = Problem::new(ProblemKind::BadRequest, "expected HOST or HOST:PORT");
            ProblemError::from(problem.field("Host"))
        })?;
        if self.knows_host(&host) {
            return Ok(Some(host));
        }
        let detail = format!(
            "{:?} is not known as a name of this service; add it to {ALLOWED_HOSTS}",
            host.name()
        );
        let problem = Problem::new(ProblemKind::UnknownHost, detail);
        Err(problem.field("Host").into())
    }

    /// Adds the headers of the CORS protocol. Nothing without listed origins.
    fn add_headers(&self, headers: &mut HeaderMap, reader: Option<HeaderValue>) {
        if self.origins.is_empty() {
            return;
        }
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
        if let Some(origin) = reader {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(
                header::ACCESS_CONTROL_EXPOSE_HEADERS,
                HeaderValue::from_static(EXPOSED),
            );
        }
    }
}

/// Whether a browser says that a page of another site or origin causes the request. A link that a
/// user follows is none: its page does not get the answer.
fn foreign_fetch(request: &ServiceRequest) -> bool {
    let headers = request.headers();
    let Some(site) = headers.get(FETCH_SITE) else {
        return false;
    };
    let is = |name: &str, expected: &[u8]| {
        headers
            .get(name)
            .is_some_and(|value| value.as_bytes() == expected)
    };
    let own = [&b"same-origin"[..], b"none"].contains(&site.as_bytes());
    let link = request.method().is_safe()
        && is("sec-fetch-mode", b"navigate")
        && is("sec-fetch-dest", b"document");
    !own && !link
}

fn foreign(field: &str, detail: String) -> ProblemError {
    let problem = Problem::new(ProblemKind::ForeignOrigin, detail);
    problem.field(field).into()
}

fn preflight() -> HttpResponse {
    HttpResponse::NoContent()
        .insert_header((header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD"))
        .insert_header((header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED))
        .insert_header((header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_SECONDS))
        .finish()
}

/// Logs one warning when other hosts can reach a service that asks for no credential. `peers` says
/// what they can do.
pub fn warn_when_open(service: &str, address: SocketAddr, peers: &str) {
    if !address.ip().to_canonical().is_loopback() {
        tracing::warn!(
            %address,
            "the {service} listens on {address}, beyond this host, and asks for no credential: {peers}; \
             let only trusted peers reach the port (network policy, mesh, or a proxy that authenticates)"
        );
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn the_host_that_was_accepted_before_opens_the_way_for_nothing_else() {
        let guard = Guard::new(GuardSettings::default());
        let judged = |uri: &str, headers: &[(&'static str, &'static str)]| {
            let request = TestRequest::with_uri(uri);
            let request = headers
                .iter()
                .fold(request, |request, header| request.insert_header(*header));
            let judged = guard.judge(&request.to_srv_request());
            judged.err().map(|refused| refused.problem().kind)
        };
        let own = ("host", "127.0.0.1:8080");
        for _again in 0..3 {
            assert_eq!(judged("/", &[own]), None);
            assert_eq!(
                judged("/", &[("host", "evil.example")]),
                Some(ProblemKind::UnknownHost)
            );
            assert_eq!(judged("/", &[]), None, "no browser leaves out the host");
            let foreign = Some(ProblemKind::ForeignOrigin);
            let origin = ("origin", "https://evil.example");
            assert_eq!(judged("/", &[own, origin]), foreign);
            assert_eq!(
                judged("/", &[own, ("sec-fetch-site", "cross-site")]),
                foreign
            );
            assert_eq!(judged("/", &[own, ("sec-fetch-site", "none")]), None);
            assert_eq!(
                judged("http://evil.example/", &[own]),
                Some(ProblemKind::UnknownHost)
            );
        }
    }
}
