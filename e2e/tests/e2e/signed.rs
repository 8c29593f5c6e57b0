//! Signed events between real processes: what is forged changes nothing, and the keys are exchanged
//! while documents change.

use std::{
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use anyhow::{Context, ensure};
use contract::status::ReplicaStatus;
use e2e::testbed::{
    FREE, StoreKind, Testbed, Transport, dependencies, numbered, services::Service,
    wait::eventually,
};
use reqwest::Method;
use serde_json::{Value, json};

type Outcome = anyhow::Result<()>;

/// Runs `confcast keys`.
fn keys(arguments: &[&str], directory: &Path) -> anyhow::Result<String> {
    let mut command = Command::new(dependencies::own_program("confcast")?);
    command.arg("keys").args(arguments).arg(directory);
    let output = command.output()?;
    ensure!(output.status.success(), "{arguments:?}: {output:?}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A publisher that signs, and replicas that take signed events alone and check in once.
async fn testbed(transport: Transport, directory: &Path) -> anyhow::Result<Testbed> {
    keys(&["create"], directory)?;
    let file = |name: &str| directory.join(name).display().to_string();
    let mut testbed = Testbed::prepare(StoreKind::Embedded, transport).await?;
    testbed.publisher.set(
        "AURA_CONFIGURATION_SIGNING_KEY_FILE",
        file("signing-key.pem"),
    );
    for subscriber in &mut testbed.subscribers {
        subscriber.set("AURA_CONFIGURATION_EVENT_KEYS_FILE", file("event-keys.pem"));
    }
    testbed.publisher.start().await?;
    testbed.start_subscribers().await?;
    Ok(testbed)
}

async fn status(subscriber: &Service) -> anyhow::Result<ReplicaStatus> {
    let answer = subscriber.api().get("/v1/status").await?.expect(200)?;
    Ok(serde_json::from_str(&answer.body)?)
}

/// Posts an event to a replica as a sidecar or a publisher does, and returns the answer.
async fn post(subscriber: &Service, data: &Value) -> anyhow::Result<Value> {
    let event = json!({"specversion": "1.0", "id": "1", "source": "s", "type": "t",
        "datacontenttype": "application/json", "data": data});
    let client = e2e::http().build()?;
    let url = format!("{}/dapr/processConfigurationEvents", subscriber.url());
    let request = client.request(Method::POST, url);
    let request = request.header("content-type", contract::event::MEDIA_TYPE);
    let answer = request.body(event.to_string()).send().await?;
    ensure!(answer.status() == 200, "{answer:?}");
    Ok(serde_json::from_str(&answer.text().await?)?)
}

/// A forger beside a publisher that posts events.
#[tokio::test]
async fn a_forged_event_is_dropped_and_the_publisher_goes_on_sending() -> Outcome {
    let directory = tempfile::tempdir()?;
    let testbed = testbed(Transport::Local, directory.path()).await?;
    let api = testbed.publisher.api();
    api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
    testbed.until_same(FREE, "a").await?;
    let epoch = api.head(FREE).await?.epoch;
    let subscriber = &testbed.subscribers[0];
    for number in 0..50_u64 {
        let forged = json!({"collection": FREE, "op": "Update", "id": "a", "configData": {"id": "a", "n": "forged"},
            "revision": 2 + number, "epoch": epoch, "lastSet": 0,
            "signature": format!("{}.{}", "0".repeat(16), "A".repeat(86))});
        let answer = post(subscriber, &forged).await?;
        ensure!(answer["status"] == "DROP", "{answer}");
    }
    let status_now = status(subscriber).await?;
    ensure!(
        status_now.events.unknown_key == 50,
        "{:?}",
        status_now.events
    );
    for number in 0..20 {
        api.put(FREE, "a", &numbered(number)).await?.expect(200)?;
    }
    testbed.until_same(FREE, "a").await?;
    // Up to 64 events travel at once: one that is overtaken by a newer one of its document is not
    // applied, and may come after it.
    eventually("all events of the publisher are taken", || async {
        let events = status(subscriber).await?.events;
        let taken = events.applied + events.superseded + events.duplicate;
        ensure!((taken, events.dropped) == (21, 50), "{events:?}");
        Ok(())
    })
    .await?;
    let log = testbed.publisher.output();
    ensure!(!log.contains("does not take events"), "{log}");
    Ok(())
}

/// A client of the broker, on both ways of Redis.
#[tokio::test]
async fn a_client_of_the_broker_changes_nothing() -> Outcome {
    for transport in [Transport::PubSub, Transport::Streams] {
        let directory = tempfile::tempdir()?;
        let testbed = testbed(transport, directory.path()).await?;
        let api = testbed.publisher.api();
        api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
        testbed.until_same(FREE, "a").await?;
        let epoch = api.head(FREE).await?.epoch;
        let mut client = testbed.redis.as_ref().context("a Redis")?.client().await?;
        let versioned = json!({"op": "Update", "id": "a", "configData": {"n": "forged"}, "collection": FREE,
            "revision": 2, "epoch": epoch, "lastSet": 0});
        for body in [
            versioned,
            json!({"op": "Delete", "id": "a"}),
            json!({"op": "Update", "id": "b", "configData": {"n": 1}}),
        ] {
            let body = body.to_string();
            let channel = format!("0__:aura-config:{FREE}");
            let stream = format!("{{0__:aura-config}}:{FREE}");
            match transport {
                Transport::Streams => {
                    client
                        .command(&["XADD", &stream, "*", "data", &body])
                        .await?
                }
                _ => client.command(&["PUBLISH", &channel, &body]).await?,
            };
        }
        api.put(FREE, "a", &numbered(1)).await?.expect(200)?;
        testbed.until_same(FREE, "a").await?;
        for subscriber in &testbed.subscribers {
            let events = status(subscriber).await?.events;
            ensure!(
                (events.applied, events.unsigned, events.dropped) == (2, 3, 3),
                "{transport:?}: {events:?}"
            );
            subscriber.api().document(FREE, "b").await?.expect(404)?;
        }
    }
    Ok(())
}

/// Three steps of `confcast keys rotate` while documents change: replicas get every change by an
/// event, because their next check-in never comes.
#[tokio::test]
async fn a_key_exchange_under_load_drops_no_event() -> Outcome {
    let directory = tempfile::tempdir()?;
    let testbed = testbed(Transport::Local, directory.path()).await?;
    let api = testbed.publisher.api();
    api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
    let (done, written) = (AtomicBool::new(false), AtomicU64::new(1));
    let writing = async {
        while !done.load(Ordering::Relaxed) {
            let number = written.fetch_add(1, Ordering::Relaxed);
            api.put(FREE, "a", &numbered(number)).await?.expect(200)?;
        }
        anyhow::Ok(())
    };
    let exchange = async {
        let result = exchange(&testbed, directory.path()).await;
        done.store(true, Ordering::Relaxed);
        result
    };
    let (wrote, exchanged) = tokio::join!(writing, exchange);
    exchanged?;
    wrote?;
    testbed.until_same(FREE, "a").await?;
    let written = written.load(Ordering::Relaxed);
    for subscriber in &testbed.subscribers {
        let status = status(subscriber).await?;
        ensure!(
            status.events.dropped == 0 && status.sync.changes == 0,
            "{status:?}"
        );
        ensure!(
            status.events.applied + status.events.superseded == written,
            "{written}: {status:?}"
        );
    }
    Ok(())
}

async fn exchange(testbed: &Testbed, directory: &Path) -> Outcome {
    let rotate = || keys(&["rotate", "--after", "0s"], directory);
    let until_replicas_have = async |number: usize| {
        for subscriber in &testbed.subscribers {
            eventually("the replica has the keys", async || {
                let keys = status(subscriber).await?.event_keys;
                ensure!(keys.len() == number, "{keys:?}");
                Ok(())
            })
            .await?;
        }
        anyhow::Ok(())
    };
    until_replicas_have(1).await?;
    rotate()?;
    until_replicas_have(2).await?;
    rotate()?;
    eventually("the publisher signs with the new key", async || {
        let log = testbed.publisher.output();
        ensure!(log.contains("from now on"), "{log}");
        Ok(())
    })
    .await?;
    // What the old key signed has arrived.
    let head = testbed.publisher.api().head(FREE).await?.revision;
    for subscriber in &testbed.subscribers {
        eventually("the events of the old key have arrived", async || {
            let collections = status(subscriber).await?.collections;
            let held = collections
                .iter()
                .find(|held| held.collection.as_str() == FREE);
            ensure!(held.is_some_and(|held| held.revision >= head), "{held:?}");
            Ok(())
        })
        .await?;
    }
    rotate()?;
    until_replicas_have(1).await
}
