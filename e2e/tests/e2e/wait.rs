//! Writes that wait until replicas have applied them.

mod commands;

use std::time::Duration;

use anyhow::{Context, ensure};
use client::{
    Endpoint, Timeouts,
    live_feed::{FeedMessage, FeedStart},
};
use contract::{
    Written,
    applied::{Applied, NotAppliedReason},
    feed::Since,
};
use e2e::{
    client::{Answer, Api},
    testbed::{FREE, StoreKind, Testbed, Transport, numbered},
};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

type Outcome = anyhow::Result<()>;

async fn put(api: &Api, query: &str, number: u64) -> anyhow::Result<Answer> {
    let path = format!("/v1/collections/{FREE}/documents/a{query}");
    api.send(Method::PUT, &path, &[], numbered(number).to_string())
        .await
}

fn applied(answer: &Answer) -> anyhow::Result<Applied> {
    let written: Written = serde_json::from_str(&answer.body)?;
    written
        .applied
        .context("the answer says nothing of replicas")
}

/// All transports: events that ask for a check-in, and the feed, which does not.
#[tokio::test]
async fn a_write_is_answered_when_all_replicas_have_applied_it() -> Outcome {
    for (store, transport) in [
        (StoreKind::Embedded, Transport::Local),
        (StoreKind::Mongo, Transport::PubSub),
        (StoreKind::Embedded, Transport::Feed),
    ] {
        let testbed = Testbed::start(store, transport).await?;
        let api = testbed.publisher.api();
        api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
        testbed.until_same(FREE, "a").await?;
        for number in 1..=5 {
            let answer = put(&api, "?wait=all&timeout=20s", number)
                .await?
                .expect(200)?;
            let applied = applied(&answer)?;
            ensure!(
                (applied.reached, applied.replicas, applied.applied) == (true, 2, 2),
                "{applied:?}"
            );
            // What the answer says is true of every reader.
            for subscriber in &testbed.subscribers {
                let held = subscriber.api().document(FREE, "a").await?.expect(200)?;
                ensure!(
                    held.json()?["configData"] == numbered(number),
                    "{}",
                    held.body
                );
            }
        }
        let set = json!({"changes": [
            {"collection": FREE, "op": "Create", "id": "b", "configData": {}},
            {"collection": FREE, "op": "Delete", "id": "a"}]});
        let answer = api
            .send(
                Method::POST,
                "/v1/changes?wait=100%25",
                &[],
                set.to_string(),
            )
            .await?;
        let answer = answer.expect(200)?.json()?;
        ensure!(answer["applied"]["applied"] == 2, "{answer}");
        // Nothing to change, as when a rollback is asked for again: it waits for what is there.
        let head = api.head(FREE).await?;
        let to = json!({"toRevision": head.revision}).to_string();
        let path = format!("/v1/collections/{FREE}/documents/b/rollback?wait=all&timeout=20s");
        let answer = api.send(Method::POST, &path, &[], to).await?;
        let answer = answer.expect(200)?.json()?;
        ensure!(
            answer["items"] == json!([]) && answer["applied"]["applied"] == 2,
            "{answer}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_write_that_not_all_replicas_apply_in_time_names_those_that_have_not() -> Outcome {
    let mut testbed = Testbed::start(StoreKind::Embedded, Transport::Local).await?;
    let api = testbed.publisher.api();
    api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
    testbed.until_same(FREE, "a").await?;
    testbed.subscribers[0].pause()?;
    let answer = put(&api, "?wait=all&timeout=500ms", 1).await?.expect(202)?;
    let late = applied(&answer)?;
    ensure!(
        (late.reached, late.replicas, late.applied) == (false, 2, 1),
        "{late:?}"
    );
    let [missing] = &late.missing[..] else {
        anyhow::bail!("{late:?}");
    };
    ensure!(missing.reason == NotAppliedReason::Behind, "{missing:?}");
    ensure!(missing.detail.contains("revision"), "{missing:?}");
    // Fewer are enough, and the request says how many.
    for query in ["?wait=1", "?wait=50%25"] {
        let answer = put(&api, query, 2).await?.expect(200)?;
        ensure!(applied(&answer)?.reached, "{}", answer.body);
    }
    let path = format!("/v1/collections/{FREE}/applied?timeout=0s");
    let standing: Value = api.get(&path).await?.expect(200)?.json()?;
    ensure!(
        standing["reached"] == false && standing["missing"][0]["instance"] == missing.instance,
        "{standing}"
    );
    testbed.subscribers[0].resume()?;
    let path = format!("/v1/collections/{FREE}/applied?timeout=30s");
    let standing: Value = api.get(&path).await?.expect(200)?.json()?;
    ensure!(
        standing["reached"] == true && standing["applied"] == 2,
        "{standing}"
    );
    Ok(())
}

#[tokio::test]
async fn a_wait_of_another_form_is_refused_before_the_write() -> Outcome {
    let testbed = Testbed::start(StoreKind::Embedded, Transport::Local).await?;
    let api = testbed.publisher.api();
    api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
    for (query, field) in [
        ("?wait=some", "wait"),
        ("?wait=0", "wait"),
        ("?wait=101%25", "wait"),
        ("?wait=all&timeout=5", "timeout"),
        ("?wait=all&timeout=61s", "timeout"),
        ("?timeout=5", "timeout"),
        ("?wait=all&wait=1", "wait"),
    ] {
        let problem = put(&api, query, 1).await?.expect(400)?.json()?;
        ensure!(problem["field"] == field, "{query}: {problem}");
    }
    let path = format!("/v1/collections/{FREE}/applied?revision=99");
    let problem = api.get(&path).await?.expect(404)?.json()?;
    ensure!(
        problem["type"] == "urn:confcast:problem:no-revision",
        "{problem}"
    );
    ensure!(api.head(FREE).await?.revision == 1, "nothing was written");
    Ok(())
}

/// A client that gives up closes its connection, and what waits for it must not stay until its time is
/// over: the slots of all waits are bounded.
#[tokio::test]
async fn a_wait_ends_when_its_client_closes_the_connection() -> Outcome {
    let testbed = Testbed::start(StoreKind::Embedded, Transport::Local).await?;
    let subscriber = testbed.subscribers[0].port();
    for (port, path) in [
        (
            testbed.publisher.port(),
            format!("/v1/collections/{FREE}/applied?wait=250&timeout=60s"),
        ),
        (
            subscriber,
            format!("/v1/collections/{FREE}?min-revision=999&timeout=60s"),
        ),
    ] {
        let mut client = TcpStream::connect(("127.0.0.1", port)).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n");
        client.write_all(request.as_bytes()).await?;
        client.shutdown().await?;
        let mut answer = Vec::new();
        let ended = timeout(Duration::from_secs(20), client.read_to_end(&mut answer)).await;
        ensure!(ended.is_ok(), "{path} waits on");
        ensure!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    }
    Ok(())
}

/// A replica that follows the feed is asked by it; no reader is asked where no request waits.
#[tokio::test]
async fn the_feed_asks_for_a_check_in_while_a_request_waits() -> Outcome {
    let mut testbed = Testbed::prepare(StoreKind::Embedded, Transport::Feed).await?;
    testbed.publisher.start().await?;
    let api = testbed.publisher.api();
    api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
    let head = api.head(FREE).await?;
    let since = Since::from([(head.collection, head.revision)]);
    let url = testbed.publisher.url().parse()?;
    let endpoint = Endpoint::new(&url, Timeouts::REPLICA)?;
    let start = FeedStart::After(&since, head.epoch);
    let mut feed = endpoint.live_feed(start).await?;
    let mut next = async || {
        let message = timeout(Duration::from_secs(20), feed.next_message()).await??;
        anyhow::Ok(match message.context("the feed ended")? {
            FeedMessage::Change { .. } => "change",
            FeedMessage::Confirm => "confirm",
            FeedMessage::End { .. } => "end",
        })
    };
    put(&api, "", 1).await?.expect(200)?;
    ensure!(next().await? == "change");
    // No nine replicas follow, so the request waits while the feed is read.
    let waiting = put(&api, "?wait=9&timeout=2s", 2);
    let reading = async { anyhow::Ok([next().await?, next().await?]) };
    let (answer, read) = tokio::try_join!(waiting, reading)?;
    answer.expect(202)?;
    ensure!(read == ["change", "confirm"], "{read:?}");
    Ok(())
}
