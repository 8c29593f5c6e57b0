//! Connections: to the server, to the master that the Sentinels name, or to a cluster.
//!
//! Every step has a time limit. What fails is told and not tried again here.

use std::time::Duration;

use rand::seq::SliceRandom;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, FromRedisValue, RetryMethod, TlsMode,
    aio::{MultiplexedConnection, PubSub},
    cluster::ClusterClientBuilder,
    cluster_async::ClusterConnection,
    io::tcp::TcpSettings,
    sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType},
};
use tokio::time::timeout;

use crate::{Address, address::Kind};

/// Until a connection stands, with all that is asked on the way.
const CONNECT: Duration = Duration::from_secs(3);
/// How often a cluster may send a command on to the node that has the key by now, within the time
/// for its answer.
const REDIRECTS: u32 = 2;
/// Until one node of a cluster is connected to. The client waits for all that it begins with, also
/// for those that are gone.
const CONNECT_NODE: Duration = Duration::from_millis(500);

/// Why Redis did not do it.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// It said so, or the connection broke.
    #[error(transparent)]
    Redis(#[from] redis::RedisError),
    /// It did not answer in time.
    #[error("Redis did not answer in time")]
    Late,
    /// It was away a moment ago, and is not asked again yet.
    #[error("Redis is away")]
    Away,
    /// It closed the connection.
    #[error("Redis closed the connection")]
    Closed,
}

impl BrokerError {
    /// Whether nothing more is to be expected of the connection. A refusal, such as of a right that
    /// is lacking, is none of its faults; one of a server that does not take writes (any more)
    /// is.
    pub(crate) fn ends_the_connection(&self) -> bool {
        match self {
            Self::Redis(error) => !matches!(error.retry_method(), RetryMethod::NoRetry),
            Self::Late | Self::Away | Self::Closed => true,
        }
    }
}

/// A connection. Cloning shares it.
#[derive(Clone)]
pub enum Connection {
    /// To one server.
    Server(MultiplexedConnection),
    /// To all of a cluster.
    Cluster(ClusterConnection),
}

impl Connection {
    /// Sends a command.
    ///
    /// # Errors
    /// When it is refused or not answered in time.
    pub async fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, BrokerError> {
        Ok(match self {
            Self::Server(connection) => command.query_async(connection).await?,
            Self::Cluster(connection) => command.query_async(connection).await?,
        })
    }
}

impl Address {
    /// Connects. Each command may then take as long as `answer`.
    ///
    /// # Errors
    /// When that fails or takes too long.
    pub async fn connect(&self, answer: Duration) -> Result<Connection, BrokerError> {
        trust_tls();
        in_time(async {
            let Kind::Cluster = &self.kind else {
                let config = AsyncConnectionConfig::new().set_response_timeout(Some(answer));
                let connecting = self
                    .server()
                    .await?
                    .get_multiplexed_async_connection_with_config(&config)
                    .await;
                return Ok(Connection::Server(connecting?));
            };
            let client = ClusterClientBuilder::new(self.nodes.clone()).response_timeout(answer);
            let client = client
                .tcp_settings(at_once())
                .retries(REDIRECTS)
                .connection_timeout(CONNECT_NODE)
                .build()?;
            Ok(Connection::Cluster(client.get_async_connection().await?))
        })
        .await
    }

    /// Connects to listen. In a cluster every node hears what is published at any (the Redis
    /// command PUBLISH), so one that answers will do: another one each time, in case it is cut
    /// off from its neighbours.
    pub(crate) async fn listen(&self) -> Result<PubSub, BrokerError> {
        trust_tls();
        let Kind::Cluster = &self.kind else {
            return in_time(async { Ok(self.server().await?.get_async_pubsub().await?) }).await;
        };
        let mut failed = BrokerError::Away;
        let mut nodes = self.nodes.clone();
        nodes.shuffle(&mut rand::rng());
        for node in nodes {
            match in_time(async { Ok(open(node)?.get_async_pubsub().await?) }).await {
                Ok(listening) => return Ok(listening),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// The server that takes writes.
    async fn server(&self) -> Result<Client, BrokerError> {
        let Kind::Sentinel(service) = &self.kind else {
            let node = self.nodes.first().ok_or(BrokerError::Away)?;
            return open(node.clone());
        };
        let server =
            SentinelNodeConnectionInfo::default().set_redis_connection_info(self.login.clone());
        let mut server = server.set_tcp_settings(at_once());
        if self.tls {
            server = server.set_tls_mode(TlsMode::Secure);
        }
        let nodes = self.nodes.clone();
        let mut sentinels =
            SentinelClient::build(nodes, service, Some(server), SentinelServerType::Master)?;
        Ok(sentinels.async_get_client().await?)
    }
}

fn open(node: ConnectionInfo) -> Result<Client, BrokerError> {
    Ok(Client::open(node.set_tcp_settings(at_once()))?)
}

/// Events are small, and the next one must not wait for the word that the last one has arrived.
fn at_once() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}

async fn in_time<T>(work: impl Future<Output = Result<T, BrokerError>>) -> Result<T, BrokerError> {
    timeout(CONNECT, work)
        .await
        .unwrap_or(Err(BrokerError::Late))
}

/// The TLS library asks which cryptography to use, once per process; whoever embeds this may have
/// said it already.
fn trust_tls() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        drop(rustls::crypto::ring::default_provider().install_default());
    }
}
