//! What a Dapr sidecar reads from a subscriber: its subscriptions, and the answer to an event.
//!
//! A sidecar calls `GET` [`SUBSCRIBE_ROUTE`] once in its life and then posts every event to
//! [`EVENT_ROUTE`]. A publisher with the transport `LOCAL` does the same. Both ends use the types
//! of this module. Source: Dapr pub/sub API reference; requirement A24. Nothing here sends.
//!
//! [`EVENT_ROUTE`]: crate::event::ROUTE
//! [`SUBSCRIBE_ROUTE`]: crate::event::SUBSCRIBE_ROUTE

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    CollectionName, dead_letter,
    event::{self, DEAD_LETTER_TOPIC, ROUTE},
};

/// The header with the API token of a sidecar, or of its application: Dapr calls both so.
pub const TOKEN_HEADER: &str = "dapr-api-token";

/// One item of the answer to `GET /dapr/subscribe`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Subscription {
    /// Name of the pub/sub component.
    #[serde(rename = "pubsubname", default)]
    pub pubsub_name: String,
    /// The topic: the name of a collection.
    pub topic: String,
    /// Where events of the topic are posted.
    pub routes: Routes,
    /// The topic that gets the events which were answered with DROP.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub dead_letter_topic: String,
    /// Metadata of the subscription. All values are texts: a sidecar refuses the whole list otherwise.
    /// Of another form, a value counts as absent.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "event::texts_alone"
    )]
    pub metadata: BTreeMap<String, String>,
    /// Whether the sidecar posts several events together; `None` = each alone. For sidecars only:
    /// whoever else reads the list skips it, whatever form it has.
    #[serde(skip_serializing_if = "Option::is_none", skip_deserializing)]
    pub bulk_subscribe: Option<BulkSubscribe>,
}

/// How a sidecar gathers events that it posts together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct BulkSubscribe {
    /// Whether it gathers.
    pub enabled: bool,
    /// It posts as soon as it has this number of events.
    pub max_messages_count: u32,
    /// It posts what it has at intervals of this length, in milliseconds. It takes 0 as 1,000.
    pub max_await_duration_ms: u32,
}

impl BulkSubscribe {
    /// Events that a sidecar posts together, at most. It can gather no more than it handles at a time
    /// (`concurrency` of the component, 20 as shipped), and waits for the rest of the interval when the
    /// number is larger. With half of it, it gathers the next ones during a post.
    pub const EVENTS: u32 = 10;

    /// Gathers for at most this number of milliseconds; `None` for 0.
    pub fn of_interval(milliseconds: u32) -> Option<Self> {
        (milliseconds > 0).then_some(Self {
            enabled: true,
            max_messages_count: Self::EVENTS,
            max_await_duration_ms: milliseconds,
        })
    }
}

/// Where events of a topic are posted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct Routes {
    /// Path, or a URL of the subscriber.
    pub default: String,
}

impl Subscription {
    /// The subscription of a subscriber to one collection.
    pub fn new(pubsub_name: &str, collection: &CollectionName) -> Self {
        Self {
            pubsub_name: pubsub_name.to_owned(),
            topic: collection.to_string(),
            routes: Routes {
                default: ROUTE.to_owned(),
            },
            dead_letter_topic: DEAD_LETTER_TOPIC.to_owned(),
            metadata: BTreeMap::new(),
            bulk_subscribe: None,
        }
    }

    /// The subscription of a publisher to the dead letter topic, which is read raw: a dead letter keeps
    /// its `expiration`, and a sidecar drops an expired event (requirement F5).
    pub fn of_dead_letters(pubsub_name: &str) -> Self {
        Self {
            pubsub_name: pubsub_name.to_owned(),
            topic: DEAD_LETTER_TOPIC.to_owned(),
            routes: Routes {
                default: dead_letter::ROUTE.to_owned(),
            },
            dead_letter_topic: String::new(),
            metadata: BTreeMap::from([("rawPayload".to_owned(), "true".to_owned())]),
            bulk_subscribe: None,
        }
    }
}

/// What a sidecar makes of a message of a topic that it reads raw; it adds further members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct RawEvent {
    /// The bytes of the message, in base64.
    pub data_base64: String,
}

/// Body of the answer to an event; its HTTP status is always 200.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct EventReply {
    /// What the sidecar does next.
    #[serde(default)]
    pub status: EventReplyStatus,
    /// Why the event was not applied, for the log of the sidecar. A value that is not a text is read
    /// as `None`, so that it does not hide the status.
    #[serde(
        default,
        deserialize_with = "crate::lenient::text",
        skip_serializing_if = "Option::is_none"
    )]
    pub error: Option<String>,
}

/// Body of the answer to a bulk of events.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct BulkReply {
    /// One result for each entry. A sidecar sends an entry again that has none.
    pub statuses: Vec<EntryReply>,
}

/// The result for one entry of a bulk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct EntryReply {
    /// The entry.
    pub entry_id: String,
    /// What the sidecar does next with it.
    pub status: EventReplyStatus,
}

/// What a sidecar does with an event after the answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "UPPERCASE")]
pub enum EventReplyStatus {
    /// The event is done.
    #[default]
    Success,
    /// The sidecar sends the event again.
    Retry,
    /// The sidecar sends the event to the dead letter topic, and never again here.
    Drop,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_keeps_its_status_when_its_error_is_not_a_text() {
        for error in ["7", "null", "true", "[1]", "{\"code\": 7}"] {
            let body = format!("{{\"status\": \"RETRY\", \"error\": {error}}}");
            let reply: EventReply = serde_json::from_str(&body).expect("a reply");
            let expected = EventReply {
                status: EventReplyStatus::Retry,
                error: None,
            };
            assert_eq!(reply, expected, "{error}");
        }
    }

    #[test]
    fn a_reply_keeps_an_error_that_is_a_text() {
        let body = r#"{"status": "DROP", "error": "not a change"}"#;
        let reply: EventReply = serde_json::from_str(body).expect("a reply");
        let expected = EventReply {
            status: EventReplyStatus::Drop,
            error: Some("not a change".to_owned()),
        };
        assert_eq!(reply, expected);
        assert_eq!(
            serde_json::from_str::<EventReply>("{}").expect("a reply"),
            EventReply::default(),
            "both are optional"
        );
    }
}
