//! Settings of the subscriber. Each is an environment variable and a flag; `--help` is the reference.
//!
//! Every setting is taken as text, so that all errors are reported at once. An empty value counts as
//! unset. Only the command line parser reads the environment, and no secret is ever printed.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use ::tls::ServerTls;
use auth::Authenticator;
use clap::Parser;
use contract::{CollectionName, DocumentId, SecretUrl, sidecar::BulkSubscribe};
use projection::ProjectionConfig;
use replica::{
    Credentials, EventKeys, Events, Follow, HeaderValue, Url, broker::settings as redis,
};
use service::{
    http::{
        access::{AccessArgs, sidecar_needs_token},
        guard::{GuardArgs, GuardSettings},
        limits::{LOADS as LOADS_NAME, LimitSettings, LimitsArgs},
        tls::{ClientTlsArgs, REDIS_CA_FILE, RedisTlsArgs, TlsArgs},
    },
    runtime::{
        drain::DrainArgs,
        settings::{SettingChecks, SettingsError, boolean, listen_address, or, positive},
    },
};

use self::dapr_api::DaprApiArgs;
use self::values::{
    base_url, bearer, check_in_seconds, collections, credentials, instance, publishers, token,
};

mod dapr_api;
mod values;

pub use self::dapr_api::DaprApiSettings;

const EVENTS_ENABLED: &str = "true";
const EVENTS_MANAGER: &str = "LOCAL";
const PUBSUB_NAME: &str = "pubsub-config";
const BULK_INTERVAL_NAME: &str = "AURA_DAPR_BULK_INTERVAL_MS";
const BULK_INTERVAL: &str = "0";
const DECLARATIVE: &str = "false";
/// The longest interval: the time limit of an event at a sidecar is 3 s as shipped.
const MAX_BULK_INTERVAL: u32 = 1_000;
const LISTEN: &str = "127.0.0.1:8081";
const API_URL: &str = "http://127.0.0.1:8080";
const COLLECTIONS: &str = contract::environment::COLLECTIONS;
const CHECK_IN_SECONDS: &str = "10";
const ALLOW_PLAINTEXT_TOKEN: &str = "false";
const TOKEN: &str = "AURA_CONFIGURATION_TOKEN";
const TOKEN_FILE: &str = "AURA_CONFIGURATION_TOKEN_FILE";
const READY_WHEN_STALE: &str = "true";
const EVENT_KEYS_FILE: &str = "AURA_CONFIGURATION_EVENT_KEYS_FILE";
const LOADS: &str = "16";
/// Most snapshots at the same time: each keeps an old view.
const MAX_LOADS: u64 = 1_000;
const PROJECTION_URL: &str = "AURA_CONFIGURATION_PROJECTION_URL";
const PROJECTION_VERIFY_SECONDS_NAME: &str = "AURA_CONFIGURATION_PROJECTION_VERIFY_SECONDS";
const PROJECTION_VERIFY_SECONDS: &str = "600";

/// Keeps a copy of the configuration in memory, in step with a publisher, and answers reads from it.
#[derive(Parser)]
#[command(
    name = "subscriber",
    version,
    next_line_help = true,
    after_help = "The log filter is RUST_LOG (default: info)."
)]
pub struct Options {
    /// Whether the replica receives events: true or false. Without events it learns of changes at
    /// its check-ins, and it gives a sidecar no subscriptions.
    #[arg(long, env = "AURA_CONFIGURATION_EVENTS_ENABLED", value_name = "BOOLEAN", default_value = EVENTS_ENABLED)]
    events_enabled: String,

    /// The transport of events: LOCAL (the publisher posts them to this replica), DAPR (a sidecar
    /// posts them), REDIS (the replica reads them from Redis) or FEED (the replica follows the live
    /// feed of a publisher or of another subscriber).
    #[arg(long, env = "AURA_CONFIGURATION_EVENTS_MANAGER", value_name = "TRANSPORT", default_value = EVENTS_MANAGER)]
    events_manager: String,

    /// Name of the Dapr pub/sub component that delivers the events.
    #[arg(long, env = "AURA_DAPR_CONFIGURATION_PUBSUB_NAME", value_name = "NAME", default_value = PUBSUB_NAME)]
    pubsub_name: String,

    /// DAPR: the sidecar gathers events for this number of milliseconds and posts up to 10 together; 0
    /// = it posts each event at once.
    ///
    /// It takes less processor time when many changes come, and delays a single event by up to that
    /// time. A sidecar reads the setting once, when it starts.
    #[arg(long, env = "AURA_DAPR_BULK_INTERVAL_MS", value_name = "MILLISECONDS", default_value = BULK_INTERVAL)]
    dapr_bulk_interval: String,

    /// DAPR: whether the topics are declared to the sidecar by resources of the kind `Subscription`: true
    /// or false. The sidecar is told of none then.
    ///
    /// Declare each topic with the route /dapr/processConfigurationEvents. With the setting a sidecar with
    /// hot reload takes a new topic without a restart.
    #[arg(long, env = "AURA_DAPR_DECLARATIVE_SUBSCRIPTIONS", value_name = "BOOLEAN", default_value = DECLARATIVE)]
    dapr_declarative_subscriptions: String,

    /// REDIS: URL of the server: redis://, rediss:// (TLS), redis-cluster:// or redis-sentinel://.
    #[arg(long, env = "AURA_REDIS_URL", value_name = "URL", default_value = redis::URL, hide_env_values = true)]
    redis_url: String,

    /// REDIS: number of the database. It is also part of the names of channels and streams.
    #[arg(long, env = "AURA_REDIS_DATABASE", value_name = "NUMBER", default_value = redis::DATABASE)]
    redis_database: String,

    /// REDIS: prefix of the names of channels and streams, after the database.
    #[arg(long, env = "AURA_REDIS_CONFIGURATION_PREFIX", value_name = "TEXT", default_value = redis::PREFIX)]
    redis_prefix: String,

    /// REDIS: PUBSUB or STREAMS. STREAMS also deliver events that were sent while this replica was
    /// disconnected. It must be the same as at the publishers.
    #[arg(long, env = "AURA_REDIS_DELIVERY", value_name = "DELIVERY", default_value = redis::DELIVERY)]
    redis_delivery: String,

    /// Address and port to listen on. Port 0 takes a free port.
    #[arg(long, env = "AURA_CONFIGURATION_LISTEN", value_name = "ADDRESS:PORT", default_value = LISTEN)]
    listen: String,

    #[command(flatten)]
    drain: DrainArgs,

    #[command(flatten)]
    guard: GuardArgs,

    #[command(flatten)]
    access: AccessArgs,

    #[command(flatten)]
    tls: TlsArgs,

    #[command(flatten)]
    client_tls: ClientTlsArgs,

    #[command(flatten)]
    redis_tls: RedisTlsArgs,

    /// File with the bearer token that the publishers know this replica by. It is read again when it
    /// changes.
    #[arg(
        long,
        env = TOKEN_FILE,
        value_name = "FILE",
        default_value = "",
        hide_default_value = true
    )]
    token_file: String,

    /// The token itself, where there is no file.
    #[arg(
        long,
        env = TOKEN,
        value_name = "SECRET",
        default_value = "",
        hide_default_value = true
    )]
    #[arg(hide_env_values = true)]
    token: String,

    /// Whether a token may be sent by `http://` to another host: true or false. Set it only where a
    /// mesh encrypts. It holds for `APP_API_TOKEN` and `DAPR_API_TOKEN` as well.
    #[arg(long, env = "AURA_CONFIGURATION_ALLOW_PLAINTEXT_TOKEN", value_name = "BOOLEAN", default_value = ALLOW_PLAINTEXT_TOKEN)]
    allow_plaintext_token: String,

    /// URLs of publishers, separated by commas. They are tried in this order. The invocation URL of
    /// a Dapr sidecar works as well, for example
    /// `http://127.0.0.1:3500/v1.0/invoke/aura-configuration-api/method`.
    #[arg(long, env = "AURA_CONFIGURATION_API_URL", value_name = "URLS", default_value = API_URL, hide_env_values = true)]
    api_url: String,

    /// The collections to follow, separated by commas. When it is not set, the replica follows every
    /// collection that its publishers serve, and learns of a new one at a check-in. Each is also the
    /// name of a topic. A sidecar reads the list of topics only when it starts, so restart it after a
    /// collection was added.
    #[arg(
        long,
        env = "AURA_CONFIGURATION_COLLECTIONS",
        value_name = "NAMES",
        default_value = "",
        hide_default_value = true
    )]
    collections: String,

    /// Longest time between two check-ins at the publisher, in seconds, from 1 to 3600. A replica
    /// that loses every event is behind by this time at most. A replica that reaches no publisher
    /// for two and a half times as long reports the state stale.
    #[arg(long, env = "AURA_CONFIGURATION_CHECK_IN_SECONDS", value_name = "SECONDS", default_value = CHECK_IN_SECONDS)]
    check_in_seconds: String,

    /// Name of this replica in status and logs. [default: host name and port]
    #[arg(
        long,
        env = "AURA_CONFIGURATION_INSTANCE",
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    instance: String,

    /// URL at which publishers and operators reach this replica, `http://HOST:PORT`, or
    /// `https://HOST:PORT` where it has a certificate. It is sent with every check-in. When it is not
    /// set, the listen address is sent, unless that stands for all addresses of the host.
    #[arg(
        long,
        env = "AURA_CONFIGURATION_BASE_URL",
        value_name = "URL",
        default_value = "",
        hide_default_value = true
    )]
    base_url: String,

    /// Folder for the last known good configuration, at most 30 seconds old. With it the replica
    /// starts when no publisher can be reached. Each replica needs a folder of its own. When it is
    /// not set, nothing is stored.
    #[arg(
        long,
        env = "AURA_CONFIGURATION_SNAPSHOT_DIR",
        value_name = "DIR",
        default_value = "",
        hide_default_value = true
    )]
    snapshot_dir: String,

    /// Database for a projection, `mongodb://HOST/DATABASE`: each collection becomes a MongoDB
    /// collection of the same name, for tools that query it. It must be a replica set or a sharded
    /// cluster, and a database of its own. Replicas that have the same one take turns. When it is not
    /// set, nothing is projected.
    #[arg(
        long,
        env = PROJECTION_URL,
        value_name = "URL",
        default_value = "",
        hide_default_value = true,
        hide_env_values = true
    )]
    projection_url: String,

    /// Time between two comparisons of all rows of the projection with all documents, in seconds.
    /// What somebody else has changed is written again. 0 = only after a load.
    #[arg(long, env = PROJECTION_VERIFY_SECONDS_NAME, value_name = "SECONDS", default_value = PROJECTION_VERIFY_SECONDS)]
    projection_verify_seconds: String,

    /// File with the public keys of the publishers: Ed25519 in PEM, one after the other, for example of
    /// `confcast keys create` or `openssl pkey -pubout`. With it, an event that no publisher has signed
    /// is dropped, and its change is read from a publisher. The file is read every 5 s. When it is not
    /// set, every event is taken.
    #[arg(
        long,
        env = EVENT_KEYS_FILE,
        value_name = "FILE",
        default_value = "",
        hide_default_value = true
    )]
    event_keys_file: String,

    /// Whether /readyz reports ready while the configuration is stale: true or false.
    #[arg(
        long,
        env = "AURA_CONFIGURATION_READY_WHEN_STALE",
        value_name = "BOOLEAN",
        default_value = READY_WHEN_STALE
    )]
    ready_when_stale: String,

    /// Token that callers of /dapr/* must send in the header dapr-api-token. Give the sidecar the
    /// same `APP_API_TOKEN`. When it is not set, no token is required.
    #[arg(
        long,
        env = "APP_API_TOKEN",
        value_name = "SECRET",
        default_value = "",
        hide_default_value = true
    )]
    #[arg(hide_env_values = true)]
    app_api_token: String,

    /// Token that the sidecar requires from callers of its API. It is sent when the URL of a
    /// publisher is a Dapr invocation URL, and to nobody else. Where this subscriber serves the API of
    /// Dapr itself, its callers must send the same.
    #[arg(
        long,
        env = "DAPR_API_TOKEN",
        value_name = "SECRET",
        default_value = "",
        hide_default_value = true
    )]
    #[arg(hide_env_values = true)]
    dapr_api_token: String,

    /// Snapshots that are sent at the same time to replicas that follow this one, from 1 to 1000.
    #[arg(long, env = LOADS_NAME, value_name = "NUMBER", default_value = LOADS)]
    loads: String,

    #[command(flatten)]
    limits: LimitsArgs,

    #[command(flatten)]
    dapr_api: DaprApiArgs,

    #[arg(long, env = "HOSTNAME", default_value = "", hide = true)]
    host_name: String,
}

/// Settings after the checks.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Source of events.
    pub events: Events,
    /// Whether the publisher itself posts the events.
    pub by_publisher: bool,
    /// Name of the Dapr component that delivers them.
    pub pubsub_name: String,
    /// Whether the sidecar posts several events together.
    pub bulk: Option<BulkSubscribe>,
    /// Whether the topics are declared to the sidecar.
    pub declared: bool,
    /// Address to listen on.
    pub listen: SocketAddr,
    /// How long it serves after it was asked to stop.
    pub drain: Duration,
    /// Which names and origins of the HTTP API are known: those of the settings, and the host of
    /// the base URL.
    pub guard: GuardSettings,
    /// Decides who a caller of the HTTP API is.
    pub authenticator: Arc<Authenticator>,
    /// TLS of the HTTP API; `None` without.
    pub tls: Option<ServerTls>,
    /// What publishers are shown, and which of them are trusted.
    pub credentials: Credentials,
    /// URLs of publishers, in the order in which they are tried.
    pub publishers: Vec<SecretUrl>,
    /// Collections to follow.
    pub collections: BTreeSet<CollectionName>,
    /// Whether every collection that publishers serve is followed instead: the setting is empty.
    pub follow: Follow,
    /// Longest time between two check-ins.
    pub check_in: Duration,
    /// Name of the replica, if it is set.
    pub instance: Option<String>,
    /// URL of the replica, if it is set.
    pub base_url: Option<Url>,
    /// Folder for the last known good configuration.
    pub snapshot_dir: Option<PathBuf>,
    /// The public keys of the publishers, where events are checked.
    pub event_keys: Option<EventKeys>,
    /// The projection into another database, if there is one.
    pub projection: Option<ProjectionConfig>,
    /// Whether a stale replica is ready.
    pub ready_when_stale: bool,
    /// Snapshots that are sent at the same time.
    pub snapshot_slots: usize,
    /// Limits on what callers may use.
    pub limits: LimitSettings,
    /// Dapr's Configuration API, if it is served.
    pub dapr_api: Option<DaprApiSettings>,
    /// The host name, for the default name of the replica.
    pub host_name: String,
    /// Token that callers of `/dapr/*` must send, if one is required.
    pub app_api_token: Option<HeaderValue>,
    /// Token that the sidecar requires.
    pub sidecar_token: Option<HeaderValue>,
}

impl Options {
    /// Checks all settings.
    ///
    /// # Errors
    /// All settings that are wrong.
    pub fn settings(&self) -> Result<Settings, SettingsError> {
        let mut checks = SettingChecks::default();
        let enabled = or(&self.events_enabled, EVENTS_ENABLED);
        let enabled = checks.check(
            "AURA_CONFIGURATION_EVENTS_ENABLED",
            enabled,
            boolean(enabled),
        );
        let manager = or(&self.events_manager, EVENTS_MANAGER).to_ascii_uppercase();
        let events = self.events(&mut checks, &manager);
        let listen = or(&self.listen, LISTEN);
        let listen = checks.check("AURA_CONFIGURATION_LISTEN", listen, listen_address(listen));
        let drain = self.drain.check(&mut checks);
        let guard = self.guard.check(&mut checks);
        let authenticator = self.access.check(&mut checks, listen);
        let tls = self.tls.check(&mut checks);
        if let Some(tls) = &tls {
            self.access.check_certificates(&mut checks, tls.as_ref());
        }
        let client_tls = self.client_tls.check(&mut checks);
        let bearer = bearer(&mut checks, &self.token, &self.token_file);
        let plaintext = or(&self.allow_plaintext_token, ALLOW_PLAINTEXT_TOKEN);
        let allow_plaintext_token = checks.check(
            "AURA_CONFIGURATION_ALLOW_PLAINTEXT_TOKEN",
            plaintext,
            boolean(plaintext),
        );
        let publishers = publishers(&mut checks, or(&self.api_url, API_URL));
        // Without a wrong file of TLS, so that the token is checked in any case.
        let credentials = credentials(
            &mut checks,
            client_tls.clone().unwrap_or_default(),
            bearer,
            allow_plaintext_token,
            publishers.as_deref().unwrap_or_default(),
        );
        let collections = collections(&mut checks, or(&self.collections, COLLECTIONS));
        let seconds = or(&self.check_in_seconds, CHECK_IN_SECONDS);
        let seconds = checks.check(
            "AURA_CONFIGURATION_CHECK_IN_SECONDS",
            seconds,
            check_in_seconds(seconds),
        );
        let ready = or(&self.ready_when_stale, READY_WHEN_STALE);
        let ready_when_stale =
            checks.check("AURA_CONFIGURATION_READY_WHEN_STALE", ready, boolean(ready));
        let base_url = base_url(&mut checks, &self.base_url);
        if self.tls.is_on() && self.base_url.to_ascii_lowercase().starts_with("http://") {
            let what = "…: this subscriber takes connections with TLS only (its TLS files are set), and a \
                        publisher posts events to this URL: begin it with https://";
            checks.error("AURA_CONFIGURATION_BASE_URL", what);
        }
        let sidecar_token = token(&mut checks, "DAPR_API_TOKEN", &self.dapr_api_token);
        let app_api_token = token(&mut checks, "APP_API_TOKEN", &self.app_api_token);
        let instance = instance(&mut checks, &self.instance);
        let projection = self.projection(&mut checks);
        let event_keys = match self.event_keys_file.as_str() {
            "" => Some(None),
            file => checks
                .check(EVENT_KEYS_FILE, file, EventKeys::from_file(file))
                .map(Some),
        };
        let loads = or(&self.loads, LOADS);
        let in_range = positive(loads).ok().filter(|number| *number <= MAX_LOADS);
        let snapshot_slots = checks.check(
            LOADS_NAME,
            loads,
            in_range.ok_or("expected a whole number from 1 to 1000"),
        );
        let interval = or(&self.dapr_bulk_interval, BULK_INTERVAL);
        let interval = checks.check(
            BULK_INTERVAL_NAME,
            interval,
            interval
                .parse()
                .ok()
                .filter(|interval| *interval <= MAX_BULK_INTERVAL)
                .ok_or("expected a whole number from 0 to 1000"),
        );
        let declared = or(&self.dapr_declarative_subscriptions, DECLARATIVE);
        let declared = checks.check(
            "AURA_DAPR_DECLARATIVE_SUBSCRIPTIONS",
            declared,
            boolean(declared),
        );
        let limits = self.limits.check(&mut checks);
        let dapr_api = self.dapr_api.check(&mut checks);
        if let (Some(Some(api)), Some(false)) = (&dapr_api, allow_plaintext_token) {
            let has = |token: &str| !token.is_empty();
            let (sidecar, app) = (has(&self.dapr_api_token), has(&self.app_api_token));
            dapr_api::check_tokens(&mut checks, api, sidecar, app);
        }
        if let (Some(Some(api)), Some(authenticator)) = (&dapr_api, &authenticator)
            && self.dapr_api_token.is_empty()
        {
            (self.access).check_second(&mut checks, dapr_api::LISTEN, api.listen, authenticator);
        }
        let snapshot_dir =
            (!self.snapshot_dir.is_empty()).then(|| PathBuf::from(&self.snapshot_dir));
        // `?` leaves out the rest after the first error: the errors are in `checks`.
        if let (Some(authenticator), Some(Events::Local | Events::Dapr), Some(true)) =
            (&authenticator, &events, enabled)
            && self.app_api_token.is_empty()
        {
            sidecar_needs_token(&mut checks, authenticator);
        }
        let settings = (|| {
            Some(Settings {
                events: events.map(|events| {
                    if enabled == Some(true) {
                        events
                    } else {
                        Events::None
                    }
                })?,
                by_publisher: manager == "LOCAL",
                pubsub_name: or(&self.pubsub_name, PUBSUB_NAME).to_owned(),
                bulk: BulkSubscribe::of_interval(interval?),
                // A publisher with LOCAL asks for the topics, and knows of no declared ones.
                declared: declared? && manager == "DAPR",
                listen: listen?,
                drain: drain?,
                // A publisher posts events to the base URL, so its host is a name of this service.
                guard: match base_url.as_ref().and_then(Option::as_ref) {
                    Some(url) => guard?.known_as(url.host_str().unwrap_or_default()),
                    None => guard?,
                },
                authenticator: authenticator?,
                tls: tls?,
                credentials: client_tls.and(credentials)?,
                publishers: publishers?,
                collections: collections?,
                follow: if self.collections.trim().is_empty() {
                    Follow::Served
                } else {
                    Follow::Named
                },
                check_in: Duration::from_secs(seconds?),
                instance: instance?,
                base_url: base_url?,
                snapshot_dir,
                event_keys: event_keys?,
                projection: projection?,
                ready_when_stale: ready_when_stale?,
                snapshot_slots: usize::try_from(snapshot_slots?).ok()?,
                limits: limits?,
                dapr_api: dapr_api?,
                // It becomes part of a name, so it has to have the form of one.
                host_name: self
                    .host_name
                    .parse::<DocumentId>()
                    .map_or("localhost".to_owned(), |name| name.to_string()),
                app_api_token: app_api_token?,
                sidecar_token: sidecar_token?,
            })
        })();
        checks.finish(settings)
    }
}

impl Options {
    /// The projection; `None` when an error was recorded. The URL may hold a password, so the error is
    /// recorded without it.
    fn projection(&self, checks: &mut SettingChecks) -> Option<Option<ProjectionConfig>> {
        let seconds = or(&self.projection_verify_seconds, PROJECTION_VERIFY_SECONDS);
        let seconds = checks.parse::<u32>(PROJECTION_VERIFY_SECONDS_NAME, seconds);
        if self.projection_url.is_empty() {
            return seconds.map(|_unused| None);
        }
        let url = self.projection_url.parse().map_err(|reason| {
            checks.error(PROJECTION_URL, format_args!("…: {reason}"));
        });
        let verify_every = seconds.map(|seconds| Duration::from_secs(seconds.into()))?;
        Some(Some(ProjectionConfig {
            url: url.ok()?,
            verify_every: (!verify_every.is_zero()).then_some(verify_every),
        }))
    }

    /// The source of events; `None` when an error was recorded. The settings of Redis are checked
    /// with every source: a mistake would show only on the day it is selected.
    fn events(&self, checks: &mut SettingChecks, manager: &str) -> Option<Events> {
        let redis = redis::RedisSettings {
            url: &self.redis_url,
            database: &self.redis_database,
            prefix: &self.redis_prefix,
            delivery: &self.redis_delivery,
        };
        let redis = redis.check(|name, what| checks.error(name, what));
        let files = self.redis_tls.check(checks);
        let redis = redis.and_then(|mut redis| {
            let address = redis.address.with_files(files?);
            redis.address = address
                .map_err(|reason| checks.error(REDIS_CA_FILE, reason))
                .ok()?;
            Some(redis)
        });
        match manager {
            "LOCAL" => Some(Events::Local),
            "DAPR" => Some(Events::Dapr),
            "FEED" => Some(Events::Feed),
            "REDIS" => redis.map(|redis| Events::Redis(Box::new(redis))),
            _ => {
                let what = format_args!(
                    "{:?}: expected LOCAL, DAPR, REDIS or FEED",
                    self.events_manager
                );
                checks.error("AURA_CONFIGURATION_EVENTS_MANAGER", what);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
