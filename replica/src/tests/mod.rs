//! A replica against a real HTTP server whose answers each test decides.

mod catch_up;
mod check_in;
mod claims;
mod drop_reports;
mod events;
mod follow;
mod freshness;
mod handlers;
mod id_only;
mod load;
mod memory;
mod persistence;
mod refusals;
#[cfg(feature = "actix")]
mod routes;
mod signed;
mod slow;
#[cfg(feature = "traces")]
mod traces;
mod unversioned;
mod withdrawn;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, http::StatusCode, web};
use contract::{
    CanonicalJson, Change, CollectionName, Digest, Document, DocumentId, Epoch, FeedPage, Head,
    Heads, Operation, Problem, listing, snapshot,
    status::{EventCounts, ReplicaState},
};
use serde_json::{Value, json};

use crate::{Config, EventOutcome, Events, Replica, Url};

const EPOCH: &str = "0f86d081-1";

/// Runs `test` with a publisher that answers each path with the status and the body of `answer`.
async fn with_publisher(
    answer: impl Fn(&str) -> (u16, String) + Send + Sync + 'static,
    test: impl AsyncFnOnce(Replica),
) {
    with_listener(
        move |path, _body| answer(path),
        async |url| test(replica(vec![nobody(), url])).await,
    )
    .await;
}

/// Runs `test` with a publisher whose answers also depend on the bodies that it receives.
async fn with_listener(
    answer: impl Fn(&str, &[u8]) -> (u16, String) + Send + Sync + 'static,
    test: impl AsyncFnOnce(Url),
) {
    let answer = move |request: &HttpRequest, body: &[u8]| {
        let (status, body) = answer(&request.uri().to_string(), body);
        HttpResponse::build(StatusCode::from_u16(status).expect("a status")).body(body)
    };
    with_server(answer, test).await;
}

/// Runs `test` with a server that gives these answers.
async fn with_server(
    answer: impl Fn(&HttpRequest, &[u8]) -> HttpResponse + Send + Sync + 'static,
    test: impl AsyncFnOnce(Url),
) {
    let answer = Arc::new(answer);
    let app = move || {
        let answer = Arc::clone(&answer);
        App::new().default_service(web::to(move |request: HttpRequest, body: web::Bytes| {
            std::future::ready(answer(&request, &body))
        }))
    };
    let server = HttpServer::new(app)
        .workers(1)
        .disable_signals()
        .bind("127.0.0.1:0")
        .expect("a free port");
    let url = Url::parse(&format!("http://{}", server.addrs()[0])).expect("a URL");
    let server = server.run();
    let handle = server.handle();
    // The state of a replica that runs is large, and the stack of a test thread is not.
    let tested = Box::pin(async {
        test(url).await;
        handle.stop(false).await;
    });
    let (ended, ()) = tokio::join!(server, tested);
    ended.expect("a server that ends well");
}

fn nobody() -> Url {
    Url::parse("http://127.0.0.1:1").expect("a URL where nothing listens")
}

pub(crate) fn settings(publishers: Vec<Url>) -> Config {
    let publishers = publishers.into_iter().map(Into::into).collect();
    Config {
        instance: "test".to_owned(),
        collections: BTreeSet::from(["A", "B"].map(name)),
        follow: crate::Follow::Named,
        publishers,
        base_url: None,
        check_in: Duration::from_secs(600),
        events: Events::Posted,
        snapshot_dir: None,
        credentials: crate::Credentials::default(),
        sidecar_token: None,
        app_token: None,
        event_keys: None,
    }
}

fn replica(publishers: Vec<Url>) -> Replica {
    Replica::new(settings(publishers)).expect("a client")
}

/// Runs `test` while the replica follows its publisher.
async fn following(replica: &Replica, test: impl Future<Output = ()>) {
    Box::pin(replica.run(test)).await;
}

async fn eventually(what: &str, check: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut tick = tokio::time::interval(Duration::from_millis(2));
    while !check() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tick.tick().await;
    }
}

pub(crate) fn name(text: &str) -> CollectionName {
    text.parse().expect("a name")
}

fn id(text: &str) -> DocumentId {
    text.parse().expect("an id")
}

fn config(value: &Value) -> CanonicalJson {
    CanonicalJson::parse(value.to_string().as_bytes()).expect("canonical")
}

fn document(text: &str, revision: u64, value: &Value) -> Document {
    Document::new(id(text), revision, &config(value))
}

fn head(collection: &str, epoch: &str, revision: u64, documents: &[Document]) -> Head {
    let add = |digest: Digest, document: &Document| {
        digest.with(document.id(), document.revision(), document.crc())
    };
    Head {
        count: documents.len() as u64,
        digest: documents.iter().fold(Digest::default(), add),
        revision,
        ..Head::empty(name(collection), epoch.parse().expect("an epoch"))
    }
}

/// A snapshot of A with these documents, and of B with nothing.
fn snapshot_of(epoch: &str, revision: u64, documents: &[Document]) -> String {
    let heads = vec![
        head("A", epoch, revision, documents),
        head("B", epoch, 0, &[]),
    ];
    let mut out = Vec::new();
    listing::start_line(
        &snapshot::SnapshotStart {
            epoch: epoch.parse().expect("an epoch"),
            heads,
        },
        &mut out,
    );
    documents
        .iter()
        .for_each(|document| document.snapshot_line(&name("A"), &mut out));
    listing::end_line(documents.len() as u64, &mut out);
    String::from_utf8(out).expect("text")
}

fn heads_of(epoch: &str, revision: u64) -> String {
    let heads = vec![head("A", epoch, revision, &[]), head("B", epoch, 0, &[])];
    serde_json::to_string(&Heads { heads }).expect("json")
}

fn not_found() -> (u16, String) {
    (404, "Cannot GET".to_owned())
}

fn event(op: &str, text: &str, revision: u64, value: Option<Value>) -> Value {
    let mut data =
        json!({"collection": "A", "op": op, "id": text, "revision": revision, "epoch": EPOCH});
    if let Some(value) = value {
        data["crc"] = json!(config(&value).crc());
        data["configData"] = value;
    }
    data
}

fn held(replica: &Replica, text: &str) -> Option<String> {
    let view = replica.view();
    let document = view.root().get(&name("A"), &id(text))?;
    Some(String::from_utf8_lossy(document.config_data()).into_owned())
}

fn counts(replica: &Replica) -> EventCounts {
    replica.status().events
}

#[test]
fn the_futures_of_a_replica_can_be_moved_between_threads() {
    fn check(_: impl Send) {}
    let replica = replica(Vec::new());
    check(replica.run(std::future::pending::<()>()));
    check(replica.receive(Value::Null, None));
}

/// A record of collection A.
fn change(text: &str, revision: u64, value: Option<Value>) -> Change {
    Change {
        collection: name("A"),
        op: if value.is_some() {
            Operation::Update
        } else {
            Operation::Delete
        },
        id: id(text),
        revision,
        epoch: EPOCH.parse().expect("an epoch"),
        last_set: 0,
        crc: value.as_ref().map(|value| config(value).crc()),
        config_data: value.as_ref().map(config),
        change_set: None,
        time: chrono::DateTime::UNIX_EPOCH,
        count: 1,
        digest: Digest::default(),
        proof: None,
        context: contract::Context::default(),
    }
}

fn feed_of(items: Vec<Change>, more: bool) -> String {
    serde_json::to_string(&FeedPage {
        heads: Vec::new(),
        items,
        more,
    })
    .expect("json")
}

/// The answer to a check-in: A at a revision, B at 0.
fn checked_in(revision: u64, resync: &[&str]) -> String {
    let heads = vec![head("A", EPOCH, revision, &[]), head("B", EPOCH, 0, &[])];
    let resync = resync
        .iter()
        .map(|text| (name(text), contract::fleet::ResyncReason::Diverged))
        .collect();
    serde_json::to_string(&contract::fleet::CheckInAnswer {
        heads,
        // The heads have no documents: their digests say nothing.
        unsettled: [name("A")].into(),
        resync,
        ..Default::default()
    })
    .expect("json")
}
