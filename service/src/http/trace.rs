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
    http::Method,
    middleware::Next,
};
use contract::{TraceParent, event};
use tracing::{Instrument, Span, field::Empty, trace_span};

/// Where the API begins, and the check-ins in it.
const API: &str = "/v1/";
const CHECK_INS: &str = "/v1/replicas/";

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
    let answer = next.call(request).instrument(span.clone()).await;
    match &answer {
        Ok(answer) => {
            if let Some(route) = answer.request().match_pattern() {
                let name = format!("{} {route}", answer.request().method());
                traces::rename(&span, name);
                span.record("http.route", route);
            }
            note_status(&span, answer.status().as_u16());
        }
        Err(error) => note_status(&span, error.as_response_error().status_code().as_u16()),
    }
    answer
}

fn span_of(request: &ServiceRequest) -> Span {
    let parent = parent(request);
    let path = request.path();
    let is_read = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    );
    let is_asked = parent.is_some() || !(is_read || path.starts_with(CHECK_INS));
    if !path.starts_with(API) || !is_asked {
        return Span::none();
    }
    let connection = request.connection_info();
    let span = trace_span!(
        target: traces::TARGET,
        "request",
        otel.name = %request.method(),
        otel.kind = "server",
        otel.status_code = Empty,
        error.r#type = Empty,
        http.request.method = %request.method(),
        http.response.status_code = Empty,
        http.route = Empty,
        url.path = path,
        url.scheme = connection.scheme(),
        network.protocol.version = "1.1",
    );
    drop(connection);
    if let Some(parent) = parent {
        traces::continue_from(&span, parent);
    }
    span
}

/// The span of the client. Two of them are none.
fn parent(request: &ServiceRequest) -> Option<TraceParent> {
    let mut lines = request.headers().get_all(event::TRACEPARENT);
    let line = lines.next().filter(|_line| lines.next().is_none())?;
    line.to_str().ok()?.parse().ok()
}

/// A failure is one of the server.
fn note_status(span: &Span, status: u16) {
    span.record("http.response.status_code", status);
    if status >= 500 {
        span.record("otel.status_code", "ERROR");
        span.record("error.type", status);
    }
}
