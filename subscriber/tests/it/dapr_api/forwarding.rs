//! What goes on to the sidecar.

use axum::{Router, body::Body};
use dapr::dapr::proto::runtime::v1::GetStateResponse;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use tokio::net::TcpListener;
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::*;

/// A sidecar that answers `GetState` with the key, echoes bodies, and is awaited while `test` runs.
async fn with_sidecar(test: impl AsyncFnOnce(SocketAddr)) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("a port");
    let state = |request: axum::http::Request<Body>| async move {
        let method = service_fn(|request: Request<GetStateRequest>| async move {
            let header = request.metadata().get("mine").cloned();
            let data = format!("{}={header:?}", request.get_ref().key).into_bytes();
            if request.get_ref().key == "fail" {
                let mut status = Status::not_found("no such key");
                status
                    .metadata_mut()
                    .insert("why", "trailer".parse().expect("metadata"));
                return Err(status);
            }
            Ok(tonic::Response::new(GetStateResponse {
                data,
                ..GetStateResponse::default()
            }))
        });
        let codec = ProstCodec::<GetStateResponse, GetStateRequest>::default();
        let answer = tonic::server::Grpc::new(codec).unary(method, request).await;
        answer.map(Body::new)
    };
    let echo = |request: axum::http::Request<Body>| async move {
        let names: Vec<_> = request.headers().keys().map(ToString::to_string).collect();
        axum::response::Response::builder()
            .header("seen", names.join(","))
            .header("target", request.uri().to_string())
            .body(request.into_body())
            .expect("an answer")
    };
    let routes = Router::new()
        .route(
            "/dapr.proto.runtime.v1.Dapr/GetState",
            axum::routing::post(state),
        )
        .fallback(echo);
    let serving = async {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let (stream, _peer) = listener.accept().await.expect("a connection");
            let service = TowerToHyperService::new(routes.clone());
            connections.spawn(async move {
                let builder = Builder::new(TokioExecutor::new());
                drop(
                    builder
                        .serve_connection(TokioIo::new(stream), service)
                        .await,
                );
            });
        }
    };
    tokio::select! {
        () = serving => {}
        () = test(address) => {}
    }
}

#[tokio::test]
async fn every_other_call_goes_on_to_the_sidecar_and_back() {
    with_sidecar(async |sidecar| {
        let grpc = format!("--dapr-grpc-endpoint=http://{sidecar}");
        let http = format!("--dapr-http-endpoint={sidecar}");
        check(
            &[SERVED, &grpc, &http],
            publisher(7, 0),
            async |subscriber| {
                let mut client = subscriber.dapr().await;
                let state = |key: &str| {
                    let mut request = Request::new(GetStateRequest {
                        store_name: "statestore".to_owned(),
                        key: key.to_owned(),
                        ..GetStateRequest::default()
                    });
                    request
                        .metadata_mut()
                        .insert("mine", "7".parse().expect("metadata"));
                    request
                };
                let answer = client.get_state(state("k")).await.expect("a state");
                let data = String::from_utf8(answer.into_inner().data).expect("text");
                assert!(data.starts_with("k=") && data.contains('7'), "{data}");
                let refused = client
                    .get_state(state("fail"))
                    .await
                    .expect_err("not found");
                assert_eq!(refused.code(), Code::NotFound);
                assert_eq!(refused.message(), "no such key");
                assert_eq!(refused.metadata().get("why").expect("a trailer"), "trailer");

                let url = format!("http://{}/v1.0/publish/p/t?a=b", subscriber.dapr_api());
                let post = subscriber.client.post(&url).body("x".repeat(300_000));
                let post = post.header("connection", "close, mine").header("mine", "1");
                let answer = post.send().await.expect("an answer");
                assert_eq!(header(&answer, "target"), "/v1.0/publish/p/t?a=b");
                assert!(
                    !header(&answer, "seen")
                        .split(',')
                        .any(|name| name == "mine")
                );
                assert_eq!(answer.text().await.expect("text").len(), 300_000);

                // Credentials of Confcast stay here; those of the callee go on.
                let get = |authorization: &str| {
                    let get = subscriber.client.get(&url);
                    let get = get.header("authorization", authorization);
                    get.header("dapr-api-token", "cct_of-confcast").send()
                };
                for (authorization, goes_on) in
                    [("Bearer cct_of-confcast", false), ("Basic abc", true)]
                {
                    let answer = get(authorization).await.expect("an answer");
                    let seen: Vec<_> = header(&answer, "seen").split(',').collect();
                    assert_eq!(seen.contains(&"authorization"), goes_on, "{seen:?}");
                    assert!(!seen.contains(&"dapr-api-token"), "{seen:?}");
                }
            },
        )
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_sidecar_that_is_not_there_or_leads_back_is_named() {
    let flags = [SERVED, "--dapr-grpc-port=1", "--dapr-http-port=1"];
    check(&flags, publisher(7, 0), async |subscriber| {
        let mut client = subscriber.dapr().await;
        let refused = client.get_state(GetStateRequest::default()).await;
        let refused = refused.expect_err("nobody is there");
        assert_eq!(refused.code(), Code::Unavailable);
        assert!(refused.message().contains("127.0.0.1:1"), "{refused}");
        let url = format!("http://{}/v1.0/metadata", subscriber.dapr_api());
        let answer = subscriber.client.get(&url).send().await.expect("an answer");
        assert_eq!(answer.status(), 502);
        let looped = subscriber
            .client
            .get(&url)
            .header("confcast-passed-on", "1");
        let looped = looped.send().await.expect("an answer");
        let text = looped.text().await.expect("text");
        assert!(text.contains("leads back"), "{text}");
    })
    .await;
}
