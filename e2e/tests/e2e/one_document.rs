//! A process that holds one document subscribes to the channel of that document and to nothing else
//! (requirement A8).

use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::testbed::{StoreKind, Testbed, Transport, redis::Redis, wait::eventually};
use replica::{
    broker::settings::RedisSettings,
    document::{DocumentConfig, DocumentReplica},
};
use serde_json::{Value, json};

type Outcome = anyhow::Result<()>;

const AGENTS: &str = "AgentConfiguration";
const AGENT: &str = "agent:7";

#[tokio::test]
async fn one_document_is_followed_by_its_pub_sub_channel() -> Outcome {
    let testbed = testbed(Transport::PubSub).await?;
    let replica = replica(&testbed, "PUBSUB")?;
    replica
        .run(async { follow(testbed, &replica).await.expect("followed") })
        .await;
    Ok(())
}

#[tokio::test]
async fn one_document_is_followed_by_streams() -> Outcome {
    let testbed = testbed(Transport::Streams).await?;
    let replica = replica(&testbed, "STREAMS")?;
    replica
        .run(async { follow(testbed, &replica).await.expect("followed") })
        .await;
    Ok(())
}

/// A test bed without subscribers, with a collection that has no schema.
async fn testbed(transport: Transport) -> anyhow::Result<Testbed> {
    let mut testbed = Testbed::prepare(StoreKind::Embedded, transport).await?;
    let schemas = tempfile::tempdir()?;
    testbed.publisher.set(
        "AURA_CONFIGURATION_SCHEMAS_DIR",
        schemas.path().display().to_string(),
    );
    testbed.publisher.start().await?;
    Ok(testbed)
}

fn replica(testbed: &Testbed, delivery: &str) -> anyhow::Result<DocumentReplica> {
    let url = testbed.redis.as_ref().context("a Redis")?.url();
    let settings = RedisSettings {
        url: &url,
        database: "",
        prefix: "",
        delivery,
    };
    let redis = settings.check(|_name, _what| ()).context("settings")?;
    let publishers = vec![testbed.publisher.url().parse()?];
    // Check-ins are so rare that a change arrives by an event, or because the replica connected
    // again.
    let check_in = Duration::from_secs(3_600);
    let config = DocumentConfig {
        event_keys: None,
        collection: AGENTS.parse()?,
        id: AGENT.parse()?,
        publishers,
        credentials: replica::Credentials::default(),
        check_in,
        redis,
    };
    Ok(DocumentReplica::new(config)?)
}

async fn follow(mut testbed: Testbed, replica: &DocumentReplica) -> Outcome {
    until(replica, None).await?;
    let api = testbed.publisher.api();
    api.create(AGENTS, &json!({"id": AGENT, "n": 1}))
        .await?
        .expect(201)?;
    until(replica, Some(1)).await?;
    api.create(AGENTS, &json!({"id": "agent:8", "n": 1}))
        .await?
        .expect(201)?;
    api.put(AGENTS, AGENT, &json!({"n": 2}))
        .await?
        .expect(200)?;
    until(replica, Some(2)).await?;
    api.delete(AGENTS, AGENT).await?.expect(200)?;
    until(replica, None).await?;
    api.create(AGENTS, &json!({"id": AGENT, "n": 3}))
        .await?
        .expect(201)?;
    until(replica, Some(3)).await?;

    let redis = testbed.redis.as_mut().context("a Redis")?;
    ensure!(
        redis.command_text(&["PUBSUB", "NUMPAT"]).await? == ":0\r\n",
        "it listens to a pattern"
    );
    outage(redis, async || {
        api.put(AGENTS, AGENT, &json!({"n": 4}))
            .await?
            .expect(200)?;
        Ok(())
    })
    .await?;
    until(replica, Some(4)).await?;
    testbed.publisher.kill()?;
    ensure!(
        held(replica)?.1 == Some(4),
        "what it held is gone with the publisher"
    );
    Ok(())
}

async fn outage(redis: &mut Redis, meanwhile: impl AsyncFnOnce() -> Outcome) -> Outcome {
    redis.kill()?;
    meanwhile().await?;
    redis.launch()?;
    redis.until_ready().await
}

/// Returns whether the document was read, and the number in it.
fn held(replica: &DocumentReplica) -> anyhow::Result<(bool, Option<u64>)> {
    let held = replica.view().borrow().clone();
    let number = held
        .document
        .map(|document| serde_json::from_slice::<Value>(document.config_data()))
        .transpose()?;
    Ok((
        held.confirmed.is_some(),
        number.and_then(|config| config["n"].as_u64()),
    ))
}

async fn until(replica: &DocumentReplica, number: Option<u64>) -> Outcome {
    eventually("the document arrives", async || {
        let held = held(replica)?;
        ensure!(held == (true, number), "{held:?}");
        Ok(())
    })
    .await
}
