//! Answers for orchestrators, scrapers and generators of clients that are the same at both services.
//!
//! Whether a service is ready is decided by the service.

use std::fmt;

use actix_web::{HttpResponse, http::header::ContentType, web::Bytes};

/// OpenMetrics 1.0, which Prometheus reads.
pub const METRICS_MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// `GET /healthz`: the process answers. It says nothing about data: a sidecar stops the
/// subscriptions of a process that is not healthy.
pub async fn healthz() -> HttpResponse {
    HttpResponse::NoContent().finish()
}

/// Answer of `GET /readyz` when the service can do its work.
pub fn ready() -> HttpResponse {
    HttpResponse::NoContent().finish()
}

/// Answer of `GET /openapi.json`.
pub fn openapi(document: Bytes) -> HttpResponse {
    HttpResponse::Ok()
        .content_type(ContentType::json())
        .body(document)
}

/// Answer of `GET /metrics`, with the text that was encoded.
pub fn metrics(text: Result<String, fmt::Error>) -> HttpResponse {
    match text {
        Ok(text) => HttpResponse::Ok()
            .content_type(METRICS_MEDIA_TYPE)
            .body(text),
        // Writing to a string does not fail.
        Err(fmt::Error) => HttpResponse::InternalServerError().finish(),
    }
}
