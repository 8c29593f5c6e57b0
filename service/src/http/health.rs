//! Answers for orchestrators, scrapers and generators of clients that are the same at both services.
//!
//! Whether a service is ready is decided by the service.

use std::{collections::BTreeSet, fmt};

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{ContentType, VARY},
    web::Bytes,
};
use contract::{Problem, ProblemKind, access::routes::Service, release::Release};

use super::{accept::preferred, caller::Caller, problem::ProblemError};
use crate::runtime::drain::Drain;

/// OpenMetrics 1.0, which Prometheus reads.
pub const METRICS_MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The text format of Prometheus, which every scraper reads.
pub const TEXT_MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `GET /healthz`: the process answers. It says nothing about data: a sidecar stops the
/// subscriptions of a process that is not healthy.
pub async fn healthz() -> HttpResponse {
    HttpResponse::NoContent().finish()
}

/// `GET /readyz` of a service that was asked to stop: it still serves, and requests should go elsewhere.
///
/// # Errors
/// 503 `stopping`.
pub fn not_draining(drain: &Drain) -> Result<(), ProblemError> {
    if drain.has_begun() {
        let detail = "This service was asked to stop and serves for a short time; use another one";
        return Err(Problem::new(ProblemKind::Stopping, detail).into());
    }
    Ok(())
}

/// Answer of `GET /readyz` when the service can do its work.
pub fn ready() -> HttpResponse {
    HttpResponse::NoContent().finish()
}

/// `GET /v1/identity`: who the caller is here, and what it may do.
pub async fn identity(caller: Caller) -> HttpResponse {
    HttpResponse::Ok().json(caller.identity())
}

/// What a service says of itself at `GET /v1/version`, without what only it knows.
pub fn release(service: Service) -> Release {
    let names = std::env::vars_os().filter_map(|(name, _value)| name.into_string().ok());
    Release::own(service, names)
}

/// Answer of `GET /openapi.json`.
pub fn openapi(document: Bytes) -> HttpResponse {
    HttpResponse::Ok()
        .content_type(ContentType::json())
        .body(document)
}

/// Answer of `GET /metrics`, with the text that was encoded in the OpenMetrics format: in that format
/// for a scraper that asks for it, and in the text format of Prometheus for all others.
///
/// # Errors
/// 406 `not-acceptable`.
pub fn metrics(
    request: &HttpRequest,
    text: Result<String, fmt::Error>,
) -> Result<HttpResponse, ProblemError> {
    let asked = preferred(
        request,
        &[&["text/plain"], &["application/openmetrics-text"]],
    )?;
    let Ok(text) = text else {
        // Writing to a string does not fail.
        return Ok(HttpResponse::InternalServerError().finish());
    };
    let mut answer = HttpResponse::Ok();
    answer.insert_header((VARY, "Accept"));
    Ok(match asked {
        0 => answer
            .content_type(TEXT_MEDIA_TYPE)
            .body(prometheus_text(&text)),
        _ => answer.content_type(METRICS_MEDIA_TYPE).body(text),
    })
}

/// The same metrics in the text format: a counter is described under the name of its samples, and
/// units and the end are no part of the format.
fn prometheus_text(open_metrics: &str) -> String {
    let counters: BTreeSet<&str> = open_metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        let described = ["# HELP ", "# TYPE "].into_iter().find_map(|prefix| {
            let (name, rest) = line.strip_prefix(prefix)?.split_once(' ')?;
            counters.contains(name).then_some((prefix, name, rest))
        });
        match described {
            Some((prefix, name, rest)) => {
                text.extend([prefix, name, "_total ", rest]);
            }
            None => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_described_under_the_name_of_its_samples() {
        let open = "# HELP a_events Events.\n# TYPE a_events counter\na_events_total{r=\"x\"} 1\n\
                    # HELP a_lag_seconds Lag.\n# TYPE a_lag_seconds gauge\n\
                    # UNIT a_lag_seconds seconds\na_lag_seconds 2\n# EOF\n";
        let text = "# HELP a_events_total Events.\n# TYPE a_events_total counter\n\
                    a_events_total{r=\"x\"} 1\n# HELP a_lag_seconds Lag.\n\
                    # TYPE a_lag_seconds gauge\na_lag_seconds 2\n";
        assert_eq!(prometheus_text(open), text);
    }
}
