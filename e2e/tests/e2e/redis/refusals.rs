//! Redis refuses one command, or one of its nodes is silent: everything else continues, and the log
//! stays short.

use std::net::TcpListener;

use anyhow::{Context, ensure};
use e2e::{
    client::Api,
    testbed::{
        CHANNELS, FREE, StoreKind, Testbed, Transport,
        process::folder,
        redis::{Redis, cluster::RedisCluster},
        sample,
        services::Service,
        wait::eventually,
    },
};
use serde_json::json;

use super::{BOTH, Outcome, events_arrive, redis_of, status, until_away};

/// Log lines of both services that report the failure.
fn lines(testbed: &Testbed, what: &str) -> usize {
    let all = std::iter::once(&testbed.publisher).chain(&testbed.subscribers);
    all.map(|service| {
        service
            .output()
            .lines()
            .filter(|line| line.contains(what))
            .count()
    })
    .sum()
}

/// A client of a cluster contacts all its initial nodes. One that accepts a connection and sends
/// nothing must not delay the others.
#[tokio::test]
async fn a_silent_cluster_node_does_not_delay_events() -> Outcome {
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let cluster = RedisCluster::start().await?;
    let url = format!(
        "redis-cluster://{}?node={}",
        silent.local_addr()?,
        cluster.nodes[1].host()
    );
    for transport in BOTH {
        let mut testbed = Testbed::prepare_at(StoreKind::Embedded, transport, &url).await?;
        testbed.publisher.start().await?;
        testbed.start_subscribers().await?;
        eventually("both listen", async || {
            ensure!(cluster.listeners().await? == 2, "not yet");
            Ok(())
        })
        .await
        .with_context(|| testbed.subscribers[0].output())?;
        events_arrive(&testbed)
            .await
            .with_context(|| format!("{transport:?}"))?;
    }
    Ok(())
}

/// A key of another type exists in place of a stream: that collection relies on check-ins, the
/// others on their events.
#[tokio::test]
async fn an_unreadable_stream_does_not_stop_the_other_streams() -> Outcome {
    let mut testbed = Testbed::prepare(StoreKind::Embedded, Transport::Streams).await?;
    redis_of(&testbed)?
        .command(&[
            "SET",
            &format!("{{0__:aura-config}}:{CHANNELS}"),
            "no stream",
        ])
        .await?;
    testbed.publisher.start().await?;
    testbed.start_subscribers().await?;
    eventually("the log reports the stream", async || {
        ensure!(lines(&testbed, "cannot be read") == 2, "not yet");
        Ok(())
    })
    .await?;
    let api = testbed.publisher.api();
    api.create(CHANNELS, &sample(CHANNELS)?)
        .await?
        .expect(201)?;
    for _event in 0..5 {
        events_arrive(&testbed).await?;
    }
    ensure!(
        lines(&testbed, "INFO the source of events is connected") == 2,
        "it came and went:\n{}",
        testbed.subscribers[0].output()
    );
    eventually(
        "the publisher reports once that it cannot publish",
        async || {
            ensure!(
                lines(&testbed, "cannot be published") == 1,
                "not once:\n{}",
                testbed.publisher.output()
            );
            Ok(())
        },
    )
    .await?;
    redis_of(&testbed)?
        .command(&["DEL", &format!("{{0__:aura-config}}:{CHANNELS}")])
        .await?;
    testbed.until_converged(CHANNELS).await?;
    ensure!(
        lines(&testbed, "cannot be published") == 1,
        "once more:\n{}",
        testbed.publisher.output()
    );
    Ok(())
}

/// A client without the right to `PING` receives an error, which proves that the connection is
/// alive.
#[tokio::test]
async fn a_denied_ping_counts_as_a_live_connection() -> Outcome {
    let redis = Redis::new()?
        .with("user listener on >secret &* -@all +psubscribe")
        .started()
        .await?;
    let mut testbed =
        Testbed::prepare_at(StoreKind::Embedded, Transport::PubSub, &redis.url()).await?;
    let url = redis.url_as("listener", "secret");
    testbed
        .subscribers
        .iter_mut()
        .for_each(|subscriber| subscriber.set("AURA_REDIS_URL", url.clone()));
    testbed.publisher.start().await?;
    testbed.start_subscribers().await?;
    eventually("both listen", async || {
        ensure!(redis.listeners().await? == 2, "not yet");
        Ok(())
    })
    .await?;
    let log = || redis.command(&["ACL", "LOG"]);
    eventually("the replica sends a few pings", async || {
        let refused = format!("{:?}", log().await?);
        ensure!(refused.contains("ping"), "{refused}");
        events_arrive(&testbed).await?;
        ensure!(
            status(&testbed.subscribers[0]).await?.events.applied >= 10,
            "not yet"
        );
        Ok(())
    })
    .await?;
    until_away(&testbed, false).await?;
    ensure!(
        lines(&testbed, "INFO the source of events is connected") == 2,
        "it came and went:\n{}",
        testbed.subscribers[0].output()
    );
    Ok(())
}

/// The saved position stays before the pending member of a change set, also when the connection was
/// restored meanwhile: a replica that restarts with Redis alone reads that member again.
#[tokio::test]
async fn a_reconnect_does_not_move_the_saved_stream_cursor() -> Outcome {
    let mut testbed = Testbed::prepare(StoreKind::Embedded, Transport::Streams).await?;
    let kept = folder()?;
    testbed.subscribers[0].set(
        "AURA_CONFIGURATION_SNAPSHOT_DIR",
        kept.path().display().to_string(),
    );
    testbed.publisher.start().await?;
    testbed.start_subscribers().await?;
    events_arrive(&testbed).await?;
    let head = testbed.publisher.api().head(FREE).await?;
    let part = json!([{"collection": FREE, "first": head.revision + 1, "last": head.revision + 2}]);
    let member = |id: &str, revision: u64| {
        json!({"collection": FREE, "op": "Create", "id": id, "configData": {"id": id}, "revision": revision,
            "epoch": head.epoch, "lastSet": 0, "changeSet": {"id": "by-hand", "parts": part}})
        .to_string()
    };
    let key = format!("{{0__:aura-config}}:{FREE}");
    // The publisher has no such revisions, and would take a report of them for a sign of a restored
    // database.
    testbed.publisher.kill()?;
    let redis = redis_of(&testbed)?;
    redis
        .command(&["XADD", &key, "*", "data", &member("one", head.revision + 1)])
        .await?;
    let staged = async |subscriber: &Service| anyhow::Ok(status(subscriber).await?.events.staged);
    eventually("the member is pending", async || {
        ensure!(staged(&testbed.subscribers[0]).await? == 1, "not yet");
        Ok(())
    })
    .await?;
    redis.close_connections().await?;
    eventually("the replica listens again", async || {
        ensure!(redis.listeners().await? == 2, "not yet");
        Ok(())
    })
    .await?;
    // Proves that the replica reads on after the member, and that it has counted it.
    redis
        .command(&["XADD", &key, "*", "data", "garbage"])
        .await?;
    eventually("the replica continues to read", async || {
        ensure!(
            status(&testbed.subscribers[0]).await?.events.dropped == 1,
            "not yet"
        );
        Ok(())
    })
    .await?;
    testbed.subscribers[0].stop().await?;
    redis_of(&testbed)?
        .command(&["XADD", &key, "*", "data", &member("two", head.revision + 2)])
        .await?;
    testbed.subscribers[0].launch()?;
    let api: Api = testbed.subscribers[0].api();
    eventually("the set is complete, with Redis alone", async || {
        for id in ["one", "two"] {
            api.document(FREE, id).await?.expect(200)?;
        }
        Ok(())
    })
    .await
    .with_context(|| testbed.subscribers[0].output())
}
