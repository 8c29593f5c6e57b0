//! Check-ins: the list of replicas, the subscribers that they reveal, and the number of concurrent
//! loads.

use anyhow::{Context, ensure};
use contract::fleet;
use e2e::{
    client::Api,
    testbed::{
        FREE, Store, StoreKind, Testbed, Transport, numbered,
        services::Service,
        wait::{TIMEOUT, eventually},
    },
};
use reqwest::Method;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use super::{Outcome, at, check_in, mongo, stands};

/// A check-in with one publisher is visible at all publishers.
#[tokio::test]
async fn the_replica_list_is_shared_by_all_publishers() -> Outcome {
    let store = Store::start(StoreKind::Mongo).await?;
    let forgetful =
        |publisher: Service| publisher.with("AURA_CONFIGURATION_FORGET_REPLICAS_SECONDS", "1");
    let mut one = store.publisher()?;
    let mut two = store.publisher()?;
    one.start().await?;
    two.start().await?;
    let head = one.api().head(FREE).await?;
    stands(&one.api(), &head).await?;
    let seen = async |api: Api| {
        let fleet: fleet::ReplicaList =
            serde_json::from_str(&api.get("/v1/replicas").await?.expect(200)?.body)?;
        anyhow::Ok(
            fleet
                .replicas
                .into_iter()
                .map(|member| member.check_in.instance)
                .collect::<Vec<_>>(),
        )
    };
    ensure!(
        seen(one.api()).await? == ["replica"],
        "its own publisher lists it at once"
    );
    eventually("the other publisher lists it", async || {
        ensure!(seen(two.api()).await? == ["replica"]);
        Ok(())
    })
    .await?;
    let metrics = two.api().get("/metrics").await?.expect(200)?.body;
    ensure!(
        metrics.contains("confcast_replicas{state=\"current\"} 1\n"),
        "{metrics}"
    );
    one.stop().await?;
    two.stop().await?;
    let mut three = forgetful(store.publisher()?);
    three.start().await?;
    eventually("the replica is forgotten", async || {
        ensure!(seen(three.api()).await?.is_empty());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_check_in_is_answered_503_without_a_database() -> Outcome {
    let (mut store, publisher, _database) = mongo().await?;
    let head = publisher.api().head(FREE).await?;
    store.0.as_mut().context("a mongod")?.kill()?;
    check_in(&publisher.api(), "replica", at(head.epoch, 0, head.digest))
        .await?
        .expect(503)?;
    let metrics = publisher.api().get("/metrics").await?.expect(200)?.body;
    ensure!(
        metrics.contains("confcast_replicas_diverged_total 0\n"),
        "{metrics}"
    );
    Ok(())
}

/// A subscriber that no setting names is discovered by its check-in.
#[tokio::test]
async fn events_go_to_replicas_that_checked_in() -> Outcome {
    let mut testbed = Testbed::prepare(StoreKind::Embedded, Transport::Local).await?;
    testbed.publisher = testbed
        .publisher
        .with("AURA_CONFIGURATION_LOCAL_SUBSCRIBERS", "");
    testbed.publisher.start().await?;
    testbed.start_subscribers().await?;
    let api = testbed.publisher.api();
    api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
    for (number, subscriber) in testbed.subscribers.iter().enumerate() {
        let body = json!({
            "instance": format!("found-{number}"), "bootId": "b", "baseUrl": subscriber.url(), "intervalMs": 60_000,
            "collections": {},
        });
        let path = format!("/v1/replicas/found-{number}");
        api.send(Method::PUT, &path, &[], body.to_string())
            .await?
            .expect(200)?;
    }
    // Earlier writes may be known by now. This one can only be known by an event.
    for number in 0..20 {
        api.put(FREE, "a", &numbered(number)).await?.expect(200)?;
    }
    let held = testbed.subscribers[0].api();
    eventually("events are applied", async || {
        let applied = held.get("/v1/status").await?.json()?["events"]["applied"].as_u64();
        ensure!(applied.is_some_and(|applied| applied > 0), "{applied:?}");
        Ok(())
    })
    .await
}

/// The permitted number of snapshots of different moments, and one more. Those of the same moment
/// are one.
#[tokio::test]
async fn concurrent_snapshots_of_different_moments_are_limited_and_those_of_one_are_shared()
-> Outcome {
    let mut publisher = Store::start(StoreKind::Embedded)
        .await?
        .publisher()?
        .with("AURA_CONFIGURATION_LOADS", "2");
    publisher.start().await?;
    let api = publisher.api();
    let large = "x".repeat(900_000);
    for number in 0..16 {
        api.create(FREE, &json!({ "id": number.to_string(), "large": large }))
            .await?
            .expect(201)?;
    }
    let stalls = open_stream(publisher.port()).await?;
    api.put(FREE, "0", &numbered(1)).await?.expect(200)?;
    let reads = open_stream(publisher.port()).await?;
    api.put(FREE, "0", &numbered(2)).await?.expect(200)?;
    let refused = api.get("/v1/snapshot").await?.expect(503)?;
    ensure!(
        refused.body.contains("loads-under-way") && refused.header("retry-after") == "1",
        "{}",
        refused.body
    );
    ensure!(
        rest(reads).await?.contains("\"end\":true"),
        "the connection was closed"
    );
    // Both slots are taken again, and readers of the same moment need none. When they have all of the
    // text its slot is free.
    let shared = open_stream(publisher.port()).await?;
    let same = (0..20).map(|_each| api.get("/v1/snapshot"));
    for same in futures_util::future::try_join_all(same).await? {
        let same = same.expect(200)?.body;
        ensure!(same.contains("\"end\":true") && same.lines().count() == 18);
    }
    api.put(FREE, "0", &numbered(3)).await?.expect(200)?;
    let second = open_stream(publisher.port()).await?;
    api.put(FREE, "0", &numbered(4)).await?.expect(200)?;
    // The first reader stalls for too long, and its slot goes to another reader.
    eventually("its slot is free", async || {
        api.get("/v1/snapshot").await?.expect(200).map(drop)
    })
    .await?;
    ensure!(
        !rest(stalls).await?.contains("\"end\":true"),
        "the snapshot had lost its slot"
    );
    drop((second, shared));
    let metrics = api.get("/metrics").await?.expect(200)?.body;
    ensure!(
        metrics.contains("confcast_snapshots_refused_total"),
        "{metrics}"
    );
    Ok(())
}

/// A snapshot that has started. Its reader receives little, whatever the kernel would buffer.
async fn open_stream(port: u16) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(16 * 1024)?;
    let mut stream = socket.connect(([127, 0, 0, 1], port).into()).await?;
    stream
        .write_all(b"GET /v1/snapshot HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .await?;
    let mut status = [0; 12];
    stream.read_exact(&mut status).await?;
    ensure!(
        status == *b"HTTP/1.1 200",
        "{}",
        String::from_utf8_lossy(&status)
    );
    Ok(stream)
}

/// Reads the rest of the stream, complete or not.
async fn rest(mut stream: TcpStream) -> anyhow::Result<String> {
    let mut all = Vec::new();
    // A reader whose connection is closed may receive a reset.
    drop(tokio::time::timeout(TIMEOUT, stream.read_to_end(&mut all)).await?);
    Ok(String::from_utf8_lossy(&all).into_owned())
}
