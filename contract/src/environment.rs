//! The names of all environment variables that the programs read, so that each program can name a
//! variable that none of them reads.
//!
//! Nothing here reads the environment or handles a value.

use crate::text::nearest::nearest;

/// Every variable whose name begins with [`PREFIX`] and that a program of this project reads.
pub const NAMES: &[&str] = &[
    "AURA_CONFIGURATION_ALLOWED_HOSTS",
    "AURA_CONFIGURATION_ALLOW_ANONYMOUS_BEYOND_LOOPBACK",
    "AURA_CONFIGURATION_ALLOW_PLAINTEXT_TOKEN",
    "AURA_CONFIGURATION_ANONYMOUS",
    "AURA_CONFIGURATION_API_URL",
    "AURA_CONFIGURATION_AUDIT",
    "AURA_CONFIGURATION_AUDIT_KEEP_DAYS",
    "AURA_CONFIGURATION_AUDIT_KEEP_MEGABYTES",
    "AURA_CONFIGURATION_BASE_URL",
    "AURA_CONFIGURATION_CA_FILE",
    "AURA_CONFIGURATION_CERTIFICATES_FILE",
    "AURA_CONFIGURATION_CHECK_IN_SECONDS",
    "AURA_CONFIGURATION_CLIENT_CERT_FILE",
    "AURA_CONFIGURATION_CLIENT_KEY_FILE",
    "AURA_CONFIGURATION_COLLECTIONS",
    "AURA_CONFIGURATION_COMPONENT_ACK_SECONDS",
    "AURA_CONFIGURATION_COMPONENT_NAME",
    "AURA_CONFIGURATION_COMPONENT_SOCKET_MODE",
    "AURA_CONFIGURATION_CORS_ORIGINS",
    "AURA_CONFIGURATION_DAPR_API_APP_URL",
    "AURA_CONFIGURATION_DAPR_API_LISTEN",
    "AURA_CONFIGURATION_DOCUMENT_LIMIT_BYTES",
    "AURA_CONFIGURATION_DRAIN_SECONDS",
    "AURA_CONFIGURATION_EVENTS_ENABLED",
    "AURA_CONFIGURATION_EVENTS_MANAGER",
    "AURA_CONFIGURATION_EVENT_DATA_LIMIT_BYTES",
    "AURA_CONFIGURATION_EVENT_KEYS_FILE",
    "AURA_CONFIGURATION_EVENT_TTL_SECONDS",
    "AURA_CONFIGURATION_FORGET_REPLICAS_SECONDS",
    "AURA_CONFIGURATION_ID_ONLY_COLLECTIONS",
    "AURA_CONFIGURATION_INSTANCE",
    "AURA_CONFIGURATION_ISSUERS_FILE",
    "AURA_CONFIGURATION_LIMIT_BAD_CREDENTIALS_PER_MINUTE",
    "AURA_CONFIGURATION_LIMIT_BODIES_BYTES",
    "AURA_CONFIGURATION_LIMIT_BODY_SECONDS",
    "AURA_CONFIGURATION_LIMIT_CHECK_INS",
    "AURA_CONFIGURATION_LIMIT_CONNECTIONS",
    "AURA_CONFIGURATION_LIMIT_CONNECTIONS_PER_ADDRESS",
    "AURA_CONFIGURATION_LIMIT_FOLLOWS_PER_SECOND",
    "AURA_CONFIGURATION_LIMIT_HEAD_SECONDS",
    "AURA_CONFIGURATION_LIMIT_HISTORIES",
    "AURA_CONFIGURATION_LIMIT_IDLE_SECONDS",
    "AURA_CONFIGURATION_LIMIT_LISTS",
    "AURA_CONFIGURATION_LIMIT_LOCAL_SUBSCRIBERS",
    "AURA_CONFIGURATION_LIMIT_QUEUED_WRITES",
    "AURA_CONFIGURATION_LIMIT_READER_SECONDS",
    "AURA_CONFIGURATION_LIMIT_READS_PER_SECOND",
    "AURA_CONFIGURATION_LIMIT_SNAPSHOT_BYTES",
    "AURA_CONFIGURATION_LIMIT_STREAMS",
    "AURA_CONFIGURATION_LIMIT_STREAMS_PER_CALLER",
    "AURA_CONFIGURATION_LIMIT_WRITES_PER_SECOND",
    "AURA_CONFIGURATION_LISTEN",
    "AURA_CONFIGURATION_LOADS",
    "AURA_CONFIGURATION_LOCAL_ALLOW",
    "AURA_CONFIGURATION_LOCAL_SUBSCRIBERS",
    "AURA_CONFIGURATION_LOG_FORMAT",
    "AURA_CONFIGURATION_LOG_KEEP_CHANGES",
    "AURA_CONFIGURATION_LOG_KEEP_HOURS",
    "AURA_CONFIGURATION_LOG_TRIM_SECONDS",
    "AURA_CONFIGURATION_NO_TOPIC_COLLECTIONS",
    "AURA_CONFIGURATION_PROBE",
    "AURA_CONFIGURATION_PROBE_SECONDS",
    "AURA_CONFIGURATION_PROJECTION_URL",
    "AURA_CONFIGURATION_PROJECTION_VERIFY_SECONDS",
    "AURA_CONFIGURATION_READY_WHEN_STALE",
    "AURA_CONFIGURATION_SCHEMAS_DIR",
    "AURA_CONFIGURATION_SCRUB_ROWS_PER_SECOND",
    "AURA_CONFIGURATION_SECRET_KEYS",
    "AURA_CONFIGURATION_SECRET_KEYS_FILE",
    "AURA_CONFIGURATION_SECRET_REFRESH_SECONDS",
    "AURA_CONFIGURATION_SECRET_STORES",
    "AURA_CONFIGURATION_SIGNING_KEY_FILE",
    "AURA_CONFIGURATION_SNAPSHOT_DIR",
    "AURA_CONFIGURATION_STORE_URL",
    "AURA_CONFIGURATION_TLS_CERT_FILE",
    "AURA_CONFIGURATION_TLS_CLIENT_CA_FILE",
    "AURA_CONFIGURATION_TLS_CLIENT_CERT",
    "AURA_CONFIGURATION_TLS_KEY_FILE",
    "AURA_CONFIGURATION_TOKEN",
    "AURA_CONFIGURATION_TOKENS_FILE",
    "AURA_CONFIGURATION_TOKEN_FILE",
    "AURA_DAPR_BULK_INTERVAL_MS",
    "AURA_DAPR_CONFIGURATION_PUBSUB_NAME",
    "AURA_DAPR_DEAD_LETTERS_PUBSUB_NAME",
    "AURA_DAPR_DECLARATIVE_SUBSCRIPTIONS",
    "AURA_REDIS_CA_FILE",
    "AURA_REDIS_CERT_FILE",
    "AURA_REDIS_CONFIGURATION_PREFIX",
    "AURA_REDIS_DATABASE",
    "AURA_REDIS_DELIVERY",
    "AURA_REDIS_DOCUMENT_CHANNELS",
    "AURA_REDIS_KEY_FILE",
    "AURA_REDIS_STREAM_MAX_LENGTH",
    "AURA_REDIS_URL",
];
/// The collections of publishers and subscribers that are not told otherwise: the six of the source
/// document (requirement A5).
pub const COLLECTIONS: &str = "ChannelConfiguration,ApplicationConfiguration,SkillConfiguration,\
    TvSectionsConfiguration,PresetConfiguration,AgentConfiguration";

/// How the names of this project begin.
pub const PREFIX: &str = "AURA_";

/// What to say of a variable that no program reads, with the name that was probably meant, if one is
/// near. `None` for a variable that is read, that is of another project, or that Kubernetes made of
/// the name of a Service.
pub fn warning(name: &str) -> Option<String> {
    if !is_unread(name) {
        return None;
    }
    let unread = format!("the environment variable {name} is not read by any program");
    Some(match nearest(name, NAMES.iter().copied()) {
        Some(meant) => format!("{unread}; was {meant} meant?"),
        None => unread,
    })
}

/// Whether a variable has a name of this project, and no program reads it. [`warning`] looks for another
/// name as well, which costs more.
pub fn is_unread(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    upper.starts_with(PREFIX) && !NAMES.contains(&name) && !is_service_link(&upper)
}

/// Kubernetes gives each container such variables for each Service of its namespace, so a Service
/// `aura-configuration-api` makes `AURA_CONFIGURATION_API_SERVICE_HOST` and further names.
fn is_service_link(name: &str) -> bool {
    // `_PORT_80_TCP`, and with `_PROTO`, `_PORT` or `_ADDR` after it.
    let is_port = name.split("_PORT_").skip(1).any(|rest| {
        let number = rest.split('_').next().unwrap_or_default();
        number.parse::<u16>().is_ok()
    });
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || is_port
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_gets_the_nearest_known_one() {
        for (given, meant) in [
            (
                "AURA_CONFIGURATION_STORE_ULR",
                "AURA_CONFIGURATION_STORE_URL",
            ),
            ("AURA_CONFIG_STORE_URL", "AURA_CONFIGURATION_STORE_URL"),
            ("aura_configuration_listen", "AURA_CONFIGURATION_LISTEN"),
            ("AURA_REDIS_DB", "AURA_REDIS_URL"),
        ] {
            let warning = warning(given).expect(given);
            assert!(
                warning.ends_with(&format!("was {meant} meant?")),
                "{warning}"
            );
        }
    }

    #[test]
    fn a_name_that_is_like_no_other_gets_no_suggestion() {
        let text = warning("AURA_SOMETHING_ELSE_ALTOGETHER").expect("a warning");
        assert!(text.ends_with("is not read by any program"), "{text}");
    }

    #[test]
    fn names_that_are_read_or_are_of_others_are_no_mistake() {
        for name in NAMES {
            assert_eq!(warning(name), None);
        }
        for name in [
            "PATH",
            "AURAL_LEVEL",
            "AURA_CONFIGURATION_API_SERVICE_HOST",
            "AURA_CONFIGURATION_API_SERVICE_PORT_HTTP",
            "AURA_CONFIGURATION_API_PORT",
            "AURA_CONFIGURATION_API_PORT_80_TCP",
            "AURA_CONFIGURATION_API_PORT_80_TCP_ADDR",
            "AURA_CONFIGURATION_API_PORT_80_TCP_PORT",
        ] {
            assert_eq!(warning(name), None, "{name}");
        }
    }
}
