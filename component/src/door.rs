//! The gRPC service on the socket: which method of which component a request is for.
//!
//! What is generated from a proto elsewhere is a table here, because the messages are written by hand.
//! Reflection lists the components: that is how a sidecar finds them. Nothing here decides anything.

use std::{convert::Infallible, sync::Arc, time::Duration};

use anyhow::Context;
use futures_util::future::ready;
use prost::Message;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codegen::http,
    server::Grpc,
    transport::{Server, server::UdsConnectInfo},
};
use tonic_prost::ProstCodec;
use tonic_reflection::server::Builder;
use tower::{ServiceExt, service_fn, util::BoxCloneSyncService};

use crate::{
    init,
    instances::{Instance, Instances},
    proto::{Empty, FeaturesResponse, InitRequest, PullRequest, PullResponse},
    pubsub::PubSub,
    socket::Socket,
    state::StateStore,
};

use self::connection::connections;

mod connection;

/// The largest request, in bytes: a sidecar takes at most 4 MiB of an application, and adds an envelope.
const MAX_REQUEST: usize = 8 << 20;
/// Most requests at the same time on one connection.
const MAX_STREAMS: u32 = 1_024;
/// With every request: the name of the component in its YAML file.
const INSTANCE: &str = "x-component-instance";
/// The services that reflection lists.
const SERVICES: [&str; 4] = [PUBSUB, STATE, TRANSACTIONS, TRANSACTION_SIZE];
const PUBSUB: &str = "dapr.proto.components.v1.PubSub";
const STATE: &str = "dapr.proto.components.v1.StateStore";
const TRANSACTIONS: &str = "dapr.proto.components.v1.TransactionalStateStore";
const TRANSACTION_SIZE: &str = "dapr.proto.components.v1.TransactionalStoreMultiMaxSize";
/// How long connections may take to end after the stop.
const GRACE: Duration = Duration::from_secs(3);

/// A service of another crate.
type Other = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Infallible>;

/// What answers on the socket. Cloning shares it.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    pub(crate) instances: Arc<Instances>,
    pub(crate) pubsub: PubSub,
    pub(crate) state: StateStore,
    /// Reflection in both versions: sidecars ask v1alpha.
    reflection: [Other; 2],
}

impl Door {
    /// A door to the components.
    ///
    /// # Errors
    /// When the services cannot be described, which does not depend on anything outside.
    pub(crate) fn new(
        instances: Arc<Instances>,
        pubsub: PubSub,
        state: StateStore,
    ) -> anyhow::Result<Self> {
        let listing = || {
            (SERVICES.into_iter()).fold(Builder::configure(), |builder, name| {
                builder.with_service_name(name)
            })
        };
        let [alpha, v1] = [
            BoxCloneSyncService::new(listing().build_v1alpha().context("describing services")?),
            BoxCloneSyncService::new(listing().build_v1().context("describing services")?),
        ];
        Ok(Self {
            instances,
            pubsub,
            state,
            reflection: [alpha, v1],
        })
    }

    /// Answers on a socket until the token is cancelled.
    ///
    /// # Errors
    /// When connections can no longer be taken.
    pub(crate) async fn serve(
        self,
        mut socket: Socket,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let listener = socket.take_listener().context("the socket was taken")?;
        let service = service_fn(move |request| {
            let door = self.clone();
            async move { Ok::<_, Infallible>(door.answer(request).await) }
        });
        let served = Server::builder()
            .max_concurrent_streams(MAX_STREAMS)
            .serve_with_incoming_shutdown(service, connections(listener), stop.cancelled());
        // A peer that is silent would keep it alive.
        let ended = async {
            stop.cancelled().await;
            sleep(GRACE).await;
        };
        tokio::select! {
            served = served => served.context("the socket failed"),
            () = ended => Ok(()),
        }
    }

    async fn answer(self, request: http::Request<Body>) -> http::Response<Body> {
        let path = request.uri().path().to_owned();
        let Some((service, method)) = path.trim_start_matches('/').split_once('/') else {
            return unimplemented(&path);
        };
        let instance = instance(&request);
        match (service, method) {
            (PUBSUB, "Init") => {
                unary(request, |init: InitRequest| {
                    ready(init::pubsub(&self.instances, &instance, &init))
                })
                .await
            }
            (PUBSUB, "Features") => {
                unary(request, |_: Empty| ready(Ok(FeaturesResponse::default()))).await
            }
            (PUBSUB, "Ping") => unary(request, |_: Empty| ready(Ok(Empty {}))).await,
            (PUBSUB, "Publish") => unary(request, |message| self.pubsub.publish(message)).await,
            (PUBSUB, "BulkPublish") => unary(request, |bulk| self.pubsub.bulk_publish(bulk)).await,
            (PUBSUB, "PullMessages") => {
                let pull = service_fn(|request: Request<Streaming<PullRequest>>| {
                    let messages =
                        (self.pubsub.clone()).pull(instance.name.clone(), request.into_inner());
                    async move { messages.await.map(Response::new) }
                });
                Grpc::new(ProstCodec::<PullResponse, PullRequest>::default())
                    .streaming(pull, request)
                    .await
            }
            (STATE, "Init") => {
                unary(request, |init: InitRequest| {
                    ready(init::state(&self.instances, &instance, &init))
                })
                .await
            }
            (STATE, "Features") => {
                unary(request, |_: Empty| {
                    let features = ["ETAG", "TRANSACTIONAL"].map(str::to_owned).into();
                    ready(Ok(FeaturesResponse { features }))
                })
                .await
            }
            (STATE, "Ping") => unary(request, |_: Empty| ready(Ok(Empty {}))).await,
            (STATE, "Get") => unary(request, |asked| self.state.get(&instance, asked)).await,
            (STATE, "Set") => unary(request, |asked| self.state.set(&instance, asked)).await,
            (STATE, "Delete") => unary(request, |asked| self.state.delete(&instance, asked)).await,
            (STATE, "BulkGet") => {
                unary(request, |asked| self.state.bulk_get(&instance, asked)).await
            }
            (STATE, "BulkSet") => {
                unary(request, |asked| self.state.bulk_set(&instance, asked)).await
            }
            (STATE, "BulkDelete") => {
                unary(request, |asked| self.state.bulk_delete(&instance, asked)).await
            }
            (TRANSACTIONS, "Transact") => {
                unary(request, |asked| self.state.transact(&instance, asked)).await
            }
            (TRANSACTION_SIZE, "MultiMaxSize") => {
                unary(request, |_: Empty| {
                    ready(Ok(StateStore::largest_transaction()))
                })
                .await
            }
            ("grpc.reflection.v1alpha.ServerReflection", _) => {
                let [alpha, _] = self.reflection;
                other(alpha, request).await
            }
            ("grpc.reflection.v1.ServerReflection", _) => {
                let [_, v1] = self.reflection;
                other(v1, request).await
            }
            _ => unimplemented(&path),
        }
    }
}

/// The component that a request is for.
fn instance(request: &http::Request<Body>) -> Instance {
    let name = request.headers().get(INSTANCE);
    let peer = request.extensions().get::<UdsConnectInfo>();
    let credentials = peer.and_then(|peer| peer.peer_cred);
    Instance {
        name: (name.and_then(|name| name.to_str().ok()))
            .unwrap_or_default()
            .to_owned(),
        process: credentials.and_then(|credentials| credentials.pid()),
    }
}

/// Answers a method with one request and one answer.
async fn unary<Req, Res, F>(
    request: http::Request<Body>,
    handle: impl Fn(Req) -> F,
) -> http::Response<Body>
where
    Req: Message + Default + Send + 'static,
    Res: Message + Send + 'static,
    F: Future<Output = Result<Res, Status>>,
{
    let handle = service_fn(|request: Request<Req>| {
        let answer = handle(request.into_inner());
        async move { answer.await.map(Response::new) }
    });
    Grpc::new(ProstCodec::<Res, Req>::default())
        .max_decoding_message_size(MAX_REQUEST)
        .unary(handle, request)
        .await
}

/// Lets a service of another crate answer.
async fn other(service: Other, request: http::Request<Body>) -> http::Response<Body> {
    match service.oneshot(request).await {
        Ok(answer) => answer,
        Err(never) => match never {},
    }
}

/// A method that no component here has.
fn unimplemented(path: &str) -> http::Response<Body> {
    Status::unimplemented(format!("there is no method {path} here")).into_http()
}
