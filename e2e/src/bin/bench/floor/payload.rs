//! What floors carry: byte for byte what our publisher would send for the same document. Sends
//! nothing itself.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::Context;
use chrono::Utc;
use contract::{CanonicalJson, Change, Digest, Epoch, Operation};
use e2e::stage::FREE;
use publisher::{
    decide::{Rules, schemas::Schemas},
    settings::{Events, Settings},
    store::PublisherPolicy,
    transport::cloudevent::EventEncoder,
};
use serde_json::{Value, json};

/// A document of about 300 bytes that is different each time.
pub(crate) fn document(number: u64) -> Value {
    json!({ "number": number, "text": "configuration ".repeat(20) })
}

/// A change of such a document as it travels, by each way.
#[derive(Debug)]
pub(crate) struct Payload {
    /// The CloudEvent that a sidecar is given.
    pub(crate) event: Vec<u8>,
    /// The CloudEvent that a subscriber gets.
    pub(crate) delivered: Vec<u8>,
    /// What is published straight to Redis.
    pub(crate) bare: Vec<u8>,
    /// Name of the pub/sub component.
    pub(crate) component: String,
    /// How long it is worth delivering.
    pub(crate) ttl_seconds: u64,
}

impl Payload {
    /// By the publisher's own defaults, so that a change of those changes the floor too.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let Events {
            pub_sub_name,
            ttl_seconds,
            data_limit,
            ..
        } = Settings::read(&["--collections", FREE])?
            .events
            .context("events are off")?;
        let rules = Rules {
            schemas: Schemas::default(),
            document_limit: 1 << 20,
        };
        let terms = Arc::new(PublisherPolicy {
            collections: BTreeSet::new(),
            rules,
            events_enabled: true,
        });
        let encoder = EventEncoder {
            pub_sub_name: pub_sub_name.clone(),
            ttl_seconds,
            data_limit,
            policy: terms,
        };
        let change = change()?;
        Ok(Self {
            event: encoder.for_sidecar(&change)?,
            delivered: encoder.for_subscriber(&change)?,
            bare: encoder.without_envelope(&change)?,
            component: pub_sub_name,
            ttl_seconds,
        })
    }
}

fn change() -> anyhow::Result<Change> {
    let config = CanonicalJson::parse(document(1_000).to_string().as_bytes());
    let config = config.map_err(|refused| anyhow::anyhow!("{refused:?}"))?;
    Ok(Change {
        collection: FREE.parse()?,
        op: Operation::Update,
        id: "n-0".parse()?,
        revision: 1_000,
        // As long as a real one.
        epoch: Epoch {
            lineage: u32::MAX / 2,
            counter: u64::try_from(Utc::now().timestamp_millis())?,
        },
        last_set: 0,
        crc: Some(config.crc()),
        config_data: Some(config),
        change_set: None,
        time: Utc::now(),
        count: 1,
        digest: Digest::default(),
        context: contract::Context::default(),
    })
}
