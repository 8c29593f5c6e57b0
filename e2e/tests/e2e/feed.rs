//! The live feed of publishers and subscribers: every change once and in order, whatever happens to
//! connections.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use contract::{FeedPage, Revision};
use e2e::{
    client::Api,
    testbed::{
        CHANNELS, FREE, Store, StoreKind, feed_reader::FeedReader, numbered, sample,
        services::Service, wait::eventually,
    },
};
use futures_util::future::{try_join, try_join_all};
use reqwest::Method;
use serde_json::{Value, json};

mod subscriber;

mod limits;

type Outcome = anyhow::Result<()>;

const ALL: &str = "/v1/changes";

fn of(collection: &str) -> String {
    format!("/v1/collections/{collection}/changes")
}

async fn log(api: &Api, collection: &str) -> anyhow::Result<Vec<Value>> {
    let feed = api
        .get(&format!("{}?since=0", of(collection)))
        .await?
        .expect(200)?;
    let feed: FeedPage<Value> = serde_json::from_str(&feed.body)?;
    ensure!(!feed.more, "the feed has more than one page");
    Ok(feed.items)
}

async fn publisher(kind: StoreKind) -> anyhow::Result<(Store, Service)> {
    let store = Store::start(kind).await?;
    let mut publisher = store
        .publisher()?
        .with("AURA_CONFIGURATION_EVENTS_ENABLED", "false");
    publisher.start().await?;
    Ok((store, publisher))
}

/// Reads changes up to this revision, and returns all of them.
async fn until(follower: &mut FeedReader, revision: Revision) -> anyhow::Result<Vec<Value>> {
    let mut items = Vec::new();
    loop {
        let (raw, data) = follower.change().await?;
        items.push(raw);
        if data.revision >= Some(revision) {
            return Ok(items);
        }
    }
}

#[tokio::test]
async fn a_feed_sends_the_log_and_then_new_changes() -> Outcome {
    let (_store, publisher) = publisher(StoreKind::Embedded).await?;
    let api = publisher.api();
    let url = publisher.url();
    for n in 0..3 {
        api.create(FREE, &numbered(n)).await?.expect(201)?;
    }
    api.create(CHANNELS, &sample(CHANNELS)?)
        .await?
        .expect(201)?;
    let mut from_start = FeedReader::from(&url, &format!("{}?since=0", of(FREE))).await?;
    let mut live = FeedReader::from(&url, &of(FREE)).await?;
    let mut both = FeedReader::from(&url, &format!("{ALL}?since={FREE}:1,{CHANNELS}:0")).await?;
    let mut all = FeedReader::from(&url, ALL).await?;
    let epoch = api.head(FREE).await?.epoch;
    ensure!(
        from_start.id == format!("{epoch} 0") && live.id == format!("{epoch} 3"),
        "{} {}",
        from_start.id,
        live.id
    );
    ensure!(
        both.id == format!("{epoch} {CHANNELS}:0,{FREE}:1"),
        "{}",
        both.id
    );
    ensure!(
        all.id.contains(&format!("{FREE}:3")) && all.id.contains("AgentConfiguration:0"),
        "{}",
        all.id
    );

    let set = json!({"changes": [{"collection": FREE, "op": "Create", "id": "s", "configData": {}},
        {"collection": CHANNELS, "op": "Patch", "id": sample(CHANNELS)?["id"], "configData": {"enabled": false}}]});
    let json = [("content-type", "application/json")];
    api.send(Method::POST, ALL, &json, set.to_string())
        .await?
        .expect(200)?;
    let free = log(&api, FREE).await?;
    ensure!(
        until(&mut from_start, 4).await? == free,
        "the stream differs from the log"
    );
    let (raw, data) = live.change().await?;
    ensure!(raw == free[3] && data.change_set.is_some(), "{raw}");
    ensure!(live.id == format!("{epoch} 4"), "{}", live.id);
    let mut of_both = Vec::new();
    for _change in 0..5 {
        of_both.push(both.change().await?.0);
    }
    let of = |name: &str| {
        of_both
            .iter()
            .filter(|item| item["collection"] == name)
            .cloned()
            .collect::<Vec<_>>()
    };
    ensure!(
        of(FREE) == free[1..] && of(CHANNELS) == log(&api, CHANNELS).await?,
        "{of_both:?}"
    );
    ensure!(
        both.id == format!("{epoch} {CHANNELS}:2,{FREE}:4"),
        "{}",
        both.id
    );
    ensure!(
        all.change().await?.1.change_set.is_some() && all.change().await?.1.change_set.is_some()
    );

    // The last event id that the reader received has priority over the query.
    let mut again = FeedReader::after(
        &url,
        &format!("{ALL}?since={FREE}:0"),
        &format!("{epoch} {FREE}:3"),
    )
    .await?;
    ensure!(again.change().await?.0 == free[3]);
    ensure!(again.quiet(Duration::from_millis(100)).await);
    for (path, id) in [
        (of_path("?since=x"), None),
        (of_path(""), Some("nonsense")),
        (of_path("?since=0&epoch=x"), None),
    ] {
        let refused = refusal(&url, &path, id).await?;
        ensure!(refused == 400, "{path} {id:?}: {refused}");
    }
    ensure!(refusal(&url, &format!("{ALL}?since=Unknown:0"), None).await? == 404);
    ensure!(
        api.get(&of_path("")).await?.status == 400,
        "a page request needs a start position"
    );
    Ok(())
}

fn of_path(query: &str) -> String {
    format!("{}{query}", of(FREE))
}

async fn refusal(url: &str, path: &str, id: Option<&str>) -> anyhow::Result<u16> {
    let mut headers = vec![("accept", "text/event-stream")];
    headers.extend(id.map(|id| ("last-event-id", id)));
    Ok(Api::new(url.to_owned())
        .send(Method::GET, path, &headers, "")
        .await?
        .status)
}

/// Two publishers of one store: each sends the commits of the other, and a reader switches from one
/// to the other.
#[tokio::test]
async fn a_feed_reader_can_switch_publishers_without_loss_or_repeats() -> Outcome {
    let (store, mut one) = publisher(StoreKind::Mongo).await?;
    let mut other = store
        .publisher()?
        .with("AURA_CONFIGURATION_EVENTS_ENABLED", "false");
    other.start().await?;
    let mut follower = FeedReader::from(&one.url(), &of(FREE)).await?;
    let began = Instant::now();
    other
        .api()
        .create(FREE, &json!({"id": "far"}))
        .await?
        .expect(201)?;
    let mut items = vec![follower.change().await?.0];
    ensure!(
        began.elapsed() < Duration::from_secs(3),
        "it took {:?}",
        began.elapsed()
    );

    // Half of the writers lose their publisher. So does the reader, in the middle of the stream.
    let apis = [one.api(), other.api()];
    let writing = try_join_all((0..100).map(|n| {
        let api = &apis[n % 2];
        async move {
            let written = api.create(FREE, &json!({"id": format!("n{n}")})).await;
            ensure!(
                n % 2 == 0 || written?.status == 201,
                "the other publisher accepts all writes"
            );
            anyhow::Ok(())
        }
    }));
    let killing = async {
        items.extend(until(&mut follower, 20).await?);
        one.kill()
    };
    try_join(writing, killing).await?;
    // Events that are in transit may still arrive. Then the stream breaks off.
    while let Ok((raw, _data)) = follower.change().await {
        items.push(raw);
    }
    let mut follower = FeedReader::after(&other.url(), &of(FREE), &follower.id).await?;
    let head = other.api().head(FREE).await?;
    other
        .api()
        .create(FREE, &json!({"id": "last"}))
        .await?
        .expect(201)?;
    items.extend(until(&mut follower, head.revision + 1).await?);
    let log = log(&other.api(), FREE).await?;
    ensure!(
        items == log,
        "{} items, {} in the log",
        items.len(),
        log.len()
    );

    // The first publisher starts again, and continues for a reader that was connected before.
    one.start().await?;
    let mut back = FeedReader::after(&one.url(), &of(FREE), &follower.id).await?;
    other.api().delete(FREE, "last").await?.expect(200)?;
    let (raw, data) = back.change().await?;
    ensure!(
        data.revision == Some(head.revision + 2) && raw.get("configData").is_none(),
        "{raw}"
    );
    Ok(())
}

#[tokio::test]
async fn a_feed_that_cannot_continue_names_the_restart_position() -> Outcome {
    let store = Store::start(StoreKind::Embedded).await?;
    let mut publisher = store
        .publisher()?
        .with("AURA_CONFIGURATION_EVENTS_ENABLED", "false")
        .with("AURA_CONFIGURATION_LOG_KEEP_CHANGES", "10")
        .with("AURA_CONFIGURATION_LOG_KEEP_HOURS", "0")
        .with("AURA_CONFIGURATION_LOG_TRIM_SECONDS", "1");
    publisher.start().await?;
    let api = publisher.api();
    let url = publisher.url();
    for n in 0..30 {
        api.create(FREE, &numbered(n)).await?.expect(201)?;
    }
    eventually("the log is trimmed", async || {
        ensure!(api.head(FREE).await?.oldest == 21);
        Ok(())
    })
    .await?;
    let head = api.head(FREE).await?;
    let epoch = head.epoch;
    for (since, reason) in [
        (format!("{epoch} 5"), "trimmed"),
        (format!("{epoch} 31"), "ahead"),
        ("00000000-1 30".to_owned(), "epoch"),
    ] {
        let mut stream = FeedReader::after(&url, &of(FREE), &since).await?;
        let resync = stream.resync().await?;
        ensure!(
            resync.reason == reason && resync.heads == [head.clone()],
            "{since}: {resync:?}"
        );
        ensure!(
            stream.id == format!("{epoch} 30"),
            "it goes on from the heads: {}",
            stream.id
        );
        let query = since
            .split_once(' ')
            .map(|(epoch, since)| format!("{}?since={since}&epoch={epoch}", of(FREE)));
        api.get(&query.context("two parts")?).await?.expect(410)?;
    }
    let mut open = FeedReader::from(&url, ALL).await?;
    api.send(Method::POST, "/v1/epoch", &[], "")
        .await?
        .expect(200)?;
    let resync = open.resync().await?;
    ensure!(
        resync.reason == "epoch" && resync.heads.iter().all(|head| head.epoch > epoch),
        "{resync:?}"
    );
    let mut on = FeedReader::after(&url, ALL, &open.id).await?;
    api.create(FREE, &json!({"id": "new"})).await?.expect(201)?;
    ensure!(on.change().await?.1.revision == Some(31));
    Ok(())
}
