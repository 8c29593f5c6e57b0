//! The additional guarantees of streams: a replica finds the events that it missed, by its own
//! cursor and without its publisher.

use std::time::Duration;

use anyhow::{Context, ensure};
use contract::Head;
use e2e::testbed::{
    CHANNELS, COLLECTIONS, FREE, StoreKind, Testbed, Transport, numbered, redis::Redis, sample,
    wait::eventually,
};
use futures_util::future::try_join_all;
use serde_json::{Value, json};

use super::{Outcome, events_arrive, redis_of, status, until_away, write_for};

/// The key of the stream of a collection. A hash tag keeps all streams on one node of a cluster.
fn stream(collection: &str) -> String {
    format!("{{0__:aura-config}}:{collection}")
}

async fn length(redis: &Redis, collection: &str) -> anyhow::Result<i64> {
    redis
        .command(&["XLEN", &stream(collection)])
        .await?
        .into_integer()
}

/// A test bed whose first replica saves its state in a folder.
async fn keeping(length: Option<&str>) -> anyhow::Result<(Testbed, tempfile::TempDir)> {
    let mut testbed = Testbed::prepare(StoreKind::Embedded, Transport::Streams).await?;
    let folder = e2e::testbed::process::folder()?;
    testbed.subscribers[0].set(
        "AURA_CONFIGURATION_SNAPSHOT_DIR",
        folder.path().display().to_string(),
    );
    if let Some(length) = length {
        testbed
            .publisher
            .set("AURA_REDIS_STREAM_MAX_LENGTH", length);
    }
    testbed.publisher.start().await?;
    testbed.start_subscribers().await?;
    testbed
        .publisher
        .api()
        .create(FREE, &json!({"id": "a"}))
        .await?
        .expect(201)?;
    testbed.until_same(FREE, "a").await?;
    Ok((testbed, folder))
}

async fn write(testbed: &Testbed, ids: std::ops::Range<u64>) -> Outcome {
    let api = &testbed.publisher.api();
    for id in ids {
        api.create(FREE, &json!({"id": format!("n{id}")}))
            .await?
            .expect(201)?;
    }
    api.put(FREE, "a", &numbered(0)).await?.expect(200)?;
    api.delete(FREE, "a").await?.expect(200)?;
    api.create(FREE, &json!({"id": "a"}))
        .await?
        .expect(201)
        .map(drop)
}

fn place(head: &Head) -> impl PartialEq + std::fmt::Debug + use<> {
    (head.epoch, head.revision, head.count, head.digest)
}

/// Waits until the second replica has everything, which then came through Redis. Stops the
/// publisher, and starts the first replica, which has Redis alone.
async fn comes_back_to_redis_alone(testbed: &mut Testbed) -> Outcome {
    let truth = testbed.publisher.api().head(FREE).await?;
    eventually("all events are in the stream", async || {
        let there = length(redis_of(testbed)?, FREE).await?;
        ensure!(
            there as u64 >= truth.revision,
            "{there} of {}",
            truth.revision
        );
        Ok(())
    })
    .await?;
    testbed.publisher.stop().await?;
    testbed.subscribers[0].start().await?;
    let api = testbed.subscribers[0].api();
    eventually(
        "the replica has everything without its publisher",
        async || {
            let head = api.head(FREE).await?;
            ensure!(
                place(&head) == place(&truth),
                "{head:?} instead of {truth:?}"
            );
            Ok(())
        },
    )
    .await
    .with_context(|| testbed.subscribers[0].output())?;
    let healing = status(&testbed.subscribers[0]).await?.sync;
    ensure!(
        (healing.loads, healing.pages) == (0, 0),
        "the changes did not come through Redis: {healing:?}"
    );
    Ok(())
}

/// The cursor is saved with the state: first after an orderly stop, then after a kill, when the
/// file is older than the state.
#[tokio::test]
async fn a_replica_restarts_with_redis_alone() -> Outcome {
    let (mut testbed, _folder) = keeping(None).await?;
    testbed.subscribers[0].stop().await?;
    write(&testbed, 0..50).await?;
    comes_back_to_redis_alone(&mut testbed).await?;

    testbed.publisher.start().await?;
    write(&testbed, 50..60).await?;
    testbed.until_converged(FREE).await?;
    testbed.subscribers[0].kill()?;
    write(&testbed, 60..100).await?;
    comes_back_to_redis_alone(&mut testbed).await
}

/// The entry of the cursor no longer exists. The publisher has the rest, at once or after its
/// restart.
#[tokio::test]
async fn a_replica_catches_up_after_its_cursor_was_trimmed() -> Outcome {
    let (mut testbed, _folder) = keeping(Some("10")).await?;
    testbed.subscribers[0].stop().await?;
    write(&testbed, 0..400).await?;
    eventually("the stream is trimmed", async || {
        let there = length(redis_of(&testbed)?, FREE).await?;
        // Redis trims whole nodes of 100 entries.
        ensure!(there <= 210, "{there}");
        Ok(())
    })
    .await?;
    testbed.subscribers[0].start().await?;
    testbed.until_converged(FREE).await?;
    events_arrive(&testbed).await?;

    testbed.subscribers[0].stop().await?;
    write(&testbed, 400..800).await?;
    testbed.until_converged_at(1, FREE).await?;
    testbed.publisher.stop().await?;
    testbed.subscribers[0].start().await?;
    until_away(&testbed, false).await?;
    testbed.publisher.start().await?;
    testbed.until_converged(FREE).await?;
    events_arrive(&testbed).await
}

/// The same while the replica is connected, and does not read for a while.
#[tokio::test]
async fn a_frozen_replica_catches_up_after_the_stream_was_trimmed() -> Outcome {
    let (mut testbed, _folder) = keeping(Some("10")).await?;
    testbed.subscribers[0].pause()?;
    write(&testbed, 0..400).await?;
    testbed.until_converged_at(1, FREE).await?;
    testbed.subscribers[0].resume()?;
    testbed.until_converged(FREE).await?;
    events_arrive(&testbed).await
}

#[tokio::test]
async fn replicas_converge_after_streams_are_deleted_and_emptied() -> Outcome {
    let testbed = Testbed::start(StoreKind::Embedded, Transport::Streams).await?;
    events_arrive(&testbed).await?;
    for command in [
        vec!["DEL".to_owned(), stream(FREE)],
        vec!["FLUSHALL".to_owned()],
    ] {
        let words: Vec<_> = command.iter().map(String::as_str).collect();
        redis_of(&testbed)?.command(&words).await?;
        events_arrive(&testbed)
            .await
            .with_context(|| command.join(" "))?;
        ensure!(
            length(redis_of(&testbed)?, FREE).await? == 1,
            "the stream starts again"
        );
        write_for(&testbed.publisher.api(), Duration::from_millis(200)).await?;
        testbed.until_converged(FREE).await?;
    }
    for subscriber in &testbed.subscribers {
        let healing = status(subscriber).await?.sync;
        ensure!(
            healing.pages == 0 && healing.resets == 0,
            "not all changes came by events: {healing:?}"
        );
    }
    Ok(())
}

/// No consumer groups that a replica would leave behind, only one key per collection, and no stream
/// without a maximum length.
#[tokio::test]
async fn only_bounded_streams_remain_in_redis() -> Outcome {
    let mut testbed = Testbed::prepare(StoreKind::Embedded, Transport::Streams).await?;
    testbed.publisher.set("AURA_REDIS_STREAM_MAX_LENGTH", "100");
    testbed.publisher.start().await?;
    testbed.start_subscribers().await?;
    let api = &testbed.publisher.api();
    try_join_all(
        (0..500).map(|n| async move { api.create(FREE, &numbered(n)).await?.expect(201) }),
    )
    .await?;
    testbed.until_converged(FREE).await?;
    let redis = redis_of(&testbed)?;
    let keys = redis.command(&["KEYS", "*"]).await?.into_many()?;
    for key in keys {
        let key = key.into_text()?;
        ensure!(
            COLLECTIONS
                .split(',')
                .any(|collection| stream(collection) == key),
            "{key}"
        );
        let groups = redis
            .command(&["XINFO", "GROUPS", &key])
            .await?
            .into_many()?;
        ensure!(groups.is_empty(), "{key} has groups: {groups:?}");
    }
    let there = length(redis, FREE).await?;
    ensure!((100..=300).contains(&there), "{there} entries");
    Ok(())
}

/// The clock of a new Redis may be behind that of the old one. Then the entries of a stream that
/// starts again are before the cursor of a reader.
#[tokio::test]
async fn a_replica_reads_a_stream_that_restarts_below_its_cursor() -> Outcome {
    let testbed = Testbed::start(StoreKind::Embedded, Transport::Streams).await?;
    events_arrive(&testbed).await?;
    let redis = redis_of(&testbed)?;
    let stream = stream(FREE);
    redis
        .command(&[
            "XADD",
            &stream,
            "99999999999999-0",
            "data",
            r#"{"op":"Update","id":"a"}"#,
        ])
        .await?;
    for subscriber in &testbed.subscribers {
        eventually("the entry from the future was read", async || {
            let events = status(subscriber).await?.events;
            ensure!(events.without_revision == 1, "{events:?}");
            Ok(())
        })
        .await?;
    }
    redis.command(&["DEL", &stream]).await?;
    // The check-in that the entry caused may bring a change before the restart is detected.
    super::events_arrive_again(&testbed).await?;
    // And once more, where no reader has to wait until the restart is detected.
    events_arrive(&testbed).await
}

/// The view of any other client, in the database of the example.
#[tokio::test]
async fn a_plain_stream_client_reads_every_change() -> Outcome {
    let mut testbed = Testbed::prepare(StoreKind::Embedded, Transport::Streams).await?;
    testbed.set_all("AURA_REDIS_DATABASE", "1");
    testbed.publisher.start().await?;
    testbed.start_subscribers().await?;
    let api = testbed.publisher.api();
    let created = api
        .create(CHANNELS, &sample(CHANNELS)?)
        .await?
        .expect(201)?
        .json()?;
    testbed.until_converged(CHANNELS).await?;
    let mut client = redis_of(&testbed)?.client().await?;
    client.command(&["SELECT", "1"]).await?;
    let entries = client
        .command(&["XRANGE", "{1__:aura-config}:ChannelConfiguration", "-", "+"])
        .await?
        .into_many()?;
    let entry = entries
        .into_iter()
        .next()
        .context("an entry")?
        .into_many()?;
    let fields = entry
        .into_iter()
        .next_back()
        .context("its fields")?
        .into_many()?;
    let [field, data] =
        <[_; 2]>::try_from(fields).map_err(|fields| anyhow::anyhow!("{fields:?}"))?;
    ensure!(field.into_text()? == "data");
    let event: Value = serde_json::from_str(&data.into_text()?)?;
    let expected = json!({
        "collection": CHANNELS, "op": "Create", "id": created["id"], "configData": sample(CHANNELS)?,
        "crc": created["crc"], "revision": 1, "epoch": api.head(CHANNELS).await?.epoch.to_string(), "lastSet": 0,
        "time": event["time"], "proof": api.head(CHANNELS).await?.proof,
    });
    ensure!(
        event == expected && event["time"].is_string(),
        "{event}\ninstead of\n{expected}"
    );
    Ok(())
}
