//! One record of the change log, and the feed that hands records on in order.
//!
//! The log is outbox, feed, history and audit at once; an event is a record on its way (see
//! [`crate::event`]).

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    canonical::CanonicalJson,
    context::Context,
    event::event_id,
    head::Head,
    ids::{CollectionName, Crc, Digest, DocumentId, Epoch, Revision},
};

/// What a change does to its document (requirement A6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub enum Operation {
    /// The document did not exist before.
    Create,
    /// The document existed and has a new value.
    Update,
    /// The document is gone.
    Delete,
}

/// A committed change: an item of the feed, and what an event is made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// The collection it belongs to.
    pub collection: CollectionName,
    /// What it does.
    pub op: Operation,
    /// The document it concerns.
    pub id: DocumentId,
    /// Its place in the collection: one more than the change before.
    pub revision: Revision,
    /// The history that `revision` counts in.
    pub epoch: Epoch,
    /// Last revision of the newest multi-document set of the collection before this change; 0 when
    /// there was none.
    pub last_set: Revision,
    /// The new value; present on Create and Update, absent on Delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_data: Option<CanonicalJson>,
    /// Checksum of `config_data`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc: Option<Crc>,
    /// The set it is a member of, when several documents change together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change_set: Option<ChangeSet>,
    /// When it was committed, by the publisher's clock. Never used to order anything.
    pub time: DateTime<Utc>,
    /// Live documents of the collection after it.
    pub count: u64,
    /// Digest of the collection after it.
    pub digest: Digest,
    /// What the request that made it says of itself; its members stand beside those above.
    #[serde(flatten)]
    pub context: Context,
}

impl Change {
    /// What ties it to logs: the correlation id that its request gave, else the id of its event,
    /// which no other change has.
    pub fn correlator(&self) -> Cow<'_, str> {
        self.context
            .correlation_id()
            .map_or_else(|| event_id(self).into(), Cow::from)
    }
}

/// The set that a change belongs to: its parts become visible together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct ChangeSet {
    /// Id of the set.
    pub id: String,
    /// The revisions it takes up, per collection.
    pub parts: Vec<SetPart>,
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

/// A page of the change feed: contiguous and in order per collection.
///
/// A publisher's items are the records of its log. A subscriber's are what it heard of them,
/// [`crate::EventData`], which leaves out what only the log knows (`time`, `count`, `digest`);
/// whoever reads both reads that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct FeedPage<T = Change> {
    /// Where the collections stand.
    pub heads: Vec<Head>,
    /// The changes after the asked revisions.
    pub items: Vec<T>,
    /// Whether there is more to ask for.
    pub more: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = r#"{"collection":"A","op":"Update","id":"a","revision":7,"epoch":"00000001-1","lastSet":0,
        "configData":{"n":9007199254740993},"crc":"00000000","time":"2026-11-21T09:00:00.123Z","count":1,
        "digest":"0000000000000000""#;

    /// As it was written before it knew of users and organisations, and before that.
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
}
