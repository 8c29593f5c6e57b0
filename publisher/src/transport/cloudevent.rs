//! The CloudEvent around a change: exactly the envelope of the source document (requirement A10 to
//! A14), and small.
//!
//! It is written in one go from the change, and read by the CloudEvents SDK in the tests. What the
//! sidecar adds by itself (`topic`, `pubsubname`, `expiration`) is not in it, except where there is
//! no sidecar.

use std::sync::Arc;

use anyhow::Context;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use contract::{Change, EventData, event};
use serde::Serialize;

use crate::store::PublisherPolicy;

/// Media type of an event in structured mode.
pub const MEDIA_TYPE: &str = "application/cloudevents+json";

/// Makes events.
#[derive(Debug)]
pub struct Envelopes {
    /// The Dapr component that events are published through.
    pub pub_sub_name: String,
    /// How long an event is worth delivering, in seconds.
    pub ttl_seconds: u64,
    /// Largest `configData` that travels, in bytes.
    pub data_limit: usize,
    /// Where the schemas are.
    pub terms: Arc<PublisherPolicy>,
}

impl Envelopes {
    /// The event for a change, as it is handed to a sidecar.
    ///
    /// # Errors
    /// When it cannot be built, which no committed change should cause.
    pub fn event(&self, change: &Change) -> anyhow::Result<Vec<u8>> {
        self.fitting(change, None)
    }

    /// The event as a sidecar would deliver it: with what it adds.
    ///
    /// # Errors
    /// As [`Envelopes::event`].
    pub fn delivered(&self, change: &Change) -> anyhow::Result<Vec<u8>> {
        let ttl = TimeDelta::try_seconds(i64::try_from(self.ttl_seconds)?)
            .context("a TTL beyond all time")?;
        let expiration = Utc::now()
            .checked_add_signed(ttl)
            .context("a TTL beyond all time")?;
        let expiration = expiration.to_rfc3339_opts(SecondsFormat::Secs, true);
        let topic = change.collection.as_str();
        self.fitting(
            change,
            Some(Delivered {
                topic,
                pubsubname: &self.pub_sub_name,
                expiration: &expiration,
            }),
        )
    }

    /// The data of the event and its time, without an envelope, as it travels straight through
    /// Redis (requirement A10).
    ///
    /// # Errors
    /// As [`Envelopes::event`].
    pub fn bare(&self, change: &Change) -> anyhow::Result<Vec<u8>> {
        self.small(|data_limit| {
            let bare = Bare {
                data: EventData::new(change, data_limit),
                time: change.time,
            };
            serde_json::to_vec(&bare).context("writing the data of the event")
        })
    }

    fn fitting(
        &self,
        change: &Change,
        delivered: Option<Delivered<'_>>,
    ) -> anyhow::Result<Vec<u8>> {
        self.small(|data_limit| {
            let data =
                EventData::new(change, data_limit).through(&self.pub_sub_name, self.ttl_seconds);
            let event = Structured {
                specversion: "1.0",
                id: event::event_id(change),
                source: event::SOURCE,
                kind: event::TYPE,
                subject: change.id.as_str(),
                time: change.time,
                datacontenttype: "application/json",
                dataschema: self.terms.rules.schemas.urn(&change.collection),
                sequence: format!("{:020}", change.revision),
                partitionkey: change.id.as_str(),
                correlationid: change.context.correlation_id(),
                traceparent: change.context.traceparent(),
                traceid: change.context.traceparent(),
                delivered,
                data,
            };
            serde_json::to_vec(&event).context("writing the event")
        })
    }

    /// Without its value when it would be too large: escapes can make a small value long. The
    /// receiver fetches it.
    fn small(&self, write: impl Fn(usize) -> anyhow::Result<Vec<u8>>) -> anyhow::Result<Vec<u8>> {
        let whole = write(self.data_limit)?;
        if whole.len() < event::MAX_BYTES {
            Ok(whole)
        } else {
            write(0)
        }
    }
}

/// An event in structured mode (CloudEvents 1.0, JSON Event Format); the names of its members are
/// those of [`event`].
#[derive(Serialize)]
struct Structured<'a> {
    specversion: &'static str,
    id: String,
    source: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    subject: &'a str,
    time: DateTime<Utc>,
    datacontenttype: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    dataschema: Option<&'a str>,
    sequence: String,
    partitionkey: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlationid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceid: Option<&'a str>,
    #[serde(flatten)]
    delivered: Option<Delivered<'a>>,
    data: EventData,
}

/// What a sidecar adds.
#[derive(Clone, Copy, Serialize)]
struct Delivered<'a> {
    topic: &'a str,
    pubsubname: &'a str,
    expiration: &'a str,
}

/// An event without an envelope.
#[derive(Serialize)]
struct Bare {
    #[serde(flatten)]
    data: EventData,
    time: DateTime<Utc>,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use cloudevents::{AttributesReader, Event, event::ExtensionValue};
    use contract::{CanonicalJson, ChangeSet, Digest, Epoch, Operation, SetPart};

    use super::*;
    use crate::decide::{Rules, schemas::Schemas};

    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn an_event_says_which_set_it_is_of_and_which_came_before() {
        let rules = Rules {
            schemas: Schemas::default(),
            document_limit: 1 << 20,
        };
        let terms = Arc::new(PublisherPolicy {
            collections: BTreeSet::new(),
            rules,
            events_enabled: true,
        });
        let envelopes = Envelopes {
            pub_sub_name: "pubsub-config".into(),
            ttl_seconds: 60,
            data_limit: 1_000,
            terms,
        };
        let collection: contract::CollectionName = "FreeForm".parse().expect("a name");
        let parts = vec![SetPart {
            collection: collection.clone(),
            first: 7,
            last: 8,
        }];
        let config = CanonicalJson::parse(b"{}").expect("json");
        let context = contract::Context::default()
            .with_correlation_id("order-66")
            .and_then(|it| it.with_user_id("u-1"));
        let context = context.and_then(|it| it.with_traceparent(TRACE));
        let change = Change {
            collection,
            op: Operation::Create,
            id: "a".parse().expect("an id"),
            revision: 7,
            epoch: Epoch {
                lineage: 1,
                counter: 1,
            },
            last_set: 5,
            crc: Some(config.crc()),
            config_data: Some(config),
            change_set: Some(ChangeSet {
                id: "0198".into(),
                parts,
            }),
            time: Utc::now(),
            count: 1,
            digest: Digest::default(),
            context: context.expect("valid"),
        };
        for (event, sidecar) in [
            (envelopes.event(&change), false),
            (envelopes.delivered(&change), true),
        ] {
            let event: Event =
                serde_json::from_slice(&event.expect("an event")).expect("a CloudEvent");
            assert_eq!(
                (event.id(), event.ty()),
                (event::event_id(&change).as_str(), event::TYPE)
            );
            assert_eq!(
                (event.source().as_str(), event.subject()),
                (event::SOURCE, Some("a"))
            );
            assert_eq!(
                (event.time(), event.datacontenttype()),
                (Some(&change.time), Some("application/json"))
            );
            let text = |name: &str| match event.extension(name) {
                Some(ExtensionValue::String(text)) => Some(text.as_str()),
                _ => None,
            };
            assert_eq!(text(event::SEQUENCE), Some("00000000000000000007"));
            assert_eq!(
                (text(event::PARTITION_KEY), text(event::CORRELATION_ID)),
                (Some("a"), Some("order-66"))
            );
            assert_eq!(
                (text(event::TRACEPARENT), text(event::TRACE_ID)),
                (Some(TRACE), Some(TRACE))
            );
            let added = [text("topic"), text("pubsubname"), text(event::EXPIRATION)];
            assert_eq!(added.map(|text| text.is_some()), [sidecar; 3]);
            assert_eq!(event.iter_extensions().count(), if sidecar { 8 } else { 5 });
        }
        let event = envelopes.event(&change).expect("an event");
        let event: serde_json::Value = serde_json::from_slice(&event).expect("json");
        assert_eq!(event["data"]["lastSet"], 5);
        assert_eq!(event["correlationid"], "order-66");
        assert_eq!(
            (&event["data"]["correlationId"], &event["data"]["userId"]),
            (&"order-66".into(), &"u-1".into())
        );
        assert_eq!(
            event["data"].get("organisationId"),
            None,
            "absent when it was not given"
        );
        let set = serde_json::json!({"id": "0198", "parts": [{"collection": "FreeForm", "first": 7, "last": 8}]});
        assert_eq!(event["data"]["changeSet"], set);

        let bare: serde_json::Value =
            serde_json::from_slice(&envelopes.bare(&change).expect("data")).expect("json");
        let mut data = event["data"].clone();
        let members = data.as_object_mut().expect("an object");
        members.retain(|name, _value| name != "metadata" && name != "pubSubName");
        members.insert("time".into(), event["time"].clone());
        assert_eq!(
            bare, data,
            "what a sidecar is told has no place where there is none"
        );
    }
}
