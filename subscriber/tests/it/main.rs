//! A complete subscriber on a free port, beside a fake publisher whose answers each test defines.
//!
//! This file has the fixture: the subscriber, the publisher and events. The tests are in a module per
//! subject.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::{HttpRequest, HttpResponse, HttpServer, http::StatusCode, web};
use clap::Parser;
use contract::{
    CanonicalJson, Digest, Document, Head, Heads, Problem, ProblemKind, listing,
    snapshot::SnapshotStart,
    status::{ReplicaState, ReplicaStatus},
};
use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};
use subscriber::{app::App, settings::Options};
use tokio::sync::oneshot;

mod access;
mod browsers;
mod chain;
mod credentials;
mod dapr_api;
mod events;
#[path = "../../../service/tests/file_settings/mod.rs"]
mod file_settings;
mod fresh;
mod http;
#[path = "../../../service/tests/life/mod.rs"]
mod life;
mod reads;
mod refusals;
mod starts;
#[path = "../../../service/tests/wire/mod.rs"]
mod wire;

const EPOCH: &str = "0f86d081-1";
const EVENTS: &str = "/dapr/processConfigurationEvents";
const STRUCTURED: &str = "application/cloudevents+json";

type Headers<'a> = &'a [(&'a str, &'a str)];

/// A running subscriber.
struct Subscriber {
    address: SocketAddr,
    dapr_api: Option<SocketAddr>,
    client: Client,
}

impl Subscriber {
    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(self.url(path))
    }

    async fn fetch(&self, path: &str) -> Response {
        self.get(path).send().await.expect("an answer")
    }

    /// Posts a message to the event route; the answer is 200 whatever it was.
    async fn post(&self, headers: Headers<'_>, body: impl Into<reqwest::Body>) -> Value {
        let mut request = self.client.post(self.url(EVENTS)).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), 200);
        answer.json().await.expect("json")
    }

    async fn event(&self, data: Value) -> Value {
        self.post(&[("content-type", STRUCTURED)], envelope(data))
            .await
    }

    async fn status(&self) -> ReplicaStatus {
        self.fetch("/v1/status")
            .await
            .json()
            .await
            .expect("a status")
    }

    /// Waits until the subscriber is in this state, at most 10 s.
    async fn reaches(&self, state: ReplicaState) {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        while self.status().await.state != state {
            assert!(
                Instant::now() < deadline,
                "not {state:?} in time: {:?}",
                self.status().await
            );
            tick.tick().await;
        }
    }
}

/// A structured CloudEvent with this data.
fn envelope(data: Value) -> String {
    json!({"specversion": "1.0", "id": "1", "source": "test", "type": "com.dapr.event.sent",
        "datacontenttype": "application/json", "traceparent": "", "topic": "A", "data": data})
    .to_string()
}

/// Data of an event that stores `value` in a document of A.
fn update(id: &str, revision: u64, value: &Value) -> Value {
    let crc = config(value).crc();
    json!({"collection": "A", "op": "Update", "id": id, "revision": revision, "epoch": EPOCH, "crc": crc,
        "configData": value})
}

/// Runs `test` beside a subscriber with these flags. `answer` gives the answers of its publisher by
/// path and query; `None` is answered 503.
async fn check(
    flags: &[&str],
    answer: impl Fn(&str) -> Option<(u16, String)> + Send + Sync + 'static,
    test: impl AsyncFnOnce(&Subscriber),
) {
    refusals::keep_log();
    let answer = Arc::new(answer);
    let publisher = HttpServer::new(move || {
        let answer = Arc::clone(&answer);
        actix_web::App::new().default_service(web::to(move |request: HttpRequest| {
            let (status, body) = answer(&request.uri().to_string()).unwrap_or((503, String::new()));
            std::future::ready(
                HttpResponse::build(StatusCode::from_u16(status).expect("a status")).body(body),
            )
        }))
    });
    let publisher = publisher
        .workers(1)
        .disable_signals()
        .bind("127.0.0.1:0")
        .expect("a free port");
    let url = format!("--api-url=http://{}", publisher.addrs()[0]);
    let publisher = publisher.run();
    let handle = publisher.handle();

    let fixed = [
        "subscriber",
        "--listen=127.0.0.1:0",
        "--host-name=here",
        &url,
    ];
    let named = flags.iter().any(|flag| flag.starts_with("--collections"));
    let collections: &[&str] = if named { &[] } else { &["--collections=A,B"] };
    let all = fixed.iter().chain(collections).chain(flags);
    let options = Options::try_parse_from(all).expect("known flags");
    let app = App::build(options.settings().expect("good settings")).expect("a port");
    let subscriber = Subscriber {
        address: app.address(),
        dapr_api: app.dapr_api(),
        client: Client::builder()
            .tls_backend_preconfigured(tls::ClientTls::default().config())
            .no_proxy()
            .build()
            .expect("a client"),
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let (ended, app_ended, ()) =
        tokio::join!(publisher, app.run(async { drop(stopped.await) }), async {
            test(&subscriber).await;
            drop(stop);
            handle.stop(false).await;
        });
    ended.expect("a publisher that ends well");
    app_ended.expect("a subscriber that ends well");
}

fn config(value: &Value) -> CanonicalJson {
    CanonicalJson::parse(value.to_string().as_bytes()).expect("canonical")
}

/// A publisher at revision `revision` of A, with `x` in it and `count` large documents.
fn publisher(revision: u64, count: u64) -> impl Fn(&str) -> Option<(u16, String)> {
    let epoch = EPOCH.parse().expect("an epoch");
    let large = "y".repeat(10_000);
    let documents: Vec<Document> = std::iter::once(("x".to_owned(), json!({"v": 1})))
        .chain((0..count).map(|n| (format!("large-{n}"), json!({"v": n, "text": large}))))
        .map(|(id, value)| Document::new(id.parse().expect("an id"), 1, &config(&value)))
        .collect();
    let add = |digest: Digest, document: &Document| {
        digest.with(document.id(), document.revision(), document.crc())
    };
    let a = Head {
        revision,
        count: documents.len() as u64,
        digest: documents.iter().fold(Digest::default(), add),
        ..Head::empty("A".parse().expect("a name"), epoch)
    };
    let heads = vec![a, Head::empty("B".parse().expect("a name"), epoch)];
    let mut out = Vec::new();
    listing::start_line(
        &SnapshotStart {
            epoch,
            heads: heads.clone(),
        },
        &mut out,
    );
    documents
        .iter()
        .for_each(|document| document.snapshot_line(&"A".parse().expect("a name"), &mut out));
    listing::end_line(documents.len() as u64, &mut out);
    let snapshot = String::from_utf8(out).expect("text");
    let heads = serde_json::to_string(&Heads { heads }).expect("json");
    move |path| match path {
        "/v1/snapshot?collections=A,B" => Some((200, snapshot.clone())),
        "/v1/collections" => Some((200, heads.clone())),
        _ => None,
    }
}

fn header<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer
        .headers()
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

/// Requires that the answer is a problem of this status and kind.
async fn problem(answer: Response, status: u16, kind: &str) {
    assert_eq!(
        (answer.status().as_u16(), header(&answer, "content-type")),
        (status, "application/problem+json")
    );
    let problem: Problem = answer.json().await.expect("a problem");
    assert_eq!(
        (problem.status, problem.kind.to_string()),
        (status, format!("urn:confcast:problem:{kind}"))
    );
}
