//! The brokers that can be below the sidecars. Each has a folder of component files; nothing else of
//! a testbed differs.

use std::path::Path;

use anyhow::Context;

use crate::testbed::{
    FREE, SCHEMA_FREE, StoreKind, Testbed, Transport,
    kafka::Kafka,
    nats::Nats,
    redis::{Redis, cluster::RedisCluster},
    sidecar::Sidecar,
};

/// The kind of a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokerKind {
    /// One Redis server.
    Redis,
    /// A cluster of three Redis masters.
    RedisCluster,
    /// One Kafka broker, its own controller.
    Kafka,
    /// One NATS server with JetStream.
    JetStream,
}

impl BrokerKind {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Redis,
        Self::RedisCluster,
        Self::Kafka,
        Self::JetStream,
    ];
}

/// A broker of one of these kinds.
#[derive(Debug)]
pub enum Broker {
    /// See [`BrokerKind::Redis`].
    Redis(Redis),
    /// See [`BrokerKind::RedisCluster`].
    RedisCluster(RedisCluster),
    /// See [`BrokerKind::Kafka`].
    Kafka(Kafka),
    /// See [`BrokerKind::JetStream`].
    JetStream(Nats),
}

impl Broker {
    /// Starts a broker and waits until it is ready.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub async fn start(kind: BrokerKind) -> anyhow::Result<Self> {
        Ok(match kind {
            BrokerKind::Redis => Self::Redis(Redis::start().await?),
            BrokerKind::RedisCluster => Self::RedisCluster(RedisCluster::start().await?),
            BrokerKind::Kafka => Self::Kafka(Kafka::start().await?),
            BrokerKind::JetStream => Self::JetStream(Nats::start().await?),
        })
    }

    /// The folder with its component files, within the repository.
    pub fn components(&self) -> &'static str {
        match self {
            Self::Redis(_) => "components",
            Self::RedisCluster(_) => "components/redis-cluster",
            Self::Kafka(_) => "components/kafka",
            Self::JetStream(_) => "components/nats",
        }
    }

    /// The addresses in its component files, and those that it has here.
    pub fn addresses(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Redis(redis) => vec![("localhost:6379", redis.host())],
            Self::RedisCluster(cluster) => ["localhost:7000", "localhost:7001", "localhost:7002"]
                .into_iter()
                .zip(cluster.nodes.iter().map(Redis::host))
                .collect(),
            Self::Kafka(kafka) => vec![("localhost:9092", kafka.host())],
            Self::JetStream(nats) => vec![("localhost:4222", nats.host())],
        }
    }

    /// Kills it (SIGKILL); of a cluster the node with the events of [`FREE`]. Redis loses all events
    /// with it, the others keep theirs on the disk.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Redis(redis) => redis.kill(),
            Self::RedisCluster(cluster) => {
                let holder = cluster.holder(FREE).await?;
                cluster.nodes[holder].kill()
            }
            Self::Kafka(kafka) => kafka.kill(),
            Self::JetStream(nats) => nats.kill(),
        }
    }

    /// Starts it again after [`Self::kill`], and waits until it is ready.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Redis(redis) => redis.restart().await,
            Self::RedisCluster(cluster) => {
                for node in &mut cluster.nodes {
                    if node.process().is_none() {
                        node.restart().await?;
                    }
                }
                cluster.until_whole().await
            }
            Self::Kafka(kafka) => kafka.restart().await,
            Self::JetStream(nats) => nats.restart().await,
        }
    }
}

impl Testbed {
    /// As [`Testbed::start`], through Dapr with another broker.
    ///
    /// # Errors
    /// When a part is not ready in time.
    pub async fn start_on(kind: StoreKind, broker: BrokerKind) -> anyhow::Result<Self> {
        let mut testbed = Self::without_transport(kind, Transport::Dapr).await?;
        let broker = Broker::start(broker).await?;
        testbed.add_sidecars(|app, port, name| Sidecar::on(&broker, app, port, name))?;
        testbed.broker = Some(broker);
        testbed.start_all().await?;
        Ok(testbed)
    }
}

/// Copies the components as shipped, except for the addresses of the broker and the collections
/// without a schema, which a user adds in the same places.
pub(super) fn copy_components(
    from: &Path,
    to: &Path,
    addresses: &[(&str, String)],
) -> anyhow::Result<()> {
    let one_more = format!("AgentConfiguration,{}", SCHEMA_FREE.join(","));
    for entry in from
        .read_dir()
        .with_context(|| format!("reading {}", from.display()))?
    {
        let path = entry?.path();
        // The folders in it are for other brokers. A sidecar does not read them either.
        if path.is_dir() {
            continue;
        }
        let mut text = std::fs::read_to_string(&path)?;
        if text.contains("kind: Component") || text.contains("kind: Resiliency") {
            for (shipped, here) in addresses {
                text = text.replace(shipped, here);
            }
            let name = path.file_name().context("a file has a name")?;
            std::fs::write(to.join(name), text.replace("AgentConfiguration", &one_more))?;
        }
    }
    Ok(())
}
