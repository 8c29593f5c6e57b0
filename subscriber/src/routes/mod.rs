//! The HTTP surface, one module per caller: [`dapr`] (a sidecar or a LOCAL publisher), [`read`] and `feed` (whoever wants values),
//! [`health`] (an orchestrator, an operator), `check_in` (a replica that follows this one).
//!
//! Handlers extract, call the replica and answer. They decide nothing.

mod check_in;
pub mod dapr;
mod feed;
pub mod health;
mod methods;
pub mod metrics;
mod pieces;
pub mod read;
mod tags;

use std::sync::Arc;

use actix_web::{
    HttpRequest, HttpResponse, ResponseError, middleware,
    web::{self, ServiceConfig},
};
use contract::event;
use replica::Replica;
use service::streams::Streams;

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
    ready_when_stale: bool,
    streams: Streams,
}

impl AppState {
    /// What handlers need of the settings.
    pub fn new(replica: Replica, settings: &Settings, streams: Streams) -> Self {
        Self {
            replica,
            subscriptions: dapr::subscriptions(settings),
            token: settings.app_api_token.clone(),
            ready_when_stale: settings.ready_when_stale,
            streams,
        }
    }
}

/// Adds all routes.
pub fn configure(config: &mut ServiceConfig, state: &AppState) {
    let routes = web::scope("")
        .wrap(middleware::from_fn(methods::answer))
        .service(
            web::scope("/dapr")
                .wrap(middleware::from_fn(dapr::check_token))
                .service(web::resource(below_dapr(event::SUBSCRIBE_ROUTE)).get(dapr::subscribe))
                .service(web::resource(below_dapr(event::ROUTE)).post(dapr::process)),
        )
        .service(web::resource("/v1/collections").get(read::heads))
        .service(web::resource("/v1/collections/{collection}").get(read::head))
        .service(web::resource("/v1/collections/{collection}/documents").get(read::documents))
        .service(web::resource("/v1/collections/{collection}/documents/{id}").get(read::document))
        .service(web::resource("/v1/changes").get(feed::all))
        .service(web::resource("/v1/collections/{collection}/changes").get(feed::one))
        .service(web::resource("/v1/snapshot").get(read::snapshot))
        .service(web::resource("/v1/replicas/{instance}").put(check_in::answer))
        .service(web::resource("/v1/status").get(health::status))
        .service(web::resource("/metrics").get(metrics::metrics))
        .service(web::resource("/healthz").get(health::alive))
        .service(web::resource("/readyz").get(health::ready));
    config.app_data(web::Data::new(state.clone())).service(routes).default_service(web::to(nothing_here));
}

fn below_dapr(route: &'static str) -> &'static str {
    route.strip_prefix("/dapr").unwrap_or(route)
}

async fn nothing_here(request: HttpRequest) -> HttpResponse {
    ApiError::not_found(request.path()).error_response()
}
