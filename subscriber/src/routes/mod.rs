//! The HTTP surface, one module per caller: `replica::actix` (a sidecar or a LOCAL publisher),
//! [`read`] and `feed` (whoever wants values), [`health`] (an orchestrator, an operator),
//! `check_in` (a replica that follows this one).
//!
//! Handlers extract, call the replica and answer. They decide nothing.

mod check_in;
mod feed;
pub mod health;
mod methods;
pub mod metrics;
mod pieces;
pub mod read;
mod tags;

use actix_web::{
    HttpRequest, HttpResponse, ResponseError, middleware,
    web::{self, ServiceConfig},
};
use replica::{Replica, actix::Options};
use service::streams::StreamSlots;

use crate::{error::ApiError, settings::Settings};

/// What handlers share. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct AppState {
    replica: Replica,
    dapr: Options,
    ready_when_stale: bool,
    streams: StreamSlots,
}

impl AppState {
    /// What handlers need of the settings.
    pub fn new(replica: Replica, settings: &Settings, streams: StreamSlots) -> Self {
        Self {
            replica,
            dapr: Options {
                pubsub_name: settings.pubsub_name.clone(),
                token: settings.app_api_token.clone(),
            },
            ready_when_stale: settings.ready_when_stale,
            streams,
        }
    }
}

/// Adds all routes.
pub fn configure(config: &mut ServiceConfig, state: &AppState) {
    let routes = web::scope("")
        .wrap(middleware::from_fn(methods::answer))
        // Paths are tried in this order, so those that are asked for most come first.
        .service(replica::actix::scope(&state.replica, &state.dapr))
        .service(web::resource("/v1/collections/{collection}/documents/{id}").get(read::document))
        .service(web::resource("/v1/collections").get(read::heads))
        .service(web::resource("/v1/collections/{collection}").get(read::head))
        .service(web::resource("/v1/collections/{collection}/documents").get(read::documents))
        .service(web::resource("/v1/changes").get(feed::all))
        .service(web::resource("/v1/collections/{collection}/changes").get(feed::one))
        .service(web::resource("/v1/snapshot").get(read::snapshot))
        .service(web::resource("/v1/replicas/{instance}").put(check_in::answer))
        .service(web::resource("/v1/status").get(health::status))
        .service(web::resource("/openapi.json").get(health::openapi))
        .service(web::resource("/metrics").get(metrics::metrics))
        .service(web::resource("/healthz").get(health::alive))
        .service(web::resource("/readyz").get(health::ready));
    config
        .app_data(web::Data::new(state.clone()))
        .service(routes)
        .default_service(web::to(nothing_here));
}

async fn nothing_here(request: HttpRequest) -> HttpResponse {
    ApiError::not_found(request.path()).error_response()
}
