//! An event without a revision that is sent again: it is in no change log, so it travels as it was,
//! with a new time to live. Nothing here sends.

use anyhow::Context;
use chrono::{DateTime, SecondsFormat, Utc};
use contract::{CollectionName, DocumentId, document::JSON, event};
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// Members of the envelope that are those of one delivery.
const OF_DELIVERY: [&str; 3] = [event::EXPIRATION, "topic", "pubsubname"];

/// An event without a revision.
#[derive(Debug, Clone, PartialEq)]
pub struct OriginalEvent {
    /// Its collection, which is its topic.
    pub collection: CollectionName,
    /// Its document.
    pub id: DocumentId,
    /// Its envelope without data (CloudEvents 1.0, JSON format); `None` when it had none.
    pub envelope: Option<Map<String, Value>>,
    /// Its data.
    pub data: Value,
}

impl OriginalEvent {
    /// The event as a sidecar takes it.
    ///
    /// # Errors
    /// Never in practice: a JSON value can be written.
    pub(super) fn for_sidecar(&self) -> anyhow::Result<Vec<u8>> {
        write(&self.structured())
    }

    /// The event as a sidecar delivers it.
    ///
    /// # Errors
    /// As [`Self::for_sidecar`].
    pub(super) fn for_subscriber(
        &self,
        pub_sub_name: &str,
        expiration: DateTime<Utc>,
    ) -> anyhow::Result<Vec<u8>> {
        let mut event = self.structured();
        let expiration = expiration.to_rfc3339_opts(SecondsFormat::Secs, true);
        let added =
            OF_DELIVERY
                .into_iter()
                .zip([&expiration, self.collection.as_str(), pub_sub_name]);
        event.extend(added.map(|(name, value)| (name.to_owned(), Value::from(value))));
        write(&event)
    }

    /// The data alone, as Redis carries it.
    ///
    /// # Errors
    /// As [`Self::for_sidecar`].
    pub(super) fn without_envelope(&self) -> anyhow::Result<Vec<u8>> {
        serde_json::to_vec(&self.data).context("writing the data of the event")
    }

    fn structured(&self) -> Map<String, Value> {
        let mut event = self.envelope.clone().unwrap_or_else(|| self.new_envelope());
        for name in OF_DELIVERY {
            event.remove(name);
        }
        event.insert("data".to_owned(), self.data.clone());
        event
    }

    /// The attributes that an event must have.
    fn new_envelope(&self) -> Map<String, Value> {
        let envelope = json!({
            "specversion": "1.0",
            "id": Uuid::now_v7().to_string(),
            "source": event::SOURCE,
            "type": event::TYPE,
            "subject": self.id.as_str(),
            "datacontenttype": JSON,
        });
        envelope.as_object().cloned().unwrap_or_default()
    }
}

fn write(event: &Map<String, Value>) -> anyhow::Result<Vec<u8>> {
    serde_json::to_vec(event).context("writing the event")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_belongs_to_a_delivery_is_new() {
        let data = json!({"collection": "A", "op": "Create", "id": "a", "n": 1.5});
        let mut original = OriginalEvent {
            collection: "A".parse().expect("a name"),
            id: "a".parse().expect("an id"),
            envelope: json!({"specversion": "1.0", "id": "1", "source": "s", "type": "t", "expiration": "old",
                "topic": "old", "pubsubname": "old", "own": 7})
            .as_object()
            .cloned(),
            data: data.clone(),
        };
        let read = |bytes: anyhow::Result<Vec<u8>>| -> Value {
            serde_json::from_slice(&bytes.expect("written")).expect("json")
        };
        let expected = json!({"specversion": "1.0", "id": "1", "source": "s", "type": "t", "own": 7, "data": data});
        assert_eq!(read(original.for_sidecar()), expected);
        assert_eq!(read(original.without_envelope()), data);
        let time = "2026-01-01T00:00:00Z".parse().expect("a time");
        let delivered = read(original.for_subscriber("p", time));
        for (name, value) in [
            ("expiration", "2026-01-01T00:00:00Z"),
            ("topic", "A"),
            ("pubsubname", "p"),
            ("id", "1"),
        ] {
            assert_eq!(delivered[name], value);
        }
        original.envelope = None;
        let event: cloudevents::Event =
            serde_json::from_value(read(original.for_sidecar())).expect("a CloudEvent");
        assert!(cloudevents::AttributesReader::subject(&event) == Some("a"));
    }
}
