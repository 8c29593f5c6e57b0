//! Settings: environment variables, each also a flag, all checked before anything starts.
//!
//! Every option is taken as text so that all mistakes can be told at once; an empty value counts as
//! unset. Secrets are never shown.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, time::Duration};

use clap::Parser;
use contract::CollectionName;
use reqwest::Url;
use service::runtime::settings::{SettingChecks, SettingsError, boolean, listed, or, positive};

use crate::{outbox::retention::RetentionPolicy, store::StoreUrl};

const STORE_URL: &str = "file:data";
const LISTEN: &str = "127.0.0.1:8080";
const SCHEMAS_DIR: &str = "schemas";
const DOCUMENT_LIMIT_BYTES: &str = "1048576";
const LOG_KEEP_CHANGES: &str = "100000";
const LOG_KEEP_HOURS: &str = "168";
const LOG_TRIM_SECONDS: &str = "45";
const EVENTS_ENABLED: &str = "true";
const EVENTS_MANAGER: &str = "LOCAL";
const EVENT_TTL_SECONDS: &str = "60";
const EVENT_DATA_LIMIT_BYTES: &str = "49152";
const DAPR_PUBSUB_NAME: &str = "pubsub-config";
const DAPR_GRPC_PORT: &str = "50001";
const REDIS_STREAM_MAX_LENGTH: &str = "10000";
const REDIS_DOCUMENT_CHANNELS: &str = "AgentConfiguration";
const FORGET_REPLICAS_SECONDS: &str = "3600";
const LOADS: &str = "8";
const LOCAL_SUBSCRIBERS: &str = "AURA_CONFIGURATION_LOCAL_SUBSCRIBERS";
/// The six collections of the source document (requirement A5).
const COLLECTIONS: &str = "ChannelConfiguration,ApplicationConfiguration,SkillConfiguration,\
    TvSectionsConfiguration,PresetConfiguration,AgentConfiguration";

/// The configuration API: stores configuration and publishes an event for every committed change.
#[derive(Debug, Parser)]
#[command(name = "publisher", version)]
pub struct Args {
    /// Where the configuration is kept: `file:DIR`, or `mongodb://HOST/DATABASE` (a replica set)
    #[arg(long, env = "AURA_CONFIGURATION_STORE_URL", default_value = STORE_URL, hide_env_values = true)]
    store_url: String,
    /// Address of the HTTP API
    #[arg(long, env = "AURA_CONFIGURATION_LISTEN", default_value = LISTEN)]
    listen: String,
    /// The collections, separated by commas; one that has a schema file is served as well
    #[arg(long, env = "AURA_CONFIGURATION_COLLECTIONS", default_value = COLLECTIONS)]
    collections: String,
    /// Folder with {Collection}.schema.json; a collection without one takes any object
    #[arg(long, env = "AURA_CONFIGURATION_SCHEMAS_DIR", default_value = SCHEMAS_DIR)]
    schemas_dir: String,
    /// Largest document, in bytes, at most 4194304
    #[arg(long, env = "AURA_CONFIGURATION_DOCUMENT_LIMIT_BYTES", default_value = DOCUMENT_LIMIT_BYTES)]
    document_limit_bytes: String,
    /// The change log keeps so many changes of each collection, whatever their age, from 1
    #[arg(long, env = "AURA_CONFIGURATION_LOG_KEEP_CHANGES", default_value = LOG_KEEP_CHANGES)]
    log_keep_changes: String,
    /// The change log keeps what is younger than this, however many there are; 0 = by number alone
    #[arg(long, env = "AURA_CONFIGURATION_LOG_KEEP_HOURS", default_value = LOG_KEEP_HOURS)]
    log_keep_hours: String,
    /// Time between two rounds of trimming, more or less; for tests
    #[arg(long, env = "AURA_CONFIGURATION_LOG_TRIM_SECONDS", default_value = LOG_TRIM_SECONDS, hide = true)]
    log_trim_seconds: String,
    /// false: writes work, nothing is sent
    #[arg(long, env = "AURA_CONFIGURATION_EVENTS_ENABLED", default_value = EVENTS_ENABLED)]
    events_enabled: String,
    /// How events travel: LOCAL (straight to known subscribers), DAPR (through the sidecar) or
    /// REDIS (straight through Redis)
    #[arg(long, env = "AURA_CONFIGURATION_EVENTS_MANAGER", default_value = EVENTS_MANAGER)]
    events_manager: String,
    /// How long an event is worth delivering, in whole seconds, at most 9000000000
    #[arg(long, env = "AURA_CONFIGURATION_EVENT_TTL_SECONDS", default_value = EVENT_TTL_SECONDS)]
    event_ttl_seconds: String,
    /// Largest configData inside an event, in bytes; 0 = ids only
    #[arg(long, env = "AURA_CONFIGURATION_EVENT_DATA_LIMIT_BYTES", default_value = EVENT_DATA_LIMIT_BYTES)]
    event_data_limit_bytes: String,
    /// LOCAL: base URLs of the subscribers, separated by commas; http:// only, a mesh adds TLS
    #[arg(long, env = LOCAL_SUBSCRIBERS, default_value = "", hide_default_value = true, hide_env_values = true)]
    local_subscribers: String,
    /// LOCAL: hosts besides loopback, `host` or `host:port`, whose subscribers get events once
    /// they checked in, separated by commas
    #[arg(
        long,
        env = "AURA_CONFIGURATION_LOCAL_ALLOW",
        default_value = "",
        hide_default_value = true
    )]
    local_allow: String,
    /// A replica that is silent for so many seconds is forgotten
    #[arg(long, env = "AURA_CONFIGURATION_FORGET_REPLICAS_SECONDS", default_value = FORGET_REPLICAS_SECONDS)]
    forget_replicas_seconds: String,
    /// Snapshots that may be under way at once; others wait for a moment, then are asked to come
    /// back
    #[arg(long, env = "AURA_CONFIGURATION_LOADS", default_value = LOADS)]
    loads: String,
    /// DAPR: name of the pub/sub component
    #[arg(long, env = "AURA_DAPR_CONFIGURATION_PUBSUB_NAME", default_value = DAPR_PUBSUB_NAME)]
    dapr_pubsub_name: String,
    /// DAPR: gRPC port of the sidecar
    #[arg(long, env = "DAPR_GRPC_PORT", default_value = DAPR_GRPC_PORT)]
    dapr_grpc_port: String,
    /// DAPR: token that the sidecar asks for
    #[arg(
        long,
        env = "DAPR_API_TOKEN",
        default_value = "",
        hide_default_value = true,
        hide_env_values = true
    )]
    dapr_api_token: String,
    /// REDIS: where it is; also rediss://, redis-cluster:// and redis-sentinel:// (README, Redis)
    #[arg(long, env = "AURA_REDIS_URL", default_value = broker::settings::URL, hide_env_values = true)]
    redis_url: String,
    /// REDIS: number of the database; it is also part of the names of channels and streams
    #[arg(long, env = "AURA_REDIS_DATABASE", default_value = broker::settings::DATABASE)]
    redis_database: String,
    /// REDIS: what the names of channels and streams begin with, after the database
    #[arg(long, env = "AURA_REDIS_CONFIGURATION_PREFIX", default_value = broker::settings::PREFIX)]
    redis_prefix: String,
    /// REDIS: PUBSUB, or STREAMS, which keep the newest events for subscribers that are away; the
    /// subscribers' must be the same
    #[arg(long, env = "AURA_REDIS_DELIVERY", default_value = broker::settings::DELIVERY)]
    redis_delivery: String,
    /// REDIS, STREAMS: about so many events are kept of each collection, from 1
    #[arg(long, env = "AURA_REDIS_STREAM_MAX_LENGTH", default_value = REDIS_STREAM_MAX_LENGTH)]
    redis_stream_max_length: String,
    /// REDIS, PUBSUB: collections whose documents have a channel each, separated by commas
    #[arg(long, env = "AURA_REDIS_DOCUMENT_CHANNELS", default_value = REDIS_DOCUMENT_CHANNELS)]
    redis_document_channels: String,
    /// LOCAL: token that the subscribers ask for
    #[arg(
        long,
        env = "APP_API_TOKEN",
        default_value = "",
        hide_default_value = true,
        hide_env_values = true
    )]
    app_api_token: String,
}

/// No document may be larger, whatever the settings say.
const LARGEST_DOCUMENT: u64 = 4 << 20;
/// A day between two rounds is rare enough.
const LONGEST_ROUND_SECONDS: u64 = 86_400;
/// A sidecar counts the life of an event in nanoseconds, in 64 bits.
const LONGEST_TTL_SECONDS: u64 = 9_000_000_000;

/// Each holds a session of the store and pieces of its answer.
const MOST_LOADS: u64 = 1_000;

/// Checked settings.
#[derive(Debug)]
pub struct Settings {
    /// Where the configuration is kept.
    pub store: StoreUrl,
    /// Address of the HTTP API.
    pub listen: SocketAddr,
    /// The collections.
    pub collections: BTreeSet<CollectionName>,
    /// Folder of the schemas.
    pub schemas_dir: PathBuf,
    /// Largest document, in bytes.
    pub document_limit: usize,
    /// A replica that is silent for so long is forgotten.
    pub forget_replicas: Duration,
    /// Snapshots that may be under way at once.
    pub loads: usize,
    /// What the change log keeps.
    pub log_keep: RetentionPolicy,
    /// How events travel; `None` = they do not.
    pub events: Option<Events>,
}

/// How events travel.
#[derive(Debug)]
pub struct Events {
    /// The engine.
    pub manager: ManagerSettings,
    /// Name of the pub/sub component, in every event.
    pub pub_sub_name: String,
    /// Life of an event, in seconds.
    pub ttl_seconds: u64,
    /// Largest `configData` inside an event, in bytes.
    pub data_limit: usize,
}

/// What an engine needs.
pub enum ManagerSettings {
    /// The sidecar.
    Dapr {
        /// Its gRPC endpoint.
        endpoint: String,
        /// The token that it asks for.
        api_token: Option<String>,
    },
    /// Known subscribers.
    Local {
        /// Their base URLs.
        subscribers: Vec<Url>,
        /// Hosts besides loopback from which others may be found, `host` or `host:port`.
        allowed: BTreeSet<String>,
        /// The token that they ask for.
        api_token: Option<String>,
    },
    /// Redis itself.
    Redis {
        /// Where it is, and how events travel there.
        redis: broker::RedisConfig,
        /// About so many events stay in a stream.
        keep: u64,
        /// Collections whose documents have a channel each.
        by_document: BTreeSet<CollectionName>,
    },
}

impl std::fmt::Debug for ManagerSettings {
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
    /// For a service that embeds the publisher and has a command line of its own: what the
    /// environment says, after `options` (for example `["--store-url", "file:data"]`).
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn read(options: &[&str]) -> Result<Self, SettingsError> {
        let words = std::iter::once(&"publisher").chain(options);
        Args::try_parse_from(words)
            .map_err(|error| SettingsError(vec![error.to_string()]))?
            .check()
    }
}

impl Args {
    /// SettingChecks everything.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn check(self) -> Result<Settings, SettingsError> {
        let mut checks = SettingChecks::default();
        // A store URL may hold a password: the mistake is told without the value.
        let store = or(&self.store_url, STORE_URL)
            .parse()
            .map_err(|what| checks.error("AURA_CONFIGURATION_STORE_URL", what))
            .ok();
        let listen = checks.parse("AURA_CONFIGURATION_LISTEN", or(&self.listen, LISTEN));
        let collections = list(
            &mut checks,
            "AURA_CONFIGURATION_COLLECTIONS",
            or(&self.collections, COLLECTIONS),
        );
        let limit = or(&self.document_limit_bytes, DOCUMENT_LIMIT_BYTES);
        let document_limit = checks.check(
            "AURA_CONFIGURATION_DOCUMENT_LIMIT_BYTES",
            limit,
            at_most(LARGEST_DOCUMENT, limit),
        );
        let log_keep = self.log_keep(&mut checks);
        let enabled = or(&self.events_enabled, EVENTS_ENABLED);
        let enabled = checks.check(
            "AURA_CONFIGURATION_EVENTS_ENABLED",
            enabled,
            boolean(enabled),
        );
        let forget = or(&self.forget_replicas_seconds, FORGET_REPLICAS_SECONDS);
        let forget = checks.check(
            "AURA_CONFIGURATION_FORGET_REPLICAS_SECONDS",
            forget,
            positive(forget),
        );
        let loads = or(&self.loads, LOADS);
        let loads = checks.check(
            "AURA_CONFIGURATION_LOADS",
            loads,
            at_most(MOST_LOADS, loads),
        );
        let events = self.events(&mut checks);
        let settings = (|| {
            Some(Settings {
                store: store?,
                listen: listen?,
                collections: collections?,
                schemas_dir: or(&self.schemas_dir, SCHEMAS_DIR).into(),
                document_limit: document_limit?,
                forget_replicas: Duration::from_secs(forget?),
                loads: loads?,
                log_keep: log_keep?,
                events: if enabled? { Some(events?) } else { None },
            })
        })();
        checks.finish(settings)
    }

    fn log_keep(&self, checks: &mut SettingChecks) -> Option<RetentionPolicy> {
        let changes = or(&self.log_keep_changes, LOG_KEEP_CHANGES);
        let changes = checks.check(
            "AURA_CONFIGURATION_LOG_KEEP_CHANGES",
            changes,
            positive(changes),
        );
        let hours = checks.parse(
            "AURA_CONFIGURATION_LOG_KEEP_HOURS",
            or(&self.log_keep_hours, LOG_KEEP_HOURS),
        );
        let round = or(&self.log_trim_seconds, LOG_TRIM_SECONDS);
        let round = checks.check(
            "AURA_CONFIGURATION_LOG_TRIM_SECONDS",
            round,
            at_most(LONGEST_ROUND_SECONDS, round),
        );
        Some(RetentionPolicy {
            changes: changes?,
            hours: hours?,
            round: Duration::from_secs(round?),
        })
    }

    fn events(&self, checks: &mut SettingChecks) -> Option<Events> {
        let ttl = or(&self.event_ttl_seconds, EVENT_TTL_SECONDS);
        let ttl_seconds = checks.check(
            "AURA_CONFIGURATION_EVENT_TTL_SECONDS",
            ttl,
            at_most(LONGEST_TTL_SECONDS, ttl),
        );
        let data_limit = or(&self.event_data_limit_bytes, EVENT_DATA_LIMIT_BYTES);
        let data_limit = checks.parse("AURA_CONFIGURATION_EVENT_DATA_LIMIT_BYTES", data_limit);
        let port = or(&self.dapr_grpc_port, DAPR_GRPC_PORT);
        let manager = match or(&self.events_manager, EVENTS_MANAGER)
            .to_ascii_uppercase()
            .as_str()
        {
            "DAPR" => {
                checks
                    .parse::<u16>("DAPR_GRPC_PORT", port)
                    .map(|port| ManagerSettings::Dapr {
                        endpoint: format!("http://127.0.0.1:{port}"),
                        api_token: secret(&self.dapr_api_token),
                    })
            }
            "LOCAL" => subscribers(checks, &self.local_subscribers).map(|subscribers| {
                ManagerSettings::Local {
                    subscribers: subscribers.into_iter().collect(),
                    allowed: listed(&self.local_allow)
                        .map(str::to_ascii_lowercase)
                        .collect(),
                    api_token: secret(&self.app_api_token),
                }
            }),
            "REDIS" => self.redis(checks),
            _ => {
                let what = format_args!("{:?}: expected LOCAL, DAPR or REDIS", self.events_manager);
                checks.error("AURA_CONFIGURATION_EVENTS_MANAGER", what);
                None
            }
        };
        let pub_sub_name = or(&self.dapr_pubsub_name, DAPR_PUBSUB_NAME).to_owned();
        Some(Events {
            manager: manager?,
            pub_sub_name,
            ttl_seconds: ttl_seconds?,
            data_limit: data_limit?,
        })
    }
}

impl Args {
    fn redis(&self, checks: &mut SettingChecks) -> Option<ManagerSettings> {
        let redis = broker::settings::RedisSettings {
            url: &self.redis_url,
            database: &self.redis_database,
            prefix: &self.redis_prefix,
            delivery: &self.redis_delivery,
        };
        let redis = redis.check(|name, what| checks.error(name, what));
        let length = or(&self.redis_stream_max_length, REDIS_STREAM_MAX_LENGTH);
        let keep = checks.check("AURA_REDIS_STREAM_MAX_LENGTH", length, positive(length));
        let by_document = or(&self.redis_document_channels, REDIS_DOCUMENT_CHANNELS);
        let by_document = list(checks, "AURA_REDIS_DOCUMENT_CHANNELS", by_document);
        Some(ManagerSettings::Redis {
            redis: redis?,
            keep: keep?,
            by_document: by_document?,
        })
    }
}

/// A list separated by commas, each entry checked by itself.
fn list<T>(checks: &mut SettingChecks, name: &str, text: &str) -> Option<BTreeSet<T>>
where
    T: std::str::FromStr + Ord,
    T::Err: std::fmt::Display,
{
    // Every entry is read before the first mistake ends it, so that all of them are told.
    let read: Vec<_> = listed(text)
        .map(|entry| checks.parse(name, entry))
        .collect();
    read.into_iter().collect()
}

/// A URL may hold a password, so a wrong one is named by its place in the list.
fn subscribers(checks: &mut SettingChecks, text: &str) -> Option<BTreeSet<Url>> {
    let read = listed(text).enumerate().map(|(at, entry)| {
        let url = Url::parse(entry)
            .map_err(|error| error.to_string())
            .and_then(|url| match url.scheme() {
                "http" => Ok(url),
                _ => Err("expected http:// (there is no TLS here, a mesh adds it)".to_owned()),
            });
        url.map_err(|wrong| {
            checks.error(LOCAL_SUBSCRIBERS, format_args!("item {}: {wrong}", at + 1))
        })
        .ok()
    });
    let read: Vec<_> = read.collect();
    read.into_iter().collect()
}

fn at_most<T: TryFrom<u64>>(most: u64, text: &str) -> Result<T, String> {
    let number = positive(text)?;
    let fitting = T::try_from(number).ok().filter(|_fits| number <= most);
    fitting.ok_or_else(|| format!("expected at most {most}"))
}

fn secret(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}
