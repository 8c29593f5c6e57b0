//! Connections: to one server, to the master that the Sentinels name, or to a cluster.
//!
//! Every step has a time limit, so no caller waits for a server that does not answer. A failure is
//! returned and never retried here: the caller knows how long to wait before the next attempt.

use std::time::Duration;

use rand::seq::SliceRandom;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionInfo, ErrorKind, FromRedisValue,
    RetryMethod, TlsCertificates, TlsMode,
    aio::{MultiplexedConnection, PubSub},
    cluster::ClusterClientBuilder,
    cluster_async::ClusterConnection,
    io::tcp::TcpSettings,
    sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType},
};
use tls::{ClientFiles, TlsError};
use tokio::{task::spawn_blocking, time::timeout};

use crate::{Address, address::Topology};

/// Time limit of a connection with all its steps.
const CONNECT: Duration = Duration::from_secs(3);
/// Number of redirects of a command in a cluster, within the time limit of its answer.
const REDIRECTS: u32 = 2;
/// Time limit of the connection to one node of a cluster. The client waits for all nodes of the
/// address, also for those that are down.
const CONNECT_NODE: Duration = Duration::from_millis(500);

/// Why a command failed. Apart from [`BrokerError::Unavailable`] and a refusal of Redis, it is not
/// known whether Redis executed the command.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// Redis answered with an error, or the connection broke.
    #[error(transparent)]
    Redis(#[from] redis::RedisError),
    /// Redis did not answer in time.
    #[error("Redis did not answer in time")]
    Timeout,
    /// Redis was unavailable a moment ago; the next attempt is not due.
    #[error("Redis is unavailable")]
    Unavailable,
    /// The files of TLS cannot be used.
    #[error("TLS of Redis: {0}")]
    Files(#[from] TlsError),
    /// Redis closed the connection.
    #[error("Redis closed the connection")]
    Closed,
}

impl BrokerError {
    /// Whether the connection cannot be used any more. A refused command, for example one without
    /// the right for it, says nothing about the connection; a server that no longer accepts writes
    /// must be left.
    pub fn ends_the_connection(&self) -> bool {
        match self {
            Self::Redis(error) => !matches!(error.retry_method(), RetryMethod::NoRetry),
            Self::Timeout | Self::Unavailable | Self::Closed | Self::Files(_) => true,
        }
    }

    /// Whether Redis answered that it did not execute the command.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Redis(error) => {
                matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension)
            }
            Self::Timeout | Self::Unavailable | Self::Closed | Self::Files(_) => false,
        }
    }
}

/// A connection. Cloning shares it: commands of all clones are sent over it, and answered in order.
///
/// A connection that broke stays broken, except that of a cluster, which connects to its nodes again
/// itself; the owner opens a new one.
#[derive(Clone)]
pub enum Connection {
    /// To one server.
    Server(MultiplexedConnection),
    /// To all nodes of a cluster.
    Cluster(ClusterConnection),
}

impl Connection {
    /// Sends a command and converts its answer.
    ///
    /// # Errors
    /// When Redis refuses it or does not answer in time.
    pub async fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, BrokerError> {
        Ok(match self {
            Self::Server(connection) => command.query_async(connection).await?,
            Self::Cluster(connection) => command.query_async(connection).await?,
        })
    }
}

impl Address {
    /// Connects. Each command may then take as long as `answer`; a command that blocks at the server
    /// needs a longer time than it blocks.
    ///
    /// # Errors
    /// When the connection fails or takes too long.
    pub async fn connect(&self, answer: Duration) -> Result<Connection, BrokerError> {
        trust_tls();
        in_time(async {
            let Topology::Cluster = &self.kind else {
                let config = AsyncConnectionConfig::new().set_response_timeout(Some(answer));
                let connecting = self
                    .server()
                    .await?
                    .get_multiplexed_async_connection_with_config(&config)
                    .await;
                return Ok(Connection::Server(connecting?));
            };
            let client = ClusterClientBuilder::new(self.nodes.clone()).response_timeout(answer);
            let client = match self.certificates().await? {
                Some(certificates) => client.certs(certificates),
                None => client,
            };
            let client = client
                .tcp_settings(at_once())
                .retries(REDIRECTS)
                .connection_timeout(CONNECT_NODE)
                .build()?;
            Ok(Connection::Cluster(client.get_async_connection().await?))
        })
        .await
    }

    /// Connects for Pub/Sub. In a cluster every node receives what is published at any node (Redis
    /// command PUBLISH), so one node is enough. Another one is taken each time, in case a node has
    /// lost its neighbours.
    pub(crate) async fn listen(&self) -> Result<PubSub, BrokerError> {
        trust_tls();
        let Topology::Cluster = &self.kind else {
            return in_time(async { Ok(self.server().await?.get_async_pubsub().await?) }).await;
        };
        let mut failed = BrokerError::Unavailable;
        let mut nodes = self.nodes.clone();
        nodes.shuffle(&mut rand::rng());
        for node in nodes {
            let listening = async {
                let client = open(node, self.certificates().await?)?;
                Ok(client.get_async_pubsub().await?)
            };
            match in_time(listening).await {
                Ok(listening) => return Ok(listening),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// What the files of TLS have now; `None` without files.
    async fn certificates(&self) -> Result<Option<TlsCertificates>, BrokerError> {
        if self.files == ClientFiles::default() {
            return Ok(None);
        }
        let files = self.files.clone();
        let read = spawn_blocking(move || files.read()).await;
        let Ok(read) = read else {
            return Err(BrokerError::Unavailable);
        };
        let (root_cert, identity) = read?;
        Ok(Some(TlsCertificates {
            client_tls: identity.map(|(client_cert, client_key)| ClientTlsConfig {
                client_cert,
                client_key,
            }),
            root_cert,
        }))
    }

    /// The server that accepts writes. After a failover the Sentinels name another server, so they
    /// are asked again for each connection.
    async fn server(&self) -> Result<Client, BrokerError> {
        let Topology::Sentinel(service) = &self.kind else {
            let node = self.nodes.first().ok_or(BrokerError::Unavailable)?;
            return open(node.clone(), self.certificates().await?);
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

/// A client of one server; it connects later.
fn open(
    node: ConnectionInfo,
    certificates: Option<TlsCertificates>,
) -> Result<Client, BrokerError> {
    let node = node.set_tcp_settings(at_once());
    Ok(match certificates {
        Some(certificates) => Client::build_with_tls(node, certificates)?,
        None => Client::open(node)?,
    })
}

/// Nagle's algorithm would hold an event back until the previous one is acknowledged.
fn at_once() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}

/// The result of `work`, or [`BrokerError::Timeout`] after [`CONNECT`].
async fn in_time<T>(work: impl Future<Output = Result<T, BrokerError>>) -> Result<T, BrokerError> {
    timeout(CONNECT, work)
        .await
        .unwrap_or(Err(BrokerError::Timeout))
}

/// The TLS library needs a cryptography provider, once per process. A service that embeds this may
/// have installed one already.
fn trust_tls() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        drop(rustls::crypto::ring::default_provider().install_default());
    }
}
