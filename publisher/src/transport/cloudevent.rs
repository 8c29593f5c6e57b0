//! The CloudEvent around a change: exactly the envelope of the source document (requirement A10 to
//! A14), and small. For an id-only collection it has the attributes that CloudEvents requires, with
//! `time` and `datacontenttype`, and the id (requirement D1).
//!
//! It is written from the change in a single pass; the tests read it with the CloudEvents SDK. The
//! members that a sidecar adds (`topic`, `pubsubname`, `expiration`) are omitted, except where there
//! is no sidecar. Nothing here sends.

use std::sync::Arc;

use anyhow::Context;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use contract::{
    Change, CollectionName, EventData,
    event::{self, AddedBySidecar, Confirm, IdOnlyData, StructuredEvent},
};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::{
    store::PublisherPolicy,
    transport::{confirm::Confirmations, signer::EventSigner},
};

/// Writes the events of changes.
#[derive(Debug, Clone)]
pub struct EventEncoder {
    /// The Dapr component that events are published through.
    pub pub_sub_name: String,
    /// Time to live of an event, in seconds.
    pub ttl_seconds: u64,
    /// Largest `configData` inside an event, in bytes.
    pub data_limit: usize,
    /// Has the URNs of the schemas.
    pub policy: Arc<PublisherPolicy>,
    /// Signs events, where there is a key.
    pub signer: Option<EventSigner>,
    /// Whether events ask for check-ins.
    pub confirmations: Confirmations,
}

impl EventEncoder {
    /// The event of a change, as a sidecar takes it: JSON of media type [`event::MEDIA_TYPE`].
    ///
    /// # Errors
    /// When it cannot be written, which no committed change should cause.
    pub fn for_sidecar(&self, change: &Change) -> anyhow::Result<Vec<u8>> {
        self.structured(change, None)
    }

    /// Whether the events of a collection have nothing but the id.
    pub fn is_id_only(&self, collection: &CollectionName) -> bool {
        self.policy.broadcast.is_id_only(collection)
    }

    /// The event as a sidecar delivers it: with the members that a sidecar adds.
    ///
    /// # Errors
    /// As [`EventEncoder::for_sidecar`], and when the time to live ends beyond the last date.
    pub fn for_subscriber(&self, change: &Change) -> anyhow::Result<Vec<u8>> {
        let expiration = self.expiration()?;
        let expiration = expiration.to_rfc3339_opts(SecondsFormat::Secs, true);
        let topic = change.collection.as_str();
        let added = AddedBySidecar {
            topic,
            pubsubname: &self.pub_sub_name,
            expiration: Some(&expiration),
        };
        self.structured(change, Some(added))
    }

    /// Until when an event is worth delivering that is sent now.
    ///
    /// # Errors
    /// When the time to live ends beyond the last date.
    pub fn expiration(&self) -> anyhow::Result<DateTime<Utc>> {
        let ttl = TimeDelta::try_seconds(i64::try_from(self.ttl_seconds)?)
            .context("the time to live of the event is too long")?;
        Utc::now()
            .checked_add_signed(ttl)
            .context("the time to live of the event is too long")
    }

    /// The data of the event and its time, without an envelope, as Redis carries it (requirement
    /// A10).
    ///
    /// # Errors
    /// As [`EventEncoder::for_sidecar`].
    pub fn without_envelope(&self, change: &Change) -> anyhow::Result<Vec<u8>> {
        if self.is_id_only(&change.collection) {
            return serde_json::to_vec(&id_only_data(change)).context("writing the id");
        }
        self.bounded(|data_limit| {
            let bare = BareEvent {
                data: self.data(change, data_limit),
                time: change.time,
            };
            serde_json::to_vec(&bare).context("writing the data of the event")
        })
    }

    /// The data of the event, signed where there is a key. Id-only events are never signed: they
    /// say nothing that a repetition of another one would not say.
    fn data(&self, change: &Change, data_limit: usize) -> EventData {
        let mut data = EventData::new(change, data_limit);
        data.confirm = self.confirmations.are_wanted().then_some(Confirm::Applied);
        match &self.signer {
            Some(signer) => signer.sign(data, change),
            None => data,
        }
    }

    fn structured(
        &self,
        change: &Change,
        added: Option<AddedBySidecar<'_>>,
    ) -> anyhow::Result<Vec<u8>> {
        if self.is_id_only(&change.collection) {
            let id = opaque_event_id(change).to_string();
            let event = StructuredEvent {
                added,
                ..StructuredEvent::new(id, change.time, id_only_data(change))
            };
            return serde_json::to_vec(&event).context("writing the event");
        }
        let schema = self.policy.rules.schemas.get(&change.collection);
        self.bounded(|data_limit| {
            let data = self
                .data(change, data_limit)
                .through(&self.pub_sub_name, self.ttl_seconds);
            let event = StructuredEvent {
                subject: Some(change.id.as_str()),
                dataschema: schema.as_ref().map(|schema| schema.urn.as_str()),
                sequence: Some(event::sequence(change.revision)),
                partitionkey: Some(change.id.as_str()),
                correlationid: change.context.correlation_id(),
                traceparent: change.context.traceparent(),
                traceid: change.context.traceparent(),
                added,
                ..StructuredEvent::new(event::event_id(change), change.time, data)
            };
            serde_json::to_vec(&event).context("writing the event")
        })
    }

    /// Calls `write` with a limit for `configData` such that the event is not too large. An event
    /// without its value is complete: the receiver fetches the value.
    fn bounded(&self, write: impl Fn(usize) -> anyhow::Result<Vec<u8>>) -> anyhow::Result<Vec<u8>> {
        let event = write(self.data_limit)?;
        if event.len() < event::MAX_BYTES {
            Ok(event)
        } else {
            // The value is within its limit, but escapes made it long.
            write(0)
        }
    }
}

fn id_only_data(change: &Change) -> IdOnlyData {
    IdOnlyData {
        id: change.id.clone(),
    }
}

/// The `id` of an id-only event: the same for every attempt to send it, and without the revision that
/// [`event::event_id`] has. A UUID of version 8 (RFC 9562 section 5.8).
///
/// The proof of the change is part of it: only the publishers of the store can make one, so a reader
/// of the bus cannot find the revision by trying.
fn opaque_event_id(change: &Change) -> Uuid {
    let proof = change.proof.map(|proof| proof.to_string());
    let named = format!("{}:{}", event::event_id(change), proof.unwrap_or_default());
    let hash = Sha256::digest(named);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// An event without an envelope.
#[derive(Serialize)]
struct BareEvent {
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
    use crate::{
        decide::{Rules, schemas::Schemas},
        store::ServedCollections,
    };

    fn signer(folder: &std::path::Path) -> (EventSigner, contract::signature::SigningKey) {
        let key = contract::signature::SigningKey::from_seed(&[1; 32]);
        let path = folder.join("signing-key.pem");
        std::fs::write(&path, key.to_pem().expect("pem")).expect("written");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, mode).expect("a mode");
        (EventSigner::from_file(&path).expect("a key"), key)
    }

    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn an_event_has_every_member_of_its_envelope_and_names_its_change_set() {
        let rules = Rules {
            schemas: Schemas::default(),
            document_limit: 1 << 20,
            secrets: Default::default(),
        };
        let policy = Arc::new(PublisherPolicy {
            collections: ServedCollections::fixed(BTreeSet::new()),
            rules,
            broadcast: crate::policy::Broadcast::all(),
        });
        let encoder = EventEncoder {
            pub_sub_name: "pubsub-config".into(),
            ttl_seconds: 60,
            data_limit: 1_000,
            policy,
            signer: None,
            confirmations: Confirmations::default(),
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
            .and_then(|context| context.with_user_id("u-1"));
        let context = context.and_then(|context| context.with_traceparent(TRACE));
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
            proof: None,
            context: context.expect("valid"),
        };
        for (event, sidecar) in [
            (encoder.for_sidecar(&change), false),
            (encoder.for_subscriber(&change), true),
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
        let event = encoder.for_sidecar(&change).expect("an event");
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
            "a member without a value is omitted"
        );
        let set = serde_json::json!({"id": "0198", "parts": [{"collection": "FreeForm", "first": 7, "last": 8}]});
        assert_eq!(event["data"]["changeSet"], set);

        let bare: serde_json::Value =
            serde_json::from_slice(&encoder.without_envelope(&change).expect("data"))
                .expect("json");
        let mut data = event["data"].clone();
        let members = data.as_object_mut().expect("an object");
        members.retain(|name, _value| name != "metadata" && name != "pubSubName");
        members.insert("time".into(), event["time"].clone());
        assert_eq!(
            bare, data,
            "members for a sidecar are omitted where there is none"
        );

        // Signed: the same signature in each form, with and without the value.
        let folder = tempfile::tempdir().expect("a folder");
        let (signer, key) = signer(folder.path());
        let encoder = EventEncoder {
            signer: Some(signer),
            ..encoder
        };
        let data = |event: anyhow::Result<Vec<u8>>| -> EventData {
            let event: serde_json::Value =
                serde_json::from_slice(&event.expect("an event")).expect("json");
            let data = event
                .get("specversion")
                .map_or(&event, |_version| &event["data"]);
            serde_json::from_value(data.clone()).expect("data")
        };
        let without_value = EventEncoder {
            data_limit: 0,
            ..encoder.clone()
        };
        for encoder in [&encoder, &without_value] {
            for signed in [
                data(encoder.for_sidecar(&change)),
                data(encoder.for_subscriber(&change)),
                data(encoder.without_envelope(&change)),
            ] {
                assert_eq!(signed.verify(&key.public()), Ok(()));
                assert_eq!(
                    signed.signature,
                    Some(key.sign(&contract::signature::Statement::of(&change)))
                );
                assert_eq!(
                    signed.config_data.is_some(),
                    signed.config_data_hash.is_none()
                );
            }
        }
        let id_only = EventEncoder {
            policy: Arc::new(PublisherPolicy {
                broadcast: crate::policy::Broadcast::On {
                    without_topic: BTreeSet::new(),
                    id_only: crate::policy::IdOnly::All,
                },
                collections: ServedCollections::fixed(BTreeSet::new()),
                rules: Rules {
                    schemas: Schemas::default(),
                    secrets: Default::default(),
                    document_limit: 1 << 20,
                },
            }),
            ..encoder
        };
        let bare = id_only.without_envelope(&change).expect("an event");
        assert_eq!(
            bare, br#"{"id":"a"}"#,
            "requirement D1: the id and nothing else"
        );

        // The name of an id-only event depends on what only the store can make.
        let named = |digit: &str| {
            let proof = digit.repeat(40).parse().expect("a proof");
            opaque_event_id(&Change {
                proof: Some(proof),
                ..change.clone()
            })
        };
        assert_eq!(named("1"), named("1"), "the same for every attempt");
        assert_ne!(named("1"), named("2"), "it cannot be found by trying");
    }
}
