//! Every topology of Redis that a URL can name: a master with a sentinel, and a cluster.

use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::testbed::{
    FREE, StoreKind, Testbed, Transport,
    redis::{cluster::RedisCluster, sentinel::SentinelSetup},
    wait::eventually,
};

use super::{BOTH, Outcome, events_arrive, events_arrive_again, until_away, write_for};

async fn up(url: &str, transport: Transport) -> anyhow::Result<Testbed> {
    let mut testbed = Testbed::prepare_at(StoreKind::Embedded, transport, url).await?;
    testbed.publisher.start().await?;
    testbed.start_subscribers().await?;
    Ok(testbed)
}

async fn until_listening<F: Future<Output = anyhow::Result<usize>>>(
    listeners: impl Fn() -> F,
) -> Outcome {
    eventually("both replicas listen", async || {
        let there = listeners().await?;
        ensure!(there == 2, "{there} listen");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn replicas_converge_after_a_master_dies_during_writes() -> Outcome {
    for (transport, password, sentinel) in [
        (Transport::PubSub, None, None),
        (Transport::Streams, Some("servers"), Some("sentinels")),
    ] {
        let mut watched = SentinelSetup::start(password, sentinel).await?;
        let testbed = up(&watched.url(), transport).await?;
        until_listening(async || watched.master.listeners().await)
            .await
            .with_context(|| testbed.publisher.output())?;
        events_arrive(&testbed).await?;
        watched.master.kill()?;
        write_for(&testbed.publisher.api(), Duration::from_secs(2)).await?;
        watched.until_failed_over().await?;
        testbed
            .until_converged(FREE)
            .await
            .with_context(|| format!("{transport:?}"))?;
        events_arrive_again(&testbed)
            .await
            .with_context(|| format!("{transport:?}"))?;
        until_away(&testbed, false).await?;
    }
    Ok(())
}

/// The old master continues as a replica: it answers, but clients must no longer subscribe to it.
#[tokio::test]
async fn replicas_converge_after_a_master_steps_down() -> Outcome {
    for transport in BOTH {
        let watched = SentinelSetup::start(None, None).await?;
        let testbed = up(&watched.url(), transport).await?;
        until_listening(async || watched.master.listeners().await).await?;
        events_arrive(&testbed).await?;
        watched.fail_over().await?;
        write_for(&testbed.publisher.api(), Duration::from_secs(1)).await?;
        watched.until_failed_over().await?;
        until_listening(async || watched.replica.listeners().await)
            .await
            .with_context(|| format!("{transport:?}"))?;
        // Messages that the old master received after its replica left are lost. The next event
        // reveals the gap.
        events_arrive_again(&testbed)
            .await
            .with_context(|| format!("{transport:?}"))?;
        testbed
            .until_converged(FREE)
            .await
            .with_context(|| format!("{transport:?}"))?;
        until_away(&testbed, false).await?;
    }
    Ok(())
}

/// The old master hangs until another has replaced it. Then it resumes and acts as a master for a
/// moment.
#[tokio::test]
async fn replicas_converge_after_a_master_hangs_and_resumes() -> Outcome {
    for transport in BOTH {
        let watched = SentinelSetup::start(None, None).await?;
        let testbed = up(&watched.url(), transport).await?;
        until_listening(async || watched.master.listeners().await).await?;
        events_arrive(&testbed).await?;
        watched.master.freeze()?;
        let written = write_for(&testbed.publisher.api(), Duration::from_secs(2)).await;
        let failed_over = watched.until_failed_over().await;
        let listening = until_listening(async || watched.replica.listeners().await).await;
        watched.master.thaw()?;
        written?;
        failed_over?;
        listening.with_context(|| format!("{transport:?}"))?;
        events_arrive_again(&testbed)
            .await
            .with_context(|| format!("{transport:?}"))?;
        testbed
            .until_converged(FREE)
            .await
            .with_context(|| format!("{transport:?}"))?;
        until_away(&testbed, false).await?;
    }
    Ok(())
}

/// Each node in turn dies and restarts, while clients write.
#[tokio::test]
async fn replicas_converge_after_each_cluster_node_dies_once() -> Outcome {
    for transport in BOTH {
        let mut cluster = RedisCluster::start().await?;
        let testbed = up(&cluster.url(), transport).await?;
        until_listening(async || cluster.listeners().await)
            .await
            .with_context(|| testbed.publisher.output())?;
        events_arrive(&testbed).await?;
        for index in 0..cluster.nodes.len() {
            cluster.nodes[index].kill()?;
            write_for(&testbed.publisher.api(), Duration::from_millis(500)).await?;
            cluster.nodes[index].restart().await?;
            cluster.until_whole().await?;
            testbed
                .until_converged(FREE)
                .await
                .with_context(|| format!("{transport:?}, node {index}"))?;
            events_arrive_again(&testbed)
                .await
                .with_context(|| format!("{transport:?}, node {index}"))?;
        }
        until_away(&testbed, false).await?;
    }
    Ok(())
}

/// All streams are on one node, whatever the names of their collections, and any node leads to it.
#[tokio::test]
async fn all_streams_are_in_one_slot_of_a_cluster() -> Outcome {
    let cluster = RedisCluster::start().await?;
    let holder = cluster.holder("{0__:aura-config}:FreeForm").await?;
    let elsewhere = (holder + 1) % cluster.nodes.len();
    let url = format!("redis-cluster://{}", cluster.nodes[elsewhere].host());
    let testbed = up(&url, Transport::Streams).await?;
    until_listening(async || cluster.nodes[holder].listeners().await).await?;
    events_arrive(&testbed).await?;
    for (index, node) in cluster.nodes.iter().enumerate() {
        let keys = node.command(&["DBSIZE"]).await?.into_integer()?;
        ensure!(
            (keys > 0) == (index == holder),
            "node {index} has {keys} keys"
        );
    }
    Ok(())
}
