//! The change feed: positions of a reader, positions that cannot be served, and the frames of the
//! live form.
//!
//! The live form is a stream of server-sent events (WHATWG HTML, section 9.2): `change` with an
//! item of the feed, `confirm` after a change whose request waits for replicas, and as the last one
//! `resync` when the next change cannot follow without a gap.
//! The `id` of each event is a position that a client sends back unchanged as `Last-Event-ID`:
//! `<epoch> <since>`, where `since` has the form of the query. Every stream begins with a frame that
//! has an id only, so a client that loses its connection before the first change has a position as
//! well. Nothing here reads or sends.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{CollectionName, Epoch, FormatError, Head, Problem, ProblemKind, Revision};

/// Media type of the live form.
pub const EVENT_STREAM: &str = "text/event-stream";
/// Largest number of changes in a page, and the number when a request does not say one.
pub const PAGE: usize = 1_000;
/// Bytes of values after which a page ends; it holds at least one change. Collections share it.
pub const PAGE_BYTES: usize = 4 << 20;
/// The header of a page with `since` of the next one, which can so be requested before this one was read.
/// It is absent where no page follows, and where it would be longer than [`MAX_NEXT`].
pub const NEXT_HEADER: &str = "confcast-next";
/// Bytes of [`NEXT_HEADER`], at most: some clients have no room for large heads.
pub const MAX_NEXT: usize = 1_024;
/// The header of a page whose reader is asked to check in once it has applied it: a request waits until
/// replicas have a write. Its value is that of [`Confirm`](crate::event::Confirm).
pub const CONFIRM_HEADER: &str = "confcast-confirm";
/// `event` of a change.
pub const CHANGE: &str = "change";
/// `event` with the reason why the stream ends: a [`StreamEnd`].
pub const RESYNC: &str = "resync";
/// `event` after a change that a request waits for: a replica checks in at once. It has no `id`.
pub const CONFIRM: &str = "confirm";
/// The frame of [`CONFIRM`].
pub const CONFIRM_FRAME: &str = "event: confirm\ndata: {}\n\n";
/// The `retry` field of a stream: milliseconds after which a client connects again.
const RETRY_MS: u32 = 1_000;

/// Position of a reader: by collection, the last revision that it has.
pub type Since = BTreeMap<CollectionName, Revision>;

/// The collections of a feed. The text form of a position depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedScope {
    /// One collection: the position is a revision, `41`.
    One(CollectionName),
    /// Several collections: the position is a list, `A:41,B:7`.
    Several,
}

impl FeedScope {
    /// Parses the query parameter `since`.
    ///
    /// # Errors
    /// When it has another form, or names a collection twice.
    pub fn since(&self, text: &str) -> Result<Since, FormatError> {
        let malformed = || FormatError::new("since", text, self.expected());
        if let Self::One(name) = self {
            return Ok(Since::from([(
                name.clone(),
                revision(text).ok_or_else(malformed)?,
            )]));
        }
        let mut since = Since::new();
        for pair in text.split(',') {
            let (name, at) = pair.trim().split_once(':').ok_or_else(malformed)?;
            if since
                .insert(name.parse()?, revision(at).ok_or_else(malformed)?)
                .is_some()
            {
                return Err(malformed());
            }
        }
        Ok(since)
    }

    /// Parses the `id` of an event.
    ///
    /// # Errors
    /// When it has another form.
    pub fn position(&self, id: &str) -> Result<(Epoch, Since), FormatError> {
        let parts = id.trim().split_once(' ');
        let (epoch, since) =
            parts.ok_or_else(|| FormatError::new("position", id, "<epoch> <since>"))?;
        Ok((epoch.parse()?, self.since(since)?))
    }

    /// Formats the query parameter `since`.
    pub fn text(&self, since: &Since) -> String {
        let pairs = since.iter().map(|(name, revision)| match self {
            Self::One(_) => revision.to_string(),
            Self::Several => format!("{name}:{revision}"),
        });
        pairs.collect::<Vec<_>>().join(",")
    }

    /// Formats the `id` of an event.
    pub fn id(&self, epoch: Epoch, since: &Since) -> String {
        format!("{epoch} {}", self.text(since))
    }

    fn expected(&self) -> &'static str {
        match self {
            Self::One(_) => "a revision: a whole number from 0",
            Self::Several => "Collection:revision,… with every collection once",
        }
    }
}

fn revision(text: &str) -> Option<Revision> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

/// Why a reader cannot continue from its position without a gap.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FeedGoneError {
    /// The next change was removed from the log.
    #[error("the change log of {collection} no longer has revision {next}")]
    Trimmed {
        /// The collection.
        collection: CollectionName,
        /// The revision that would be next.
        next: Revision,
    },
    /// The position belongs to another epoch.
    #[error("the store is in epoch {0}")]
    Epoch(Epoch),
    /// The position is beyond the head.
    #[error("{collection} is at revision {revision}")]
    Ahead {
        /// The collection.
        collection: CollectionName,
        /// Revision of its head.
        revision: Revision,
    },
}

impl FeedGoneError {
    /// A stable word for programs: `trimmed`, `epoch` or `ahead`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Trimmed { .. } => "trimmed",
            Self::Epoch(_) => "epoch",
            Self::Ahead { .. } => "ahead",
        }
    }

    /// The answer of the paged feed.
    pub fn problem(&self) -> Problem {
        let mut problem = Problem::new(ProblemKind::FeedGone, self.to_string());
        problem.reason = Some(self.reason().to_owned());
        problem
    }
}

/// Checks that the feed can continue after `since`. `epoch` is the epoch of the position, if the
/// reader gave one.
///
/// # Errors
/// When there would be a gap.
pub fn check(head: &Head, since: Revision, epoch: Option<Epoch>) -> Result<(), FeedGoneError> {
    let collection = head.collection.clone();
    if epoch.is_some_and(|epoch| epoch != head.epoch) {
        Err(FeedGoneError::Epoch(head.epoch))
    } else if since > head.revision {
        Err(FeedGoneError::Ahead {
            collection,
            revision: head.revision,
        })
    } else if since + 1 < head.oldest {
        Err(FeedGoneError::Trimmed {
            collection,
            next: since + 1,
        })
    } else {
        Ok(())
    }
}

/// Divides the capacity of one page among its collections: each gets an equal share, and a share
/// that is not used is divided among the remaining ones. So no collection waits until another one
/// is complete. Ask for the collection with the fewest changes first.
#[derive(Debug)]
pub struct PageBudget {
    collections: usize,
    changes: usize,
    bytes: usize,
}

impl PageBudget {
    /// A page of up to `changes` changes and `bytes` bytes for a number of collections.
    pub fn new(collections: usize, changes: usize, bytes: usize) -> Self {
        Self {
            collections,
            changes,
            bytes,
        }
    }

    /// Share of the next collection: changes and bytes.
    pub fn share(&mut self) -> (usize, usize) {
        let sharing = self.collections.max(1);
        self.collections = sharing - 1;
        (self.changes.div_ceil(sharing), self.bytes.div_ceil(sharing))
    }

    /// Subtracts what the collection used.
    pub fn spent(&mut self, changes: usize, bytes: usize) {
        self.changes = self.changes.saturating_sub(changes);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// Data of the `resync` event, which ends a stream that cannot continue. Its `id` is the position of
/// these heads: a client reads all documents again and continues from there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct StreamEnd {
    /// `trimmed`, `epoch` or `ahead`.
    pub reason: String,
    /// Heads of the collections of the stream.
    pub heads: Vec<Head>,
}

/// The position of these heads; `None` when there are none.
pub fn at_heads(heads: &[Head]) -> Option<(Epoch, Since)> {
    let since = heads
        .iter()
        .map(|head| (head.collection.clone(), head.revision))
        .collect();
    Some((heads.first()?.epoch, since))
}

/// The first frame of a stream: a position and no event.
pub fn start_frame(id: &str) -> String {
    format!("retry: {RETRY_MS}\nid: {id}\n\n")
}

/// The frame of an event; `data` is JSON without a line break.
pub fn frame(event: &str, id: &str, data: &str) -> String {
    format!("event: {event}\nid: {id}\ndata: {data}\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> CollectionName {
        text.parse().expect("a name")
    }

    #[test]
    fn a_position_is_parsed_from_the_id_that_was_sent() {
        let epoch: Epoch = "0f86d081-1".parse().expect("an epoch");
        let one = (
            FeedScope::One(name("A")),
            Since::from([(name("A"), 41)]),
            "0f86d081-1 41",
        );
        let several = (
            FeedScope::Several,
            Since::from([(name("A"), 41), (name("B"), 0)]),
            "0f86d081-1 A:41,B:0",
        );
        for (scope, since, id) in [one, several] {
            assert_eq!(scope.id(epoch, &since), id);
            assert_eq!(scope.position(id), Ok((epoch, since)));
        }
    }

    #[test]
    fn texts_of_another_form_are_no_positions() {
        let one = FeedScope::One(name("A"));
        for bad in ["", "-1", "+1", "x", "A:1", "1 ", "18446744073709551616"] {
            assert!(one.since(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "1", "A", "A:", "A:x", "A:1,", "A:1,A:2", "a b:1"] {
            assert!(FeedScope::Several.since(bad).is_err(), "{bad:?}");
        }
        for bad in [
            "",
            "41",
            "A:1",
            "0f86d081 A:1",
            "0f86d081-1 ",
            "0f86d081-1  A:1 x",
        ] {
            assert!(FeedScope::Several.position(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_position_is_served_only_without_a_gap() {
        let epoch: Epoch = "0f86d081-1".parse().expect("an epoch");
        let head = Head {
            revision: 9,
            oldest: 5,
            proof: None,
            ..Head::empty(name("A"), epoch)
        };
        let reason = |since, epoch| check(&head, since, epoch).err().map(|gone| gone.reason());
        assert_eq!([reason(9, None), reason(4, Some(epoch))], [None, None]);
        assert_eq!(
            [reason(10, None), reason(3, None)],
            [Some("ahead"), Some("trimmed")]
        );
        assert_eq!(
            reason(
                9,
                Some(Epoch {
                    counter: 2,
                    ..epoch
                })
            ),
            Some("epoch")
        );
    }
}
