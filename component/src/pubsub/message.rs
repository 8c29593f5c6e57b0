//! The message of a change: the CloudEvent that a subscriber of the source document expects
//! (requirement A10 to A14), as a sidecar would have stored it.
//!
//! It has no `expiration`: a sidecar drops an event that expired, and no change may be skipped. Nothing
//! here sends.

use chrono::{DateTime, Utc};
use contract::{
    CanonicalJson, CollectionName, Context, Document, DocumentId, Epoch, EventData, JsonError,
    Operation, Revision,
    event::{self, AddedBySidecar, MAX_BYTES, StructuredEvent},
};

/// The value of the metadata `ttlInSeconds` in the data (requirement A13), which a subscriber may read.
/// Nothing expires by it.
const TTL_SECONDS: u64 = 60;

/// What happened to a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// The `id` of the CloudEvent: the same for every attempt, and for the same revision.
    pub(crate) id: String,
    /// Its data.
    pub(crate) data: EventData,
}

impl Event {
    /// A change at a revision, as the replica received it.
    pub(crate) fn change(epoch: Epoch, revision: Revision, data: EventData) -> Self {
        Self {
            id: event::event_id_at(&data.collection, epoch, revision),
            data,
        }
    }

    /// A document as it is now: the change that gave it its value, without what only that change knew.
    ///
    /// # Errors
    /// When the value that the replica holds is damaged.
    pub(crate) fn state(
        collection: &CollectionName,
        epoch: Epoch,
        document: &Document,
    ) -> Result<Self, JsonError> {
        let value = document.value()?;
        let mut data = bare(collection, Operation::Update, document.id(), epoch);
        data.revision = Some(document.revision());
        data.crc = Some(document.crc());
        data.config_data = Some(value);
        Ok(Self::change(epoch, document.revision(), data))
    }

    /// A document that is no longer there at a revision. Which one deleted it is not known.
    pub(crate) fn gone(
        collection: &CollectionName,
        (epoch, revision): (Epoch, Revision),
        id: &DocumentId,
    ) -> Self {
        Self {
            id: format!("{}:{id}", event::event_id_at(collection, epoch, revision)),
            data: bare(collection, Operation::Delete, id, epoch),
        }
    }

    /// The CloudEvent, in structured mode. A value that makes it longer than 64 KiB, or that a program
    /// with binary numbers would change, is omitted: the subscriber reads the document then
    /// (requirement A12).
    pub(crate) fn encode(&self, pubsub: &str, now: DateTime<Utc>) -> Vec<u8> {
        let mut data = self.data.clone().through(pubsub, TTL_SECONDS);
        data.config_data = data.config_data.filter(CanonicalJson::survives_doubles);
        let text = self.with_data(pubsub, &data, now);
        if text.len() < MAX_BYTES || data.config_data.is_none() {
            return text;
        }
        data.config_data = None;
        self.with_data(pubsub, &data, now)
    }

    fn with_data(&self, pubsub: &str, data: &EventData, now: DateTime<Utc>) -> Vec<u8> {
        let event = StructuredEvent {
            subject: Some(data.id.as_str()),
            sequence: data.revision.map(event::sequence),
            partitionkey: Some(data.id.as_str()),
            added: Some(AddedBySidecar {
                topic: data.collection.as_str(),
                pubsubname: pubsub,
                expiration: None,
            }),
            ..StructuredEvent::new(self.id.clone(), now, data)
        };
        // Texts and numbers alone: it cannot fail.
        serde_json::to_vec(&event).unwrap_or_default()
    }
}

/// Event data with nothing but what happened.
fn bare(collection: &CollectionName, op: Operation, id: &DocumentId, epoch: Epoch) -> EventData {
    EventData {
        collection: collection.clone(),
        op,
        id: id.clone(),
        config_data: None,
        metadata: Default::default(),
        pub_sub_name: None,
        crc: None,
        revision: None,
        epoch: Some(epoch),
        last_set: None,
        change_set: None,
        proof: None,
        config_data_hash: None,
        signature: None,
        confirm: None,
        context: Context::default(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn event(value: &str) -> Event {
        let document = Document::new(
            "whatsapp".parse().expect("an id"),
            42,
            &CanonicalJson::parse(value.as_bytes()).expect("JSON"),
        );
        let collection = "ChannelConfiguration".parse().expect("a name");
        let epoch = "9f86d081-1".parse().expect("an epoch");
        Event::state(&collection, epoch, &document).expect("intact")
    }

    fn read(event: &Event) -> Value {
        serde_json::from_slice(&event.encode("confcast", DateTime::UNIX_EPOCH)).expect("JSON")
    }

    #[test]
    fn a_document_is_the_event_of_the_source_document() {
        let event = read(&event(r#"{"a":1}"#));
        assert_eq!(
            event,
            json!({
                "specversion": "1.0", "id": "ChannelConfiguration:9f86d081-1:42",
                "source": "aura-configuration-api", "type": "com.dapr.event.sent",
                "subject": "whatsapp", "time": "1970-01-01T00:00:00Z",
                "datacontenttype": "application/json", "sequence": "00000000000000000042",
                "partitionkey": "whatsapp", "topic": "ChannelConfiguration",
                "pubsubname": "confcast",
                "data": {
                    "collection": "ChannelConfiguration", "op": "Update", "id": "whatsapp",
                    "configData": {"a": 1}, "metadata": {"ttlInSeconds": "60"},
                    "pubSubName": "confcast", "crc": event["data"]["crc"], "revision": 42,
                    "epoch": "9f86d081-1",
                },
            })
        );
    }

    #[test]
    fn a_value_that_would_not_arrive_is_left_to_be_read() {
        let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX_BYTES));
        for value in [long.as_str(), r#"{"a":9007199254740993}"#] {
            let event = read(&event(value));
            assert_eq!(event["data"].get("configData"), None, "{value:.40}");
            assert_eq!(event["data"]["revision"], 42);
        }
    }
}
