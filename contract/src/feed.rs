//! How the change feed is asked for and followed: positions, what cannot be served, and the frames
//! of the live form.
//!
//! The live form is a stream of server-sent events (WHATWG HTML, section 9.2): `change` with an
//! item of the feed, and at its end `resync` when the next change cannot follow without a gap. The
//! `id` of each is a position that a client sends back unchanged as `Last-Event-ID`: `<epoch>
//! <since>`, where `since` is spelled as in the query. A frame with an id alone begins
//! every stream, so that a client which is cut off before the first change has a position as well.
//! Nothing here reads or sends.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{CollectionName, Epoch, FormatError, Head, Problem, ProblemKind, Revision};

/// Media type of the live form.
pub const EVENT_STREAM: &str = "text/event-stream";
/// Most changes in a page, and what a page holds when it is not said.
pub const PAGE: usize = 1_000;
/// Bytes of values after which a page ends; it holds at least one change. Collections share it.
pub const PAGE_BYTES: usize = 4 << 20;
/// `event` of a change.
pub const CHANGE: &str = "change";
/// `event` that says why the stream ends, with a [`StreamEnd`].
pub const RESYNC: &str = "resync";
/// Milliseconds after which a client shall come back, as the stream tells it.
const RETRY_MS: u32 = 1_000;

/// By collection the revision that a reader has; everything after it is to come.
pub type Since = BTreeMap<CollectionName, Revision>;

/// Which feed: of one collection, whose `since` is a bare revision, or of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedScope {
    /// `41`
    One(CollectionName),
    /// `A:41,B:7`
    Several,
}

impl FeedScope {
    /// Reads a `since`.
    ///
    /// # Errors
    /// When it is not one of this feed, or names a collection twice.
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

    /// Reads the `id` of an event.
    ///
    /// # Errors
    /// When it is none of this feed.
    pub fn position(&self, id: &str) -> Result<(Epoch, Since), FormatError> {
        let parts = id.trim().split_once(' ');
        let (epoch, since) =
            parts.ok_or_else(|| FormatError::new("position", id, "<epoch> <since>"))?;
        Ok((epoch.parse()?, self.since(since)?))
    }

    /// Spells the `id` of an event.
    pub fn id(&self, epoch: Epoch, since: &Since) -> String {
        let pairs = since.iter().map(|(name, revision)| match self {
            Self::One(_) => revision.to_string(),
            Self::Several => format!("{name}:{revision}"),
        });
        format!("{epoch} {}", pairs.collect::<Vec<_>>().join(","))
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

/// Why a reader cannot go on from where it is without a gap.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FeedGoneError {
    /// What comes next is no longer kept.
    #[error("{collection} is no longer kept from revision {next} on")]
    Trimmed {
        /// The collection.
        collection: CollectionName,
        /// The revision that would be next.
        next: Revision,
    },
    /// The position counts in another history.
    #[error("The store is in epoch {0}")]
    Epoch(Epoch),
    /// The position is beyond the head.
    #[error("{collection} is at revision {revision}")]
    Ahead {
        /// The collection.
        collection: CollectionName,
        /// Where it is.
        revision: Revision,
    },
}

impl FeedGoneError {
    /// In a word that stays the same.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Trimmed { .. } => "trimmed",
            Self::Epoch(_) => "epoch",
            Self::Ahead { .. } => "ahead",
        }
    }

    /// As the paged feed tells it.
    pub fn problem(&self) -> Problem {
        let mut problem = Problem::new(ProblemKind::FeedGone, self.to_string());
        problem.reason = Some(self.reason().to_owned());
        problem
    }
}

/// Whether what follows `since` can be served. `epoch` is the history that it counts in, if the
/// reader said so.
///
/// # Errors
/// When it cannot.
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

/// How the collections of a page share it: each gets an even share, and the one with most to give
/// what the others leave. So none waits until another has nothing more to say. Ask in the order of
/// how much each has to give.
#[derive(Debug)]
pub struct PageBudget {
    collections: usize,
    room: usize,
    budget: usize,
}

impl PageBudget {
    /// A page of so many changes and bytes for so many collections.
    pub fn new(collections: usize, room: usize, budget: usize) -> Self {
        Self {
            collections,
            room,
            budget,
        }
    }

    /// Changes and bytes for the next collection.
    pub fn share(&mut self) -> (usize, usize) {
        let sharing = self.collections.max(1);
        self.collections = sharing - 1;
        (self.room.div_ceil(sharing), self.budget.div_ceil(sharing))
    }

    /// What was made of it.
    pub fn spent(&mut self, changes: usize, bytes: usize) {
        self.room = self.room.saturating_sub(changes);
        self.budget = self.budget.saturating_sub(bytes);
    }
}

/// Data of the event that ends a stream which cannot go on. Its `id` is the position of these
/// heads: whoever reads all documents anew goes on from there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct StreamEnd {
    /// `trimmed`, `epoch` or `ahead`.
    pub reason: String,
    /// Where the collections of the stream stand.
    pub heads: Vec<Head>,
}

/// Where these heads are; `None` when there are none.
pub fn at_heads(heads: &[Head]) -> Option<(Epoch, Since)> {
    let since = heads
        .iter()
        .map(|head| (head.collection.clone(), head.revision))
        .collect();
    Some((heads.first()?.epoch, since))
}

/// Whether an `Accept` header names the live form.
pub fn wants_stream(accept: Option<&str>) -> bool {
    accept.is_some_and(|accept| {
        let ranges = accept
            .split(',')
            .map(|range| range.split(';').next().unwrap_or_default().trim());
        ranges
            .into_iter()
            .any(|range| range.eq_ignore_ascii_case(EVENT_STREAM))
    })
}

/// The frame that begins a stream: no event, only a position to come back to.
pub fn start_frame(id: &str) -> String {
    format!("retry: {RETRY_MS}\nid: {id}\n\n")
}

/// The frame of an event. The data is one line, as all JSON is that serde writes.
pub fn frame(event: &str, id: &str, data: &impl Serialize) -> String {
    let data =
        serde_json::to_string(data).expect("wire types have string keys and finite numbers only");
    format!("event: {event}\nid: {id}\ndata: {data}\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> CollectionName {
        text.parse().expect("a name")
    }

    #[test]
    fn a_position_comes_back_as_it_was_sent() {
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
    fn what_is_no_position() {
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
    fn what_can_be_served() {
        let epoch: Epoch = "0f86d081-1".parse().expect("an epoch");
        let head = Head {
            revision: 9,
            oldest: 5,
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

    #[test]
    fn whoever_names_the_stream_gets_it() {
        assert!(wants_stream(Some(
            "application/json, Text/Event-Stream; q=0.9"
        )));
        assert!(!wants_stream(Some("*/*")) && !wants_stream(None));
    }
}
