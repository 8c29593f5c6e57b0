//! Probes: is the process alive, and can it do its work.

use actix_web::{HttpResponse, web};

use super::{Api, store_failed};
use crate::error::ApiError;

/// The process answers; nothing else is asked.
pub(super) async fn healthz() -> HttpResponse {
    HttpResponse::NoContent().finish()
}

/// The store answers.
pub(super) async fn readyz(api: web::Data<Api>) -> Result<HttpResponse, ApiError> {
    api.store.ping().await.map_err(store_failed)?;
    Ok(HttpResponse::NoContent().finish())
}
