//! Every shape of Redis that a URL can name: a master that a sentinel watches, and a cluster.

use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::{
    redis::{cluster::Cluster, sentinel::Watched},
    stage::{FREE, Kind, Stage, Via},
    wait::eventually,
};

use super::{BOTH, Outcome, events_arrive, events_arrive_again, until_away, write_for};

async fn up(url: &str, via: Via) -> anyhow::Result<Stage> {
    let mut stage = Stage::set_at(Kind::Embedded, via, url).await?;
    stage.publisher.start().await?;
    stage.start_subscribers().await?;
    Ok(stage)
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
async fn a_master_dies_while_clients_write() -> Outcome {
    for (via, password, sentinel) in [
        (Via::PubSub, None, None),
        (Via::Streams, Some("servers"), Some("sentinels")),
    ] {
        let mut watched = Watched::start(password, sentinel).await?;
        let stage = up(&watched.url(), via).await?;
        until_listening(async || watched.master.listeners().await)
            .await
            .with_context(|| stage.publisher.output())?;
        events_arrive(&stage).await?;
        watched.master.kill()?;
        write_for(&stage.publisher.api(), Duration::from_secs(2)).await?;
        watched.until_failed_over().await?;
        stage
            .until_converged(FREE)
            .await
            .with_context(|| format!("{via:?}"))?;
        events_arrive_again(&stage)
            .await
            .with_context(|| format!("{via:?}"))?;
        until_away(&stage, false).await?;
    }
    Ok(())
}

/// The old master lives on as a replica: it answers, and is not to be listened to any more.
#[tokio::test]
async fn a_master_steps_down() -> Outcome {
    for via in BOTH {
        let watched = Watched::start(None, None).await?;
        let stage = up(&watched.url(), via).await?;
        until_listening(async || watched.master.listeners().await).await?;
        events_arrive(&stage).await?;
        watched.fail_over().await?;
        write_for(&stage.publisher.api(), Duration::from_secs(1)).await?;
        watched.until_failed_over().await?;
        until_listening(async || watched.replica.listeners().await)
            .await
            .with_context(|| format!("{via:?}"))?;
        // What the old master took after the replica had left it is lost with what it held; the
        // next event tells of it.
        events_arrive_again(&stage)
            .await
            .with_context(|| format!("{via:?}"))?;
        stage
            .until_converged(FREE)
            .await
            .with_context(|| format!("{via:?}"))?;
        until_away(&stage, false).await?;
    }
    Ok(())
}

/// The old master hangs until another has its place, then wakes and takes itself for the master for
/// a moment.
#[tokio::test]
async fn a_master_hangs_and_wakes() -> Outcome {
    for via in BOTH {
        let watched = Watched::start(None, None).await?;
        let stage = up(&watched.url(), via).await?;
        until_listening(async || watched.master.listeners().await).await?;
        events_arrive(&stage).await?;
        watched.master.freeze()?;
        let written = write_for(&stage.publisher.api(), Duration::from_secs(2)).await;
        let failed_over = watched.until_failed_over().await;
        let listening = until_listening(async || watched.replica.listeners().await).await;
        watched.master.thaw()?;
        written?;
        failed_over?;
        listening.with_context(|| format!("{via:?}"))?;
        events_arrive_again(&stage)
            .await
            .with_context(|| format!("{via:?}"))?;
        stage
            .until_converged(FREE)
            .await
            .with_context(|| format!("{via:?}"))?;
        until_away(&stage, false).await?;
    }
    Ok(())
}

/// Each node in turn dies and comes back, and clients write all the while.
#[tokio::test]
async fn the_nodes_of_a_cluster_die_in_turn() -> Outcome {
    for via in BOTH {
        let mut cluster = Cluster::start().await?;
        let stage = up(&cluster.url(), via).await?;
        until_listening(async || cluster.listeners().await)
            .await
            .with_context(|| stage.publisher.output())?;
        events_arrive(&stage).await?;
        for index in 0..cluster.nodes.len() {
            cluster.nodes[index].kill()?;
            write_for(&stage.publisher.api(), Duration::from_millis(500)).await?;
            cluster.nodes[index].restart().await?;
            cluster.until_whole().await?;
            stage
                .until_converged(FREE)
                .await
                .with_context(|| format!("{via:?}, node {index}"))?;
            events_arrive_again(&stage)
                .await
                .with_context(|| format!("{via:?}, node {index}"))?;
        }
        until_away(&stage, false).await?;
    }
    Ok(())
}

/// All streams are on one node, whatever their collections are called; and any node leads to it.
#[tokio::test]
async fn the_streams_of_a_cluster_stay_together() -> Outcome {
    let cluster = Cluster::start().await?;
    let holder = cluster.holder("{0__:aura-config}:FreeForm").await?;
    let elsewhere = (holder + 1) % cluster.nodes.len();
    let url = format!("redis-cluster://{}", cluster.nodes[elsewhere].host());
    let stage = up(&url, Via::Streams).await?;
    until_listening(async || cluster.nodes[holder].listeners().await).await?;
    events_arrive(&stage).await?;
    for (index, node) in cluster.nodes.iter().enumerate() {
        let keys = node.tell(&["DBSIZE"]).await?.into_integer()?;
        ensure!(
            (keys > 0) == (index == holder),
            "node {index} has {keys} keys"
        );
    }
    Ok(())
}
