//! Settings of the subscriber. Each is an environment variable and a flag; `--help` is the manual.
//!
//! Every setting is taken as text, so that all mistakes are told at once. An empty value counts as
//! unset. Nothing here reads the environment but the command line parser, and nothing prints a
//! secret.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, time::Duration};

use clap::Parser;
use contract::{CollectionName, DocumentId};
use replica::{Events, HeaderValue, Url, broker::settings as redis};
use service::settings::{SettingChecks, SettingsError, boolean, listed, or, positive};

const EVENTS_ENABLED: &str = "true";
const EVENTS_MANAGER: &str = "LOCAL";
const PUBSUB_NAME: &str = "pubsub-config";
const LISTEN: &str = "127.0.0.1:8081";
const API_URL: &str = "http://127.0.0.1:8080";
const COLLECTIONS: &str = "ChannelConfiguration,ApplicationConfiguration,SkillConfiguration,TvSectionsConfiguration,\
                           PresetConfiguration,AgentConfiguration";
const CHECK_IN_SECONDS: &str = "10";
const READY_WHEN_STALE: &str = "true";
/// What a publisher takes, in bytes.
const MAX_BASE_URL: usize = 256;
/// Beyond this a replica that hears no events would be out of date for longer than anyone would
/// expect.
const MAX_CHECK_IN_SECONDS: u64 = 3_600;

/// Holds configuration in memory, in step with a publisher, and answers reads from there.
#[derive(Parser)]
#[command(
    name = "subscriber",
    version,
    next_line_help = true,
    after_help = "The log filter is RUST_LOG (default: info)."
)]
pub struct Options {
    /// Whether events are taken: true or false. Without events the replica hears of changes at its
    /// check-ins, and names no subscriptions to a sidecar.
    #[arg(long, env = "AURA_CONFIGURATION_EVENTS_ENABLED", value_name = "BOOLEAN", default_value = EVENTS_ENABLED)]
    events_enabled: String,

    /// What brings the events: LOCAL (the publisher posts them itself), DAPR (a sidecar does),
    /// REDIS (they are taken straight from there) or FEED (the live feed of a publisher, or of
    /// another subscriber, is followed).
    #[arg(long, env = "AURA_CONFIGURATION_EVENTS_MANAGER", value_name = "MANAGER", default_value = EVENTS_MANAGER)]
    events_manager: String,

    /// Name of the Dapr pub/sub component that brings the events.
    #[arg(long, env = "AURA_DAPR_CONFIGURATION_PUBSUB_NAME", value_name = "NAME", default_value = PUBSUB_NAME)]
    pubsub_name: String,

    /// REDIS: where it is; also rediss://, redis-cluster:// and redis-sentinel:// (README, Redis).
    #[arg(long, env = "AURA_REDIS_URL", value_name = "URL", default_value = redis::URL, hide_env_values = true)]
    redis_url: String,

    /// REDIS: number of the database; it is also part of the names of channels and streams.
    #[arg(long, env = "AURA_REDIS_DATABASE", value_name = "NUMBER", default_value = redis::DATABASE)]
    redis_database: String,

    /// REDIS: what the names of channels and streams begin with, after the database.
    #[arg(long, env = "AURA_REDIS_CONFIGURATION_PREFIX", value_name = "TEXT", default_value = redis::PREFIX)]
    redis_prefix: String,

    /// REDIS: PUBSUB, or STREAMS, which also bring what was sent while this replica was away; as
    /// the publishers have it.
    #[arg(long, env = "AURA_REDIS_DELIVERY", value_name = "WAY", default_value = redis::DELIVERY)]
    redis_delivery: String,

    /// Address and port to listen on; port 0 takes a free one.
    #[arg(long, env = "AURA_CONFIGURATION_LISTEN", value_name = "ADDRESS:PORT", default_value = LISTEN)]
    listen: String,

    /// Where publishers answer: URLs with commas in between, tried in turn. The invocation URL of
    /// a Dapr sidecar works too, for example `http://127.0.0.1:3500/v1.0/invoke/aura-configuration-api/method`
    #[arg(long, env = "AURA_CONFIGURATION_API_URL", value_name = "URLS", default_value = API_URL, hide_env_values = true)]
    api_url: String,

    /// The collections to follow, with commas in between. Each is also a topic. A sidecar asks for
    /// topics once in its life, so it must be restarted to hear of a new one.
    #[arg(long, env = "AURA_CONFIGURATION_COLLECTIONS", value_name = "NAMES", default_value = COLLECTIONS)]
    collections: String,

    /// Longest time between two check-ins at the publisher, in seconds, from 1 to 3600. A replica
    /// that loses every event is at most this much behind; one that reaches no publisher for
    /// two and a half times as long says it is stale.
    #[arg(long, env = "AURA_CONFIGURATION_CHECK_IN_SECONDS", value_name = "SECONDS", default_value = CHECK_IN_SECONDS)]
    check_in_seconds: String,

    /// Name of this replica in status and logs [default: the host name and the port]
    #[arg(
        long,
        env = "AURA_CONFIGURATION_INSTANCE",
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    instance: String,

    /// Where publishers and operators reach this replica, `http://HOST:PORT`; it is told at every check-in. When it is
    /// not set: the address it listens on, unless that stands for all addresses.
    #[arg(
        long,
        env = "AURA_CONFIGURATION_BASE_URL",
        value_name = "URL",
        default_value = "",
        hide_default_value = true
    )]
    base_url: String,

    /// Folder where the last known good configuration is kept, at most half a minute old, so that
    /// the replica starts when everything else is down. It needs a folder of its own; when
    /// none is set nothing is kept.
    #[arg(
        long,
        env = "AURA_CONFIGURATION_SNAPSHOT_DIR",
        value_name = "DIR",
        default_value = "",
        hide_default_value = true
    )]
    snapshot_dir: String,

    /// Whether /readyz is green while the configuration is stale: true or false.
    #[arg(
        long,
        env = "AURA_CONFIGURATION_READY_WHEN_STALE",
        value_name = "BOOLEAN",
        default_value = READY_WHEN_STALE
    )]
    ready_when_stale: String,

    /// When set, whoever calls /dapr/* must send it as dapr-api-token; give the sidecar the same
    /// `APP_API_TOKEN`.
    #[arg(
        long,
        env = "APP_API_TOKEN",
        value_name = "SECRET",
        default_value = "",
        hide_default_value = true
    )]
    #[arg(hide_env_values = true)]
    app_api_token: String,

    /// What the sidecar asks callers of its API for; sent when the publisher is reached by a Dapr
    /// invocation URL.
    #[arg(
        long,
        env = "DAPR_API_TOKEN",
        value_name = "SECRET",
        default_value = "",
        hide_default_value = true
    )]
    #[arg(hide_env_values = true)]
    dapr_api_token: String,

    #[arg(long, env = "HOSTNAME", default_value = "", hide = true)]
    host_name: String,
}

/// Settings that were checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where events come from.
    pub events: Events,
    /// Whether it is the publisher that posts them.
    pub by_publisher: bool,
    /// The Dapr component that brings them.
    pub pubsub_name: String,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where publishers answer.
    pub publishers: Vec<Url>,
    /// What to follow.
    pub collections: BTreeSet<CollectionName>,
    /// Longest time between two check-ins.
    pub check_in: Duration,
    /// Name of the replica, when one was given.
    pub instance: Option<String>,
    /// Where it is reached, when that was said.
    pub base_url: Option<Url>,
    /// Where the last known good is kept.
    pub snapshot_dir: Option<PathBuf>,
    /// Whether a stale replica is ready.
    pub ready_when_stale: bool,
    /// The host, for the name of the replica.
    pub host_name: String,
    /// What callers of `/dapr/*` must know, when they must know anything.
    pub app_api_token: Option<HeaderValue>,
    /// What the sidecar asks for.
    pub sidecar_token: Option<HeaderValue>,
}

impl Options {
    /// SettingChecks all settings.
    ///
    /// # Errors
    /// Everything that is wrong.
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
        let listen = checks.parse("AURA_CONFIGURATION_LISTEN", or(&self.listen, LISTEN));
        let publishers = publishers(&mut checks, or(&self.api_url, API_URL));
        let collections = collections(&mut checks, or(&self.collections, COLLECTIONS));
        let seconds = or(&self.check_in_seconds, CHECK_IN_SECONDS);
        let in_range = |seconds| {
            if seconds <= MAX_CHECK_IN_SECONDS {
                Ok(seconds)
            } else {
                Err("expected at most 3600")
            }
        };
        let seconds = checks.check(
            "AURA_CONFIGURATION_CHECK_IN_SECONDS",
            seconds,
            positive(seconds).and_then(in_range),
        );
        let ready = or(&self.ready_when_stale, READY_WHEN_STALE);
        let ready_when_stale =
            checks.check("AURA_CONFIGURATION_READY_WHEN_STALE", ready, boolean(ready));
        let base_url = base_url(&mut checks, &self.base_url);
        let sidecar_token = token(&mut checks, "DAPR_API_TOKEN", &self.dapr_api_token);
        let app_api_token = token(&mut checks, "APP_API_TOKEN", &self.app_api_token);
        let instance = instance(&mut checks, &self.instance);
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
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
                listen: listen?,
                publishers: publishers?,
                collections: collections?,
                check_in: Duration::from_secs(seconds?),
                instance: instance?,
                base_url: base_url?,
                snapshot_dir: given(&self.snapshot_dir).map(PathBuf::from),
                ready_when_stale: ready_when_stale?,
                // It becomes part of a name.
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
    /// `None` after a mistake.
    fn events(&self, checks: &mut SettingChecks, manager: &str) -> Option<Events> {
        match manager {
            "LOCAL" | "DAPR" => Some(Events::Posted),
            "FEED" => Some(Events::Feed),
            "REDIS" => {
                let redis = redis::RedisSettings {
                    url: &self.redis_url,
                    database: &self.redis_database,
                    prefix: &self.redis_prefix,
                    delivery: &self.redis_delivery,
                };
                redis
                    .check(|name, what| checks.mistake(name, what))
                    .map(|redis| Events::Redis(Box::new(redis)))
            }
            _ => {
                let what = format_args!(
                    "{:?}: expected LOCAL, DAPR, REDIS or FEED",
                    self.events_manager
                );
                checks.mistake("AURA_CONFIGURATION_EVENTS_MANAGER", what);
                None
            }
        }
    }
}

/// `None` after a mistake. A replica is named in paths, so its name is made like an id.
fn instance(checks: &mut SettingChecks, text: &str) -> Option<Option<String>> {
    if text.is_empty() {
        return Some(None);
    }
    checks
        .parse::<DocumentId>("AURA_CONFIGURATION_INSTANCE", text)
        .map(|name| Some(name.to_string()))
}

/// `None` after a mistake, which is told without the secret.
fn token(checks: &mut SettingChecks, name: &str, text: &str) -> Option<Option<HeaderValue>> {
    if text.is_empty() {
        return Some(None);
    }
    match HeaderValue::from_str(text) {
        Ok(mut token) => {
            token.set_sensitive(true);
            Some(Some(token))
        }
        Err(_not_a_header) => {
            checks.mistake(
                name,
                "…: it cannot be sent in a header, expected visible ASCII",
            );
            None
        }
    }
}

/// `None` after a mistake.
fn base_url(checks: &mut SettingChecks, text: &str) -> Option<Option<Url>> {
    let name = "AURA_CONFIGURATION_BASE_URL";
    if text.is_empty() {
        return Some(None);
    }
    match Url::parse(text) {
        Ok(url) if is_base(&url) => Some(Some(url)),
        _ => {
            checks.mistake(name, "…: expected http://HOST:PORT");
            None
        }
    }
}

/// `http://HOST:PORT`, no longer than a publisher takes.
fn is_base(url: &Url) -> bool {
    let bare = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    url.scheme() == "http"
        && url.has_host()
        && url.path() == "/"
        && bare
        && url.as_str().len() <= MAX_BASE_URL
}

fn collections(checks: &mut SettingChecks, text: &str) -> Option<BTreeSet<CollectionName>> {
    let name = "AURA_CONFIGURATION_COLLECTIONS";
    let read: Vec<Option<CollectionName>> =
        listed(text).map(|item| checks.parse(name, item)).collect();
    if read.is_empty() {
        checks.mistake(
            name,
            format_args!("{text:?}: expected at least one collection"),
        );
    }
    read.into_iter().collect()
}

/// A URL may hold a password, so a wrong one is named by its place in the list.
fn publishers(checks: &mut SettingChecks, text: &str) -> Option<Vec<Url>> {
    let name = "AURA_CONFIGURATION_API_URL";
    let mut read = Vec::new();
    for (at, item) in listed(text).enumerate() {
        let wrong = match Url::parse(item) {
            Ok(url) if url.scheme() != "http" => {
                "expected http:// (a sidecar or a mesh adds TLS)".to_owned()
            }
            Ok(url) if url.query().is_some() || url.fragment().is_some() => {
                "expected no ? and no #".to_owned()
            }
            Ok(url) => {
                read.push(url);
                continue;
            }
            Err(error) => error.to_string(),
        };
        checks.mistake(name, format_args!("item {}: {wrong}", at + 1));
    }
    if listed(text).next().is_none() {
        checks.mistake(name, format_args!("{text:?}: expected at least one URL"));
    }
    Some(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(arguments: &[&str]) -> Result<Settings, Vec<String>> {
        let arguments = std::iter::once("subscriber").chain(arguments.iter().copied());
        Options::try_parse_from(arguments)
            .expect("known flags")
            .settings()
            .map_err(|SettingsError(all)| all)
    }

    #[test]
    fn the_defaults_hold_also_for_empty_values() {
        let settings = check(&[
            "--listen=",
            "--collections=",
            "--api-url=",
            "--check-in-seconds=",
            "--app-api-token=",
        ]);
        let settings = settings.expect("all well");
        assert_eq!(
            (
                settings.listen.to_string().as_str(),
                settings.collections.len()
            ),
            (LISTEN, 6)
        );
        assert_eq!(
            (settings.publishers.len(), settings.check_in),
            (1, Duration::from_secs(10))
        );
        assert!(settings.by_publisher && matches!(settings.events, Events::Posted));
        assert!(
            settings.app_api_token.is_none()
                && settings.base_url.is_none()
                && settings.snapshot_dir.is_none()
        );
        assert!(settings.ready_when_stale);
    }

    #[test]
    fn every_mistake_is_told_and_no_secret() {
        let mistakes = check(&[
            "--events-enabled=yes",
            "--events-manager=RABBIT",
            "--listen=8081",
            "--api-url=https://u:secret@h,http://ok,nonsense",
            "--collections=A,_b",
            "--check-in-seconds=0",
            "--ready-when-stale=maybe",
            "--base-url=ftp://u:secret@h",
            "--instance=a b/c",
        ]);
        let mistakes = mistakes.expect_err("all wrong");
        for (mistake, said) in mistakes.iter().zip([
            "EVENTS_ENABLED=\"yes\": expected true or false",
            "EVENTS_MANAGER=\"RABBIT\": expected LOCAL, DAPR, REDIS or FEED",
            "LISTEN=\"8081\"",
            "API_URL=item 1: expected http://",
            "API_URL=item 3: ",
            "COLLECTIONS=\"_b\"",
            "CHECK_IN_SECONDS=\"0\"",
            "READY_WHEN_STALE=\"maybe\"",
            "BASE_URL=…: expected http://HOST:PORT",
            "INSTANCE=\"a b/c\"",
        ]) {
            assert!(mistake.contains(said), "{mistake} should say {said}");
        }
        assert_eq!(mistakes.len(), 10);
        assert!(!mistakes.concat().contains("secret"));
        assert!(check(&["--check-in-seconds=3601"]).is_err());
        let mistakes = check(&[
            "--events-manager=REDIS",
            "--redis-url=http://:secret@h",
            "--redis-delivery=POST",
        ]);
        let mistakes = mistakes.expect_err("two are wrong");
        assert!(
            mistakes.len() == 2 && !mistakes.concat().contains("secret"),
            "{mistakes:?}"
        );
        let settings = check(&[
            "--app-api-token=secret",
            "--events-manager=redis",
            "--redis-url=redis://:secret@h",
        ])
        .expect("all well");
        assert!(matches!(settings.events, Events::Redis(_)) && !settings.by_publisher);
        assert!(!format!("{settings:?}").contains("secret"));
    }
}
