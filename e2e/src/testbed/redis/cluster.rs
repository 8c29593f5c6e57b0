//! A real Redis cluster: three masters on the loopback address that share the hash slots.

use anyhow::{Context, ensure};

use super::Redis;
use crate::testbed::{ports::free_port, wait::eventually};

/// First and last hash slot of each master.
const SLOTS: [(u16, u16); 3] = [(0, 5460), (5461, 10922), (10923, 16383)];

/// A running cluster. A node that is killed and started again keeps its slots.
#[derive(Debug)]
pub struct RedisCluster {
    /// The masters.
    pub nodes: Vec<Redis>,
}

impl RedisCluster {
    /// Starts a cluster and waits until it is complete.
    ///
    /// # Errors
    /// When it is not complete in time.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(&[]).await
    }

    /// As [`Self::start`], with more lines in the configuration file of each node.
    ///
    /// # Errors
    /// When it is not complete in time.
    pub async fn start_with(directives: &[String]) -> anyhow::Result<Self> {
        let mut nodes = Vec::new();
        let mut buses = Vec::new();
        for (first, last) in SLOTS {
            // The default bus port is 10,000 above the port, in the range of outgoing connections.
            let bus = free_port()?;
            let node = directives.iter().fold(Redis::new()?, |node, directive| {
                node.with(directive.clone())
            });
            let node = node
                .with("cluster-enabled yes")
                .with("cluster-node-timeout 2000")
                .with("cluster-config-file nodes.conf")
                .with(format!("cluster-port {bus}"))
                .started()
                .await?;
            node.command(&[
                "CLUSTER",
                "ADDSLOTSRANGE",
                &first.to_string(),
                &last.to_string(),
            ])
            .await?;
            buses.push(bus);
            nodes.push(node);
        }
        for (node, bus) in nodes.iter().zip(&buses).skip(1) {
            let port = node.port().to_string();
            let bus = bus.to_string();
            nodes[0]
                .command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus])
                .await?;
        }
        let cluster = Self { nodes };
        cluster.until_whole().await?;
        Ok(cluster)
    }

    /// Waits until every node knows the owner of every slot.
    ///
    /// # Errors
    /// When it does not happen in time.
    pub async fn until_whole(&self) -> anyhow::Result<()> {
        eventually("the cluster is whole", async || {
            for node in &self.nodes {
                let info = node.command(&["CLUSTER", "INFO"]).await?.into_text()?;
                ensure!(
                    info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384"),
                    "{info}"
                );
                let slots = node.command(&["CLUSTER", "SLOTS"]).await?.into_many()?;
                ensure!(slots.len() == SLOTS.len(), "{slots:?}");
            }
            Ok(())
        })
        .await
    }

    /// The number of connections that wait for events, on all nodes.
    ///
    /// # Errors
    /// When a node does not answer.
    pub async fn listeners(&self) -> anyhow::Result<usize> {
        let mut all = 0;
        for node in &self.nodes {
            all += node.listeners().await?;
        }
        Ok(all)
    }

    /// The index of the node that holds a key.
    ///
    /// # Errors
    /// When the cluster does not answer.
    pub async fn holder(&self, key: &str) -> anyhow::Result<usize> {
        let slot = self.nodes[0]
            .command(&["CLUSTER", "KEYSLOT", key])
            .await?
            .into_integer()?;
        let holds =
            |(first, last): &(u16, u16)| (i64::from(*first)..=i64::from(*last)).contains(&slot);
        SLOTS
            .iter()
            .position(holds)
            .context("a slot without a node")
    }

    /// A URL that names all nodes.
    pub fn url(&self) -> String {
        self.url_as("")
    }

    /// The same URL with `user:password@`.
    pub fn url_as(&self, login: &str) -> String {
        let others: Vec<_> = self.nodes[1..]
            .iter()
            .map(|node| format!("node={}", node.host()))
            .collect();
        format!(
            "redis-cluster://{login}{}?{}",
            self.nodes[0].host(),
            others.join("&")
        )
    }
}
