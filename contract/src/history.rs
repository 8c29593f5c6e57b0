//! The past of documents: a point of it, what each change did, and which changes are asked for.
//!
//! [`fn@difference`] compares two values within bounds, whatever their size. Nothing here reads a log
//! or decides what is kept of it.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    change::{Change, Operation},
    context::Context,
    ids::{CollectionName, Crc, DocumentId, Epoch, FormatError, Revision, strings},
};

mod difference;

pub use difference::{Diff, Difference, MAX_DIFF_BYTES, MAX_DIFFERENCES, MAX_SHOWN, difference};

/// Header of an answer about the past: the revision of the collection that it shows.
pub const REVISION_HEADER: &str = "Confcast-Revision";
/// Header of an answer about the past: the digest of the collection at that revision.
pub const DIGEST_HEADER: &str = "Confcast-Digest";
/// Header of an answer about the past: the number of documents of the collection at that revision.
pub const COUNT_HEADER: &str = "Confcast-Count";

/// Most items of a page of history.
pub const MAX_PAGE: usize = 256;
/// Items of a page of history where the request does not say how many.
pub const DEFAULT_PAGE: usize = 64;
/// Longest text that history is searched for, in bytes.
pub const MAX_TEXT: usize = 256;

/// A point in the past of a collection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Point {
    /// As the collection was after this revision; 0 = before the first change.
    Revision(Revision),
    /// As the collection was at this time: after the newest change that was committed by then.
    Time(DateTime<Utc>),
    /// As the collection was when this named snapshot was made.
    Snapshot(SnapshotName),
}

impl Point {
    /// Name and value of its query parameter: `revision`, `at` or `snapshot`.
    pub fn parameter(&self) -> (&'static str, String) {
        match self {
            Self::Revision(revision) => ("revision", revision.to_string()),
            Self::Time(time) => (
                "at",
                time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true),
            ),
            Self::Snapshot(name) => ("snapshot", name.to_string()),
        }
    }
}

/// The point in words, as the reason of a rollback names it.
impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Revision(revision) => write!(f, "revision {revision}"),
            Self::Time(_) => write!(f, "the time {}", self.parameter().1),
            Self::Snapshot(name) => write!(f, "the snapshot {name}"),
        }
    }
}

/// Name of a named snapshot: 1 to 64 of `A-Z a-z 0-9 . _ -`, but neither `.` nor `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct SnapshotName(String);

impl SnapshotName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SnapshotName {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let valid = (1..=64).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
            && !matches!(text, "." | "..");
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            let expected = "1 to 64 of A-Z a-z 0-9 . _ - but not . or ..";
            Err(FormatError::new("snapshot", text, expected))
        }
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

strings!(SnapshotName; numbers:);

/// Which changes of the history are asked for. Each member that is present has to fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistoryFilter {
    /// Changes of the documents with this id.
    pub id: Option<DocumentId>,
    /// Changes that this user made.
    pub user: Option<String>,
    /// Changes with this effect.
    pub op: Option<Operation>,
    /// Changes that were committed at this time or later.
    pub from: Option<DateTime<Utc>>,
    /// Changes that were committed before this time.
    pub to: Option<DateTime<Utc>>,
    /// Changes whose new value has this text in its canonical JSON, letter by letter.
    pub text: Option<String>,
    /// Changes of this change set.
    pub set: Option<String>,
}

/// A page of history, the newest change first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct HistoryPage {
    /// The changes. A page may be empty and have `next`: the work for one page is bounded.
    pub items: Vec<HistoryItem>,
    /// Changes that the page lacks, because their records are damaged or gone. Gaps among the changes of
    /// one document are not listed; the changes after them have no `diff`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<UnreadableChanges>,
    /// Where the next page begins: the parameter `before`. Absent after the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Changes whose records cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct UnreadableChanges {
    /// Their collection.
    pub collection: CollectionName,
    /// The first revision.
    pub first: Revision,
    /// The last revision.
    pub last: Revision,
}

/// One change, without its value: [`Change`] for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct HistoryItem {
    /// What was changed, when and by which user.
    #[serde(flatten)]
    pub change: ChangeNote,
    /// Checksum of the new value; absent on Delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc: Option<Crc>,
    /// What the change did to the value. Absent when the value before it is no longer kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff: Option<Vec<Difference>>,
    /// Whether `diff` leaves differences out, because there are too many.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub diff_truncated: bool,
}

/// What was changed, when, by which user and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ChangeNote {
    /// The collection.
    pub collection: CollectionName,
    /// The document.
    pub id: DocumentId,
    /// The revision that the change made.
    pub revision: Revision,
    /// The epoch of `revision`.
    pub epoch: Epoch,
    /// The effect on the document.
    pub op: Operation,
    /// Time of the commit, by the clock of the publisher.
    pub time: DateTime<Utc>,
    /// Id of the change set, when several documents changed together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_id: Option<String>,
    /// User, organisation, correlation and reason; serialised as members of the same JSON object.
    #[serde(flatten)]
    pub context: Context,
}

impl From<&Change> for ChangeNote {
    fn from(change: &Change) -> Self {
        Self {
            collection: change.collection.clone(),
            id: change.id.clone(),
            revision: change.revision,
            epoch: change.epoch,
            op: change.op,
            time: change.time,
            set_id: change.change_set.as_ref().map(|set| set.id.clone()),
            context: change.context.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_a_snapshot_is_one_segment_of_a_path() {
        for good in ["a", "before-release_7.1", &"x".repeat(64)] {
            assert!(good.parse::<SnapshotName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "ä", &"x".repeat(65)] {
            assert!(bad.parse::<SnapshotName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_point_names_its_parameter() {
        let time = "2026-11-28T09:00:00.250Z".parse().expect("a time");
        assert_eq!(
            Point::Time(time).parameter(),
            ("at", "2026-11-28T09:00:00.250Z".to_owned())
        );
        assert_eq!(Point::Revision(0).parameter(), ("revision", "0".to_owned()));
    }

    #[test]
    fn an_item_of_history_is_one_flat_object() {
        let json = r#"{"collection":"A","id":"a","revision":7,"epoch":"00000001-1","op":"Update","time":"2026-11-21T09:00:00Z","setId":"s","userId":"u-1","reason":"a typing error","crc":"00000000","diff":[{"pointer":"/n","before":null}]}"#;
        let item: HistoryItem = serde_json::from_str(json).expect("read");
        assert_eq!(item.change.context.user_id(), Some("u-1"));
        let diff = item.diff.as_deref().expect("a diff");
        assert_eq!(diff[0].before.as_ref().map(|it| it.as_str()), Some("null"));
        assert_eq!(diff[0].after, None, "absent is not null");
        assert_eq!(serde_json::to_string(&item).expect("json"), json);
    }
}
