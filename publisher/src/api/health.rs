//! Answers for orchestrators: whether the process can do its work, and what it offers.

use actix_web::{HttpResponse, web};
use service::http::health;

use crate::api::{Api, error::ApiError, openapi, store_failed};

/// `GET /readyz`: the store answers.
pub(super) async fn readyz(api: web::Data<Api>) -> Result<HttpResponse, ApiError> {
    api.store.ping().await.map_err(store_failed)?;
    Ok(health::ready())
}

/// `GET /openapi.json`: the routes of this service.
pub(super) async fn openapi() -> HttpResponse {
    health::openapi(openapi::document())
}
