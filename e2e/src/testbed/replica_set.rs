//! Three real MongoDB servers in one replica set, which elect another primary.

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use mongodb::bson::doc;

use crate::testbed::{
    mongod::{Mongod, RECOVERY},
    wait::{eventually, within},
};

/// A running replica set. A node that is killed and started again stays a member.
#[derive(Debug)]
pub struct ReplicaSet {
    nodes: Vec<Mongod>,
}

impl ReplicaSet {
    /// Starts three nodes and waits until one is primary and the others follow it.
    ///
    /// # Errors
    /// When that does not happen in time.
    pub async fn start() -> anyhow::Result<Self> {
        let start = || Mongod::start_standalone(&["--replSet", "rs0"]);
        let nodes = try_join_all((0..3).map(|_| start())).await?;
        let members: Vec<_> = (0_i32..)
            .zip(&nodes)
            .map(|(id, node)| doc! { "_id": id, "host": format!("127.0.0.1:{}", node.port()) })
            .collect();
        // The default, 10 s, is for networks that are slower than loopback.
        let settings = doc! { "electionTimeoutMillis": 2_000, "heartbeatIntervalMillis": 500 };
        let config = doc! { "_id": "rs0", "members": members, "settings": settings };
        nodes[0].admin(doc! { "replSetInitiate": config }).await?;
        let set = Self { nodes };
        set.until_whole().await?;
        Ok(set)
    }

    /// Waits until there is a primary, and every other node follows it.
    ///
    /// # Errors
    /// When that does not happen in time.
    pub async fn until_whole(&self) -> anyhow::Result<()> {
        within(RECOVERY, "the replica set is whole", async || {
            let mut primaries = 0;
            for node in &self.nodes {
                let hello = node.admin(doc! { "hello": 1 }).await?;
                let is_primary = hello.get_bool("isWritablePrimary")?;
                ensure!(is_primary || hello.get_bool("secondary")?, "{hello}");
                primaries += usize::from(is_primary);
            }
            ensure!(primaries == 1, "{primaries} primaries");
            Ok(())
        })
        .await
    }

    /// The index of the node that is primary now.
    ///
    /// # Errors
    /// When there is none in time.
    pub async fn primary(&self) -> anyhow::Result<usize> {
        eventually("a primary", async || {
            for (index, node) in self.nodes.iter().enumerate() {
                if matches!(is_primary(node).await, Ok(true)) {
                    return Ok(index);
                }
            }
            anyhow::bail!("none")
        })
        .await
    }

    /// Has the primary step down, and waits until another node is primary.
    ///
    /// # Errors
    /// When no other node takes over in time.
    pub async fn step_down(&self) -> anyhow::Result<()> {
        let old = self.primary().await?;
        eventually("the primary steps down", async || {
            // An answer may be lost after the node has stepped down.
            if !is_primary(&self.nodes[old]).await? {
                return Ok(());
            }
            let command = doc! { "replSetStepDown": 20, "secondaryCatchUpPeriodSecs": 2 };
            self.nodes[old].admin(command).await.map(drop)
        })
        .await?;
        self.until_another_than(old).await
    }

    /// Kills the primary (SIGKILL), waits until another node is primary, and starts it again.
    ///
    /// # Errors
    /// When no other node takes over in time.
    pub async fn kill_primary(&mut self) -> anyhow::Result<()> {
        let old = self.primary().await?;
        let node = self.nodes.get_mut(old).context("a node")?;
        node.kill()?;
        self.until_another_than(old).await?;
        self.nodes[old].relaunch()?;
        self.until_whole().await
    }

    async fn until_another_than(&self, old: usize) -> anyhow::Result<()> {
        eventually("another primary", async || {
            ensure!(self.primary().await? != old, "it is primary again");
            Ok(())
        })
        .await
    }

    /// The store URL for a publisher.
    pub fn url(&self, database: &str) -> String {
        let hosts: Vec<_> = self
            .nodes
            .iter()
            .map(|node| format!("127.0.0.1:{}", node.port()))
            .collect();
        format!("mongodb://{}/{database}?replicaSet=rs0", hosts.join(","))
    }
}

/// Whether a node says that it is primary.
async fn is_primary(node: &Mongod) -> anyhow::Result<bool> {
    let hello = node.admin(doc! { "hello": 1 }).await?;
    Ok(hello.get_bool("isWritablePrimary")?)
}
