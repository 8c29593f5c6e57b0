//! Settings: environment variables, each also a flag, all checked before anything starts.
//!
//! [`Args`] are the texts and their help, [`Settings`] the checked values. Secrets are never shown.
//! Nothing here connects. The folder of schemas and the files that settings name are read.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use ::tls::{ClientTls, ServerTls};
use auth::Authenticator;
use contract::{CollectionName, SecretUrl};
use secrets::SecretKeys;
use service::{
    http::{
        guard::GuardSettings,
        limits::{LimitSettings, PublisherLimits},
    },
    runtime::settings::{self, ReadError, SettingsError},
};

pub use self::arguments::Args;
use crate::{
    audit::AuditSettings,
    decide::schemas::SchemaMap,
    outbox::retention::RetentionPolicy,
    policy::Broadcast,
    probe::ProbeSettings,
    store::StoreUrl,
    transport::{direct::trust::SubscriberToken, signer::EventSigner},
};

mod arguments;
mod checks;

/// Checked settings.
#[derive(Debug)]
pub struct Settings {
    /// Where the configuration is stored.
    pub store: StoreUrl,
    /// Address of the HTTP API.
    pub listen: SocketAddr,
    /// How long it serves after it was asked to stop.
    pub drain: Duration,
    /// Which names and origins of the HTTP API are known.
    pub guard: GuardSettings,
    /// Decides who a caller of the HTTP API is.
    pub authenticator: Arc<Authenticator>,
    /// TLS of the HTTP API; `None` without.
    pub tls: Option<ServerTls>,
    /// The collections, without those that have only a schema.
    pub collections: BTreeSet<CollectionName>,
    /// Whether a collection whose schema is added while the publisher runs is served: not where the
    /// operator names the collections, which are then fixed until a restart.
    pub collections_grow: bool,
    /// Folder of the schemas.
    pub schemas_dir: PathBuf,
    /// The schemas in it.
    pub schemas: SchemaMap,
    /// Largest document, in bytes.
    pub document_limit: usize,
    /// The keys for secret values, if there are any.
    pub secret_keys: Option<Arc<SecretKeys>>,
    /// Silence after which a replica is removed from the list of replicas.
    pub forget_replicas: Duration,
    /// Snapshots that are sent at the same time.
    pub snapshot_slots: usize,
    /// Limits on what callers may use.
    pub limits: LimitSettings,
    /// Further limits, of a publisher.
    pub publisher_limits: PublisherLimits,
    /// Rows that the scrub reads in a second; 0 = it does not run.
    pub scrub_rows_per_second: u32,
    /// What the change log keeps.
    pub log_keep: RetentionPolicy,
    /// Whether an audit log is kept, and for how long.
    pub audit: AuditSettings,
    /// The probe, if one is written.
    pub probe: Option<ProbeSettings>,
    /// How events are sent; `None` when no events are sent.
    pub events: Option<Events>,
}

/// How events are sent.
#[derive(Debug)]
pub struct Events {
    /// The transport.
    pub transport: TransportSettings,
    /// Name of the pub/sub component, in every event.
    pub pub_sub_name: String,
    /// Time to live of an event, in seconds.
    pub ttl_seconds: u64,
    /// Largest `configData` inside an event, in bytes.
    pub data_limit: usize,
    /// Of which collections changes are published, and how much of them.
    pub broadcast: Broadcast,
    /// Signs events, where there is a key.
    pub signer: Option<EventSigner>,
}

/// What a transport needs; one variant for each value of `AURA_CONFIGURATION_EVENTS_MANAGER`.
pub enum TransportSettings {
    /// `DAPR`: the sidecar.
    Dapr {
        /// Its gRPC endpoint.
        endpoint: String,
        /// The token that it expects.
        api_token: Option<String>,
        /// The component with which it reads the dead letter topic.
        dead_letters: String,
        /// The token that it sends.
        app_token: Option<String>,
    },
    /// `LOCAL`: known subscribers.
    Local {
        /// Their base URLs.
        subscribers: Vec<SecretUrl>,
        /// Hosts besides loopback whose replicas get events, `host` or `host:port` in lower case.
        allowed: BTreeSet<String>,
        /// The token that they expect.
        api_token: Option<SubscriberToken>,
        /// Which of them are trusted by TLS, and the certificate that they are shown.
        tls: ClientTls,
    },
    /// `REDIS`: Redis itself.
    Redis {
        /// Its address, and the names and the delivery of events.
        redis: Box<broker::RedisConfig>,
        /// Events that stay in a stream, approximately.
        keep: u64,
        /// Collections whose documents have a channel each.
        by_document: BTreeSet<CollectionName>,
    },
}

/// Without tokens, and without the URLs of subscribers, which may hold a password.
impl std::fmt::Debug for TransportSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dapr { endpoint, .. } => write!(f, "Dapr({endpoint})"),
            Self::Local { subscribers, .. } => {
                write!(f, "Local({} subscribers)", subscribers.len())
            }
            Self::Redis { redis, .. } => {
                write!(f, "Redis({:?}, {:?})", redis.address, redis.delivery)
            }
        }
    }
}

impl Settings {
    /// For a service that embeds the publisher and has a command line of its own: reads the
    /// environment. `options` come first (for example `["--store-url", "file:data"]`).
    ///
    /// # Errors
    /// All mistakes, one line each.
    pub fn read(options: &[&str]) -> Result<Self, SettingsError> {
        let arguments = std::iter::once(&"publisher").chain(options);
        settings::read(arguments, Args::check).map_err(|error| match error {
            ReadError::Settings(errors) => errors,
            other => SettingsError(vec![other.to_string()]),
        })
    }
}

#[cfg(test)]
mod tests;
