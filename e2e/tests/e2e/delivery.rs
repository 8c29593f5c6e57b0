//! One suite for every way that events travel, on every store: what is written arrives in both
//! replicas, by events alone.

use anyhow::ensure;
use e2e::{
    stage::{CHANNELS, FREE, Kind, Stage, Via, numbered, sample},
    wait::eventually,
};
use reqwest::Method;
use serde_json::{Value, json};

type Outcome = anyhow::Result<()>;

#[tokio::test]
async fn local_embedded() -> Outcome {
    suite(Kind::Embedded, Via::Local).await
}

#[tokio::test]
async fn local_mongo() -> Outcome {
    suite(Kind::Mongo, Via::Local).await
}

#[tokio::test]
async fn dapr_embedded() -> Outcome {
    suite(Kind::Embedded, Via::Dapr).await
}

#[tokio::test]
async fn dapr_mongo() -> Outcome {
    suite(Kind::Mongo, Via::Dapr).await
}

#[tokio::test]
async fn pub_sub_embedded() -> Outcome {
    suite(Kind::Embedded, Via::PubSub).await
}

#[tokio::test]
async fn pub_sub_mongo() -> Outcome {
    suite(Kind::Mongo, Via::PubSub).await
}

#[tokio::test]
async fn streams_embedded() -> Outcome {
    suite(Kind::Embedded, Via::Streams).await
}

#[tokio::test]
async fn streams_mongo() -> Outcome {
    suite(Kind::Mongo, Via::Streams).await
}

#[tokio::test]
async fn feed_embedded() -> Outcome {
    suite(Kind::Embedded, Via::Feed).await
}

#[tokio::test]
async fn feed_mongo() -> Outcome {
    suite(Kind::Mongo, Via::Feed).await
}

async fn suite(kind: Kind, via: Via) -> Outcome {
    let mut stage = Stage::start(kind, via).await?;
    create_update_delete(&stage).await?;
    three_in_a_row(&stage).await?;
    what_does_not_fit_is_fetched(&stage).await?;
    stage.until_converged(FREE).await?;
    stage.until_converged(CHANNELS).await?;
    everything_came_by_event(&stage).await?;
    stage.publisher.stop().await?;
    for subscriber in &mut stage.subscribers {
        subscriber.stop().await?;
    }
    Ok(())
}

async fn create_update_delete(stage: &Stage) -> Outcome {
    let api = stage.publisher.api();
    let mut channel = sample(CHANNELS)?;
    let id = channel["id"].as_str().unwrap_or_default().to_owned();
    api.create(CHANNELS, &channel).await?.expect(201)?;
    stage.until_same(CHANNELS, &id).await?;
    channel["metadata"] = json!({"changed": "yes"});
    api.put(CHANNELS, &id, &channel).await?.expect(200)?;
    stage.until_same(CHANNELS, &id).await?;
    api.delete(CHANNELS, &id).await?.expect(200)?;
    stage.until_same(CHANNELS, &id).await?;
    api.create(CHANNELS, &channel).await?.expect(201)?;
    stage.until_same(CHANNELS, &id).await
}

async fn three_in_a_row(stage: &Stage) -> Outcome {
    let api = stage.publisher.api();
    for id in ["one", "two", "three"] {
        api.create(FREE, &json!({ "id": id })).await?.expect(201)?;
    }
    for number in 1..=3 {
        for id in ["one", "two", "three"] {
            api.put(FREE, id, &numbered(number)).await?.expect(200)?;
        }
    }
    for id in ["one", "two", "three"] {
        stage.until_same(FREE, id).await?;
    }
    Ok(())
}

/// Too large for an event, or with an integer that a sidecar would round: only the id travels.
async fn what_does_not_fit_is_fetched(stage: &Stage) -> Outcome {
    let api = stage.publisher.api();
    api.create(FREE, &json!({"id": "large", "text": "t".repeat(1_000_000)}))
        .await?
        .expect(201)?;
    stage.until_same(FREE, "large").await?;
    let exact = r#"{"id":"exact","integer":9007199254740993}"#;
    api.send(
        Method::POST,
        &format!("/v1/collections/{FREE}/documents"),
        &[],
        exact,
    )
    .await?
    .expect(201)?;
    stage.until_same(FREE, "exact").await?;
    // Many quotes: short enough as a value, too long once it is escaped in an event.
    let quotes = json!({"id": "quotes", "text": "\u{1}".repeat(8_000)});
    api.create(FREE, &quotes).await?.expect(201)?;
    stage.until_same(FREE, "quotes").await
}

async fn everything_came_by_event(stage: &Stage) -> Outcome {
    let written = stage.publisher.api().head(FREE).await?.revision
        + stage.publisher.api().head(CHANNELS).await?.revision;
    for subscriber in &stage.subscribers {
        let api = subscriber.api();
        eventually("every change was applied or superseded", async || {
            let status = api.get("/v1/status").await?.json()?;
            let events = &status["events"];
            let count = |name: &str| events[name].as_u64().unwrap_or_default();
            // On a busy machine an event may come after the grace: then the feed was first, and the
            // event is a duplicate.
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
        // A feed has no limit for a value, so nothing stays at home.
        let fetched = status["events"]["fetched"].as_u64() >= Some(2);
        ensure!(fetched == (stage.via != Via::Feed), "{status}");
        ensure!(status["drops"] == json!([]), "{status}");
    }
    Ok(())
}

/// Whoever starts first: a subscriber waits for its publisher, and loads what was written before it
/// came.
#[tokio::test]
async fn subscriber_before_and_after_the_publisher() -> Outcome {
    let mut stage = Stage::set(Kind::Embedded, Via::Local).await?;
    stage.subscribers[0].launch()?;
    let early = stage.subscribers[0].api();
    eventually("it answers before it can serve", async || {
        ensure!(early.status_of("/healthz").await? < 300);
        ensure!(early.status_of("/readyz").await? == 503);
        let refused = early.document(FREE, "a").await?;
        ensure!(
            refused.status == 503 && refused.json()?["type"] == "urn:confcast:problem:loading",
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
    stage.publisher.start().await?;
    stage.subscribers[0].until_ready().await?;
    let api = stage.publisher.api();
    api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
    stage.subscribers[1].start().await?;
    stage.until_same(FREE, "a").await?;
    api.put(FREE, "a", &numbered(1)).await?.expect(200)?;
    stage.until_same(FREE, "a").await
}

/// With events switched off nothing is owed and nothing is sent; replicas live on reading the
/// heads.
#[tokio::test]
async fn events_switched_off() -> Outcome {
    let mut stage = Stage::set(Kind::Embedded, Via::Local).await?;
    stage.publisher = stage
        .publisher
        .with("AURA_CONFIGURATION_EVENTS_ENABLED", "false");
    stage.subscribers.truncate(1);
    let quiet = stage
        .subscribers
        .remove(0)
        .with("AURA_CONFIGURATION_EVENTS_ENABLED", "false");
    stage
        .subscribers
        .push(quiet.with("AURA_CONFIGURATION_CHECK_IN_SECONDS", "1"));
    stage.publisher.start().await?;
    stage.start_subscribers().await?;
    let subscriber = stage.subscribers[0].api();
    ensure!(subscriber.get("/dapr/subscribe").await?.body == "[]");
    stage
        .publisher
        .api()
        .create(FREE, &json!({"id": "a"}))
        .await?
        .expect(201)?;
    stage.until_same(FREE, "a").await?;
    ensure!(subscriber.get("/v1/status").await?.json()?["events"]["applied"] == json!(0));
    Ok(())
}
