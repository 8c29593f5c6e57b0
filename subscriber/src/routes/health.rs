//! What an orchestrator and an operator ask. None of it needs a token, and none of it waits for
//! anything.

use std::time::Instant;

use actix_web::{HttpResponse, http::header::ContentType, web};
use contract::status::ReplicaState;
use serde_json::json;

use super::AppState;
use crate::{error::ApiError, openapi};

/// `GET /healthz`: the process is alive. It says nothing about data: a red answer here stops a
/// sidecar's subscriptions.
pub async fn alive() -> HttpResponse {
    HttpResponse::Ok().json(json!({"status": "alive"}))
}

/// `GET /readyz`: whether there is anything to serve. Stale values are served, so they are ready,
/// unless a setting says that they are not.
pub async fn ready(state: web::Data<AppState>) -> Result<HttpResponse, ApiError> {
    let view = state.replica.view();
    if !view.loaded() {
        Err(ApiError::loading())
    } else if !state.ready_when_stale && view.state(Instant::now()) == ReplicaState::Stale {
        Err(ApiError::stale())
    } else {
        Ok(HttpResponse::Ok().json(json!({"status": "ready"})))
    }
}

/// `GET /openapi.json`: what can be asked for here.
pub async fn openapi() -> HttpResponse {
    HttpResponse::Ok()
        .content_type(ContentType::json())
        .body(openapi::document())
}

/// `GET /v1/status`: what the replica says of itself.
pub async fn status(state: web::Data<AppState>) -> HttpResponse {
    HttpResponse::Ok().json(state.replica.status())
}
