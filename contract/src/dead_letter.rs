//! Dead letters: events that no replica took, as a publisher keeps them, and the report of a replica
//! that dropped one.
//!
//! A dead letter is known by the `source` and `id` of its event (CloudEvents 1.0: both together are
//! unique), so the copy that a sidecar moved to the dead letter topic and the report of the replica
//! that dropped it are one letter. Everything in a letter comes from other processes: it is bounded,
//! and decides nothing. Nothing here stores or sends.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_128;

use crate::{
    canonical,
    ids::{CollectionName, DocumentId, Epoch, FormatError, Revision, hex_32, strings},
};

mod original;

pub use original::{Original, OriginalError, decode, kept};

/// The route of a publisher at which its sidecar delivers dead letters.
pub const ROUTE: &str = "/dapr/deadLetters";
/// Bytes of an original that are kept; the rest is cut off.
pub const MAX_ORIGINAL: usize = 64 << 10;
/// Longest body of a report, in bytes: an original with every byte escaped, and the rest.
pub const MAX_REPORT: usize = 6 * MAX_ORIGINAL + (16 << 10);
/// Dead letters of a page, at most.
pub const PAGE: usize = 100;
/// Replicas that a letter names, at most.
pub const MAX_REPLICAS: usize = 8;
/// Characters of a text in a letter, at most: it may quote what was sent.
pub const MAX_TEXT: usize = 300;
/// Originals above this size are not read: the letter then has its size and its first bytes.
const MAX_READ: usize = 1 << 20;

/// The name of a dead letter: 32 hexadecimal digits, the hash of source and id of its event, or of the
/// bytes of what is no event.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeadLetterId(pub u128);

strings!(; numbers: DeadLetterId);

impl FromStr for DeadLetterId {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        hex_32(text).map(Self).ok_or_else(|| {
            FormatError::new("dead letter", text, "32 lower-case hexadecimal digits")
        })
    }
}

impl fmt::Display for DeadLetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Why an event is a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum DeadLetterReason {
    /// A replica found that it can never succeed; `cause` and `detail` say why.
    Dropped,
    /// Its time to live was over when the letter arrived.
    Expired,
    /// A sidecar moved it, and no replica said why: the attempts were used up, or the report of the
    /// replica did not arrive.
    NotTaken,
    /// A reason that this version does not know.
    #[serde(other)]
    Other,
}

impl DeadLetterReason {
    /// Every reason that this version gives.
    pub const ALL: [Self; 3] = [Self::Dropped, Self::Expired, Self::NotTaken];

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dropped => "dropped",
            Self::Expired => "expired",
            Self::NotTaken => "not-taken",
            Self::Other => "other",
        }
    }
}

impl FromStr for DeadLetterReason {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let known = Self::ALL.into_iter().find(|reason| reason.as_str() == text);
        known.ok_or_else(|| FormatError::new("reason", text, "dropped, expired or not-taken"))
    }
}

/// What an event says of itself, as far as it can be read. A member of another form is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct EventSummary {
    /// `source` of the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// `id` of the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
    /// Its topic, as the sidecar wrote it, or the channel that it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Until when it was worth delivering.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiration: Option<DateTime<Utc>>,
    /// The collection that its data names, else the one that its topic names: an id-only event has
    /// nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collection: Option<CollectionName>,
    /// The document that its data names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<DocumentId>,
    /// The revision that its data names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    /// The epoch of `revision`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
}

/// Where the original of a letter comes from. What a sidecar moved is the stronger source: it takes the
/// place of what was reported, and no report takes its place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum OriginalFrom {
    /// The sidecar of a publisher delivered it from the dead letter topic.
    Moved,
    /// A replica, or another process that says so, reported it. No sidecar has confirmed it.
    #[default]
    #[serde(other)]
    Reported,
}

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    /// Its name.
    pub id: DeadLetterId,
    /// Why it is one.
    pub reason: DeadLetterReason,
    /// The word of the replica that dropped it, such as `wrong-type`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The reason in full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// When it arrived first, by the clock of a publisher.
    pub first: DateTime<Utc>,
    /// When it arrived last.
    pub last: DateTime<Utc>,
    /// How often it arrived or was reported: once for each replica that dropped it, and once for each
    /// sidecar that moved it.
    pub count: u64,
    /// Replicas that dropped it, at most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replicas: Vec<String>,
    /// What the event says of itself.
    pub event: EventSummary,
    /// When it was last sent again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replayed: Option<DateTime<Utc>>,
    /// How often it was sent again.
    #[serde(default)]
    pub replays: u64,
    /// Size of the original, in bytes.
    pub bytes: u64,
    /// Whether less than the original is kept.
    #[serde(default)]
    pub truncated: bool,
    /// Where the original and `event` come from.
    #[serde(default)]
    pub original_from: OriginalFrom,
    /// The original; empty in lists.
    #[serde(default)]
    pub original: Original,
}

/// Answer to `GET /v1/dead-letters`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct DeadLetterList {
    /// Dead letters without their originals, the one that arrived last first.
    pub items: Vec<DeadLetter>,
    /// `before` of the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Dead letters that the store keeps, whatever the filters are.
    pub kept: u64,
    /// Those that were not sent again since they arrived last.
    pub open: u64,
}

/// Body of `POST /v1/dead-letters`: a replica dropped an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct DeadLetterReport {
    /// [`DeadLetterId::of`] the event.
    pub id: DeadLetterId,
    /// Name of the replica.
    pub instance: String,
    /// Why, in one word, such as `wrong-type`.
    pub cause: String,
    /// Why, in full.
    pub detail: String,
    /// What the event says of itself.
    #[serde(default)]
    pub event: EventSummary,
    /// Size of the event, in bytes.
    pub bytes: u64,
    /// The event, or its first 64 KiB.
    #[serde(default)]
    pub original: Original,
}

/// Answer to a report, and to `DELETE /v1/dead-letters/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct DeadLetterAccepted {
    /// The letter.
    pub id: DeadLetterId,
}

/// Answer to `DELETE /v1/dead-letters`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct DeadLettersDiscarded {
    /// How many were removed.
    pub discarded: u64,
}

/// Body of `POST /v1/dead-letters/{id}/replay`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ReplayRequest {
    /// Say what would be sent, and send nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// What was sent when a letter was replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Replayed {
    /// The event of the change in the change log that the letter names.
    Change,
    /// The original: an event without a revision.
    Original,
    /// A kind that this version does not know.
    #[serde(other)]
    Other,
}

/// Answer to `POST /v1/dead-letters/{id}/replay`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct DeadLetterReplayed {
    /// What was sent.
    pub sent: Replayed,
    /// How many subscribers took it. Absent where a broker carries events: the broker took it, and
    /// which subscribers take it is not known then. Absent in a preview.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_by: Option<u64>,
    /// How many subscribers of the collection did not take it; absent as `takenBy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_taken_by: Option<u64>,
    /// The letter, without its original.
    pub letter: DeadLetter,
}

impl DeadLetter {
    /// Whether it was not sent again since it arrived last.
    pub fn is_open(&self) -> bool {
        self.replayed.is_none_or(|replayed| replayed < self.last)
    }
}

impl DeadLetterId {
    /// The name of the letter of an event: of its source and id where it has both, else of its bytes.
    pub fn of(event: &EventSummary, original: &[u8]) -> Self {
        Self(match (&event.source, &event.event_id) {
            // No text has this byte, so no two pairs give the same bytes.
            (Some(source), Some(id)) => {
                xxh3_128(&[source.as_bytes(), &[0xff], id.as_bytes()].concat())
            }
            _no_event => xxh3_128(original),
        })
    }
}

impl EventSummary {
    /// Reads what a message says of itself: a CloudEvent in structured mode, or the bare data of an
    /// event. A message of another form, or one above 1 MiB, says nothing.
    pub fn of(message: &[u8]) -> Self {
        if message.len() > MAX_READ {
            return Self::default();
        }
        match canonical::value(message) {
            Ok(Value::Object(members)) => {
                let envelope = members.contains_key("specversion");
                let data = if envelope { members.get("data") } else { None };
                let text = |name: &str| -> Option<&str> {
                    members.get(name).filter(|_value| envelope)?.as_str()
                };
                let named = |name: &str| -> Option<&Value> {
                    match envelope {
                        true => data?.get(name),
                        false => members.get(name),
                    }
                };
                let name = |member: &str| named(member).and_then(Value::as_str);
                Self {
                    source: text("source").map(short),
                    event_id: text("id").map(short),
                    topic: text("topic").map(short),
                    expiration: text("expiration")
                        .and_then(|time| DateTime::parse_from_rfc3339(time).ok())
                        .map(DateTime::from),
                    collection: name("collection")
                        .or_else(|| text("topic"))
                        .and_then(|name| name.parse().ok()),
                    document: name("id").and_then(|id| id.parse().ok()),
                    revision: named("revision")
                        .and_then(Value::as_u64)
                        .filter(|revision| i64::try_from(*revision).is_ok()),
                    epoch: name("epoch").and_then(|epoch| epoch.parse().ok()),
                }
            }
            _other => Self::default(),
        }
    }

    /// The same, of a message that came from this topic, if it does not name one itself.
    #[must_use]
    pub fn on_topic(mut self, topic: Option<&str>) -> Self {
        self.topic = self.topic.or_else(|| topic.map(short));
        let of_topic = self.topic.as_ref().and_then(|topic| topic.parse().ok());
        self.collection = self.collection.or(of_topic);
        self
    }

    /// The same, with every text within its bound.
    #[must_use]
    pub fn bounded(self) -> Self {
        let bounded = |text: Option<String>| text.map(|text| short(&text));
        Self {
            source: bounded(self.source),
            event_id: bounded(self.event_id),
            topic: bounded(self.topic),
            ..self
        }
    }
}

/// A text cut to [`MAX_TEXT`] characters.
pub fn short(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

#[cfg(test)]
mod tests;
