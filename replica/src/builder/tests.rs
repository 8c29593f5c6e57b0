//! Which configurations are refused, and that the message says how to fix them.

use serde_json::Value;

use super::*;
use crate::{Events, config::CHECK_IN};

fn config() -> Config {
    let followed = ["ChannelConfiguration", "Configuration"];
    Config::new("test", ["http://127.0.0.1:1"], followed).expect("a configuration")
}

fn builder() -> Builder {
    Builder::new(config())
}

async fn ignore(_update: Update<Value>) -> Result<(), HandlerError> {
    Ok(())
}

#[test]
fn a_new_configuration_has_the_default_settings() {
    let config = config();
    assert_eq!(
        (
            config.check_in,
            config.collections.len(),
            config.publishers.len()
        ),
        (CHECK_IN, 2, 1)
    );
    assert!(
        matches!(config.events, Events::Feed)
            && config.base_url.is_none()
            && config.snapshot_dir.is_none()
    );
    for (publishers, collections, what) in [
        (vec!["127.0.0.1:8080"], vec!["A"], "write something like"),
        (vec!["mailto:a@b"], vec!["A"], "write something like"),
        (vec![], vec!["A"], "no URL of a publisher"),
        (vec!["http://h"], vec!["a/b"], "a/b"),
    ] {
        let error = Config::new("test", publishers, collections)
            .expect_err(what)
            .to_string();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn a_typed_collection_must_be_followed() {
    let error = builder()
        .collection::<Value>("Flags")
        .expect_err("not followed")
        .to_string();
    assert_eq!(
        error,
        "Flags is not followed: add it to Config::collections, which has ChannelConfiguration, Configuration"
    );
    assert!(matches!(
        builder().collection::<Value>("a b"),
        Err(BuildError::Name(_))
    ));
    let built = builder()
        .collection::<Value>("Configuration")
        .and_then(|b| b.collection::<String>("Configuration"));
    let replica = built.and_then(Builder::build).expect("a replica");
    assert!(
        replica
            .collection::<Value>("Configuration")
            .expect("it is typed")
            .is_empty()
    );
    assert!(
        replica.collection::<String>("Configuration").is_ok(),
        "one collection, two types"
    );
    let error = replica
        .collection::<u64>("Configuration")
        .expect_err("another type")
        .to_string();
    assert!(
        error.ends_with(r#"add .collection::<u64>("Configuration")? to the builder"#),
        "{error}"
    );
    assert!(replica.pin().collection::<u64>("Configuration").is_err());
}

#[test]
fn the_name_of_a_handler_ends_with_its_collection() {
    let built = [
        "ChannelConfiguration",
        "AuditChannelConfiguration",
        "MyConfiguration",
    ]
    .into_iter()
    .try_fold(builder(), |builder, name| builder.handler(name, ignore));
    let status = built.and_then(Builder::build).expect("a replica").status();
    let rows = status
        .handlers
        .iter()
        .map(|row| (row.name.as_str(), row.collection.as_str()));
    let expected = [
        ("ChannelConfiguration", "ChannelConfiguration"),
        ("AuditChannelConfiguration", "ChannelConfiguration"),
        ("MyConfiguration", "Configuration"),
    ];
    assert_eq!(rows.collect::<Vec<_>>(), expected, "the longest that fits");
    for name in ["ChannelConfigurationAudit", "channelconfiguration", ""] {
        let error = builder().handler(name, ignore).expect_err(name).to_string();
        assert!(
            error.contains("ends with the collection") && error.contains("ChannelConfiguration, "),
            "{error}"
        );
    }
    let long = format!("{}Configuration", "x".repeat(128));
    assert!(matches!(
        builder().handler(&long, ignore),
        Err(BuildError::LongName(_))
    ));
    let twice = builder()
        .handler("AConfiguration", ignore)
        .and_then(|builder| builder.handler("AConfiguration", ignore));
    let error = twice.expect_err("twice").to_string();
    assert_eq!(
        error,
        "there is a handler AConfiguration already: give this one a prefix of its own, as in AuditAConfiguration"
    );
}
