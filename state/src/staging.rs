//! Changes that are here but must not be visible yet. They are never served, saved, or counted into
//! the watermark.

use std::ops::RangeInclusive;

use contract::Revision;
use imbl::OrdMap;

use crate::received::ReceivedChange;

/// Most changes that wait, per collection.
pub(crate) const MAX_CHANGES: usize = 4_096;
/// Most bytes of values that wait, per collection. A whole set always fits (see
/// [`contract::set::MAX_BYTES`]).
pub(crate) const MAX_BYTES: usize = 16 << 20;

/// The waiting changes of one collection. Cloning shares them.
///
/// It is bounded, and the lowest revisions always find room. That is why healing by delta always
/// progresses: the lowest set that is incomplete is made of the lowest revisions that wait, in each
/// of its collections, so a delta that hands them on in order completes it, however much else has
/// come before.
#[derive(Debug, Clone, Default)]
pub(crate) struct Staging {
    changes: OrdMap<Revision, ReceivedChange>,
    bytes: usize,
}

impl Staging {
    pub(crate) fn len(&self) -> usize {
        self.changes.len()
    }

    pub(crate) fn get(&self, revision: Revision) -> Option<&ReceivedChange> {
        self.changes.get(&revision)
    }

    pub(crate) fn lowest(&self) -> Option<&ReceivedChange> {
        self.changes.get_min().map(|(_revision, hint)| hint)
    }

    /// How many of the highest revisions have to go for a change; `None` when it is too high to
    /// find room.
    fn evictions(&self, coming: &ReceivedChange) -> Option<usize> {
        let (mut count, mut bytes) = (self.len() + 1, self.bytes + coming.size());
        let mut higher = self
            .changes
            .values()
            .rev()
            .take_while(|hint| hint.revision > coming.revision);
        let mut gone = 0;
        while count > MAX_CHANGES || bytes > MAX_BYTES {
            bytes -= higher.next()?.size();
            count -= 1;
            gone += 1;
        }
        Some(gone)
    }

    pub(crate) fn has_capacity(&self, coming: &ReceivedChange) -> bool {
        self.evictions(coming).is_some()
    }

    /// Lets the highest go for a change. They were never seen: they are still known to exist, and
    /// heal from the feed.
    pub(crate) fn make_capacity(&mut self, hint: &ReceivedChange) {
        for _highest in 0..self.evictions(hint).unwrap_or(0) {
            if let Some(&(highest, _)) = self.changes.get_max() {
                self.remove(highest);
            }
        }
    }

    pub(crate) fn insert(&mut self, hint: &ReceivedChange) {
        self.bytes += hint.size();
        self.changes.insert(hint.revision, hint.clone());
    }

    pub(crate) fn remove(&mut self, revision: Revision) -> Option<ReceivedChange> {
        let hint = self.changes.remove(&revision)?;
        self.bytes -= hint.size();
        Some(hint)
    }

    /// Which revisions of a run wait.
    pub(crate) fn within(&self, run: RangeInclusive<Revision>) -> Vec<Revision> {
        // A range that ends before it begins is a panic, not an empty one.
        if run.is_empty() {
            Vec::new()
        } else {
            self.changes
                .range(run)
                .map(|(revision, _hint)| *revision)
                .collect()
        }
    }

    /// Only what is above a revision.
    pub(crate) fn above(&self, revision: Revision) -> Self {
        let changes = self.changes.split(&revision).1;
        let bytes = changes.values().map(ReceivedChange::size).sum();
        Self { changes, bytes }
    }
}
