//! From texts to [`Settings`]. Every setting is checked, so that the operator sees all mistakes
//! together. No mistake shows a value that may hold a secret.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use contract::{CollectionName, SecretUrl, fleet::MAX_SERVED};
use secrets::{KeyProvider, SecretKeys};
use service::runtime::settings::{
    SettingChecks, SettingsError, boolean, listed, listen_address, or, positive, token,
    warn_of_open_key,
};
use service::{
    http::{access::sidecar_needs_token, tls::REDIS_CA_FILE},
    nearest::unknown_collection,
};

use super::{
    Events, Settings, TransportSettings,
    arguments::{
        ALLOW_PLAINTEXT, ALLOW_PLAINTEXT_TOKEN, AUDIT, AUDIT_KEEP_DAYS, AUDIT_KEEP_MEGABYTES, Args,
        COLLECTIONS, DAPR_DEAD_LETTERS, DAPR_GRPC_PORT, DAPR_PUBSUB_NAME, DOCUMENT_LIMIT_BYTES,
        EVENT_DATA_LIMIT_BYTES, EVENT_TTL_SECONDS, EVENTS_ENABLED, EVENTS_MANAGER,
        FORGET_REPLICAS_SECONDS, ID_ONLY_COLLECTIONS, LISTEN, LOADS, LOCAL_SUBSCRIBERS,
        LOG_KEEP_CHANGES, LOG_KEEP_HOURS, LOG_TRIM_SECONDS, NO_TOPIC_COLLECTIONS, PROBE,
        PROBE_SECONDS, REDIS_DOCUMENT_CHANNELS, REDIS_STREAM_MAX_LENGTH, SCHEMAS_DIR,
        SCRUB_ROWS_PER_SECOND, SECRET_KEYS, SECRET_KEYS_FILE, SIGNING_KEY_FILE, STORE_URL,
    },
};
use crate::{
    audit::{AuditMode, AuditSettings},
    decide::{DocumentKey, schemas::SchemaMap},
    outbox::retention::RetentionPolicy,
    policy::{Broadcast, IdOnly},
    probe::{self, ProbeSettings},
    schema_folder,
    store::StoreUrl,
    transport::{
        direct::trust::{Refusal, SubscriberToken},
        signer::EventSigner,
    },
};

/// Largest document that any setting allows, in bytes.
const MAX_DOCUMENT_BYTES: u64 = 4 << 20;
/// Longest time between two rounds that trim the change log: a day.
const MAX_TRIM_SECONDS: u64 = 86_400;
/// A sidecar counts the time to live of an event in nanoseconds, in 64 bits.
const MAX_TTL_SECONDS: u64 = 9_000_000_000;
/// Most days that audit records are kept, if they are removed by age: a century.
const MAX_AUDIT_DAYS: u32 = 36_500;
/// Largest bound of the audit records: a tebibyte.
const MAX_AUDIT_MEGABYTES: u32 = 1 << 20;
/// Most rows that the scrub may read in a second.
const MAX_SCRUB_ROWS: u32 = 1_000_000;
/// Longest time between two writes of the probe: a day.
const MAX_PROBE_SECONDS: u64 = 86_400;
/// Most snapshots at the same time: each holds a session of the store and a part of its answer.
const MAX_SNAPSHOTS: u64 = 1_000;

impl Args {
    /// Checks all settings, also those of a transport when events are switched off.
    ///
    /// # Errors
    /// All mistakes, one line each.
    pub fn check(self) -> Result<Settings, SettingsError> {
        let mut checks = SettingChecks::default();
        let settings = self.settings(&mut checks);
        checks.finish(settings)
    }

    /// The settings, or `None` after a mistake. Every check comes before the first `?`, so that one
    /// mistake does not hide another.
    fn settings(&self, checks: &mut SettingChecks) -> Option<Settings> {
        // A store URL may hold a password: the mistake is reported without the value.
        let store = or(&self.store_url, STORE_URL)
            .parse::<StoreUrl>()
            .map_err(|reason| {
                checks.error(
                    "AURA_CONFIGURATION_STORE_URL",
                    format_args!("… (not shown, it may have a password): {reason}"),
                );
            })
            .ok();
        let listen = or(&self.listen, LISTEN);
        let listen = checks.check("AURA_CONFIGURATION_LISTEN", listen, listen_address(listen));
        let drain = self.drain.check(checks);
        let guard = self.guard.check(checks);
        let authenticator = self.access.check(checks, listen);
        let tls = self.tls.check(checks);
        if let Some(tls) = &tls {
            self.access.check_certificates(checks, tls.as_ref());
        }
        let collections = list(
            checks,
            "AURA_CONFIGURATION_COLLECTIONS",
            or(&self.collections, COLLECTIONS),
        );
        if collections.as_ref().is_some_and(BTreeSet::is_empty) {
            let reason = format_args!("{:?}: expected at least one collection", self.collections);
            checks.error("AURA_CONFIGURATION_COLLECTIONS", reason);
        }
        let schemas = self.schemas(checks);
        let document_limit = number(
            checks,
            "AURA_CONFIGURATION_DOCUMENT_LIMIT_BYTES",
            or(&self.document_limit_bytes, DOCUMENT_LIMIT_BYTES),
            MAX_DOCUMENT_BYTES,
        );
        let secret_keys = self.secret_keys(checks);
        let log_keep = self.log_keep(checks);
        let audit = self.audit(checks);
        let enabled = or(&self.events_enabled, EVENTS_ENABLED);
        let enabled = checks.check(
            "AURA_CONFIGURATION_EVENTS_ENABLED",
            enabled,
            boolean(enabled),
        );
        let forget_seconds = number(
            checks,
            "AURA_CONFIGURATION_FORGET_REPLICAS_SECONDS",
            or(&self.forget_replicas_seconds, FORGET_REPLICAS_SECONDS),
            u64::MAX,
        );
        let scrub = or(&self.scrub_rows_per_second, SCRUB_ROWS_PER_SECOND);
        let scrub_rows_per_second = checks.check(
            "AURA_CONFIGURATION_SCRUB_ROWS_PER_SECOND",
            scrub,
            scrub
                .parse()
                .ok()
                .filter(|rows: &u32| *rows <= MAX_SCRUB_ROWS)
                .ok_or("expected a whole number from 0 to 1000000"),
        );
        let snapshot_slots = number(
            checks,
            "AURA_CONFIGURATION_LOADS",
            or(&self.loads, LOADS),
            MAX_SNAPSHOTS,
        );
        let probe = self.probe(checks);
        let limits = self.limits.check(checks);
        let publisher_limits = self.publisher_limits.check(checks);
        let events = self.events(checks);
        if let (Some(authenticator), Some(events), Some(true)) = (&authenticator, &events, enabled)
            && let TransportSettings::Dapr {
                app_token: None, ..
            } = &events.transport
        {
            sidecar_needs_token(checks, authenticator);
        }
        let (schemas_dir, schemas) = schemas?;
        // A collection that has a schema file is served as well.
        let served = (collections.as_ref())
            .map(|named| -> BTreeSet<_> { named.iter().chain(schemas.keys()).cloned().collect() });
        if let Some(served) = &served
            && served.len() > MAX_SERVED
        {
            let number = served.len();
            let reason = format_args!(
                "…: {number} collections are configured or have a schema; a publisher serves at most {MAX_SERVED}"
            );
            checks.error("AURA_CONFIGURATION_COLLECTIONS", reason);
        }
        if let (Some(served), Some(events)) = (&served, &events) {
            check_served(checks, &events.broadcast, served);
            if let Some(Some(probe)) = &probe
                && !served.contains(&probe.key.0)
            {
                let reason = unknown_collection(probe.key.0.as_str(), served);
                checks.error(PROBE, format_args!("{:?}: {reason}", self.probe));
            }
        }
        if let Some(Some(probe)) = &probe
            && let Some(schema) = schemas.get(&probe.key.0)
            && let Err(refusal) = schema.check(&probe::value())
        {
            let reason = format_args!(
                "{:?}: the schema of {} refuses the document of a probe ({refusal}): name a collection that \
                 has no schema",
                self.probe, probe.key.0
            );
            checks.error(PROBE, reason);
        }
        Some(Settings {
            store: store?,
            listen: listen?,
            drain: drain?,
            guard: guard?,
            authenticator: authenticator?,
            tls: tls?,
            collections: collections?,
            collections_grow: or(&self.collections, COLLECTIONS) == COLLECTIONS,
            schemas_dir,
            schemas,
            document_limit: document_limit?,
            secret_keys: secret_keys?,
            forget_replicas: Duration::from_secs(forget_seconds?),
            snapshot_slots: snapshot_slots?,
            limits: limits?,
            publisher_limits: publisher_limits?,
            scrub_rows_per_second: scrub_rows_per_second?,
            log_keep: log_keep?,
            audit: audit?,
            probe: probe?,
            events: if enabled? { Some(events?) } else { None },
        })
    }

    /// The folder of the schemas, and the schemas: they are read here, so that a wrong one is a mistake
    /// as any other. Only the default may be absent: a folder that was named and is not there would
    /// switch the check of documents off.
    fn schemas(&self, checks: &mut SettingChecks) -> Option<(PathBuf, SchemaMap)> {
        let name = "AURA_CONFIGURATION_SCHEMAS_DIR";
        let given = or(&self.schemas_dir, SCHEMAS_DIR);
        let folder = PathBuf::from(given);
        if given != SCHEMAS_DIR && !folder.is_dir() {
            checks.error(name, format_args!("{given:?}: there is no such folder"));
            return None;
        }
        match schema_folder::read(&folder) {
            Ok(schemas) => Some((folder, schemas)),
            Err(error) => {
                checks.error(name, format_args!("{given:?}: {error:#}"));
                None
            }
        }
    }

    fn audit(&self, checks: &mut SettingChecks) -> Option<AuditSettings> {
        let mode = match or(&self.audit, AUDIT).to_ascii_lowercase().as_str() {
            "auto" => Some(AuditMode::Auto),
            "on" => Some(AuditMode::On),
            "off" => Some(AuditMode::Off),
            other => {
                let reason = format_args!("{other:?}: expected auto, on or off");
                checks.error("AURA_CONFIGURATION_AUDIT", reason);
                None
            }
        };
        let mut up_to = |name, text: &str, most: u32| {
            let number = text.parse().ok().filter(|number| *number <= most);
            let number = number.ok_or_else(|| format!("expected a whole number from 0 to {most}"));
            checks.check(name, text, number)
        };
        let keep_days = up_to(
            "AURA_CONFIGURATION_AUDIT_KEEP_DAYS",
            or(&self.audit_keep_days, AUDIT_KEEP_DAYS),
            MAX_AUDIT_DAYS,
        );
        let megabytes = up_to(
            "AURA_CONFIGURATION_AUDIT_KEEP_MEGABYTES",
            or(&self.audit_keep_megabytes, AUDIT_KEEP_MEGABYTES),
            MAX_AUDIT_MEGABYTES,
        );
        let host = or(&self.host_name, "publisher");
        Some(AuditSettings {
            mode: mode?,
            keep_days: keep_days?,
            keep_bytes: match megabytes? {
                0 => u64::MAX,
                megabytes => u64::from(megabytes) << 20,
            },
            publisher: format!("{host}:{}", std::process::id()),
        })
    }

    /// The keys for secrets: read here, so that a wrong file is a mistake as any other. No mistake
    /// shows a part of a key.
    fn secret_keys(&self, checks: &mut SettingChecks) -> Option<Option<Arc<SecretKeys>>> {
        let (name, provider) = match (&*self.secret_keys_file, &*self.secret_keys) {
            ("", "") => return Some(None),
            (file, "") => {
                warn_of_open_key(SECRET_KEYS_FILE, file.as_ref());
                (SECRET_KEYS_FILE, KeyProvider::File(file.into()))
            }
            ("", text) => (
                SECRET_KEYS,
                KeyProvider::Environment(text.to_owned().into()),
            ),
            _both => {
                checks.error(SECRET_KEYS, format_args!("{SECRET_KEYS_FILE} is set too"));
                return None;
            }
        };
        match SecretKeys::read(provider) {
            Ok(keys) => Some(Some(Arc::new(keys))),
            Err(error) => {
                let reason = error.reason();
                if name == SECRET_KEYS_FILE {
                    return checks.check(name, &self.secret_keys_file, Err(reason));
                }
                checks.error(name, format_args!("…: {reason}"));
                None
            }
        }
    }

    fn probe(&self, checks: &mut SettingChecks) -> Option<Option<ProbeSettings>> {
        let seconds: Option<u64> = number(
            checks,
            "AURA_CONFIGURATION_PROBE_SECONDS",
            or(&self.probe_seconds, PROBE_SECONDS),
            MAX_PROBE_SECONDS,
        );
        if self.probe.is_empty() {
            return seconds.map(|_unused| None);
        }
        let key = self
            .probe
            .split_once('/')
            .ok_or_else(|| "expected COLLECTION/ID".to_owned())
            .and_then(|(collection, id)| {
                let collection = collection.parse().map_err(|error| format!("{error}"))?;
                let id = id.parse().map_err(|error| format!("{error}"))?;
                Ok((collection, id))
            });
        let key: Option<DocumentKey> = checks.check(PROBE, &self.probe, key);
        Some(Some(ProbeSettings {
            key: key?,
            interval: Duration::from_secs(seconds?),
        }))
    }

    fn log_keep(&self, checks: &mut SettingChecks) -> Option<RetentionPolicy> {
        let changes = number(
            checks,
            "AURA_CONFIGURATION_LOG_KEEP_CHANGES",
            or(&self.log_keep_changes, LOG_KEEP_CHANGES),
            u64::MAX,
        );
        let hours = checks.parse(
            "AURA_CONFIGURATION_LOG_KEEP_HOURS",
            or(&self.log_keep_hours, LOG_KEEP_HOURS),
        );
        let round_seconds = number(
            checks,
            "AURA_CONFIGURATION_LOG_TRIM_SECONDS",
            or(&self.log_trim_seconds, LOG_TRIM_SECONDS),
            MAX_TRIM_SECONDS,
        );
        Some(RetentionPolicy {
            changes: changes?,
            hours: hours?,
            round: Duration::from_secs(round_seconds?),
        })
    }

    fn events(&self, checks: &mut SettingChecks) -> Option<Events> {
        let ttl_seconds = number(
            checks,
            "AURA_CONFIGURATION_EVENT_TTL_SECONDS",
            or(&self.event_ttl_seconds, EVENT_TTL_SECONDS),
            MAX_TTL_SECONDS,
        );
        let data_limit = checks.parse(
            "AURA_CONFIGURATION_EVENT_DATA_LIMIT_BYTES",
            or(&self.event_data_limit_bytes, EVENT_DATA_LIMIT_BYTES),
        );
        let broadcast = self.broadcast(checks);
        let transport = self.transport(checks);
        let signer = self.signer(checks);
        Some(Events {
            transport: transport?,
            pub_sub_name: or(&self.dapr_pubsub_name, DAPR_PUBSUB_NAME).to_owned(),
            ttl_seconds: ttl_seconds?,
            data_limit: data_limit?,
            broadcast: broadcast?,
            signer: signer?,
        })
    }

    /// The key is read here, so that a wrong file is a mistake as any other.
    fn signer(&self, checks: &mut SettingChecks) -> Option<Option<EventSigner>> {
        let file = &self.signing_key_file;
        if file.is_empty() {
            return Some(None);
        }
        let signer = EventSigner::from_file(file.as_ref());
        checks.check(SIGNING_KEY_FILE, file, signer).map(Some)
    }

    fn broadcast(&self, checks: &mut SettingChecks) -> Option<Broadcast> {
        let id_only = match self.id_only_collections.as_str() {
            "*" => Some(IdOnly::All),
            named if listed(named).any(|entry| entry == "*") => {
                let reason = "* stands for all collections, so it stands alone";
                checks.error(ID_ONLY_COLLECTIONS, reason);
                None
            }
            named => list(checks, ID_ONLY_COLLECTIONS, named).map(IdOnly::Named),
        };
        let without_topic = if listed(&self.no_topic_collections).any(|entry| entry == "*") {
            let reason = "* is no name of a collection here: AURA_CONFIGURATION_EVENTS_ENABLED=false \
                          switches all events off";
            checks.error(NO_TOPIC_COLLECTIONS, reason);
            None
        } else {
            list(checks, NO_TOPIC_COLLECTIONS, &self.no_topic_collections)
        };
        Some(Broadcast::On {
            without_topic: without_topic?,
            id_only: id_only?,
        })
    }

    /// The settings of all transports are checked: a mistake in one that is not selected would show
    /// only on the day it is.
    fn transport(&self, checks: &mut SettingChecks) -> Option<TransportSettings> {
        let name = or(&self.events_manager, EVENTS_MANAGER);
        let dapr = self.dapr(checks);
        let local = self.local(checks);
        let redis = self.redis(checks);
        match name.to_ascii_uppercase().as_str() {
            "DAPR" => dapr,
            "LOCAL" => local,
            "REDIS" => redis,
            _ => {
                let reason = format_args!("{name:?}: expected LOCAL, DAPR or REDIS");
                checks.error("AURA_CONFIGURATION_EVENTS_MANAGER", reason);
                None
            }
        }
    }

    fn dapr(&self, checks: &mut SettingChecks) -> Option<TransportSettings> {
        let port = or(&self.dapr_grpc_port, DAPR_GRPC_PORT);
        let port: Option<u16> = checks.parse("DAPR_GRPC_PORT", port);
        let api_token = token(checks, "DAPR_API_TOKEN", &self.dapr_api_token);
        Some(TransportSettings::Dapr {
            endpoint: format!("http://127.0.0.1:{}", port?),
            api_token: api_token?,
            dead_letters: or(&self.dapr_dead_letters, DAPR_DEAD_LETTERS).to_owned(),
            // A mistake in it is reported with the settings of LOCAL.
            app_token: Some(self.app_api_token.clone()).filter(|token| !token.is_empty()),
        })
    }

    fn local(&self, checks: &mut SettingChecks) -> Option<TransportSettings> {
        let subscribers = subscribers(checks, &self.local_subscribers);
        let allowed = allowed(checks, &self.local_allow);
        let api_token = token(checks, "APP_API_TOKEN", &self.app_api_token);
        let plaintext = or(&self.allow_plaintext_token, ALLOW_PLAINTEXT);
        let allow_plaintext = checks.check(ALLOW_PLAINTEXT_TOKEN, plaintext, boolean(plaintext));
        let tls = self.client_tls.check(checks);
        let subscribers = subscribers?;
        let allow_plaintext = allow_plaintext?;
        let api_token = api_token?.map(|text| SubscriberToken {
            text,
            allow_plaintext,
        });
        if let Some(token) = &api_token
            && !subscribers
                .iter()
                .all(|base| token.may_go_to(base.expose()))
        {
            checks.error(LOCAL_SUBSCRIBERS, Refusal::Plaintext);
            return None;
        }
        Some(TransportSettings::Local {
            subscribers: subscribers.into_iter().collect(),
            allowed: allowed?,
            api_token,
            tls: tls?,
        })
    }

    fn redis(&self, checks: &mut SettingChecks) -> Option<TransportSettings> {
        let redis = broker::settings::RedisSettings {
            url: &self.redis_url,
            database: &self.redis_database,
            prefix: &self.redis_prefix,
            delivery: &self.redis_delivery,
        };
        let redis = redis.check(|name, reason| checks.error(name, reason));
        let files = self.redis_tls.check(checks);
        let redis = redis.and_then(|mut redis| {
            let address = redis.address.with_files(files?);
            redis.address = address
                .map_err(|reason| checks.error(REDIS_CA_FILE, reason))
                .ok()?;
            Some(redis)
        });
        let keep = number(
            checks,
            "AURA_REDIS_STREAM_MAX_LENGTH",
            or(&self.redis_stream_max_length, REDIS_STREAM_MAX_LENGTH),
            u64::MAX,
        );
        let by_document = list(
            checks,
            "AURA_REDIS_DOCUMENT_CHANNELS",
            or(&self.redis_document_channels, REDIS_DOCUMENT_CHANNELS),
        );
        Some(TransportSettings::Redis {
            redis: Box::new(redis?),
            keep: keep?,
            by_document: by_document?,
        })
    }
}

/// A name that is not served is a mistake: a misspelt one would put values and users on a bus that
/// must not have them.
fn check_served(
    checks: &mut SettingChecks,
    broadcast: &Broadcast,
    served: &BTreeSet<CollectionName>,
) {
    let Broadcast::On {
        without_topic,
        id_only,
    } = broadcast
    else {
        return;
    };
    let mut check = |setting: &str, named: &BTreeSet<CollectionName>| {
        for name in named.difference(served) {
            let reason = unknown_collection(name.as_str(), served);
            checks.error(setting, format_args!("{:?}: {reason}", name.as_str()));
        }
    };
    check(NO_TOPIC_COLLECTIONS, without_topic);
    if let IdOnly::Named(named) = id_only {
        check(ID_ONLY_COLLECTIONS, named);
        for name in named.intersection(without_topic) {
            let reason = format_args!(
                "{:?} is in {NO_TOPIC_COLLECTIONS} too, and has no events then: name it in one list",
                name.as_str()
            );
            checks.error(ID_ONLY_COLLECTIONS, reason);
        }
    }
}

/// A list separated by commas, each entry checked by itself.
fn list<T>(checks: &mut SettingChecks, name: &str, text: &str) -> Option<BTreeSet<T>>
where
    T: std::str::FromStr + Ord,
    T::Err: std::fmt::Display,
{
    // All entries are read before the first mistake ends it, so that all mistakes are reported.
    let entries: Vec<_> = listed(text)
        .map(|entry| checks.parse(name, entry))
        .collect();
    entries.into_iter().collect()
}

/// URLs of subscribers. A URL may hold a password, so a mistake names its position in the list and
/// not the value.
fn subscribers(checks: &mut SettingChecks, text: &str) -> Option<BTreeSet<SecretUrl>> {
    let entries: Vec<_> = listed(text)
        .enumerate()
        .map(|(index, entry)| {
            SecretUrl::http_base(entry)
                .map_err(|reason| {
                    let reason = format_args!("item {}: {reason}", index + 1);
                    checks.error(LOCAL_SUBSCRIBERS, reason);
                })
                .ok()
        })
        .collect();
    entries.into_iter().collect()
}

/// Hosts, `HOST` or `HOST:PORT`, in lower case. A URL here would never match a host.
fn allowed(checks: &mut SettingChecks, text: &str) -> Option<BTreeSet<String>> {
    let entries: Vec<_> = listed(text)
        .map(|entry| {
            let host = format!("http://{entry}/").parse::<SecretUrl>().ok();
            let is_host = !entry.contains(['/', '?', '#', '@', '\\'])
                && host.is_some_and(|url| url.expose().has_host());
            let read = if is_host {
                Ok(entry.to_ascii_lowercase())
            } else {
                Err("expected HOST or HOST:PORT")
            };
            checks.check("AURA_CONFIGURATION_LOCAL_ALLOW", entry, read)
        })
        .collect();
    entries.into_iter().collect()
}

/// A whole number from 1 to `max`.
fn number<T: TryFrom<u64>>(
    checks: &mut SettingChecks,
    name: &str,
    text: &str,
    max: u64,
) -> Option<T> {
    checks.check(name, text, at_most(max, text))
}

fn at_most<T: TryFrom<u64>>(max: u64, text: &str) -> Result<T, String> {
    let number = positive(text)?;
    T::try_from(number)
        .ok()
        .filter(|_converted| number <= max)
        .ok_or_else(|| format!("expected at most {max}"))
}
