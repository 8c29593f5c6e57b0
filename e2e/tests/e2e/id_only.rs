//! Id-only events on every transport (requirement D1 to D5): nothing but ids is on the bus, and all
//! replicas arrive at the same content. A collection without a topic has nothing on the bus.

use anyhow::ensure;
use e2e::testbed::{
    CHANNELS, FREE, StoreKind, Testbed, Transport, numbered, sample, wait::eventually,
};
use serde_json::{Value, json};

const SKILLS: &str = "SkillConfiguration";

type Outcome = anyhow::Result<()>;

#[tokio::test]
async fn replicas_converge_by_ids_from_local_events() -> Outcome {
    converge(Transport::Local).await
}

#[tokio::test]
async fn replicas_converge_by_ids_from_dapr() -> Outcome {
    converge(Transport::Dapr).await
}

#[tokio::test]
async fn replicas_converge_by_ids_from_redis_pub_sub() -> Outcome {
    converge(Transport::PubSub).await
}

#[tokio::test]
async fn replicas_converge_by_ids_from_redis_streams() -> Outcome {
    converge(Transport::Streams).await
}

/// The feed is no bus: its readers have the right to read the documents, and get whole changes.
#[tokio::test]
async fn a_feed_has_whole_changes_of_an_id_only_collection() -> Outcome {
    converge(Transport::Feed).await
}

/// The replicas check in once an hour, and early when their revisions moved.
async fn converge(transport: Transport) -> Outcome {
    let mut testbed = Testbed::prepare(StoreKind::Embedded, transport).await?;
    testbed
        .publisher
        .set("AURA_CONFIGURATION_ID_ONLY_COLLECTIONS", "*");
    testbed
        .publisher
        .set("AURA_CONFIGURATION_NO_TOPIC_COLLECTIONS", SKILLS);
    testbed.publisher.start().await?;
    testbed.start_subscribers().await?;
    if let Some(sidecar) = &mut testbed.publisher_sidecar {
        sidecar.start().await?;
    }
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
    for number in 0..100 {
        let id = format!("d{}", number % 7);
        api.put(FREE, &id, &numbered(number)).await?;
    }
    testbed.until_converged(FREE).await?;
    testbed.until_converged(CHANNELS).await?;
    for subscriber in &testbed.subscribers {
        let status: Value = subscriber.api().get("/v1/status").await?.json()?;
        let events = &status["events"];
        let ids = events["withoutRevision"].as_u64().unwrap_or_default();
        let whole = events["applied"].as_u64().unwrap_or_default();
        if transport == Transport::Feed {
            ensure!(ids == 0 && whole > 0, "{events}");
        } else {
            ensure!(ids > 0 && whole == 0, "{events}");
        }
        ensure!(status["drops"] == json!([]), "{status}");
        ensure!(status["intake"].is_null(), "{status}");
        let reasons = status["collections"].as_array().into_iter().flatten();
        let mut reasons = reasons.map(|collection| collection["reason"].as_str());
        ensure!(
            reasons.all(|reason| reason != Some("unversioned")),
            "{status}"
        );
    }
    Ok(())
}

/// What another client of Redis sees: the exact body on the channel, and nothing of a collection
/// without a topic.
#[tokio::test]
async fn a_client_of_redis_sees_the_id_and_no_more() -> Outcome {
    let mut testbed = Testbed::prepare(StoreKind::Embedded, Transport::PubSub).await?;
    testbed
        .publisher
        .set("AURA_CONFIGURATION_ID_ONLY_COLLECTIONS", FREE);
    testbed
        .publisher
        .set("AURA_CONFIGURATION_NO_TOPIC_COLLECTIONS", SKILLS);
    testbed.publisher.start().await?;
    let Some(redis) = &testbed.redis else {
        anyhow::bail!("no Redis");
    };
    let mut all = redis.listen("PSUBSCRIBE", "0__:aura-config:*").await?;
    let api = testbed.publisher.api();
    api.create(SKILLS, &sample(SKILLS)?).await?.expect(201)?;
    let secret = json!({"id": "one", "password": "hunter2"});
    api.create(FREE, &secret).await?.expect(201)?;
    let (channel, body) = all.next().await?;
    ensure!(channel == format!("0__:aura-config:{FREE}"), "{channel}");
    ensure!(body == r#"{"id":"one"}"#, "{body}");
    // The consumer reads by the id; a document that is gone is nothing to it.
    ensure!(api.document(FREE, "one").await?.status == 200);
    api.delete(FREE, "one").await?.expect(200)?;
    let (_channel, body) = all.next().await?;
    ensure!(body == r#"{"id":"one"}"#, "{body}");
    eventually("the document is gone", async || {
        ensure!(api.document(FREE, "one").await?.status == 404);
        Ok(())
    })
    .await
}
