//! The component as a sidecar meets it: a gRPC client on its socket. No publisher runs here; what needs
//! one, and a real sidecar, is in the crate `e2e`.

use std::{os::unix::net::UnixStream, path::Path, time::Duration};

use clap::Parser;
use component::{app::App, settings::Options};
use futures_util::{StreamExt, stream};
use prost::Message;
use tempfile::TempDir;
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};
use tonic::{
    Code, Request, Status, Streaming,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;
use tonic_reflection::pb::v1alpha::{
    ServerReflectionRequest, ServerReflectionResponse,
    server_reflection_request::MessageRequest::ListServices,
    server_reflection_response::MessageResponse::ListServicesResponse,
};

const PUBSUB: &str = "/dapr.proto.components.v1.PubSub";

/// A running component.
struct Component {
    folder: TempDir,
    stop: oneshot::Sender<()>,
    running: JoinHandle<anyhow::Result<()>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct Empty {}

#[derive(Clone, PartialEq, Message)]
struct Pull {
    #[prost(message, optional, tag = "1")]
    topic: Option<Topic>,
}

#[derive(Clone, PartialEq, Message)]
struct Topic {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct Publish {
    #[prost(bytes = "vec", tag = "1")]
    data: Vec<u8>,
    #[prost(string, tag = "3")]
    topic: String,
}

impl Component {
    #[expect(
        clippy::disallowed_methods,
        reason = "the test awaits the task that it starts"
    )]
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let sockets = folder.path().display().to_string();
        let options = Options::parse_from([
            "confcast-component",
            "--listen=127.0.0.1:0",
            "--api-url=http://127.0.0.1:1",
            "--collections=A",
            "--sockets-folder",
            &sockets,
        ]);
        let app = App::build(options.settings().expect("right")).await;
        let (stop, stopped) = oneshot::channel();
        let running = app.expect("it starts").run(async {
            stopped.await.ok();
        });
        Self {
            folder,
            stop,
            running: tokio::spawn(running),
        }
    }

    fn socket(&self) -> std::path::PathBuf {
        self.folder.path().join("confcast.sock")
    }

    async fn client(&self) -> Grpc<Channel> {
        client(&self.socket()).await
    }

    /// Stops it, which has to work whatever its callers do.
    async fn stop(self) {
        self.stop.send(()).expect("it runs");
        let ended = timeout(Duration::from_secs(10), self.running).await;
        let ended = ended.expect("it ends in time").expect("no panic");
        ended.expect("a clean end");
        assert!(!self.folder.path().join("confcast.sock").exists());
    }
}

async fn client(socket: &Path) -> Grpc<Channel> {
    let endpoint = Endpoint::try_from(format!("unix://{}", socket.display()));
    let channel = endpoint.expect("an address").connect().await;
    let mut client = Grpc::new(channel.expect("it listens"));
    client.ready().await.expect("it is ready");
    client
}

async fn call<Q, A>(client: &mut Grpc<Channel>, path: &str, request: Q) -> Result<A, Status>
where
    Q: Message + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
{
    let path = PathAndQuery::try_from(path).expect("a path");
    client.ready().await.expect("it is ready");
    let answer = client
        .unary(Request::new(request), path, ProstCodec::<Q, A>::default())
        .await;
    answer.map(tonic::Response::into_inner)
}

/// Subscribes with these first requests, and keeps the stream open.
async fn pull(client: &mut Grpc<Channel>, requests: Vec<Pull>) -> Result<Streaming<Empty>, Status> {
    let path = PathAndQuery::try_from(format!("{PUBSUB}/PullMessages")).expect("a path");
    let requests = stream::iter(requests).chain(stream::pending());
    let codec = ProstCodec::<Pull, Empty>::default();
    client.ready().await.expect("it is ready");
    let answer = client.streaming(Request::new(requests), path, codec).await;
    answer.map(tonic::Response::into_inner)
}

fn topic(name: &str) -> Pull {
    Pull {
        topic: Some(Topic {
            name: name.to_owned(),
        }),
    }
}

#[tokio::test]
async fn a_sidecar_finds_the_services_by_reflection() {
    let component = Component::start().await;
    let mut client = component.client().await;
    for version in ["v1alpha", "v1"] {
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(ListServices(String::new())),
        };
        let codec = ProstCodec::<ServerReflectionRequest, ServerReflectionResponse>::default();
        client.ready().await.expect("it is ready");
        let path = PathAndQuery::try_from(path).expect("a path");
        let answers = client.streaming(Request::new(stream::iter([request])), path, codec);
        let mut answers = answers.await.expect("an answer").into_inner();
        let answer = answers
            .message()
            .await
            .expect("no error")
            .expect("an answer");
        let Some(ListServicesResponse(list)) = answer.message_response else {
            panic!("no list: {answer:?}");
        };
        let names: Vec<_> = list
            .service
            .into_iter()
            .map(|service| service.name)
            .collect();
        assert!(
            names.contains(&PUBSUB[1..].to_owned()),
            "{version}: {names:?}"
        );
    }
    let ping: Result<Empty, _> = call(&mut client, &format!("{PUBSUB}/Ping"), Empty {}).await;
    ping.expect("it lives");
    component.stop().await;
}

#[tokio::test]
async fn callers_that_do_not_behave_are_refused_in_words() {
    let component = Component::start().await;
    let mut client = component.client().await;
    for (requests, words) in [
        (vec![Pull::default()], "names no topic"),
        (vec![topic("no topic")], "topic"),
        (vec![topic("B")], "AURA_CONFIGURATION_COLLECTIONS"),
    ] {
        let refusal = pull(&mut client, requests).await.expect_err(words);
        assert!(refusal.message().contains(words), "{refusal}");
        assert!(!refusal.details().is_empty(), "{refusal}");
    }
    let unknown: Result<Empty, _> = call(&mut client, &format!("{PUBSUB}/Drop"), Empty {}).await;
    assert_eq!(unknown.expect_err("no method").code(), Code::Unimplemented);
    let path = format!("{PUBSUB}/Publish");
    let large = Publish {
        data: vec![b' '; 9 << 20],
        topic: "A".to_owned(),
    };
    let refusal: Result<Empty, _> = call(&mut client, &path, large).await;
    assert_eq!(refusal.expect_err("too large").code(), Code::OutOfRange);
    for (data, words) in [
        (&b"\xff"[..], "UTF-8"),
        (b"[]", "no event"),
        (br#"{"specversion":"1.0"}"#, "no data"),
        (br#"{"specversion":"1.0","data":{"id":"a"}}"#, "op"),
        (
            br#"{"op":"Update","id":"a","configData":{"a":1,"a":2}}"#,
            "/a",
        ),
        (
            br#"{"op":"Update","id":"a","configData":{}}"#,
            "cannot reach",
        ),
    ] {
        let publish = Publish {
            data: data.to_vec(),
            topic: "A".to_owned(),
        };
        let refusal: Result<Empty, _> = call(&mut client, &path, publish).await;
        let refusal = refusal.expect_err(words);
        assert!(refusal.message().contains(words), "{refusal}");
    }
    // A peer that is no gRPC client, and says nothing.
    let _silent = UnixStream::connect(component.socket()).expect("a connection");
    component.stop().await;
}

#[tokio::test]
async fn a_subscription_waits_for_a_publisher_and_ends_with_the_component() {
    let component = Component::start().await;
    let mut client = component.client().await;
    let mut messages = pull(&mut client, vec![topic("A")]).await.expect("it waits");
    let nothing = timeout(Duration::from_millis(300), messages.message()).await;
    nothing.expect_err("there is no publisher, and the stream stays");
    component.stop().await;
    let end = messages.message().await.expect("a clean end");
    assert_eq!(end, None);
}

#[tokio::test]
async fn callers_that_open_many_connections_wait_for_each_other() {
    let component = Component::start().await;
    let silent: Vec<_> = (0..256)
        .map(|_each| UnixStream::connect(component.socket()).expect("a connection"))
        .collect();
    let waits = timeout(Duration::from_millis(500), async {
        let mut client = component.client().await;
        call::<Empty, Empty>(&mut client, &format!("{PUBSUB}/Ping"), Empty {}).await
    });
    waits.await.expect_err("there is no place for it");
    drop(silent);
    let mut client = component.client().await;
    let ping: Result<Empty, _> = call(&mut client, &format!("{PUBSUB}/Ping"), Empty {}).await;
    ping.expect("it lives");
    component.stop().await;
}
