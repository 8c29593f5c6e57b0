//! One suite for every transport and every store: each write arrives in both replicas, by events
//! alone.

use anyhow::ensure;
use e2e::testbed::{
    CHANNELS, FREE, StoreKind, Testbed, Transport, numbered, sample, wait::eventually,
};
use reqwest::Method;
use serde_json::{Value, json};

type Outcome = anyhow::Result<()>;

#[tokio::test]
async fn local_delivery_with_the_embedded_store() -> Outcome {
    suite(StoreKind::Embedded, Transport::Local).await
}

#[tokio::test]
async fn local_delivery_with_mongodb() -> Outcome {
    suite(StoreKind::Mongo, Transport::Local).await
}

#[tokio::test]
async fn dapr_delivery_with_the_embedded_store() -> Outcome {
    suite(StoreKind::Embedded, Transport::Dapr).await
}

#[tokio::test]
async fn dapr_delivery_with_mongodb() -> Outcome {
    suite(StoreKind::Mongo, Transport::Dapr).await
}

#[tokio::test]
async fn redis_pub_sub_delivery_with_the_embedded_store() -> Outcome {
    suite(StoreKind::Embedded, Transport::PubSub).await
}

#[tokio::test]
async fn redis_pub_sub_delivery_with_mongodb() -> Outcome {
    suite(StoreKind::Mongo, Transport::PubSub).await
}

#[tokio::test]
async fn redis_stream_delivery_with_the_embedded_store() -> Outcome {
    suite(StoreKind::Embedded, Transport::Streams).await
}

#[tokio::test]
async fn redis_stream_delivery_with_mongodb() -> Outcome {
    suite(StoreKind::Mongo, Transport::Streams).await
}

#[tokio::test]
async fn feed_delivery_with_the_embedded_store() -> Outcome {
    suite(StoreKind::Embedded, Transport::Feed).await
}

#[tokio::test]
async fn feed_delivery_with_mongodb() -> Outcome {
    suite(StoreKind::Mongo, Transport::Feed).await
}

async fn suite(kind: StoreKind, transport: Transport) -> Outcome {
    let mut testbed = Testbed::start(kind, transport).await?;
    each_replica_receives_every_change(&testbed).await?;
    testbed.publisher.stop().await?;
    for subscriber in &mut testbed.subscribers {
        subscriber.stop().await?;
    }
    Ok(())
}

/// What is true of every transport. The testbed is new.
pub(crate) async fn each_replica_receives_every_change(testbed: &Testbed) -> Outcome {
    create_update_delete(testbed).await?;
    three_in_a_row(testbed).await?;
    what_does_not_fit_is_fetched(testbed).await?;
    testbed.until_converged(FREE).await?;
    testbed.until_converged(CHANNELS).await?;
    everything_came_by_event(testbed).await
}

async fn create_update_delete(testbed: &Testbed) -> Outcome {
    let api = testbed.publisher.api();
    let mut channel = sample(CHANNELS)?;
    let id = channel["id"].as_str().unwrap_or_default().to_owned();
    api.create(CHANNELS, &channel).await?.expect(201)?;
    testbed.until_same(CHANNELS, &id).await?;
    channel["metadata"] = json!({"changed": "yes"});
    api.put(CHANNELS, &id, &channel).await?.expect(200)?;
    testbed.until_same(CHANNELS, &id).await?;
    api.delete(CHANNELS, &id).await?.expect(200)?;
    testbed.until_same(CHANNELS, &id).await?;
    api.create(CHANNELS, &channel).await?.expect(201)?;
    testbed.until_same(CHANNELS, &id).await
}

async fn three_in_a_row(testbed: &Testbed) -> Outcome {
    let api = testbed.publisher.api();
    for id in ["one", "two", "three"] {
        api.create(FREE, &json!({ "id": id })).await?.expect(201)?;
    }
    for number in 1..=3 {
        for id in ["one", "two", "three"] {
            api.put(FREE, id, &numbered(number)).await?.expect(200)?;
        }
    }
    for id in ["one", "two", "three"] {
        testbed.until_same(FREE, id).await?;
    }
    Ok(())
}

/// The value is too large for an event, or has an integer that a sidecar would round: the event
/// carries the id only.
async fn what_does_not_fit_is_fetched(testbed: &Testbed) -> Outcome {
    let api = testbed.publisher.api();
    api.create(FREE, &json!({"id": "large", "text": "t".repeat(1_000_000)}))
        .await?
        .expect(201)?;
    testbed.until_same(FREE, "large").await?;
    let exact = r#"{"id":"exact","integer":9007199254740993}"#;
    api.send(
        Method::POST,
        &format!("/v1/collections/{FREE}/documents"),
        &[],
        exact,
    )
    .await?
    .expect(201)?;
    testbed.until_same(FREE, "exact").await?;
    // Many quotes: the value is short enough, but too long after it is escaped in an event.
    let quotes = json!({"id": "quotes", "text": "\u{1}".repeat(8_000)});
    api.create(FREE, &quotes).await?.expect(201)?;
    testbed.until_same(FREE, "quotes").await
}

async fn everything_came_by_event(testbed: &Testbed) -> Outcome {
    let written = testbed.publisher.api().head(FREE).await?.revision
        + testbed.publisher.api().head(CHANNELS).await?.revision;
    for subscriber in &testbed.subscribers {
        let api = subscriber.api();
        eventually("every change was applied or superseded", async || {
            let status = api.get("/v1/status").await?.json()?;
            let events = &status["events"];
            let count = |name: &str| events[name].as_u64().unwrap_or_default();
            // On a busy machine an event may come after the grace period. Then the feed was first,
            // and the event is a duplicate.
            let overtaken = status["sync"]["changes"].as_u64().unwrap_or_default();
            let first = count("applied") + count("superseded");
            ensure!(
                first + overtaken == written,
                "{written} changes, but {events} and {overtaken} by feed"
            );
            ensure!(
                count("duplicate") >= overtaken && overtaken <= written / 4,
                "{overtaken} by feed, but {events}"
            );
            ensure!(status["state"] == json!("current"), "{status}");
            Ok(())
        })
        .await?;
        let status: Value = api.get("/v1/status").await?.json()?;
        // A feed has no size limit for a value, so no value is omitted.
        let fetched = status["events"]["fetched"].as_u64() >= Some(2);
        ensure!(
            fetched == (testbed.transport != Transport::Feed),
            "{status}"
        );
        ensure!(status["drops"] == json!([]), "{status}");
    }
    Ok(())
}

/// The order of starts does not matter: a subscriber waits for its publisher, and loads the
/// documents that were written before it started.
#[tokio::test]
async fn a_subscriber_loads_when_it_starts_before_or_after_the_publisher() -> Outcome {
    let mut testbed = Testbed::prepare(StoreKind::Embedded, Transport::Local).await?;
    testbed.subscribers[0].launch()?;
    let early = testbed.subscribers[0].api();
    eventually("it answers before it can serve", async || {
        ensure!(early.status_of("/healthz").await? < 300);
        ensure!(early.status_of("/readyz").await? == 503);
        let refused = early.document(FREE, "a").await?;
        ensure!(
            refused.status == 503
                && serde_json::from_str::<contract::Problem>(&refused.body)?.kind
                    == contract::ProblemKind::Loading,
            "{}",
            refused.body
        );
        ensure!(
            early
                .get("/dapr/subscribe")
                .await?
                .json()?
                .as_array()
                .is_some_and(|topics| topics.len() == 7)
        );
        Ok(())
    })
    .await?;
    testbed.publisher.start().await?;
    testbed.subscribers[0].until_ready().await?;
    let api = testbed.publisher.api();
    api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
    testbed.subscribers[1].start().await?;
    testbed.until_same(FREE, "a").await?;
    api.put(FREE, "a", &numbered(1)).await?.expect(200)?;
    testbed.until_same(FREE, "a").await
}

/// With events switched off, no event is pending and none is sent. Replicas rely on reading the
/// heads.
#[tokio::test]
async fn replicas_converge_with_events_switched_off() -> Outcome {
    let mut testbed = Testbed::prepare(StoreKind::Embedded, Transport::Local).await?;
    testbed.publisher = testbed
        .publisher
        .with("AURA_CONFIGURATION_EVENTS_ENABLED", "false");
    testbed.subscribers.truncate(1);
    let quiet = testbed
        .subscribers
        .remove(0)
        .with("AURA_CONFIGURATION_EVENTS_ENABLED", "false");
    testbed
        .subscribers
        .push(quiet.with("AURA_CONFIGURATION_CHECK_IN_SECONDS", "1"));
    testbed.publisher.start().await?;
    testbed.start_subscribers().await?;
    let subscriber = testbed.subscribers[0].api();
    ensure!(subscriber.get("/dapr/subscribe").await?.body == "[]");
    testbed
        .publisher
        .api()
        .create(FREE, &json!({"id": "a"}))
        .await?
        .expect(201)?;
    testbed.until_same(FREE, "a").await?;
    ensure!(subscriber.get("/v1/status").await?.json()?["events"]["applied"] == json!(0));
    Ok(())
}
