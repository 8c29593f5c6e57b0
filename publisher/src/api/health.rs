//! Probes: is the process alive, and can it do its work.

use actix_web::{HttpResponse, http::header, web};

use crate::{
    api::{Api, error::ApiError, openapi, store_failed},
    metrics,
};

/// The process answers; nothing else is asked.
pub(super) async fn healthz() -> HttpResponse {
    HttpResponse::NoContent().finish()
}

/// For Prometheus; what the store would have to tell is left out where it does not.
pub(super) async fn metrics(api: web::Data<Api>) -> HttpResponse {
    let fleet = api.fleet.list().await.ok();
    let text = api
        .metrics
        .text(fleet.as_ref().map(|fleet| fleet.replicas.as_slice()));
    match text {
        Ok(text) => HttpResponse::Ok()
            .content_type(metrics::MEDIA_TYPE)
            .body(text),
        Err(_never) => HttpResponse::InternalServerError().finish(),
    }
}

/// What can be asked for here.
pub(super) async fn openapi() -> HttpResponse {
    HttpResponse::Ok()
        .content_type(header::ContentType::json())
        .body(openapi::document())
}

/// The store answers.
pub(super) async fn readyz(api: web::Data<Api>) -> Result<HttpResponse, ApiError> {
    api.store.ping().await.map_err(store_failed)?;
    Ok(HttpResponse::NoContent().finish())
}
