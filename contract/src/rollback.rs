//! Rollbacks: documents get a value back that they had before. A rollback is a normal change set.
//!
//! Nothing here decides what a rollback writes.

mod expected;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

pub use expected::RollbackExpected;

use crate::{
    applied::Applied,
    change::Operation,
    history::{Difference, Point, SnapshotName},
    ids::{CollectionName, DocumentId, Revision},
};

/// Body of the rollback of a document or of a collection: exactly one of `toRevision`, `at` and
/// `toSnapshot`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RollbackRequest {
    /// Back to what was after this revision of the collection; 0 = before its first change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_revision: Option<Revision>,
    /// Back to what was at this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<DateTime<Utc>>,
    /// Back to what this named snapshot has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_snapshot: Option<SnapshotName>,
    /// Of a document: the version that it must have, as `<revision>-<crc>` or its revision; 0 = it must
    /// not exist. Of a collection: the revision after which none of the documents was changed, as
    /// `<epoch>-<revision>`; a number is a revision of the present epoch. A dry run answers it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<RollbackExpected>,
    /// Of a collection: these documents only; all of them when it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "utoipa", schema(min_items = 1, max_items = 256))]
    pub ids: Option<Vec<DocumentId>>,
    /// Of a collection: when more documents would change than a change set may have, change only the
    /// first ones, by id, and answer `more`. The same request again goes on. A dry run of a part does
    /// not check references, which may hold only after the other parts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
    /// Whether the answer only shows what the rollback would do.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

impl RollbackRequest {
    /// A rollback to this point.
    pub fn to(point: Point) -> Self {
        let mut request = Self::default();
        match point {
            Point::Revision(revision) => request.to_revision = Some(revision),
            Point::Time(time) => request.at = Some(time),
            Point::Snapshot(name) => request.to_snapshot = Some(name),
        }
        request
    }

    /// The point; `None` unless exactly one is given.
    pub fn point(&self) -> Option<Point> {
        match (self.to_revision, self.at, &self.to_snapshot) {
            (Some(revision), None, None) => Some(Point::Revision(revision)),
            (None, Some(time), None) => Some(Point::Time(time)),
            (None, None, Some(name)) => Some(Point::Snapshot(name.clone())),
            _none_or_several => None,
        }
    }
}

/// Body of `POST /v1/sets/{setId}/rollback`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SetRollbackRequest {
    /// Whether the answer only shows what the rollback would do.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// Answer to a rollback: what it did, or would do in a dry run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Rollback {
    /// Id of the change set that was written; absent in a dry run, and when fewer than two documents
    /// had to change: a change of one document is in no set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The revision of the collection that it goes back to; absent for a change set, each document of
    /// which goes back to a revision of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_revision: Option<Revision>,
    /// The `expected` of a request that does exactly what this dry run shows; after a rollback of a
    /// whole collection with `expected`, that of the next one. Absent for a change set, whose changes
    /// have to be the newest ones of their documents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<RollbackExpected>,
    /// The documents that change, by collection and id; empty when all have the value of then.
    pub items: Vec<RollbackItem>,
    /// Whether more documents have another value than then; only with `partial`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
    /// Where it has arrived, if the request waited for replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<Applied>,
}

/// A document that a rollback changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct RollbackItem {
    /// The collection.
    pub collection: CollectionName,
    /// The document.
    pub id: DocumentId,
    /// The effect: Create brings a deleted document back, Delete removes one that did not exist then.
    pub op: Operation,
    /// The revision that the rollback replaces; absent when the document does not exist now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<Revision>,
    /// The revision that gave the document the value that comes back; absent on Delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<Revision>,
    /// The revision that the rollback made; absent in a dry run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    /// What changes: `before` is the value of now, `after` the value of then.
    pub diff: Vec<Difference>,
    /// Whether `diff` leaves differences out, because there are too many.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub diff_truncated: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_exactly_one_point() {
        let read = |json| serde_json::from_str::<RollbackRequest>(json).expect(json);
        let revision = read(r#"{"toRevision":0,"expected":7,"dryRun":true}"#);
        assert_eq!(revision.point(), Some(Point::Revision(0)));
        for none in ["{}", r#"{"toRevision":1,"toSnapshot":"a"}"#] {
            assert_eq!(read(none).point(), None, "{none}");
        }
        let name = Point::Snapshot("a".parse().expect("a name"));
        assert_eq!(RollbackRequest::to(name.clone()).point(), Some(name));
        assert!(serde_json::from_str::<RollbackRequest>(r#"{"to":1}"#).is_err());
    }
}
