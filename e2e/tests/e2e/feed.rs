//! The live feed of publishers and subscribers: every change, once, in order, over whatever happens
//! to connections.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use contract::{FeedPage, Revision};
use e2e::{
    client::Api,
    testbed::{
        CHANNELS, FREE, Store, StoreKind,
        feed_reader::FeedReader,
        numbered, sample,
        services::Service,
        wait::{eventually, within},
    },
};
use futures_util::future::{try_join, try_join_all};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

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
    ensure!(!feed.more, "more than a page");
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

/// Reads changes until one of this revision, and gives all of them.
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
async fn a_stream_is_the_log_and_then_what_is_committed() -> Outcome {
    let (_store, publisher) = publisher(StoreKind::Embedded).await?;
    let (api, url) = (publisher.api(), publisher.url());
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
        "the log, item by item"
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

    // What it heard last goes before what the query says.
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
        "a page has to begin somewhere"
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

/// Two publishers of one store: what one commits the other one tells, and a reader goes over from
/// one to the other.
#[tokio::test]
async fn a_reader_goes_over_to_another_publisher_without_loss_or_repeats() -> Outcome {
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

    // Half of the writers lose their publisher; the reader does as well, in the middle of it.
    let apis = [one.api(), other.api()];
    let writing = try_join_all((0..100).map(|n| {
        let api = &apis[n % 2];
        async move {
            let written = api.create(FREE, &json!({"id": format!("n{n}")})).await;
            ensure!(
                n % 2 == 0 || written?.status == 201,
                "the other one is well"
            );
            anyhow::Ok(())
        }
    }));
    let killing = async {
        items.extend(until(&mut follower, 20).await?);
        one.kill()
    };
    try_join(writing, killing).await?;
    // What was on its way may still come; then the stream breaks off.
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

    // The first one comes again, and goes on for who was there before.
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
async fn what_cannot_go_on_says_so_and_where_to_begin_anew() -> Outcome {
    let store = Store::start(StoreKind::Embedded).await?;
    let mut publisher = store
        .publisher()?
        .with("AURA_CONFIGURATION_EVENTS_ENABLED", "false")
        .with("AURA_CONFIGURATION_LOG_KEEP_CHANGES", "10")
        .with("AURA_CONFIGURATION_LOG_KEEP_HOURS", "0")
        .with("AURA_CONFIGURATION_LOG_TRIM_SECONDS", "1");
    publisher.start().await?;
    let (api, url) = (publisher.api(), publisher.url());
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

/// Streams are bounded, and none of them holds up the end.
#[tokio::test]
async fn streams_have_a_limit_and_end_with_the_process() -> Outcome {
    let (_store, mut publisher) = publisher(StoreKind::Embedded).await?;
    let url = publisher.url();
    let mut streams = Vec::new();
    for _batch in 0..16 {
        let path = of(FREE);
        streams.extend(try_join_all((0..64).map(|_stream| FeedReader::from(&url, &path))).await?);
    }
    let refused = publisher
        .api()
        .get_with(&of(FREE), "accept", "text/event-stream")
        .await?
        .expect(503)?;
    ensure!(
        refused.header("retry-after") == "1" && refused.body.contains("streams-full"),
        "{refused:?}"
    );
    streams.truncate(1_000);
    eventually("a place is free", async || {
        FeedReader::from(&url, &of(FREE)).await.map(drop)
    })
    .await?;
    publisher
        .api()
        .create(FREE, &numbered(1))
        .await?
        .expect(201)?;
    try_join_all(streams.iter_mut().map(FeedReader::change)).await?;

    let stalled = begin(&publisher, &of_path("?since=0")).await?;
    let began = Instant::now();
    publisher.stop().await?;
    ensure!(
        began.elapsed() < Duration::from_secs(2),
        "the end took {:?}",
        began.elapsed()
    );
    let ended = try_join_all(streams.iter_mut().map(FeedReader::next)).await?;
    ensure!(
        ended
            .iter()
            .all(|said| matches!(said, e2e::testbed::feed_reader::FeedEvent::End)),
        "a stream was broken off"
    );
    drop(stalled);
    Ok(())
}

/// A reader with little room, which reads nothing.
async fn begin(publisher: &Service, path: &str) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4_096)?;
    let mut stream = socket
        .connect(([127, 0, 0, 1], publisher.port()).into())
        .await?;
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    Ok(stream)
}

/// A reader that takes nothing loses its connection; one that does not hurry keeps it. Neither
/// costs the writers anything.
#[tokio::test]
async fn a_reader_that_takes_nothing_is_cut_off() -> Outcome {
    let (_store, mut publisher) = publisher(StoreKind::Embedded).await?;
    let api = publisher.api();
    let large = json!({"text": "x".repeat(500_000)});
    for _document in 0..40 {
        api.create(FREE, &large).await?.expect(201)?;
    }
    let mut stalled = begin(&publisher, &of_path("?since=0")).await?;
    let mut quiet = FeedReader::from(&publisher.url(), &of(FREE)).await?;
    within(Duration::from_secs(60), "it is cut off", async || {
        ensure!(publisher.output().contains("1 streams were cut off"));
        Ok(())
    })
    .await?;
    let mut rest = Vec::new();
    // What the system had taken already; then the end, or a reset.
    stalled.read_to_end(&mut rest).await.ok();
    ensure!(
        rest.len() < 20_000_000 && !rest.ends_with(b"0\r\n\r\n"),
        "{} bytes came",
        rest.len()
    );
    api.create(FREE, &json!({"id": "next"}))
        .await?
        .expect(201)?;
    ensure!(
        quiet.change().await?.1.revision == Some(41),
        "the quiet one goes on"
    );
    let began = Instant::now();
    let _again = begin(&publisher, &of_path("?since=0")).await?;
    publisher.stop().await?;
    ensure!(
        began.elapsed() < Duration::from_secs(3),
        "the end took {:?}",
        began.elapsed()
    );
    Ok(())
}

/// A publisher, and a subscriber that it sends events to.
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

/// An item as every feed has it.
fn common(mut item: Value) -> Value {
    for only_of_the_log in ["time", "count", "digest", "correlationId", "traceparent"] {
        item.as_object_mut()
            .into_iter()
            .for_each(|members| drop(members.remove(only_of_the_log)));
    }
    item
}

#[tokio::test]
async fn a_subscriber_tells_what_its_publisher_tells() -> Outcome {
    let (_store, publisher, mut subscriber) = pair().await?;
    let (api, path) = (
        publisher.api(),
        format!("{ALL}?since={CHANNELS}:0,{FREE}:0"),
    );
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
    let (mut truth, mut told) = (Vec::new(), Vec::new());
    for _change in 0..api.head(FREE).await?.revision + api.head(CHANNELS).await?.revision {
        truth.push(common(of_publisher.change().await?.0));
        told.push(of_subscriber.change().await?.0);
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
            of(&told) == of(&truth),
            "{name}: {:?} instead of {:?}",
            of(&told),
            of(&truth)
        );
        let (page, log) = (log(&subscriber.api(), name).await?, log(&api, name).await?);
        ensure!(
            page == log.into_iter().map(common).collect::<Vec<_>>(),
            "the page of {name} is another"
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

    // Whoever comes from a replica that is further waits for a moment, and no longer.
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

/// After a start a subscriber knows no changes; one that kept its last known good goes on from
/// there.
#[tokio::test]
async fn a_subscriber_that_starts_anew_tells_what_came_since() -> Outcome {
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

    let folder = e2e::testbed::process::folder()?;
    subscriber.stop().await?;
    subscriber.set(
        "AURA_CONFIGURATION_SNAPSHOT_DIR",
        folder.path().display().to_string(),
    );
    subscriber.start().await?;
    let mut follower = FeedReader::after(&subscriber.url(), &of(FREE), &follower.id).await?;
    subscriber.stop().await?;
    ensure!(matches!(
        follower.next().await?,
        e2e::testbed::feed_reader::FeedEvent::End
    ));
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

/// A replica below a subscriber that hears no events lives on its feed, and loads once.
#[tokio::test]
async fn a_subscriber_feeds_another_by_its_feed() -> Outcome {
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
    eventually("it follows", async || {
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
        "and has a feed in turn"
    );
    Ok(())
}
