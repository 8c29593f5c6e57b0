//! What streams do beyond channels: a replica finds what it missed, by a cursor of its own and
//! without its publisher.

use std::time::Duration;

use anyhow::{Context, ensure};
use contract::Head;
use e2e::{
    redis::Redis,
    stage::{CHANNELS, COLLECTIONS, FREE, Kind, Stage, Via, numbered, sample},
    wait::eventually,
};
use futures_util::future::try_join_all;
use serde_json::{Value, json};

use super::{Outcome, events_arrive, redis_of, status, until_away, write_for};

/// The stream of a collection: a hash tag keeps all of them on one node of a cluster.
fn stream(collection: &str) -> String {
    format!("{{0__:aura-config}}:{collection}")
}

async fn length(redis: &Redis, collection: &str) -> anyhow::Result<i64> {
    redis
        .tell(&["XLEN", &stream(collection)])
        .await?
        .into_integer()
}

/// A stage whose first replica keeps what it holds in a folder.
async fn keeping(length: Option<&str>) -> anyhow::Result<(Stage, tempfile::TempDir)> {
    let mut stage = Stage::set(Kind::Embedded, Via::Streams).await?;
    let folder = e2e::process::folder()?;
    stage.subscribers[0].set(
        "AURA_CONFIGURATION_SNAPSHOT_DIR",
        folder.path().display().to_string(),
    );
    if let Some(length) = length {
        stage.publisher.set("AURA_REDIS_STREAM_MAX_LENGTH", length);
    }
    stage.publisher.start().await?;
    stage.start_subscribers().await?;
    stage
        .publisher
        .api()
        .create(FREE, &json!({"id": "a"}))
        .await?
        .expect(201)?;
    stage.until_same(FREE, "a").await?;
    Ok((stage, folder))
}

async fn write(stage: &Stage, ids: std::ops::Range<u64>) -> Outcome {
    let api = &stage.publisher.api();
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

/// Waits until the second replica has everything, which then came through Redis; stops the
/// publisher; and starts the first replica, which has Redis alone.
async fn comes_back_to_redis_alone(stage: &mut Stage) -> Outcome {
    let truth = stage.publisher.api().head(FREE).await?;
    eventually("all events are in the stream", async || {
        let there = length(redis_of(stage)?, FREE).await?;
        ensure!(
            there as u64 >= truth.revision,
            "{there} of {}",
            truth.revision
        );
        Ok(())
    })
    .await?;
    stage.publisher.stop().await?;
    stage.subscribers[0].start().await?;
    let api = stage.subscribers[0].api();
    eventually("it has everything without its publisher", async || {
        let head = api.head(FREE).await?;
        ensure!(
            place(&head) == place(&truth),
            "{head:?} instead of {truth:?}"
        );
        Ok(())
    })
    .await
    .with_context(|| stage.subscribers[0].output())?;
    let healing = status(&stage.subscribers[0]).await?.sync;
    ensure!(
        (healing.loads, healing.pages) == (0, 0),
        "it came by another way: {healing:?}"
    );
    Ok(())
}

/// The cursor is kept with what is held: stopped well, then killed, when the file is older than
/// what was held.
#[tokio::test]
async fn a_replica_comes_back_to_redis_alone() -> Outcome {
    let (mut stage, _folder) = keeping(None).await?;
    stage.subscribers[0].stop().await?;
    write(&stage, 0..50).await?;
    comes_back_to_redis_alone(&mut stage).await?;

    stage.publisher.start().await?;
    write(&stage, 50..60).await?;
    stage.until_converged(FREE).await?;
    stage.subscribers[0].kill()?;
    write(&stage, 60..100).await?;
    comes_back_to_redis_alone(&mut stage).await
}

/// What the cursor names is gone: the publisher has the rest, at once or whenever it comes back.
#[tokio::test]
async fn the_cursor_was_trimmed_away() -> Outcome {
    let (mut stage, _folder) = keeping(Some("10")).await?;
    stage.subscribers[0].stop().await?;
    write(&stage, 0..400).await?;
    eventually("the stream is trimmed", async || {
        let there = length(redis_of(&stage)?, FREE).await?;
        // Redis trims whole nodes of 100 entries.
        ensure!(there <= 210, "{there}");
        Ok(())
    })
    .await?;
    stage.subscribers[0].start().await?;
    stage.until_converged(FREE).await?;
    events_arrive(&stage).await?;

    stage.subscribers[0].stop().await?;
    write(&stage, 400..800).await?;
    stage.until_converged_at(1, FREE).await?;
    stage.publisher.stop().await?;
    stage.subscribers[0].start().await?;
    until_away(&stage, false).await?;
    stage.publisher.start().await?;
    stage.until_converged(FREE).await?;
    events_arrive(&stage).await
}

/// The same while it is connected, and does not read for a while.
#[tokio::test]
async fn the_stream_was_trimmed_past_a_frozen_replica() -> Outcome {
    let (mut stage, _folder) = keeping(Some("10")).await?;
    stage.subscribers[0].pause()?;
    write(&stage, 0..400).await?;
    stage.until_converged_at(1, FREE).await?;
    stage.subscribers[0].resume()?;
    stage.until_converged(FREE).await?;
    events_arrive(&stage).await
}

#[tokio::test]
async fn streams_are_deleted_and_emptied() -> Outcome {
    let stage = Stage::start(Kind::Embedded, Via::Streams).await?;
    events_arrive(&stage).await?;
    for command in [
        vec!["DEL".to_owned(), stream(FREE)],
        vec!["FLUSHALL".to_owned()],
    ] {
        let words: Vec<_> = command.iter().map(String::as_str).collect();
        redis_of(&stage)?.tell(&words).await?;
        events_arrive(&stage)
            .await
            .with_context(|| command.join(" "))?;
        ensure!(
            length(redis_of(&stage)?, FREE).await? == 1,
            "the stream begins anew"
        );
        write_for(&stage.publisher.api(), Duration::from_millis(200)).await?;
        stage.until_converged(FREE).await?;
    }
    for subscriber in &stage.subscribers {
        let healing = status(subscriber).await?.sync;
        ensure!(
            healing.pages == 0 && healing.resets == 0,
            "all of it came by events: {healing:?}"
        );
    }
    Ok(())
}

/// No groups that a replica would leave behind, no keys but one per collection, and no stream
/// without a bound.
#[tokio::test]
async fn nothing_else_is_left_in_redis() -> Outcome {
    let mut stage = Stage::set(Kind::Embedded, Via::Streams).await?;
    stage.publisher.set("AURA_REDIS_STREAM_MAX_LENGTH", "100");
    stage.publisher.start().await?;
    stage.start_subscribers().await?;
    let api = &stage.publisher.api();
    try_join_all(
        (0..500).map(|n| async move { api.create(FREE, &numbered(n)).await?.expect(201) }),
    )
    .await?;
    stage.until_converged(FREE).await?;
    let redis = redis_of(&stage)?;
    let keys = redis.tell(&["KEYS", "*"]).await?.into_many()?;
    for key in keys {
        let key = key.into_text()?;
        ensure!(
            COLLECTIONS
                .split(',')
                .any(|collection| stream(collection) == key),
            "{key}"
        );
        let groups = redis.tell(&["XINFO", "GROUPS", &key]).await?.into_many()?;
        ensure!(groups.is_empty(), "{key} has groups: {groups:?}");
    }
    let there = length(redis, FREE).await?;
    ensure!((100..=300).contains(&there), "{there} entries");
    Ok(())
}

/// The clock of a new Redis may be behind that of the old one: then the entries of a stream that
/// begins anew stand before the place of a reader.
#[tokio::test]
async fn a_stream_begins_anew_below_the_cursor() -> Outcome {
    let stage = Stage::start(Kind::Embedded, Via::Streams).await?;
    events_arrive(&stage).await?;
    let (redis, stream) = (redis_of(&stage)?, stream(FREE));
    redis
        .tell(&[
            "XADD",
            &stream,
            "99999999999999-0",
            "data",
            r#"{"op":"Update","id":"a"}"#,
        ])
        .await?;
    for subscriber in &stage.subscribers {
        eventually("the entry from the future was read", async || {
            let events = status(subscriber).await?.events;
            ensure!(events.without_revision == 1, "{events:?}");
            Ok(())
        })
        .await?;
    }
    redis.tell(&["DEL", &stream]).await?;
    events_arrive(&stage).await?;
    // And once more where nobody has to wait for that to be noticed.
    events_arrive(&stage).await
}

/// What any other client reads, in the database of the example.
#[tokio::test]
async fn an_ordinary_client_reads_every_change() -> Outcome {
    let mut stage = Stage::set(Kind::Embedded, Via::Streams).await?;
    stage.set_all("AURA_REDIS_DATABASE", "1");
    stage.publisher.start().await?;
    stage.start_subscribers().await?;
    let api = stage.publisher.api();
    let created = api
        .create(CHANNELS, &sample(CHANNELS)?)
        .await?
        .expect(201)?
        .json()?;
    stage.until_converged(CHANNELS).await?;
    let mut client = redis_of(&stage)?.client().await?;
    client.ask(&["SELECT", "1"]).await?;
    let entries = client
        .ask(&["XRANGE", "{1__:aura-config}:ChannelConfiguration", "-", "+"])
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
        "time": event["time"],
    });
    ensure!(
        event == expected && event["time"].is_string(),
        "{event}\ninstead of\n{expected}"
    );
    Ok(())
}
