//! The data of a change event, and the names and values of its CloudEvent envelope.
//!
//! The publisher writes the envelope and the subscriber reads it; this module has what both must
//! agree on. An event may be lost, repeated, late or out of order: the change log decides, and a
//! replica that misses something reads the feed. Nothing here sends.

use std::{collections::BTreeMap, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::{
    canonical::{CanonicalJson, PlainValue},
    change::{Change, ChangeSet, Operation},
    context::Context,
    ids::{CollectionName, Crc, DocumentId, Epoch, FormatError, Revision},
    proof::Proof,
    signature::{EventSignature, PublicKeys, SigningKey, Statement, UnprovenEvent, ValueHash},
};

pub use structured::{AddedBySidecar, StructuredEvent};

mod structured;

/// `source` of every event (requirement A14): the publisher's app id.
pub const SOURCE: &str = "aura-configuration-api";
/// `type` of every event (requirement A14).
pub const TYPE: &str = "com.dapr.event.sent";
/// Media type of an event in structured mode (CloudEvents 1.0, JSON event format).
pub const MEDIA_TYPE: &str = "application/cloudevents+json";
/// Publish metadata: time to live of an event, in whole seconds (requirement F9).
pub const TTL: &str = "ttlInSeconds";
/// The route that receives events (requirement A24).
pub const ROUTE: &str = "/dapr/processConfigurationEvents";
/// The route that lists the subscriptions (requirement A24).
pub const SUBSCRIBE_ROUTE: &str = "/dapr/subscribe";
/// Topic to which a sidecar forwards dropped events.
pub const DEAD_LETTER_TOPIC: &str = "configuration-dead-letter";
/// Extension attribute: the revision, 20 digits, so that it sorts as text.
pub const SEQUENCE: &str = "sequence";
/// Extension attribute: the document id.
pub const PARTITION_KEY: &str = "partitionkey";
/// Extension attribute: the correlation id of the request.
pub const CORRELATION_ID: &str = "correlationid";
/// Extension attribute: W3C trace context. Always sent together with [`TRACE_ID`] (requirement F11).
pub const TRACEPARENT: &str = "traceparent";
/// Extension attribute: the same trace context, under the sidecar's name.
pub const TRACE_ID: &str = "traceid";
/// Extension attribute that the sidecar adds: the time after which it no longer delivers the event.
pub const EXPIRATION: &str = "expiration";
/// Extension attribute that the sidecar adds: the topic, which is the name of the collection.
pub const TOPIC: &str = "topic";
/// Largest event in bytes: the size that every intermediary must forward (CloudEvents 1.0, size
/// limits).
pub const MAX_BYTES: usize = 64 * 1024;

/// The data of an event (requirement A10 to A13).
///
/// `revision` and `epoch` are absent when the publisher has no revisions. The guarantees for such an
/// event are weaker, and the subscriber marks the collection as unversioned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct EventData {
    /// The collection; the event is applied to it, whatever the topic is (requirement A25).
    pub collection: CollectionName,
    /// Its effect.
    pub op: Operation,
    /// The document.
    pub id: DocumentId,
    /// The new value. Absent on Delete, and when it is too large or a sidecar would change its numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_data: Option<CanonicalJson>,
    /// The publish metadata, repeated in the data (requirement A13). All values are strings; of
    /// another form, a value counts as absent. Replicas ignore it.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "texts_alone"
    )]
    pub metadata: BTreeMap<String, String>,
    /// The Dapr component that published the event (requirement A10).
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "crate::lenient::text"
    )]
    pub pub_sub_name: Option<String>,
    /// Checksum of the new value. Other publishers may leave it empty, or have a checksum of their
    /// own: every other form counts as absent.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "crate::lenient::text"
    )]
    pub crc: Option<Crc>,
    /// Its position in the collection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    /// The epoch of `revision`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// See [`Change::last_set`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_set: Option<Revision>,
    /// See [`Change::change_set`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change_set: Option<ChangeSet>,
    /// See [`Change::proof`]. Another form of it counts as absent.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "crate::lenient::text"
    )]
    pub proof: Option<Proof>,
    /// The hash of a value that a signed event omits: the signature is of it.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "crate::lenient::text"
    )]
    pub config_data_hash: Option<ValueHash>,
    /// The signature of the publisher, where it has a key. Another form of it counts as absent.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "crate::lenient::text"
    )]
    pub signature: Option<EventSignature>,
    /// Asks the replicas that apply the change to check in at once, because a request waits for that.
    /// It is no part of the change, and not signed. Another form of it counts as absent.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "crate::lenient::text"
    )]
    pub confirm: Option<Confirm>,
    /// The context of the request, without the trace context, which is an attribute of the envelope
    /// (requirement B2).
    #[serde(flatten)]
    pub context: Context,
}

/// What an event asks of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Confirm {
    /// A check-in when the change is applied.
    Applied,
}

impl Confirm {
    /// The text of it in an event and in a header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
        }
    }
}

impl FromStr for Confirm {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        match text {
            "applied" => Ok(Self::Applied),
            _ => Err(FormatError::new("confirm", text, "applied")),
        }
    }
}

impl EventData {
    /// The event data of a change. `configData` is included when it has at most `data_limit` bytes
    /// and a sidecar forwards it unchanged.
    pub fn new(change: &Change, data_limit: usize) -> Self {
        let is_included = |config: &&CanonicalJson| {
            config.as_str().len() <= data_limit && config.survives_doubles()
        };
        Self {
            collection: change.collection.clone(),
            op: change.op,
            id: change.id.clone(),
            config_data: change.config_data.as_ref().filter(is_included).cloned(),
            metadata: BTreeMap::new(),
            pub_sub_name: None,
            crc: change.crc,
            revision: Some(change.revision),
            epoch: Some(change.epoch),
            last_set: Some(change.last_set),
            change_set: change.change_set.clone(),
            proof: change.proof,
            config_data_hash: None,
            confirm: None,
            signature: None,
            context: change.context.untraced(),
        }
    }

    /// The same event data with its signature. `change` is the change that it is of.
    #[must_use]
    pub fn signed(mut self, change: &Change, key: &SigningKey) -> Self {
        let statement = Statement::of(change);
        self.signature = Some(key.sign(&statement));
        // The receiver of a value makes the hash itself.
        self.config_data_hash = statement.value.filter(|_hash| self.config_data.is_none());
        self
    }

    /// Whether one of these keys has signed it.
    ///
    /// # Errors
    /// When none has. An event without a revision has nothing that a signature could be of.
    pub fn verify(&self, keys: &PublicKeys) -> Result<(), UnprovenEvent> {
        let statement = self.statement().ok_or(UnprovenEvent::Unsigned)?;
        keys.verify(&statement, self.signature.as_ref())
    }

    /// What a signature of it is of; `None` without a revision.
    pub fn statement(&self) -> Option<Statement<'_>> {
        let (revision, epoch) = (self.revision?, self.epoch?);
        let hash = self.config_data.as_ref().map(ValueHash::of);
        Some(Statement {
            collection: &self.collection,
            op: self.op,
            id: &self.id,
            revision,
            epoch,
            last_set: self.last_set.unwrap_or(0),
            value: hash.or(self.config_data_hash),
            change_set: self.change_set.as_ref(),
            proof: self.proof,
        })
    }

    /// The same event data with the publish metadata of a sidecar: the name of the component, and the
    /// time to live in seconds.
    #[must_use]
    pub fn through(mut self, pub_sub_name: &str, ttl_seconds: u64) -> Self {
        self.metadata
            .insert(TTL.to_owned(), ttl_seconds.to_string());
        self.pub_sub_name = Some(pub_sub_name.to_owned());
        self
    }
}

/// The data of an id-only event (requirement D1): the id of the document, and nothing else.
///
/// Which collection it is of is known from its topic or channel. It says that the document may have
/// changed, and not how: the receiver reads the document, or the feed of the collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdOnlyData {
    /// The document.
    pub id: DocumentId,
}

/// The `id` of the event of a change. It is the same for every attempt to send it.
pub fn event_id(change: &Change) -> String {
    event_id_at(&change.collection, change.epoch, change.revision)
}

/// The `id` of the event of the change at this position.
pub fn event_id_at(collection: &CollectionName, epoch: Epoch, revision: Revision) -> String {
    format!("{collection}:{epoch}:{revision}")
}

/// The value of [`SEQUENCE`] for a revision.
pub fn sequence(revision: Revision) -> String {
    format!("{revision:020}")
}

/// Reads an object and keeps its members that are texts. Every other value is an empty map.
pub(crate) fn texts_alone<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    let Value::Object(members) = PlainValue::deserialize(deserializer)?.0 else {
        return Ok(BTreeMap::new());
    };
    let texts = members.into_iter().filter_map(|(name, value)| match value {
        Value::String(text) => Some((name, text)),
        _other => None,
    });
    Ok(texts.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minimal_body_of_requirement_a10_is_accepted() {
        let body = r#"{"collection":"ChannelConfiguration","op":"Update","id":"whatsapp","crc":"",
            "metadata":{"ttlInSeconds":"60"},"pubSubName":"pubsub-config-ap-four"}"#;
        let data: EventData = serde_json::from_str(body).expect("understood");
        assert_eq!(
            (data.op, data.config_data, data.crc, data.revision),
            (Operation::Update, None, None, None)
        );
    }

    /// Other publishers may use these names with other types; replicas ignore them, so they are no
    /// error.
    #[test]
    fn a_context_of_any_form_is_accepted() {
        let body = r#"{"collection":"A","op":"Update","id":"a","configData":{"n":1.5},"correlationId":"order-66","userId":7}"#;
        let value: serde_json::Value = serde_json::from_str(body).expect("json");
        for data in [serde_json::from_str(body), serde_json::from_value(value)] {
            let data: EventData = data.expect("understood");
            assert_eq!(
                (data.context.correlation_id(), data.context.user_id()),
                (Some("order-66"), None)
            );
            assert_eq!(
                data.config_data
                    .map(|config| config.as_str().to_owned())
                    .as_deref(),
                Some(r#"{"n":1.5}"#)
            );
        }
    }

    /// Members that decide nothing must not cost a change.
    #[test]
    fn metadata_and_checksum_of_any_form_are_accepted() {
        for (metadata, crc) in [
            (
                r#"{"ttlInSeconds":60,"x":null,"y":{"z":1},"a":"b"}"#,
                "\"6A4D3F2E\"",
            ),
            ("7", "7"),
            ("null", "null"),
            (r#"["a"]"#, r#"{"crc32":"6a4d3f2e"}"#),
        ] {
            let body = format!(
                r#"{{"collection":"A","op":"Update","id":"a","metadata":{metadata},"pubSubName":{metadata},"crc":{crc}}}"#
            );
            let data: EventData = serde_json::from_str(&body).expect("understood");
            assert_eq!((data.crc, &data.pub_sub_name), (None, &None), "{body}");
            assert!(data.metadata.len() <= 1, "{:?}", data.metadata);
        }
    }

    #[test]
    fn an_unknown_operation_is_an_error() {
        let body = r#"{"collection":"ChannelConfiguration","op":"create","id":"whatsapp"}"#;
        assert!(serde_json::from_str::<EventData>(body).is_err());
    }
}
