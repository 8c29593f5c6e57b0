//! The payload of floors: the same bytes that our publisher would send for the same document. Sends
//! nothing itself.

use anyhow::Context;
use chrono::Utc;
use contract::{CanonicalJson, Change, Digest, Epoch, Operation};
use e2e::testbed::FREE;
use publisher::{Settings, bench_support::envelopes};
use serde_json::{Value, json};

/// A document of approximately 300 bytes that differs for each number.
pub(crate) fn document(number: u64) -> Value {
    json!({ "number": number, "text": "configuration ".repeat(20) })
}

/// A change of such a document in the form of each transport.
#[derive(Debug)]
pub(crate) struct Payload {
    /// The CloudEvent for a sidecar.
    pub(crate) event: Vec<u8>,
    /// The CloudEvent that a subscriber receives.
    pub(crate) delivered: Vec<u8>,
    /// The body that is published directly to Redis.
    pub(crate) bare: Vec<u8>,
    /// Name of the pub/sub component.
    pub(crate) component: String,
    /// The time to live of the event.
    pub(crate) ttl_seconds: u64,
}

impl Payload {
    /// Uses the defaults of the publisher, so that a change of those changes the floor too.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let events = Settings::read(&["--collections", FREE])?
            .events
            .context("events are off")?;
        let envelopes = envelopes(&events);
        let change = change()?;
        Ok(Self {
            event: envelopes.for_sidecar(&change)?,
            delivered: envelopes.for_subscriber(&change)?,
            bare: envelopes.without_envelope(&change)?,
            component: events.pub_sub_name,
            ttl_seconds: events.ttl_seconds,
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
        // As long as a real epoch.
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
        proof: None,
        context: contract::Context::default(),
    })
}
