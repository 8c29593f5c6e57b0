//! The HTTP surface, one module per caller: [`dapr`] (a sidecar or a LOCAL publisher), [`read`] (whoever wants values),
//! [`health`] (an orchestrator, an operator).
//!
//! Handlers extract, call the replica and answer. They decide nothing.

pub mod dapr;
pub mod health;
mod pieces;
pub mod read;

use std::sync::Arc;

use actix_web::{
    HttpRequest, HttpResponse, ResponseError, middleware,
    web::{self, ServiceConfig},
};
use contract::event;
use replica::Replica;

use crate::{
    error::ApiError,
    settings::{Settings, Token},
};

/// What handlers share. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct AppState {
    replica: Replica,
    subscriptions: Arc<[dapr::Subscription]>,
    token: Option<Token>,
}

impl AppState {
    /// What handlers need of the settings.
    pub fn new(replica: Replica, settings: &Settings) -> Self {
        Self { replica, subscriptions: dapr::subscriptions(settings), token: settings.app_api_token.clone() }
    }
}

/// Adds all routes.
pub fn configure(config: &mut ServiceConfig, state: &AppState) {
    config
        .app_data(web::Data::new(state.clone()))
        .service(
            web::scope("/dapr")
                .wrap(middleware::from_fn(dapr::check_token))
                .route(below_dapr(event::SUBSCRIBE_ROUTE), web::get().to(dapr::subscribe))
                .route(below_dapr(event::ROUTE), web::post().to(dapr::process)),
        )
        .route("/v1/collections", web::get().to(read::heads))
        .route("/v1/collections/{collection}", web::get().to(read::head))
        .route("/v1/collections/{collection}/documents", web::get().to(read::documents))
        .route("/v1/collections/{collection}/documents/{id}", web::get().to(read::document))
        .route("/v1/snapshot", web::get().to(read::snapshot))
        .route("/v1/status", web::get().to(health::status))
        .route("/healthz", web::get().to(health::alive))
        .route("/readyz", web::get().to(health::ready))
        .default_service(web::to(nothing_here));
}

fn below_dapr(route: &'static str) -> &'static str {
    route.strip_prefix("/dapr").unwrap_or(route)
}

async fn nothing_here(request: HttpRequest) -> HttpResponse {
    ApiError::not_found(request.path()).error_response()
}
