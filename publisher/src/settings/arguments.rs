//! The command line and the environment of the publisher, as texts: one field for each setting. The
//! help texts are the reference of the settings. Nothing is checked here.
//!
//! Every setting is taken as text, so that all mistakes can be reported together, and an empty value
//! counts as unset. Values of settings that may hold a secret are not shown by `--help`.

use clap::Parser;
use service::{
    http::{
        access::AccessArgs,
        guard::GuardArgs,
        limits::{LimitsArgs, PublisherLimitsArgs},
        tls::{ClientTlsArgs, RedisTlsArgs, TlsArgs},
    },
    runtime::drain::DrainArgs,
};

pub(super) const STORE_URL: &str = "file:data";
pub(super) const LISTEN: &str = "127.0.0.1:8080";
pub(super) const SCHEMAS_DIR: &str = "schemas";
pub(super) const DOCUMENT_LIMIT_BYTES: &str = "1048576";
pub(super) const LOG_KEEP_CHANGES: &str = "100000";
pub(super) const LOG_KEEP_HOURS: &str = "168";
pub(super) const AUDIT: &str = "auto";
pub(super) const AUDIT_KEEP_DAYS: &str = "0";
pub(super) const AUDIT_KEEP_MEGABYTES: &str = "1024";
pub(super) const LOG_TRIM_SECONDS: &str = "45";
pub(super) const EVENTS_ENABLED: &str = "true";
pub(super) const EVENTS_MANAGER: &str = "LOCAL";
pub(super) const EVENT_TTL_SECONDS: &str = "60";
pub(super) const EVENT_DATA_LIMIT_BYTES: &str = "49152";
pub(super) const DAPR_PUBSUB_NAME: &str = "pubsub-config";
pub(super) const DAPR_DEAD_LETTERS: &str = "pubsub-config-dead-letters";
pub(super) const DAPR_GRPC_PORT: &str = "50001";
pub(super) const REDIS_STREAM_MAX_LENGTH: &str = "10000";
pub(super) const REDIS_DOCUMENT_CHANNELS: &str = "AgentConfiguration";
pub(super) const FORGET_REPLICAS_SECONDS: &str = "3600";
pub(super) const SCRUB_ROWS_PER_SECOND: &str = "200";
pub(super) const LOADS: &str = "8";
pub(super) const PROBE: &str = "AURA_CONFIGURATION_PROBE";
pub(super) const PROBE_SECONDS: &str = "60";
pub(super) const LOCAL_SUBSCRIBERS: &str = "AURA_CONFIGURATION_LOCAL_SUBSCRIBERS";
pub(super) const ALLOW_PLAINTEXT_TOKEN: &str = "AURA_CONFIGURATION_ALLOW_PLAINTEXT_TOKEN";
pub(super) const ALLOW_PLAINTEXT: &str = "false";
pub(super) const SIGNING_KEY_FILE: &str = "AURA_CONFIGURATION_SIGNING_KEY_FILE";
pub(super) const ID_ONLY_COLLECTIONS: &str = "AURA_CONFIGURATION_ID_ONLY_COLLECTIONS";
pub(super) const NO_TOPIC_COLLECTIONS: &str = "AURA_CONFIGURATION_NO_TOPIC_COLLECTIONS";
pub(super) const SECRET_KEYS_FILE: &str = secrets::provider::FILE_VARIABLE;
pub(super) const SECRET_KEYS: &str = secrets::provider::TEXT_VARIABLE;
/// The six collections of the source document (requirement A5).
pub(super) const COLLECTIONS: &str = contract::environment::COLLECTIONS;

/// The configuration API: stores configuration and publishes an event for every committed change.
// Without `Debug`: the texts hold passwords and tokens.
#[derive(Parser)]
#[command(name = "publisher", version)]
pub struct Args {
    /// Where the configuration is stored: `file:DIR`, or `mongodb://HOST/DATABASE`.
    ///
    /// `file:DIR` is a folder that one publisher process owns. Use MongoDB for more than one
    /// publisher; it must be a replica set or a sharded cluster, because every commit is a
    /// transaction. Read concern, write concern and read preference of the URL are ignored.
    #[arg(long, env = "AURA_CONFIGURATION_STORE_URL", default_value = STORE_URL, hide_env_values = true)]
    pub(super) store_url: String,

    /// Address and port of the HTTP API, as `IP:PORT`.
    ///
    /// Use `0.0.0.0:PORT` when replicas run on other hosts or in other containers. Port 0 takes a
    /// free port, which is in the log.
    #[arg(long, env = "AURA_CONFIGURATION_LISTEN", default_value = LISTEN)]
    pub(super) listen: String,

    #[command(flatten)]
    pub(super) drain: DrainArgs,

    #[command(flatten)]
    pub(super) guard: GuardArgs,

    #[command(flatten)]
    pub(super) access: AccessArgs,

    #[command(flatten)]
    pub(super) tls: TlsArgs,

    #[command(flatten)]
    pub(super) client_tls: ClientTlsArgs,

    #[command(flatten)]
    pub(super) redis_tls: RedisTlsArgs,

    /// Names of the collections, separated by commas.
    ///
    /// A collection that has a schema file is served as well. When this is not set, so is one whose
    /// schema file is added while the publisher runs; else the collections are fixed until a restart.
    /// All publishers of a store need the same collections.
    #[arg(long, env = "AURA_CONFIGURATION_COLLECTIONS", default_value = COLLECTIONS)]
    pub(super) collections: String,

    /// Folder with the JSON Schemas, one file `{Collection}.schema.json` for each collection.
    ///
    /// A collection without a schema takes any JSON object. The folder is read every 3 s: a changed
    /// schema comes into force, and a new one adds its collection. When a file is removed its schema
    /// stays in force until a restart.
    #[arg(long, env = "AURA_CONFIGURATION_SCHEMAS_DIR", default_value = SCHEMAS_DIR)]
    pub(super) schemas_dir: String,

    /// Largest document, in bytes, from 1 to 4194304.
    ///
    /// Lower it to refuse large documents early; every replica holds all documents in memory.
    #[arg(long, env = "AURA_CONFIGURATION_DOCUMENT_LIMIT_BYTES", default_value = DOCUMENT_LIMIT_BYTES)]
    pub(super) document_limit_bytes: String,

    /// File with the keys for secret values (`x-secret` in a schema), as JSON.
    ///
    /// `{"active": "2026-11", "keys": {"2026-11": "<32 bytes as base64>"}}`, as `confcast secret-keys
    /// create` makes it. New values are sealed with the active key; the others only open. The file is read again when it changes. Services that
    /// read secrets have the same file. Without keys no secret is written.
    #[arg(
        long,
        env = SECRET_KEYS_FILE,
        default_value = "",
        hide_default_value = true
    )]
    pub(super) secret_keys_file: String,

    /// The same keys as text, where there is no file.
    ///
    /// They are the same for the life of the process.
    #[arg(
        long,
        env = SECRET_KEYS,
        default_value = "",
        hide_default_value = true,
        hide_env_values = true
    )]
    pub(super) secret_keys: String,

    /// Changes of each collection that the change log keeps, whatever their age, from 1.
    ///
    /// A replica that missed more changes than the log keeps loads a snapshot. Raise it when
    /// replicas are often disconnected for long; lower it to save disk space.
    #[arg(long, env = "AURA_CONFIGURATION_LOG_KEEP_CHANGES", default_value = LOG_KEEP_CHANGES)]
    pub(super) log_keep_changes: String,

    /// Age in hours up to which the change log keeps a change, however many there are.
    ///
    /// 0 means by number alone. Raise it when the log is read as an audit trail.
    #[arg(long, env = "AURA_CONFIGURATION_LOG_KEEP_HOURS", default_value = LOG_KEEP_HOURS)]
    pub(super) log_keep_hours: String,

    /// Time between two rounds that trim the change log, in seconds, approximately; for tests.
    #[arg(long, env = "AURA_CONFIGURATION_LOG_TRIM_SECONDS", default_value = LOG_TRIM_SECONDS, hide = true)]
    pub(super) log_trim_seconds: String,

    /// Whether an audit log is kept: `auto`, `on` or `off`.
    ///
    /// `auto` keeps one when callers have to present credentials. It is in the store: who wrote what, who
    /// was refused, what operators did. Each record is chained to the one before it; `confcast audit
    /// verify` finds a record that was changed. Set it alike for all publishers of a store.
    #[arg(long, env = "AURA_CONFIGURATION_AUDIT", default_value = AUDIT)]
    pub(super) audit: String,

    /// Days after which audit records are removed, up to 36500; 0 means never.
    ///
    /// A record of what was removed stays, so that the rest can still be verified. Export the log
    /// before, where records are needed for longer.
    #[arg(long, env = "AURA_CONFIGURATION_AUDIT_KEEP_DAYS", default_value = AUDIT_KEEP_DAYS)]
    pub(super) audit_keep_days: String,

    /// Size of all audit records in MiB above which the oldest are removed, up to 1048576; 0 means no
    /// bound.
    ///
    /// A write takes 0.6 KiB, approximately. Raise it where many records are kept for long.
    #[arg(long, env = "AURA_CONFIGURATION_AUDIT_KEEP_MEGABYTES", default_value = AUDIT_KEEP_MEGABYTES)]
    pub(super) audit_keep_megabytes: String,

    /// Name of this process in the audit log; Kubernetes sets it to the name of the pod.
    #[arg(long, env = "HOSTNAME", default_value = "", hide = true)]
    pub(super) host_name: String,

    /// Whether events are sent: `true` or `false`.
    ///
    /// With `false` documents are written and no event is sent; replicas find changes when they
    /// check in, or follow the feed. Set it alike for all publishers of a store.
    #[arg(long, env = "AURA_CONFIGURATION_EVENTS_ENABLED", default_value = EVENTS_ENABLED)]
    pub(super) events_enabled: String,

    /// Transport of the events: `LOCAL`, `DAPR` or `REDIS`.
    ///
    /// `LOCAL` posts events to known subscribers, without a broker: for one machine. `DAPR` sends
    /// them through the Dapr sidecar, with any pub/sub component. `REDIS` sends them through Redis
    /// without a sidecar. Subscribers need the same transport.
    #[arg(long, env = "AURA_CONFIGURATION_EVENTS_MANAGER", default_value = EVENTS_MANAGER)]
    pub(super) events_manager: String,

    /// Time to live of an event, in whole seconds, from 1 to 9000000000.
    ///
    /// A broker drops an event that is older; the replica catches up. Lower it so that a subscriber
    /// that was away for long does not get a backlog of old events.
    #[arg(long, env = "AURA_CONFIGURATION_EVENT_TTL_SECONDS", default_value = EVENT_TTL_SECONDS)]
    pub(super) event_ttl_seconds: String,

    /// Largest value (`configData`) inside an event, in bytes; 0 means no values.
    ///
    /// A replica fetches a value that the event does not have. Raise it when documents are larger
    /// and the broker takes larger messages; lower it when the broker takes only smaller ones.
    #[arg(long, env = "AURA_CONFIGURATION_EVENT_DATA_LIMIT_BYTES", default_value = EVENT_DATA_LIMIT_BYTES)]
    pub(super) event_data_limit_bytes: String,

    /// File with the private key that signs events: Ed25519 in PEM (PKCS #8), for example of
    /// `confcast keys create` or `openssl genpkey -algorithm ed25519`.
    ///
    /// Replicas that have the public key drop every event that is not signed, so a client of the
    /// broker cannot forge one. The file must not be readable for every user of the host. It is read
    /// every 5 s: another key comes into force without a restart. Set it alike for all publishers of
    /// a store. When it is not set, events are not signed.
    #[arg(
        long,
        env = SIGNING_KEY_FILE,
        value_name = "FILE",
        default_value = "",
        hide_default_value = true
    )]
    pub(super) signing_key_file: String,

    /// Collections whose events have nothing but the id of the document, separated by commas; `*` is
    /// all collections.
    ///
    /// No value, no user and no revision is on the bus then; a receiver reads the document by its id.
    /// Set it when the broker must not see configuration, or for consumers that know this form.
    /// Replicas catch up from the feed at each event.
    #[arg(
        long,
        env = ID_ONLY_COLLECTIONS,
        value_name = "NAMES",
        default_value = "",
        hide_default_value = true
    )]
    pub(super) id_only_collections: String,

    /// Collections without a topic, separated by commas: no event is sent for their changes.
    ///
    /// Replicas find these changes when they check in, or follow the feed. Every other collection has
    /// the topic of its name.
    #[arg(
        long,
        env = NO_TOPIC_COLLECTIONS,
        value_name = "NAMES",
        default_value = "",
        hide_default_value = true
    )]
    pub(super) no_topic_collections: String,

    /// LOCAL: base URLs of subscribers, separated by commas.
    ///
    /// `http://` or `https://`. Needed only for subscribers that do not check in or
    /// that are on another host; replicas on this machine are found when they check in.
    #[arg(long, env = LOCAL_SUBSCRIBERS, default_value = "", hide_default_value = true, hide_env_values = true)]
    pub(super) local_subscribers: String,

    /// LOCAL: hosts besides loopback, as `HOST` or `HOST:PORT`, separated by commas.
    ///
    /// A replica on one of these hosts gets events when it checks in. Set it when replicas run on
    /// other hosts or in other containers; also set a token then (`APP_API_TOKEN`).
    #[arg(
        long,
        env = "AURA_CONFIGURATION_LOCAL_ALLOW",
        default_value = "",
        hide_default_value = true
    )]
    pub(super) local_allow: String,

    /// Silence after which a replica is removed from the list of replicas, in seconds, from 1.
    ///
    /// Lower it where replicas come and go often with new names; raise it to see for longer which
    /// replicas are gone.
    #[arg(long, env = "AURA_CONFIGURATION_FORGET_REPLICAS_SECONDS", default_value = FORGET_REPLICAS_SECONDS)]
    pub(super) forget_replicas_seconds: String,

    /// Rows of the store that are checked in a second, in the background, from 0 to 1000000.
    ///
    /// All rows are checked once an hour at most; 0 checks none. A damaged row is logged and shown at
    /// `/readyz`. Raise it for millions of documents; lower it to spare the database.
    #[arg(long, env = "AURA_CONFIGURATION_SCRUB_ROWS_PER_SECOND", default_value = SCRUB_ROWS_PER_SECOND)]
    pub(super) scrub_rows_per_second: String,

    /// Snapshots that are sent at the same time, from 1 to 1000.
    ///
    /// Further replicas wait for a moment and are then asked to try again. Each snapshot uses memory
    /// and a session of the store. Raise it when many replicas start at once and the publisher is
    /// not busy.
    #[arg(long, env = "AURA_CONFIGURATION_LOADS", default_value = LOADS)]
    pub(super) loads: String,

    /// Document that is written again and again, as `COLLECTION/ID`, so that the way of a change to the
    /// replicas is measured also when nobody writes.
    ///
    /// The publisher makes the document; one that exists and is no probe is not replaced. Take a
    /// collection of its own without a schema, because every write is a change of the collection. Set it
    /// alike for all publishers of a store: one of them writes. When it is not set, nothing is
    /// written.
    #[arg(
        long,
        env = PROBE,
        value_name = "COLLECTION/ID",
        default_value = "",
        hide_default_value = true
    )]
    pub(super) probe: String,

    /// Time between two writes of the probe, in seconds, from 1 to 86400.
    ///
    /// Lower it for more values in an hour; each takes a record of the change log.
    #[arg(long, env = "AURA_CONFIGURATION_PROBE_SECONDS", default_value = PROBE_SECONDS)]
    pub(super) probe_seconds: String,

    /// DAPR: name of the pub/sub component.
    ///
    /// It must be the name in the metadata of the component, and the same for subscribers.
    #[arg(long, env = "AURA_DAPR_CONFIGURATION_PUBSUB_NAME", default_value = DAPR_PUBSUB_NAME)]
    pub(super) dapr_pubsub_name: String,

    /// DAPR: name of the pub/sub component with which the sidecar reads the dead letter topic.
    ///
    /// All publishers of a store share one consumer group there (components/dead-letters.yaml), so
    /// that each dead letter comes once. Without the component no dead letter of a sidecar is kept.
    #[arg(long, env = "AURA_DAPR_DEAD_LETTERS_PUBSUB_NAME", default_value = DAPR_DEAD_LETTERS)]
    pub(super) dapr_dead_letters: String,

    /// DAPR: port of the gRPC API of the sidecar on 127.0.0.1.
    ///
    /// Dapr sets the variable; set it only when the sidecar is not started by Dapr.
    #[arg(long, env = "DAPR_GRPC_PORT", default_value = DAPR_GRPC_PORT)]
    pub(super) dapr_grpc_port: String,

    /// DAPR: token that the sidecar expects from the publisher.
    ///
    /// Set it when the sidecar runs with API token authentication.
    #[arg(
        long,
        env = "DAPR_API_TOKEN",
        default_value = "",
        hide_default_value = true,
        hide_env_values = true
    )]
    pub(super) dapr_api_token: String,

    /// REDIS: URL of the server.
    ///
    /// Also `rediss://` (TLS), `redis-cluster://` and `redis-sentinel://`, with user and password
    /// where needed. It must be the Redis of the subscribers.
    #[arg(long, env = "AURA_REDIS_URL", default_value = broker::settings::URL, hide_env_values = true)]
    pub(super) redis_url: String,

    /// REDIS: number of the database, from 0.
    ///
    /// It is also part of the names of channels and streams, so it must be the number that the
    /// subscribers have.
    #[arg(long, env = "AURA_REDIS_DATABASE", default_value = broker::settings::DATABASE)]
    pub(super) redis_database: String,

    /// REDIS: prefix of the names of channels and streams, after the number of the database.
    ///
    /// Change it when two installations share a Redis; it must be the prefix of the subscribers.
    #[arg(long, env = "AURA_REDIS_CONFIGURATION_PREFIX", default_value = broker::settings::PREFIX)]
    pub(super) redis_prefix: String,

    /// REDIS: how events are delivered, `PUBSUB` or `STREAMS`.
    ///
    /// `STREAMS` keeps the newest events for subscribers that are disconnected for a short time.
    /// It must be the delivery of the subscribers.
    #[arg(long, env = "AURA_REDIS_DELIVERY", default_value = broker::settings::DELIVERY)]
    pub(super) redis_delivery: String,

    /// REDIS with STREAMS: events of each collection that a stream keeps, approximately, from 1.
    ///
    /// Raise it when subscribers are disconnected for longer than the stream reaches back; lower it
    /// to save memory of the Redis.
    #[arg(long, env = "AURA_REDIS_STREAM_MAX_LENGTH", default_value = REDIS_STREAM_MAX_LENGTH)]
    pub(super) redis_stream_max_length: String,

    /// REDIS with PUBSUB: collections whose documents have a channel each, separated by commas.
    ///
    /// For subscribers that need single documents of a large collection.
    #[arg(long, env = "AURA_REDIS_DOCUMENT_CHANNELS", default_value = REDIS_DOCUMENT_CHANNELS)]
    pub(super) redis_document_channels: String,

    /// LOCAL: token that the subscribers expect from the publisher. DAPR: token that the publisher
    /// expects from its sidecar.
    ///
    /// It is sent as `dapr-api-token`. With LOCAL, set it to the `APP_API_TOKEN` of the subscribers; a
    /// replica then gets events only if its check-ins carry the token. With DAPR, set it to the
    /// application token of the sidecar, which then alone delivers dead letters.
    #[arg(
        long,
        env = "APP_API_TOKEN",
        default_value = "",
        hide_default_value = true,
        hide_env_values = true
    )]
    pub(super) app_api_token: String,

    /// LOCAL: whether `APP_API_TOKEN` may be sent by `http://` to another host: true or false.
    ///
    /// Set it only where a mesh encrypts.
    #[arg(long, env = ALLOW_PLAINTEXT_TOKEN, value_name = "BOOLEAN", default_value = ALLOW_PLAINTEXT)]
    pub(super) allow_plaintext_token: String,

    #[command(flatten)]
    pub(super) limits: LimitsArgs,

    #[command(flatten)]
    pub(super) publisher_limits: PublisherLimitsArgs,
}
