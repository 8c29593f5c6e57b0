//! The feed of a subscriber: the same changes in the same order as the feed of its publisher.

use std::time::{Duration, Instant};

use anyhow::ensure;
use e2e::testbed::{
    CHANNELS, FREE, Store, StoreKind,
    feed_reader::{FeedEvent, FeedReader},
    numbered,
    process::folder,
    sample,
    services::Service,
    wait::eventually,
};
use reqwest::Method;
use serde_json::{Value, json};

use super::{ALL, Outcome, log, of, of_path, refusal};

/// A publisher, and a subscriber that receives its events.
async fn pair() -> anyhow::Result<(Store, Service, Service)> {
    let store = Store::start(StoreKind::Embedded).await?;
    let publisher = store.publisher()?;
    let mut subscriber = Service::subscriber("replica", &[publisher.url()])?
        .with(
            "AURA_CONFIGURATION_COLLECTIONS",
            format!("{FREE},{CHANNELS}"),
        )
        .with("AURA_CONFIGURATION_CHECK_IN_SECONDS", "1");
    let mut publisher = publisher.with("AURA_CONFIGURATION_LOCAL_SUBSCRIBERS", subscriber.url());
    publisher.start().await?;
    subscriber.start().await?;
    Ok((store, publisher, subscriber))
}

/// The form of an item in every feed.
fn common(mut item: Value) -> Value {
    for only_of_the_log in ["time", "count", "digest", "correlationId", "traceparent"] {
        item.as_object_mut()
            .into_iter()
            .for_each(|members| drop(members.remove(only_of_the_log)));
    }
    item
}

#[tokio::test]
async fn a_subscriber_serves_the_same_feed_as_its_publisher() -> Outcome {
    let (_store, publisher, mut subscriber) = pair().await?;
    let api = publisher.api();
    let path = format!("{ALL}?since={CHANNELS}:0,{FREE}:0");
    let mut of_publisher = FeedReader::from(&publisher.url(), &path).await?;
    let mut of_subscriber = FeedReader::from(&subscriber.url(), &path).await?;
    api.create(CHANNELS, &sample(CHANNELS)?)
        .await?
        .expect(201)?;
    let json = [
        ("content-type", "application/json"),
        ("x-correlation-id", "c"),
    ];
    for round in 0..20 {
        let id = format!("n{round}");
        api.create(
            FREE,
            &json!({"id": id, "exact": 9_007_199_254_740_993_u64, "round": round}),
        )
        .await?
        .expect(201)?;
        api.put(FREE, &id, &json!({"text": "x".repeat(round * 5_000)}))
            .await?
            .expect(200)?;
        let enabled = json!({"enabled": round % 2 == 0});
        let set = json!({"changes": [{"collection": FREE, "op": "Delete", "id": id},
            {"collection": CHANNELS, "op": "Patch", "id": sample(CHANNELS)?["id"], "configData": enabled}]});
        api.send(Method::POST, ALL, &json, set.to_string())
            .await?
            .expect(200)?;
    }
    let mut truth = Vec::new();
    let mut served = Vec::new();
    for _change in 0..api.head(FREE).await?.revision + api.head(CHANNELS).await?.revision {
        truth.push(common(of_publisher.change().await?.0));
        served.push(of_subscriber.change().await?.0);
    }
    ensure!(
        of_publisher.id == of_subscriber.id,
        "{} {}",
        of_publisher.id,
        of_subscriber.id
    );
    for name in [FREE, CHANNELS] {
        let of = |items: &[Value]| {
            items
                .iter()
                .filter(|item| item["collection"] == name)
                .cloned()
                .collect::<Vec<_>>()
        };
        ensure!(
            of(&served) == of(&truth),
            "{name}: {:?} instead of {:?}",
            of(&served),
            of(&truth)
        );
        let page = log(&subscriber.api(), name).await?;
        let log = log(&api, name).await?;
        ensure!(
            page == log.into_iter().map(common).collect::<Vec<_>>(),
            "the pages of {name} differ"
        );
    }
    for (query, reason) in [("since=99", "ahead"), ("since=0&epoch=00000001-1", "epoch")] {
        let gone = subscriber
            .api()
            .get(&of_path(&format!("?{query}")))
            .await?
            .expect(410)?;
        ensure!(gone.json()?["reason"] == reason, "{gone:?}");
    }
    ensure!(subscriber.api().get(&of_path("")).await?.status == 400);
    ensure!(
        refusal(
            &subscriber.url(),
            &format!("{ALL}?since=AgentConfiguration:0"),
            None
        )
        .await?
            == 404
    );

    // A reader that comes from a replica with a newer revision waits briefly, and no longer.
    let head = api.head(FREE).await?;
    let next = format!("{} {}", head.epoch, head.revision + 1);
    let mut early = FeedReader::after(&subscriber.url(), &of(FREE), &next).await?;
    api.create(FREE, &json!({"id": "one"})).await?.expect(201)?;
    api.create(FREE, &json!({"id": "two"})).await?.expect(201)?;
    ensure!(early.change().await?.1.revision == Some(head.revision + 2));
    let mut far = FeedReader::after(
        &subscriber.url(),
        &of(FREE),
        &format!("{} 9999", head.epoch),
    )
    .await?;
    ensure!(far.resync().await?.reason == "ahead");

    let began = Instant::now();
    subscriber.stop().await?;
    ensure!(
        began.elapsed() < Duration::from_secs(2),
        "the end took {:?}",
        began.elapsed()
    );
    Ok(())
}

/// After a start a subscriber has no changes to serve. One that saved its last known good state
/// continues from there.
#[tokio::test]
async fn a_restarted_subscriber_serves_the_changes_since_its_stop() -> Outcome {
    let (_store, publisher, mut subscriber) = pair().await?;
    let api = publisher.api();
    api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
    let mut follower =
        FeedReader::from(&subscriber.url(), &format!("{}?since=0", of(FREE))).await?;
    follower.change().await?;
    subscriber.kill()?;
    api.put(FREE, "a", &numbered(1)).await?.expect(200)?;
    subscriber.start().await?;
    let mut follower = FeedReader::after(&subscriber.url(), &of(FREE), &follower.id).await?;
    let resync = follower.resync().await?;
    ensure!(
        (resync.reason.as_str(), resync.heads[0].oldest) == ("trimmed", 3),
        "{resync:?}"
    );
    subscriber.api().document(FREE, "a").await?.expect(200)?;

    let folder = folder()?;
    subscriber.stop().await?;
    subscriber.set(
        "AURA_CONFIGURATION_SNAPSHOT_DIR",
        folder.path().display().to_string(),
    );
    subscriber.start().await?;
    let mut follower = FeedReader::after(&subscriber.url(), &of(FREE), &follower.id).await?;
    subscriber.stop().await?;
    ensure!(matches!(follower.next().await?, FeedEvent::End));
    api.put(FREE, "a", &numbered(2)).await?.expect(200)?;
    subscriber.start().await?;
    let mut follower = FeedReader::after(&subscriber.url(), &of(FREE), &follower.id).await?;
    api.put(FREE, "a", &numbered(3)).await?.expect(200)?;
    ensure!(
        [
            follower.change().await?.1.revision,
            follower.change().await?.1.revision
        ] == [Some(3), Some(4)]
    );
    Ok(())
}

/// A replica that follows a subscriber and receives no events relies on its feed, and loads once.
#[tokio::test]
async fn a_subscriber_can_follow_the_feed_of_another() -> Outcome {
    let (_store, publisher, subscriber) = pair().await?;
    let mut below = Service::subscriber("below", &[subscriber.url()])?
        .with(
            "AURA_CONFIGURATION_COLLECTIONS",
            format!("{FREE},{CHANNELS}"),
        )
        .with("AURA_CONFIGURATION_CHECK_IN_SECONDS", "1");
    below.start().await?;
    for n in 0..50 {
        publisher
            .api()
            .create(FREE, &numbered(n))
            .await?
            .expect(201)?;
    }
    let truth = publisher.api().head(FREE).await?;
    eventually("the client follows", async || {
        let head = below.api().head(FREE).await?;
        ensure!(
            (head.revision, head.digest) == (truth.revision, truth.digest),
            "{head:?}"
        );
        Ok(())
    })
    .await?;
    let healing = below.api().get("/v1/status").await?.json()?["sync"].clone();
    ensure!(
        healing["loads"] == 1 && healing["changes"] == 50,
        "{healing}"
    );
    ensure!(
        log(&below.api(), FREE).await? == log(&subscriber.api(), FREE).await?,
        "the replica serves a feed too"
    );
    Ok(())
}
