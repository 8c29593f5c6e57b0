//! The view of any other client of Redis, and the messages that it may publish.

use anyhow::{Context, ensure};
use chrono::{DateTime, Utc};
use e2e::testbed::{CHANNELS, FREE, StoreKind, Testbed, Transport, sample, wait::eventually};
use serde_json::{Value, json};

use super::{Outcome, events_arrive, redis_of, status};

const AGENTS: &str = "AgentConfiguration";

/// Database 1, as in the example of the source document.
async fn in_database_one() -> anyhow::Result<Testbed> {
    let mut testbed = Testbed::prepare(StoreKind::Embedded, Transport::PubSub).await?;
    testbed.set_all("AURA_REDIS_DATABASE", "1");
    Ok(testbed)
}

async fn up(testbed: &mut Testbed) -> Outcome {
    testbed.publisher.start().await?;
    testbed.start_subscribers().await
}

/// Compares an event with the expected one, except for its commit time, which is returned.
fn compare(body: &str, mut expected: Value) -> anyhow::Result<DateTime<Utc>> {
    let mut event: Value = serde_json::from_str(body)?;
    let proof = event
        .as_object_mut()
        .and_then(|event| event.remove("proof"));
    let proof = proof.context("a proof")?;
    ensure!(
        proof.as_str().is_some_and(|proof| proof.len() == 40),
        "{proof}"
    );
    let time = event["time"].clone();
    expected["time"] = time.clone();
    ensure!(event == expected, "{event}\ninstead of\n{expected}");
    Ok(time.as_str().context("a time")?.parse()?)
}

#[tokio::test]
async fn a_plain_pub_sub_client_receives_every_change() -> Outcome {
    let mut testbed = in_database_one().await?;
    up(&mut testbed).await?;
    let redis = redis_of(&testbed)?;
    let api = testbed.publisher.api();
    let mut channels = redis
        .listen("SUBSCRIBE", "1__:aura-config:ChannelConfiguration")
        .await?;
    let mut all = redis.listen("PSUBSCRIBE", "1__:aura-config:*").await?;

    let before = Utc::now();
    let channel = sample(CHANNELS)?;
    let agent = sample(AGENTS)?;
    let id = channel["id"].as_str().context("an id")?;
    let agent_id = agent["id"].as_str().context("an id")?;
    let created = api.create(CHANNELS, &channel).await?.expect(201)?.json()?;
    let created_agent = api.create(AGENTS, &agent).await?.expect(201)?.json()?;
    api.delete(CHANNELS, id).await?.expect(200)?;
    let after = Utc::now();
    let epoch = api.head(CHANNELS).await?.epoch.to_string();

    let create = json!({
        "collection": CHANNELS, "op": "Create", "id": id, "configData": channel,
        "crc": created["crc"], "revision": 1, "epoch": epoch, "lastSet": 0,
    });
    let agent_create = json!({
        "collection": AGENTS, "op": "Create", "id": agent_id, "configData": agent,
        "crc": created_agent["crc"], "revision": 1, "epoch": epoch, "lastSet": 0,
    });
    let delete = json!({
        "collection": CHANNELS, "op": "Delete", "id": id,
        "revision": 2, "epoch": epoch, "lastSet": 0,
    });
    // Events of different writes are published concurrently, so their order may differ.
    let mut messages = [channels.next().await?, channels.next().await?];
    messages.sort_by_key(|(_channel, body)| body.contains(r#""Delete""#));
    for ((on, body), expected) in messages.iter().zip([create, delete]) {
        ensure!(on == "1__:aura-config:ChannelConfiguration", "{on}");
        let time = compare(body, expected)?;
        ensure!(before <= time && time <= after, "{time}");
    }

    let mut everywhere = [all.next().await?, all.next().await?, all.next().await?];
    everywhere.sort();
    let (last_channel, last_body) = &everywhere[0];
    ensure!(
        *last_channel == format!("1__:aura-config:{AGENTS}:{agent_id}"),
        "{last_channel}"
    );
    compare(last_body, agent_create)?;
    ensure!(
        everywhere[1..]
            .iter()
            .all(|(on, _body)| on == "1__:aura-config:ChannelConfiguration"),
        "{everywhere:?}"
    );
    // Both replicas receive the events of every channel, also of collections with one channel per
    // document.
    testbed.until_same(CHANNELS, id).await?;
    testbed.until_same(AGENTS, agent_id).await?;
    for subscriber in &testbed.subscribers {
        let events = status(subscriber).await?.events;
        ensure!(events.applied + events.superseded == 3, "{events:?}");
    }
    Ok(())
}

/// A setting decides which collections have one channel per document.
#[tokio::test]
async fn a_collection_can_have_one_channel_per_document() -> Outcome {
    let mut testbed = in_database_one().await?;
    testbed.set_all("AURA_REDIS_CONFIGURATION_PREFIX", "a*[b]?");
    testbed.publisher.set("AURA_REDIS_DOCUMENT_CHANNELS", FREE);
    up(&mut testbed).await?;
    let mut all = redis_of(&testbed)?.listen("PSUBSCRIBE", "*").await?;
    let api = testbed.publisher.api();
    let agent = sample(AGENTS)?;
    api.create(FREE, &json!({"id": "one"})).await?.expect(201)?;
    ensure!(all.next().await?.0 == "1__:a*[b]?:FreeForm:one");
    api.create(AGENTS, &agent).await?.expect(201)?;
    ensure!(all.next().await?.0 == "1__:a*[b]?:AgentConfiguration");
    testbed.until_same(FREE, "one").await?;
    testbed
        .until_same(AGENTS, agent["id"].as_str().context("an id")?)
        .await?;
    // Pattern characters in the prefix are literal: no replica subscribes to the channels that they
    // would match.
    ensure!(
        redis_of(&testbed)?
            .publish("1__:aXb?:FreeForm", r#"{"op":"Update","id":"one"}"#)
            .await?
            == 1,
        "the listener"
    );
    events_arrive(&testbed).await
}

/// A minimal body from any client, on either form of the channel, makes the replicas read the
/// heads, though their publisher sends nothing.
#[tokio::test]
async fn a_minimal_body_from_any_client_makes_replicas_check_the_heads() -> Outcome {
    let mut testbed = in_database_one().await?;
    testbed
        .publisher
        .set("AURA_CONFIGURATION_EVENTS_ENABLED", "false");
    up(&mut testbed).await?;
    let redis = redis_of(&testbed)?;
    let api = testbed.publisher.api();
    let mut channel = sample(CHANNELS)?;
    let mut count = 0;
    let id = channel["id"].as_str().context("an id")?.to_owned();
    api.create(CHANNELS, &channel).await?.expect(201)?;
    let body = json!({"op": "Update", "id": id}).to_string();
    for on in [
        "1__:aura-config:ChannelConfiguration".to_owned(),
        "1__:aura-configChannelConfiguration".to_owned(),
        format!("1__:aura-config:ChannelConfiguration:{id}"),
        format!("1__:aura-configChannelConfiguration:{id}"),
    ] {
        channel["metadata"] = json!({"channel": on});
        api.put(CHANNELS, &id, &channel).await?.expect(200)?;
        redis.publish(&on, &body).await?;
        count += 1;
        testbed
            .until_converged(CHANNELS)
            .await
            .with_context(|| on.clone())?;
        until_counted(&testbed, count).await.with_context(|| on)?;
    }
    // A channel whose name has the same beginning. Messages of one connection arrive in order, so
    // this one arrived before the next.
    let mut client = redis.client().await?;
    for on in [
        "1__:aura-config:ChannelConfigurationX",
        "0__:aura-config:ChannelConfiguration",
    ] {
        client.command(&["PUBLISH", on, &body]).await?;
    }
    client
        .command(&["PUBLISH", "1__:aura-config:ChannelConfiguration", &body])
        .await?;
    until_counted(&testbed, count + 1).await?;
    for subscriber in &testbed.subscribers {
        let status = status(subscriber).await?;
        ensure!(
            status.events.dropped == 0 && status.events.applied == 0,
            "{:?}",
            status.events
        );
    }
    Ok(())
}

async fn until_counted(testbed: &Testbed, times: u64) -> Outcome {
    for subscriber in &testbed.subscribers {
        eventually(
            &format!("{times} minimal bodies were counted"),
            async || {
                let events = status(subscriber).await?.events;
                ensure!(events.without_revision == times, "{events:?}");
                Ok(())
            },
        )
        .await?;
    }
    Ok(())
}

/// A message that can never succeed is dropped and counted, and the next one is applied. One suite
/// for both transports.
#[tokio::test]
async fn invalid_messages_are_dropped_and_counted() -> Outcome {
    for transport in super::BOTH {
        let testbed = Testbed::start(StoreKind::Embedded, transport).await?;
        let mut client = redis_of(&testbed)?.client().await?;
        let large = format!(
            r#"{{"op":"Update","id":"a","configData":{{"x":"{}"}}}}"#,
            "x".repeat(5 << 20)
        );
        let garbage: [&[u8]; 11] = [
            b"",
            b"{",
            b"not JSON",
            b"\xff\xfe{}",
            b"[1]",
            br#""text""#,
            br#"{"op":"Update","revision":1}"#,
            br#"{"op":"Upsert","id":"a","revision":1}"#,
            br#"{"op":"Update","id":7}"#,
            br#"{"op":"Update","id":"a","revision":1,"configData":[1]}"#,
            large.as_bytes(),
        ];
        let channel = format!("0__:aura-config:{FREE}");
        let stream = format!("{{0__:aura-config}}:{FREE}");
        for body in garbage {
            let words: Vec<&[u8]> = match transport {
                Transport::Streams => vec![b"XADD", stream.as_bytes(), b"*", b"data", body],
                _ => vec![b"PUBLISH", channel.as_bytes(), body],
            };
            client.command(&words).await?;
        }
        let dropped = garbage.len() as u64;
        if transport == Transport::Streams {
            // Other entries of the stream are not for replicas.
            client
                .command(&["XADD", &stream, "*", "other", "{}"])
                .await?;
        }
        events_arrive(&testbed).await?;
        for subscriber in &testbed.subscribers {
            eventually("all invalid messages were counted", async || {
                let status = status(subscriber).await?;
                ensure!(
                    status.events.dropped == dropped,
                    "{transport:?}: {:?} {:?}",
                    status.events,
                    status.drops
                );
                ensure!(
                    status.events.without_revision == 0 && status.intake.is_none(),
                    "{transport:?}: {status:?}"
                );
                Ok(())
            })
            .await
            .with_context(|| subscriber.output())?;
        }
    }
    Ok(())
}
