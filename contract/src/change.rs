//! One record of the change log, and a page of the feed that delivers records in order.
//!
//! The change log is outbox, feed, history and audit in one; an event carries one record (see
//! [`crate::event`]). Nothing here reads or writes a log.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{SeqAccess, Visitor},
};

use crate::{
    canonical::CanonicalJson,
    context::Context,
    event::event_id,
    head::Head,
    ids::{CollectionName, Crc, Digest, DocumentId, Epoch, Revision},
    proof::Proof,
    set::MAX_OPERATIONS,
};

/// The effect of a change on its document (requirement A6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub enum Operation {
    /// The document did not exist before.
    Create,
    /// The document existed and has a new value.
    Update,
    /// The document no longer exists.
    Delete,
}

/// A committed change: a record of the change log, an item of the feed, and the source of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// The collection of the document.
    pub collection: CollectionName,
    /// Its effect.
    pub op: Operation,
    /// The document.
    pub id: DocumentId,
    /// Its position in the collection: the revision of the change before it, plus 1.
    pub revision: Revision,
    /// The epoch of `revision`.
    pub epoch: Epoch,
    /// Last revision of the newest change set of the collection before this change; 0 when there was
    /// none.
    pub last_set: Revision,
    /// The new value; present on Create and Update, absent on Delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_data: Option<CanonicalJson>,
    /// Checksum of `config_data`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc: Option<Crc>,
    /// Its change set, when several documents change together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change_set: Option<ChangeSet>,
    /// Time of the commit, by the clock of the publisher. Nothing is ordered by it.
    pub time: DateTime<Utc>,
    /// Number of live documents of the collection after this change.
    pub count: u64,
    /// Digest of the collection after this change.
    pub digest: Digest,
    /// Proof that `revision` was committed in `epoch`; absent where a publisher has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
    /// The context of its request; serialised as members of the same JSON object.
    #[serde(flatten)]
    pub context: Context,
}

impl Change {
    /// The identifier of the change in logs: the correlation id of its request, else the id of its
    /// event, which is unique.
    pub fn correlator(&self) -> Cow<'_, str> {
        self.context
            .correlation_id()
            .map_or_else(|| event_id(self).into(), Cow::from)
    }
}

/// The change set of a change: all its parts become visible together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct ChangeSet {
    /// Id of the set.
    pub id: String,
    /// Its revisions, one run per collection; as many as a set has changes at most. More are refused
    /// while they are read.
    #[serde(deserialize_with = "read_parts")]
    #[cfg_attr(feature = "utoipa", schema(max_items = 256))]
    pub parts: Vec<SetPart>,
}

impl ChangeSet {
    /// Bytes of memory that it takes, approximately.
    pub fn size(&self) -> usize {
        let names: usize = self
            .parts
            .iter()
            .map(|part| part.collection.as_str().len())
            .sum();
        self.id.len() + self.parts.len() * size_of::<SetPart>() + names
    }
}

fn read_parts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SetPart>, D::Error> {
    struct Parts;

    impl<'de> Visitor<'de> for Parts {
        type Value = Vec<SetPart>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "at most {MAX_OPERATIONS} parts of a change set")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Self::Value, A::Error> {
            let mut read = Vec::new();
            while let Some(part) = parts.next_element()? {
                if read.len() == MAX_OPERATIONS {
                    return Err(serde::de::Error::custom(format_args!(
                        "more than {MAX_OPERATIONS} parts of a change set"
                    )));
                }
                read.push(part);
            }
            Ok(read)
        }
    }

    deserializer.deserialize_seq(Parts)
}

/// A run of revisions of one collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct SetPart {
    /// The collection.
    pub collection: CollectionName,
    /// First revision of the run.
    pub first: Revision,
    /// Last revision of the run.
    pub last: Revision,
}

/// A page of the change feed: per collection contiguous and in order.
///
/// The items of a publisher are [`Change`] records. The items of a subscriber are
/// [`crate::EventData`]: the same without the members that only the log has (`time`, `count`,
/// `digest`). A client that reads both reads `EventData`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct FeedPage<T = Change> {
    /// Heads of the collections.
    pub heads: Vec<Head>,
    /// The changes after the requested revisions.
    pub items: Vec<T>,
    /// Whether the next page has changes.
    pub more: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = r#"{"collection":"A","op":"Update","id":"a","revision":7,"epoch":"00000001-1","lastSet":0,
        "configData":{"n":9007199254740993},"crc":"00000000","time":"2026-11-21T09:00:00.123Z","count":1,
        "digest":"0000000000000000""#;

    /// Records without user and organisation, and without correlation id.
    #[test]
    fn records_of_earlier_versions_are_read() {
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let bare: Change = serde_json::from_str(&format!("{RECORD}}}")).expect("read");
        assert_eq!(
            (&bare.context, bare.correlator().as_ref()),
            (&Context::default(), "A:00000001-1:7")
        );
        let record = format!(r#"{RECORD},"correlationId":"order-66","traceparent":"{trace}"}}"#);
        let change: Change = serde_json::from_str(&record).expect("read");
        assert_eq!(change.context.correlation_id(), Some("order-66"));
        assert_eq!(change.context.traceparent(), Some(trace));
        assert_eq!(change.correlator(), "order-66");
        let written = serde_json::to_string(&change).expect("json");
        assert_eq!(
            written,
            record.replace("\n        ", ""),
            "nothing new where nothing new was said"
        );
    }

    #[test]
    fn a_context_comes_back_from_a_record() {
        let bare: Change = serde_json::from_str(&format!("{RECORD}}}")).expect("read");
        let context = Context::default()
            .with_user_id("u-1")
            .and_then(|it| it.with_organisation_id("o-1"));
        let change = Change {
            context: context.expect("valid"),
            ..bare
        };
        let text = serde_json::to_string(&change).expect("json");
        assert!(
            text.ends_with(r#","userId":"u-1","organisationId":"o-1"}"#),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<Change>(&text).expect("read"), change);
    }

    #[test]
    fn a_set_with_more_parts_than_a_set_can_have_is_refused_while_it_is_read() {
        for (count, fits) in [(256, true), (257, false), (95_000, false)] {
            let part = r#"{"collection":"A","first":1,"last":1}"#;
            let json = format!(r#"{{"id":"s","parts":[{}]}}"#, vec![part; count].join(","));
            let read = serde_json::from_str::<ChangeSet>(&json);
            assert_eq!(read.is_ok(), fits, "{count}");
            assert!(read.is_ok_and(|set| set.size() > 256 * 30) == fits);
        }
    }
}
