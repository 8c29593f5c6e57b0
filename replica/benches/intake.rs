//! From the request of a sidecar to its answer, and a typed read, at 100,000 documents.
//!
//! `cargo bench -p replica --features actix`

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use actix_web::{
    App, HttpRequest, HttpResponse, HttpServer,
    dev::{Service, ServiceResponse},
    http::header::CONTENT_TYPE,
    rt::{System, SystemRunner},
    test::{TestRequest, init_service},
    web,
};
use contract::{
    CanonicalJson, Change, CollectionName, Digest, Document, Epoch, Head,
    event::ROUTE,
    listing,
    signature::{SigningKey, Statement},
    snapshot::SnapshotStart,
};
use criterion::Criterion;
use replica::{
    Builder, Collection, Config, EventKeys, EventOutcome, Events, Replica,
    actix::{Options, scope},
};
use serde::Deserialize;
use serde_json::{Value, json};

const NAME: &str = "ChannelConfiguration";
const DOCUMENTS: u64 = 100_000;
const EPOCH: Epoch = Epoch {
    lineage: 1,
    counter: 1,
};

/// What a document is read as.
#[derive(Deserialize)]
struct Channel {
    number: u64,
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let system = System::new();
    let replica = system.block_on(loaded());
    let channels = replica.collection::<Channel>(NAME).expect("typed");
    get(&mut criterion, &channels);
    let mut revision = DOCUMENTS;
    receive(&mut criterion, &system, &replica, &mut revision);
    let name = "POST /dapr/processConfigurationEvents";
    route(
        &mut criterion,
        name,
        (&system, &replica, &mut revision),
        event,
    );
    let counts = replica.status().events;
    assert_eq!(
        counts.applied,
        revision - DOCUMENTS,
        "every event was applied: {counts:?}"
    );
    // A replica of its own, which takes signed events alone.
    let key = SigningKey::from_seed(&[7; 32]);
    let replica = system.block_on(loaded_with(Some(EventKeys::fixed(key.public()))));
    let mut revision = DOCUMENTS;
    let name = "POST /dapr/processConfigurationEvents, signed";
    let signed = |revision| signed(revision, &key);
    route(
        &mut criterion,
        name,
        (&system, &replica, &mut revision),
        signed,
    );
    let counts = replica.status().events;
    assert_eq!(counts.applied, revision - DOCUMENTS, "{counts:?}");
    criterion.final_summary();
}

fn get(criterion: &mut Criterion, channels: &Collection<Channel>) {
    let (ids, mut number): (Vec<String>, _) = (
        (0..DOCUMENTS).map(|number| id(scattered(number))).collect(),
        0,
    );
    criterion.bench_function("Collection::get", |bench| {
        bench.iter(|| {
            number = (number + 1) % ids.len();
            channels
                .get(black_box(&ids[number]))
                .expect("it is there")
                .number
        });
    });
}

/// The data of an event, parsed, as a service hands it over that has another way of its own.
fn receive(
    criterion: &mut Criterion,
    system: &SystemRunner,
    replica: &Replica,
    revision: &mut u64,
) {
    criterion.bench_function("Replica::receive", |bench| {
        bench.iter_custom(|count| {
            let events = next(revision, count, &event);
            system.block_on(each(events, async |event| {
                assert_eq!(
                    replica.receive(event["data"].take(), None).await,
                    EventOutcome::Success
                );
            }))
        });
    });
}

/// Headers and body of a CloudEvent in structured mode, through the routes that a service mounts.
fn route(
    criterion: &mut Criterion,
    name: &str,
    (system, replica, revision): (&SystemRunner, &Replica, &mut u64),
    event: impl Fn(u64) -> Value,
) {
    let app = system.block_on(init_service(
        App::new().service(scope(replica, &Options::default())),
    ));
    criterion.bench_function(name, |bench| {
        bench.iter_custom(|count| {
            let request = |event: Value| {
                let request = TestRequest::post()
                    .uri(ROUTE)
                    .insert_header((CONTENT_TYPE, "application/cloudevents+json"));
                Some(request.set_payload(event.to_string()).to_request())
            };
            let requests = next(revision, count, &event)
                .into_iter()
                .map(request)
                .collect();
            system.block_on(each(requests, async |request| {
                let answer: ServiceResponse = app
                    .call(request.take().expect("a request"))
                    .await
                    .expect("an answer");
                assert!(answer.status().is_success());
            }))
        });
    });
}

/// How long it takes to do something with each.
async fn each<T>(mut all: Vec<T>, one: impl AsyncFn(&mut T)) -> Duration {
    let begun = Instant::now();
    for each in &mut all {
        one(each).await;
    }
    begun.elapsed()
}

fn next(revision: &mut u64, count: u64, event: &impl Fn(u64) -> Value) -> Vec<Value> {
    let first = *revision + 1;
    *revision += count;
    (first..=*revision).map(event).collect()
}

/// As a sidecar delivers what a publisher of ours sends.
fn event(revision: u64) -> Value {
    let (id, config) = (id(scattered(revision)), config(revision));
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    json!({
        "specversion": "1.0", "id": format!("{NAME}:{EPOCH}:{revision}"), "source": "aura-configuration-api",
        "type": "com.dapr.event.sent", "subject": id, "time": "2026-11-21T09:00:00.123Z", "datacontenttype": "application/json",
        "sequence": format!("{revision:020}"), "partitionkey": id, "correlationid": "order-66", "traceparent": trace,
        "traceid": trace, "topic": NAME, "pubsubname": "pubsub-config", "expiration": "2026-11-21T09:01:00Z",
        "data": {
            "collection": NAME, "op": "Update", "id": id, "crc": config.crc(), "configData": config, "revision": revision,
            "epoch": EPOCH, "lastSet": 0, "metadata": {"ttlInSeconds": "60"}, "pubSubName": "pubsub-config",
            "correlationId": "order-66", "userId": "ada", "organisationId": "hectare",
        },
    })
}

/// The same with a signature.
fn signed(revision: u64, key: &SigningKey) -> Value {
    let mut event = event(revision);
    let mut record = event["data"].clone();
    for (name, value) in [
        ("time", json!("2026-11-21T09:00:00.123Z")),
        ("count", json!(1)),
        ("digest", json!("0000000000000000")),
    ] {
        record[name] = value;
    }
    let change: Change = serde_json::from_value(record).expect("a change");
    event["data"]["signature"] = json!(key.sign(&Statement::of(&change)));
    event
}

fn id(number: u64) -> String {
    format!("document-{number:06}")
}

fn config(number: u64) -> CanonicalJson {
    let text = "Greet whoever calls by name. ".repeat(8);
    let json = format!(
        r#"{{"active":true,"limits":{{"perMinute":120,"ratio":0.25}},"number":{number},"text":"{text}"}}"#
    );
    CanonicalJson::parse(json.as_bytes()).expect("JSON")
}

/// Neighbours in time are none in the order of ids: 7,919 is a prime that does not divide the
/// number of documents.
fn scattered(number: u64) -> u64 {
    number * 7_919 % DOCUMENTS
}

/// A replica that has loaded them from a publisher, which is gone again.
async fn loaded() -> Replica {
    loaded_with(None).await
}

/// The same, which checks the signatures of events with these keys.
async fn loaded_with(event_keys: Option<EventKeys>) -> Replica {
    let body = web::Bytes::from(snapshot());
    let app = move || {
        let body = body.clone();
        App::new().default_service(web::to(move |request: HttpRequest| {
            let found = request.path() == "/v1/snapshot";
            let mut answer = if found {
                HttpResponse::Ok()
            } else {
                HttpResponse::ServiceUnavailable()
            };
            std::future::ready(if found {
                answer.body(body.clone())
            } else {
                answer.finish()
            })
        }))
    };
    let server = HttpServer::new(app)
        .workers(1)
        .disable_signals()
        .bind("127.0.0.1:0")
        .expect("a free port");
    let url = format!("http://{}", server.addrs()[0]);
    let config = Config::new("bench", [url], [NAME]).expect("settings");
    let config = Config {
        events: Events::Posted,
        event_keys,
        ..config
    };
    let builder = Builder::new(config)
        .collection::<Channel>(NAME)
        .expect("followed");
    let replica = builder.build().expect("a replica");
    let server = server.run();
    let handle = server.handle();
    let (ended, ()) = tokio::join!(server, async {
        let ready = replica.run(replica.ready()).await;
        ready.expect("every value fits");
        handle.stop(false).await;
    });
    ended.expect("a server that ends well");
    replica
}

fn snapshot() -> Vec<u8> {
    let name: CollectionName = NAME.parse().expect("a name");
    let document = |number| {
        Document::new(
            id(number).parse().expect("an id"),
            number + 1,
            &config(number),
        )
    };
    let documents: Vec<Document> = (0..DOCUMENTS).map(document).collect();
    let add = |digest: Digest, document: &Document| {
        digest.with(document.id(), document.revision(), document.crc())
    };
    let digest = documents.iter().fold(Digest::default(), add);
    let head = Head {
        revision: DOCUMENTS,
        count: DOCUMENTS,
        digest,
        ..Head::empty(name.clone(), EPOCH)
    };
    let mut out = Vec::new();
    listing::start_line(
        &SnapshotStart {
            epoch: EPOCH,
            heads: vec![head],
        },
        &mut out,
    );
    documents
        .iter()
        .for_each(|document| document.snapshot_line(&name, &mut out));
    listing::end_line(DOCUMENTS, &mut out);
    out
}
