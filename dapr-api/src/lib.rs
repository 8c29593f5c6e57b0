//! Dapr's Configuration API at a subscriber: applications read and follow the configuration with the SDK
//! of Dapr that they have, and by the same port they use everything else of their sidecar.
//!
//! A store is a collection, a key the id of a document, a value its JSON text, a version its revision.
//!
//! | module | content |
//! |---|---|
//! | `server`, `connections` | the port: HTTP/2 without TLS and HTTP/1.1, limits on its peers |
//! | `access`, `credential` | who may call: the token of the sidecar, and the rights of the subscriber's HTTP API |
//! | `api` | what is asked for; values; subscriptions |
//! | `answers`, `budget` | how many answers there may be, how slowly one may be taken, and the memory of subscriptions |
//! | `changes` | what a subscription sends, and when |
//! | `grpc`, `http_api`, `message` | the methods over both protocols, and their messages |
//! | `callbacks` | values that are posted to the application |
//! | `forward` | every other call goes on to the sidecar |
//! | `error` | why a call is refused, and the answers |
//!
//! The crate decides nothing about changes: the replica does, and their order is that of its feed. It
//! stores nothing.

mod access;
mod answers;
mod api;
mod budget;
mod callbacks;
mod changes;
mod connections;
mod credential;
mod error;
mod forward;
mod grpc;
mod http_api;
pub mod message;
mod server;

use std::{net::TcpListener, sync::Arc};

use auth::Authenticator;
use axum::{Router, body::Body, extract::State, response::Response};
pub use http::uri::Authority;
use http::{HeaderValue, Request};
use replica::Replica;
use service::http::{
    connections::ConnectionLimits, guard::GuardSettings, rate::BadCredentials,
    stream_slots::StreamSlots,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    access::Access,
    api::Api,
    callbacks::Callbacks,
    forward::{Sidecar, is_grpc},
    http_api::HttpApi,
};

/// Subscriptions over HTTP that wait for their task.
const WAITING_TASKS: usize = 64;

/// What the API needs of the settings.
#[derive(Clone)]
pub struct Config {
    /// The token that callers must send, and that the sidecar requires (`DAPR_API_TOKEN`).
    pub token: Option<HeaderValue>,
    /// Address of the gRPC API of the sidecar.
    pub sidecar_grpc: Authority,
    /// Address of the HTTP API of the sidecar.
    pub sidecar_http: Authority,
    /// Address of the application, to which values are posted; `None` where there is none.
    pub app: Option<Authority>,
    /// The token that the application requires (`APP_API_TOKEN`).
    pub app_token: Option<HeaderValue>,
    /// Decides who a caller is.
    pub authenticator: Arc<Authenticator>,
    /// Credentials that were not valid, by address.
    pub bad_credentials: BadCredentials,
    /// The names of the subscriber.
    pub guard: GuardSettings,
    /// The limit of live streams.
    pub streams: StreamSlots,
    /// The limits of connections.
    pub connections: ConnectionLimits,
}

/// Serves the API of this replica at an open port, until `stop` is cancelled.
///
/// # Errors
/// When the port cannot be served.
pub async fn serve(
    listener: TcpListener,
    replica: Replica,
    config: Config,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let access = Access {
        token: config.token,
        authenticator: config.authenticator,
        bad_credentials: config.bad_credentials,
        guard: config.guard,
    };
    let api = Api::new(replica, access, config.streams);
    let (tasks, waiting) = mpsc::channel(WAITING_TASKS);
    let (app, app_token) = (config.app, config.app_token);
    let callbacks = app.map(|app| Callbacks::new(api.clone(), app, app_token, tasks));
    let sidecar = Arc::new(Sidecar::new(config.sidecar_grpc, config.sidecar_http));
    let routes = grpc::routes()
        .with_state(api.clone())
        .merge(http_api::routes().with_state(HttpApi {
            api: api.clone(),
            callbacks,
        }))
        .fallback_service(
            Router::new()
                .fallback(pass_on)
                .with_state((api.clone(), sidecar)),
        );
    let upkeep = async {
        tokio::join!(
            callbacks::run(waiting, stop.clone()),
            api.answers().take_stalled()
        )
    };
    tokio::select! {
        served = server::serve(listener, routes, config.connections, stop.clone()) => served,
        _never = upkeep => Ok(()),
    }
}

async fn pass_on(
    State((api, sidecar)): State<(Api, Arc<Sidecar>)>,
    request: Request<Body>,
) -> Response {
    let (head, body) = request.into_parts();
    match api.access().check_passing(&head) {
        Ok(()) => sidecar.pass_on(Request::from_parts(head, body)).await,
        Err(refused) => refused.answer(is_grpc(&head.headers)),
    }
}
