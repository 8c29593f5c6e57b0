//! The events that travel through Dapr and Redis: the envelope, its lifetime, the events that are
//! dropped, and the access rights.

use anyhow::{Context, ensure};
use chrono::{DateTime, Utc};
use e2e::testbed::{
    CHANNELS, COLLECTIONS, FREE, StoreKind, Testbed, Transport, redis::Redis, sample,
    services::Service, wait::eventually,
};
use reqwest::Method;
use serde_json::{Value, json};

mod access;
mod backlog;
mod dead_letters;
mod poison;
mod unversioned;

type Outcome = anyhow::Result<()>;

const DEAD_LETTERS: &str = "configuration-dead-letter";
const EVENTS: &str = "/dapr/processConfigurationEvents";
const CLOUD_EVENT: &str = "application/cloudevents+json";

/// Every event in a stream, in the form that sidecars read.
async fn stream(redis: &Redis, topic: &str) -> anyhow::Result<Vec<Value>> {
    let answer = redis.command_text(&["XRANGE", topic, "-", "+"]).await?;
    let texts = answer
        .split("\r\n")
        .filter(|line| line.starts_with(r#"{""#));
    let values: Vec<Value> = texts.map(serde_json::from_str).collect::<Result<_, _>>()?;
    Ok(values
        .into_iter()
        .filter(|value| value.get("specversion").is_some())
        .collect())
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = value
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, _value)| key.as_str())
        .collect();
    keys.sort_unstable();
    keys
}

fn time(value: &Value) -> anyhow::Result<DateTime<Utc>> {
    Ok(value.as_str().context("a time")?.parse()?)
}

/// The example event of the source document (requirement A10 to A14), field by field, and the
/// fields that this project adds.
#[tokio::test]
async fn the_envelope_matches_the_source_document() -> Outcome {
    let testbed = Testbed::start(StoreKind::Embedded, Transport::Dapr).await?;
    let redis = testbed.redis.as_ref().context("a redis")?;
    let channel = sample(CHANNELS)?;
    let id = channel["id"].as_str().context("an id")?;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers = [
        ("content-type", "application/json"),
        ("x-correlation-id", "order-66"),
        ("traceparent", trace),
    ];
    let path = format!("/v1/collections/{CHANNELS}/documents");
    let before = Utc::now();
    let created = testbed
        .publisher
        .api()
        .send(Method::POST, &path, &headers, channel.to_string())
        .await?
        .expect(201)?;
    let after = Utc::now();
    testbed.until_same(CHANNELS, id).await?;
    let head = testbed.publisher.api().head(CHANNELS).await?;

    let event = stream(redis, CHANNELS)
        .await?
        .into_iter()
        .next()
        .context("an event")?;
    assert_eq!(
        keys(&event),
        [
            "correlationid",
            "data",
            "datacontenttype",
            "dataschema",
            "expiration",
            "id",
            "partitionkey",
            "pubsubname",
            "sequence",
            "source",
            "specversion",
            "subject",
            "time",
            "topic",
            "traceid",
            "traceparent",
            "tracestate",
            "type",
        ]
    );
    let epoch = head.epoch;
    for (field, expected) in [
        ("specversion", "1.0"),
        ("datacontenttype", "application/json"),
        ("source", "aura-configuration-api"),
        ("type", "com.dapr.event.sent"),
        ("topic", CHANNELS),
        ("pubsubname", "pubsub-config"),
        ("id", &format!("{CHANNELS}:{epoch}:1")),
        ("subject", id),
        ("partitionkey", id),
        ("sequence", "00000000000000000001"),
        ("correlationid", "order-66"),
        ("traceparent", trace),
        ("traceid", trace),
        ("tracestate", ""),
    ] {
        assert_eq!(event[field], expected, "{field}");
    }
    let schema = event["dataschema"].as_str().unwrap_or_default();
    ensure!(
        schema.starts_with("urn:confcast:schema:ChannelConfiguration:") && schema.len() == 53,
        "{schema}"
    );
    let committed = time(&event["time"])?;
    let expiration = time(&event["expiration"])?;
    ensure!(before <= committed && committed <= after, "{committed}");
    ensure!(
        !event["expiration"]
            .as_str()
            .unwrap_or_default()
            .contains('.'),
        "whole seconds"
    );
    let life = (expiration - before).num_milliseconds();
    ensure!(
        (59_000..=62_000).contains(&life),
        "60 s, rounded down to whole seconds: {life} ms"
    );

    let crc = created.json()?["crc"].clone();
    assert_eq!(
        event["data"],
        json!({
            "collection": CHANNELS, "op": "Create", "id": id, "configData": channel, "metadata": {"ttlInSeconds": "60"},
            "pubSubName": "pubsub-config", "crc": crc, "revision": 1, "epoch": epoch.to_string(), "lastSet": 0,
            "correlationId": "order-66", "proof": head.proof,
        })
    );
    Ok(())
}

/// With a data limit of 0 events carry ids only: the minimal body of the source document
/// (requirement A11). The replica fetches the value.
#[tokio::test]
async fn ids_only_events_omit_the_value() -> Outcome {
    let mut testbed = Testbed::prepare(StoreKind::Embedded, Transport::Dapr).await?;
    let publisher = std::mem::replace(&mut testbed.publisher, Service::publisher()?);
    testbed.publisher = publisher.with("AURA_CONFIGURATION_EVENT_DATA_LIMIT_BYTES", "0");
    testbed.publisher.start().await?;
    testbed.start_subscribers().await?;
    testbed
        .publisher_sidecar
        .as_mut()
        .context("a sidecar")?
        .start()
        .await?;
    testbed
        .publisher
        .api()
        .create(FREE, &json!({"id": "a", "x": 1}))
        .await?
        .expect(201)?;
    testbed.until_same(FREE, "a").await?;
    let event = stream(testbed.redis.as_ref().context("a redis")?, FREE)
        .await?
        .into_iter()
        .next()
        .context("an event")?;
    ensure!(event["data"].get("configData").is_none(), "{event}");
    let status = testbed.subscribers[0]
        .api()
        .get("/v1/status")
        .await?
        .json()?;
    ensure!(status["events"]["fetched"] == json!(1), "{status}");
    Ok(())
}

/// A sidecar drops an expired event. The value still arrives with the next load.
#[tokio::test]
async fn expired_events_are_not_applied() -> Outcome {
    let mut testbed = Testbed::prepare(StoreKind::Embedded, Transport::Dapr).await?;
    let publisher = std::mem::replace(&mut testbed.publisher, Service::publisher()?);
    testbed.publisher = publisher.with("AURA_CONFIGURATION_EVENT_TTL_SECONDS", "1");
    testbed.publisher.start().await?;
    for subscriber in &mut testbed.subscribers {
        subscriber.start().await?;
    }
    testbed
        .publisher_sidecar
        .as_mut()
        .context("a sidecar")?
        .start()
        .await?;
    testbed
        .publisher
        .api()
        .create(FREE, &json!({"id": "late"}))
        .await?
        .expect(201)?;
    let redis = testbed.redis.as_ref().context("a redis")?;
    let expiration = eventually("the event is in the stream", async || {
        time(&stream(redis, FREE).await?.first().context("no event")?["expiration"])
    })
    .await?;
    eventually("the event expires", async || {
        ensure!(Utc::now() > expiration, "not yet");
        Ok(())
    })
    .await?;
    let sidecar = &mut testbed.sidecars[0];
    sidecar.start().await?;
    eventually("the sidecar drops it", async || {
        ensure!(
            sidecar.output().contains("dropping expired pub/sub event"),
            "not yet"
        );
        Ok(())
    })
    .await?;
    let subscriber = &mut testbed.subscribers[0];
    subscriber.api().document(FREE, "late").await?.expect(404)?;
    subscriber.stop().await?;
    subscriber.start().await?;
    testbed.subscribers[0]
        .api()
        .document(FREE, "late")
        .await?
        .expect(200)?;
    Ok(())
}

#[tokio::test]
async fn dapr_scopes_limit_publishing_and_subscribing() -> Outcome {
    let testbed = Testbed::start(StoreKind::Embedded, Transport::Dapr).await?;
    let body = || json!({"collection": FREE, "op": "Delete", "id": "a"}).to_string();
    let publisher = testbed.publisher_sidecar.as_ref().context("a sidecar")?;
    let status = testbed.sidecars[0]
        .publish(CHANNELS, None, "application/json", body())
        .await?;
    ensure!(status == 403, "a subscriber published: {status}");
    let status = publisher
        .publish("SomethingElse", None, "application/json", body())
        .await?;
    ensure!(
        status == 403,
        "an app published to a topic outside of its scopes: {status}"
    );
    let metadata = testbed.sidecars[0].metadata().await?;
    let topics = metadata["subscriptions"]
        .as_array()
        .context("subscriptions")?;
    ensure!(topics.len() == COLLECTIONS.split(',').count(), "{metadata}");
    ensure!(
        topics
            .iter()
            .all(|topic| topic["deadLetterTopic"] == DEAD_LETTERS),
        "{metadata}"
    );
    Ok(())
}
