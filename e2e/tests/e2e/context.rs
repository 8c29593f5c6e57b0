//! The context of a request: from its headers into the change record, the event, and the data that
//! is published directly to Redis.

use std::net::TcpListener;

use anyhow::{Context, ensure};
use contract::{Change, FeedPage, Problem, event};
use e2e::{
    client::Api,
    testbed::{CHANNELS, FREE, Store, StoreKind, Testbed, Transport, sample, wait::TIMEOUT},
};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::timeout};

type Outcome = anyhow::Result<()>;

const JSON: (&str, &str) = ("content-type", "application/json");
const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const HEADERS: [(&str, &str); 5] = [
    JSON,
    ("x-correlation-id", "order-66"),
    ("x-user-id", "ada@example.org"),
    ("x-organisation-id", "hectare/north"),
    ("traceparent", TRACE),
];

#[tokio::test]
async fn a_context_is_in_record_and_event_embedded() -> Outcome {
    in_record_and_event(StoreKind::Embedded).await
}

#[tokio::test]
async fn a_context_is_in_record_and_event_mongo() -> Outcome {
    in_record_and_event(StoreKind::Mongo).await
}

#[tokio::test]
async fn a_context_is_sent_through_redis_embedded() -> Outcome {
    through_redis(StoreKind::Embedded).await
}

#[tokio::test]
async fn a_context_is_sent_through_redis_mongo() -> Outcome {
    through_redis(StoreKind::Mongo).await
}

/// One write, one change set of two documents in two collections, and one write without a context.
async fn write(api: &Api) -> Outcome {
    let channel = sample(CHANNELS)?;
    let send = async |method, path: &str, headers: &[(&str, &str)], body: Value| {
        api.send(method, path, headers, body.to_string()).await
    };
    let documents = format!("/v1/collections/{FREE}/documents");
    send(Method::POST, &documents, &HEADERS, json!({"id": "a"}))
        .await?
        .expect(201)?;
    let set = json!({"changes": [
        {"collection": FREE, "op": "Create", "id": "b", "configData": {}},
        {"collection": CHANNELS, "op": "Create", "id": channel["id"], "configData": channel},
    ]});
    send(Method::POST, "/v1/changes", &HEADERS, set)
        .await?
        .expect(200)?;
    send(
        Method::PUT,
        &format!("{documents}/a"),
        &[JSON],
        json!({"n": 1}),
    )
    .await?
    .expect(200)?;

    let long = "x".repeat(129);
    for header in ["X-Correlation-Id", "X-User-Id", "X-Organisation-Id"] {
        for bad in ["", "two words", &long] {
            let answer = send(Method::POST, &documents, &[JSON, (header, bad)], json!({}))
                .await?
                .expect(400)?;
            let problem: Problem = serde_json::from_str(&answer.body)?;
            ensure!(
                problem.field.as_deref() == Some(header),
                "{header}={bad}: {}",
                answer.body
            );
        }
    }
    Ok(())
}

/// The change records of [`write`], in order.
async fn records(api: &Api) -> anyhow::Result<Vec<Change>> {
    let page = api
        .get(&format!("/v1/changes?since={FREE}:0,{CHANNELS}:0"))
        .await?
        .expect(200)?;
    let mut items = serde_json::from_str::<FeedPage>(&page.body)?.items;
    items.sort_by_key(|change| (change.collection.as_str() == FREE, change.revision));
    let places: Vec<_> = items
        .iter()
        .map(|change| (change.collection.as_str(), change.revision))
        .collect();
    ensure!(
        places == [(CHANNELS, 1), (FREE, 1), (FREE, 2), (FREE, 3)],
        "{places:?}"
    );
    let raw: Value = serde_json::from_str(&page.body)?;
    let members = ["correlationId", "userId", "organisationId", "traceparent"];
    for item in raw["items"].as_array().context("items")? {
        let has_context = item["collection"] == CHANNELS || item["revision"] != 3;
        let expected = ["order-66", "ada@example.org", "hectare/north", TRACE]
            .map(|text| has_context.then(|| json!(text)));
        let found = members.map(|member| item.get(member).cloned());
        ensure!(found == expected, "{item}");
    }
    Ok(items)
}

/// The data of an event equals its change record, except for the trace.
fn compare(data: &Value, record: &Change) -> Outcome {
    let context = &record.context;
    for (member, expected) in [
        ("correlationId", context.correlation_id()),
        ("userId", context.user_id()),
        ("organisationId", context.organisation_id()),
        ("traceparent", None),
    ] {
        ensure!(
            data.get(member) == expected.map(|text| json!(text)).as_ref(),
            "{member}: {data}"
        );
    }
    Ok(())
}

fn by_place(data: &Value) -> (bool, u64) {
    (
        data["collection"] == FREE,
        data["revision"].as_u64().unwrap_or_default(),
    )
}

async fn in_record_and_event(kind: StoreKind) -> Outcome {
    let store = Store::start(kind).await?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let subscriber = format!("http://{}", listener.local_addr()?);
    let mut publisher = store
        .publisher()?
        .with("AURA_CONFIGURATION_LOCAL_SUBSCRIBERS", subscriber);
    let (sender, mut events) = mpsc::unbounded_channel();
    let server = receiver(sender, listener)?;
    let test = async {
        publisher.start().await?;
        let api = publisher.api();
        write(&api).await?;
        let mut received: Vec<Value> = Vec::new();
        while received.len() < 4 {
            received.push(timeout(TIMEOUT, events.recv()).await?.context("an event")?);
        }
        received.sort_by_key(|event| by_place(&event["data"]));
        for (event, record) in received.iter().zip(records(&api).await?) {
            compare(&event["data"], &record)?;
            let context = &record.context;
            for (name, expected) in [
                (event::CORRELATION_ID, context.correlation_id()),
                (event::TRACEPARENT, context.traceparent()),
                ("userid", None),
            ] {
                ensure!(
                    event.get(name) == expected.map(|text| json!(text)).as_ref(),
                    "{name}: {event}"
                );
            }
        }
        // The data comes from the store, not from the memory of the publisher that wrote it.
        publisher.stop().await?;
        publisher.start().await?;
        records(&api).await.map(drop)
    };
    tokio::select! {
        ended = server => ended.context("the receiver"),
        tested = test => tested,
    }
}

/// A subscriber that accepts every event.
fn receiver(
    events: mpsc::UnboundedSender<Value>,
    listener: TcpListener,
) -> anyhow::Result<actix_web::dev::Server> {
    use actix_web::{App, HttpResponse, HttpServer, web};
    let server = HttpServer::new(move || {
        let events = events.clone();
        let take = move |body: web::Bytes| {
            drop(serde_json::from_slice(&body).map(|event| events.send(event)));
            async { HttpResponse::Ok().json(json!({"status": "SUCCESS"})) }
        };
        let topics = json!(
            [FREE, CHANNELS]
                .map(|topic| json!({"topic": topic, "routes": {"default": event::ROUTE}}))
        );
        let subscribe = move || std::future::ready(HttpResponse::Ok().json(&topics));
        App::new()
            .route(event::SUBSCRIBE_ROUTE, web::get().to(subscribe))
            .route(event::ROUTE, web::post().to(take))
    });
    Ok(server.workers(1).disable_signals().listen(listener)?.run())
}

async fn through_redis(kind: StoreKind) -> Outcome {
    let testbed = Testbed::start(kind, Transport::PubSub).await?;
    let redis = testbed.redis.as_ref().context("a redis")?;
    let mut free = redis
        .listen("SUBSCRIBE", &format!("0__:aura-config:{FREE}"))
        .await?;
    let mut channels = redis
        .listen("SUBSCRIBE", &format!("0__:aura-config:{CHANNELS}"))
        .await?;
    let api = testbed.publisher.api();
    write(&api).await?;
    let bodies = [
        free.next().await?,
        free.next().await?,
        free.next().await?,
        channels.next().await?,
    ];
    let mut received = bodies
        .iter()
        .map(|(_channel, body)| serde_json::from_str(body))
        .collect::<Result<Vec<Value>, _>>()?;
    received.sort_by_key(by_place);
    for (data, record) in received.iter().zip(records(&api).await?) {
        compare(data, &record)?;
    }
    // Replicas apply these events as before.
    testbed.until_converged(FREE).await?;
    testbed.until_converged(CHANNELS).await
}
