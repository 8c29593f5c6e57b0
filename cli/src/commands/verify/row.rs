//! The verdict on a collection of a replica, and the facts that it follows from.

use std::fmt;

use contract::{CollectionName, DocumentId, Epoch, Head, Revision};
use serde::Serialize;

use super::snapshot::Stamp;

/// The result for a collection of a replica.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) collection: CollectionName,
    pub(super) verdict: RowVerdict,
    pub(super) replica: Position,
    /// Absent when the publisher does not serve the collection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) publisher: Option<Position>,
    /// Documents of the replica.
    pub(super) documents: u64,
    /// Number of all differences; only the first are listed, by id. Counted only when both sides
    /// are at the same revision.
    pub(super) differences: usize,
    pub(super) first: Vec<DocumentDifference>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Position {
    epoch: Epoch,
    revision: Revision,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RowVerdict {
    /// Same ids, same revisions, same bytes.
    Equal,
    /// At the same revision, documents differ.
    Different,
    /// The replica was never seen at the publisher's revision.
    Behind,
    /// The publisher was never seen at the replica's revision.
    Ahead,
    /// The revisions belong to different histories.
    OtherEpoch,
    /// The publisher has no such collection.
    NotServed,
}

/// A document that is not the same on both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct DocumentDifference {
    pub(super) id: DocumentId,
    pub(super) kind: DifferenceKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) publisher: Option<Stamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) replica: Option<Stamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum DifferenceKind {
    /// The replica lacks it.
    Missing,
    /// The publisher does not have it.
    Extra,
    Revision,
    Bytes,
}

impl Row {
    pub(super) fn new(
        head: Head,
        theirs: Option<&Head>,
        total: usize,
        first: Vec<DocumentDifference>,
    ) -> Self {
        let verdict = match theirs {
            None => RowVerdict::NotServed,
            // Revisions of two epochs cannot be compared.
            Some(theirs) if theirs.epoch != head.epoch => RowVerdict::OtherEpoch,
            Some(theirs) if theirs.revision > head.revision => RowVerdict::Behind,
            Some(theirs) if theirs.revision < head.revision => RowVerdict::Ahead,
            Some(_) if total > 0 => RowVerdict::Different,
            Some(_) => RowVerdict::Equal,
        };
        // At different revisions, differences are expected and say nothing.
        let (differences, first) = if verdict == RowVerdict::Different {
            (total, first)
        } else {
            (0, vec![])
        };
        let position = |head: &Head| Position {
            epoch: head.epoch,
            revision: head.revision,
        };
        Self {
            verdict,
            replica: position(&head),
            publisher: theirs.map(position),
            documents: head.count,
            differences,
            first,
            collection: head.collection,
        }
    }

    /// Whether another reading cannot change the verdict. A difference counts when it was found
    /// before: between two events a replica already holds documents beyond its revision.
    pub(super) fn is_settled(&self, before: Option<&Self>) -> bool {
        match self.verdict {
            RowVerdict::Equal | RowVerdict::NotServed => true,
            RowVerdict::Different => before.is_some_and(|before| {
                (before.differences, &before.first) == (self.differences, &self.first)
            }),
            RowVerdict::Behind | RowVerdict::Ahead | RowVerdict::OtherEpoch => false,
        }
    }
}

impl DocumentDifference {
    pub(super) fn new(id: DocumentId, publisher: Option<Stamp>, replica: Option<Stamp>) -> Self {
        let kind = match (&publisher, &replica) {
            (_, None) => DifferenceKind::Missing,
            (None, _) => DifferenceKind::Extra,
            (Some(one), Some(other)) if one.revision != other.revision => DifferenceKind::Revision,
            _ => DifferenceKind::Bytes,
        };
        Self {
            id,
            kind,
            publisher,
            replica,
        }
    }
}

impl RowVerdict {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Different => "different",
            Self::Behind => "behind",
            Self::Ahead => "ahead",
            Self::OtherEpoch => "other-epoch",
            Self::NotServed => "not-served",
        }
    }
}

impl DifferenceKind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Revision => "revision",
            Self::Bytes => "bytes",
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.revision)
    }
}
