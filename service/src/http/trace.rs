//! The span of a request, by the semantic conventions of HTTP servers: the trace of the client goes on in
//! it (W3C Trace Context).
//!
//! Requests of the API with a `traceparent` have one, and writes without. Reads that nobody traces,
//! check-ins, health and metrics would bury them. Events have spans of their own in the replica.
//! Nothing is decided here.

use actix_web::{
    Error,
    body::BoxBody,
    dev::{ServiceRequest, ServiceResponse},
    http::{Method, header::HeaderMap},
    middleware::Next,
};
use contract::{TraceParent, event};
use tracing::{Instrument, Span, field::Empty, trace_span};

use super::{methods::known_method, routes::pattern};

/// Where the API begins, and the check-ins in it.
const API: &str = "/v1/";
const CHECK_INS: &str = "/v1/replicas/";
/// Longest path of a span, in bytes. Spans wait in a queue, and no credential was asked for yet.
const MAX_PATH: usize = 512;

/// Middleware: handles a request in its span. It belongs outside of everything that answers.
///
/// # Errors
/// As the inner services.
pub async fn trace(
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    if !traces::enabled!() {
        return next.call(request).await;
    }
    let span = span_of(&request);
    if span.is_disabled() {
        return next.call(request).await;
    }
    let answer = next.call(request).instrument(span.clone()).await;
    match &answer {
        Ok(answer) => {
            if let Some(route) = pattern(answer.request()) {
                traces::rename(
                    &span,
                    format!("{} {route}", method(answer.request().method())),
                );
                span.record("http.route", &*route);
            }
            note_status(&span, answer.status().as_u16());
        }
        Err(error) => note_status(&span, error.as_response_error().status_code().as_u16()),
    }
    answer
}

fn span_of(request: &ServiceRequest) -> Span {
    let parent = traceparent(request.headers());
    let parent = parent.and_then(|text| text.parse::<TraceParent>().ok());
    let path = request.path();
    let is_read = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    );
    let is_asked = parent.is_some() || !(is_read || path.starts_with(CHECK_INS));
    if !path.starts_with(API) || !is_asked {
        return Span::none();
    }
    // What a proxy says is a text of the peer.
    let is_secure = request.connection_info().scheme() == "https";
    let method = method(request.method());
    let span = trace_span!(
        target: traces::TARGET,
        "request",
        otel.name = method,
        otel.kind = "server",
        otel.status_code = Empty,
        error.r#type = Empty,
        http.request.method = method,
        http.response.status_code = Empty,
        http.route = Empty,
        url.path = &path[..path.floor_char_boundary(MAX_PATH)],
        url.scheme = if is_secure { "https" } else { "http" },
        network.protocol.version = "1.1",
    );
    if let Some(parent) = parent {
        traces::continue_from(&span, parent);
    }
    span
}

/// The method as spans have it.
fn method(method: &Method) -> &str {
    known_method(method).unwrap_or("_OTHER")
}

/// The `traceparent` of a request. Two of them are none.
pub fn traceparent(headers: &HeaderMap) -> Option<&str> {
    let mut lines = headers.get_all(event::TRACEPARENT);
    let line = lines.next().filter(|_line| lines.next().is_none())?;
    line.to_str().ok()
}

/// A failure is one of the server.
fn note_status(span: &Span, status: u16) {
    span.record("http.response.status_code", status);
    if status >= 500 {
        span.record("otel.status_code", "ERROR");
        span.record("error.type", status);
    }
}

#[cfg(test)]
#[path = "../../../traces/tests/collected/mod.rs"]
mod collected;

#[cfg(test)]
mod tests {
    use actix_web::{App, HttpResponse, middleware::from_fn, test, web};

    use super::{collected::Collected, *};

    /// No text of a caller that nobody knows is in a span as long as it was sent.
    #[actix_web::test]
    async fn a_span_has_a_bound() {
        let collected = Collected::default();
        let collecting = collected.during();
        let app = App::new()
            .wrap(from_fn(trace))
            .default_service(web::to(HttpResponse::NotFound));
        let app = test::init_service(app).await;
        let long = "x".repeat(20_000);
        let request = test::TestRequest::default()
            .method(Method::from_bytes(long.as_bytes()).expect("a method"))
            .uri(&format!("/v1/{long}"))
            .insert_header(("x-forwarded-proto", long))
            .insert_header((
                "traceparent",
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            ))
            .to_request();
        test::call_service(&app, request).await;
        drop(collecting);
        let spans = collected.spans();
        let [span] = &spans[..] else {
            panic!("{spans:?}");
        };
        let texts = span
            .attributes
            .iter()
            .map(|attribute| attribute.value.as_str());
        let longest = texts.map(|text| text.len()).max();
        assert!(
            span.name == "_OTHER" && longest == Some(MAX_PATH),
            "{span:?}"
        );
    }
}
