//! How a change travels: the data of a CloudEvent, and the names and values of its envelope.
//!
//! The envelope itself is written by the publisher and read by the subscriber; this module fixes
//! what both must agree on. An event is a hint: a reader that doubts it asks the feed.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    canonical::CanonicalJson,
    change::{Change, ChangeSet, Operation},
    context::Context,
    ids::{CollectionName, Crc, DocumentId, Epoch, Revision},
};

/// `source` of every event (requirement A14): the publisher's app id.
pub const SOURCE: &str = "aura-configuration-api";
/// `type` of every event (requirement A14).
pub const TYPE: &str = "com.dapr.event.sent";
/// Publish metadata that gives an event its life, in whole seconds (requirement F9).
pub const TTL: &str = "ttlInSeconds";
/// The route that receives events (requirement A24).
pub const ROUTE: &str = "/dapr/processConfigurationEvents";
/// The route that names the subscriptions (requirement A24).
pub const SUBSCRIBE_ROUTE: &str = "/dapr/subscribe";
/// Where a sidecar puts what was dropped.
pub const DEAD_LETTER_TOPIC: &str = "configuration-dead-letter";
/// Extension attribute: the revision, 20 digits, so that it sorts as text.
pub const SEQUENCE: &str = "sequence";
/// Extension attribute: the document id.
pub const PARTITION_KEY: &str = "partitionkey";
/// Extension attribute: the correlation id of the request.
pub const CORRELATION_ID: &str = "correlationid";
/// Extension attribute: W3C trace context; goes with [`TRACE_ID`] or not at all (requirement F11).
pub const TRACEPARENT: &str = "traceparent";
/// Extension attribute: the same trace context, under the sidecar's name.
pub const TRACE_ID: &str = "traceid";
/// Extension attribute that the sidecar writes: until when the event is worth delivering.
pub const EXPIRATION: &str = "expiration";
/// Largest event on the wire: what every intermediary must forward (CloudEvents 1.0, size limits).
pub const MAX_BYTES: usize = 64 * 1024;

/// The data of an event (requirement A10 to A13).
///
/// `revision` and `epoch` are absent when the publisher follows the source document only; what such
/// an event promises is less, and the subscriber says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct EventData {
    /// The collection it belongs to, which decides where it is applied (requirement A25).
    pub collection: CollectionName,
    /// What it does.
    pub op: Operation,
    /// The document it concerns.
    pub id: DocumentId,
    /// The new value; absent when it is too large or would not survive the sidecar, and on Delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_data: Option<CanonicalJson>,
    /// The publish metadata, repeated for the reader (requirement A13); its values are strings. Only
    /// a sidecar has a use for it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// The Dapr component it was published through (requirement A10).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pub_sub_name: Option<String>,
    /// Checksum of the new value. The source document declares it and leaves it empty.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub crc: Option<Crc>,
    /// Its place in the collection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    /// The history that `revision` counts in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// See [`Change::last_set`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_set: Option<Revision>,
    /// See [`Change::change_set`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change_set: Option<ChangeSet>,
    /// What the request that made it says of itself, but for its trace context, which is the
    /// envelope's (requirement B2).
    #[serde(flatten)]
    pub context: Context,
}

impl EventData {
    /// What travels of a change. `configData` goes along when it is at most `data_limit` bytes long
    /// and survives a sidecar.
    pub fn new(change: &Change, data_limit: usize) -> Self {
        let travels = |config: &&CanonicalJson| {
            config.as_str().len() <= data_limit && config.survives_doubles()
        };
        Self {
            collection: change.collection.clone(),
            op: change.op,
            id: change.id.clone(),
            config_data: change.config_data.as_ref().filter(travels).cloned(),
            metadata: BTreeMap::new(),
            pub_sub_name: None,
            crc: change.crc,
            revision: Some(change.revision),
            epoch: Some(change.epoch),
            last_set: Some(change.last_set),
            change_set: change.change_set.clone(),
            context: change.context.untraced(),
        }
    }

    /// The same with what a sidecar is told, repeated for the reader: the component, and the life
    /// of the event in seconds.
    #[must_use]
    pub fn through(mut self, pub_sub_name: &str, ttl_seconds: u64) -> Self {
        self.metadata
            .insert(TTL.to_owned(), ttl_seconds.to_string());
        self.pub_sub_name = Some(pub_sub_name.to_owned());
        self
    }
}

/// `id` of the event for a change: the same for every attempt to send it.
pub fn event_id(change: &Change) -> String {
    format!("{}:{}:{}", change.collection, change.epoch, change.revision)
}

fn empty_is_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Crc>, D::Error> {
    match Option::<String>::deserialize(deserializer)? {
        Some(text) if !text.is_empty() => text.parse().map(Some).map_err(serde::de::Error::custom),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minimal_body_of_the_source_document_is_understood() {
        let body = r#"{"collection":"ChannelConfiguration","op":"Update","id":"whatsapp","crc":"",
            "metadata":{"ttlInSeconds":"60"},"pubSubName":"pubsub-config-ap-four"}"#;
        let data: EventData = serde_json::from_str(body).expect("understood");
        assert_eq!(
            (data.op, data.config_data, data.crc, data.revision),
            (Operation::Update, None, None, None)
        );
    }

    /// Whatever another publisher may mean by these names: no replica looks at them, so none may
    /// stumble over them.
    #[test]
    fn a_context_of_any_form_is_understood() {
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

    #[test]
    fn an_unknown_operation_is_not_understood() {
        let body = r#"{"collection":"ChannelConfiguration","op":"create","id":"whatsapp"}"#;
        assert!(serde_json::from_str::<EventData>(body).is_err());
    }
}
