//! Changes that have arrived but must not be visible yet. They are never served, never saved, and
//! never counted into the watermark.

use std::ops::RangeInclusive;

use contract::Revision;
use imbl::OrdMap;

use crate::received::ReceivedChange;

/// Largest number of staged changes per collection.
pub(crate) const MAX_CHANGES: usize = 4_096;
/// Largest size of the staged changes per collection, in bytes. A whole change set always
/// fits (see [`contract::set::MAX_BYTES`]).
pub(crate) const MAX_BYTES: usize = 16 << 20;

/// The staged changes of one collection. Cloning shares them.
///
/// Staging is bounded, and the lowest revisions always have capacity. That is why catch-up always
/// progresses: the lowest incomplete change set has the lowest staged revisions in each of its
/// collections, so a delta that delivers changes in order completes it, however many other changes
/// arrived before.
#[derive(Debug, Clone, Default)]
pub(crate) struct Staging {
    /// By revision, so that the lowest and the highest are found at once.
    changes: OrdMap<Revision, ReceivedChange>,
    /// Size of `changes`.
    bytes: usize,
}

impl Staging {
    /// Number of staged changes.
    pub(crate) fn len(&self) -> usize {
        self.changes.len()
    }

    /// The staged change with this revision.
    pub(crate) fn get(&self, revision: Revision) -> Option<&ReceivedChange> {
        self.changes.get(&revision)
    }

    /// The change with the lowest revision: the only one that can become visible next.
    pub(crate) fn lowest(&self) -> Option<&ReceivedChange> {
        self.changes.get_min().map(|(_revision, change)| change)
    }

    /// How many of the highest revisions must be removed for a change; `None` when the change
    /// itself is too high.
    fn evictions(&self, coming: &ReceivedChange) -> Option<usize> {
        let mut count = self.len() + 1;
        let mut bytes = self.bytes + coming.size();
        let mut higher = self
            .changes
            .values()
            .rev()
            .take_while(|change| change.revision > coming.revision);
        let mut gone = 0;
        // From the highest down, and never a revision below the new one.
        while count > MAX_CHANGES || bytes > MAX_BYTES {
            bytes -= higher.next()?.size();
            count -= 1;
            gone += 1;
        }
        Some(gone)
    }

    /// Whether a change fits, if necessary in place of changes with higher revisions.
    pub(crate) fn has_capacity(&self, coming: &ReceivedChange) -> bool {
        self.evictions(coming).is_some()
    }

    /// Removes the highest revisions to make capacity for a change. Readers never saw them; they
    /// stay known to exist, and catch-up brings them again.
    pub(crate) fn make_capacity(&mut self, change: &ReceivedChange) {
        for _highest in 0..self.evictions(change).unwrap_or(0) {
            if let Some(&(highest, _)) = self.changes.get_max() {
                self.remove(highest);
            }
        }
    }

    /// Stages a change; [`Staging::make_capacity`] comes first.
    pub(crate) fn insert(&mut self, change: &ReceivedChange) {
        self.bytes += change.size();
        self.changes.insert(change.revision, change.clone());
    }

    /// Removes the change with this revision and returns it.
    pub(crate) fn remove(&mut self, revision: Revision) -> Option<ReceivedChange> {
        let change = self.changes.remove(&revision)?;
        self.bytes -= change.size();
        Some(change)
    }

    /// The staged revisions within a run.
    pub(crate) fn within(&self, run: RangeInclusive<Revision>) -> Vec<Revision> {
        // A range that ends before it begins would panic.
        if run.is_empty() {
            Vec::new()
        } else {
            self.changes
                .range(run)
                .map(|(revision, _change)| *revision)
                .collect()
        }
    }

    /// Keeps only the changes above a revision.
    pub(crate) fn above(&self, revision: Revision) -> Self {
        let changes = self.changes.split(&revision).1;
        let bytes = changes.values().map(ReceivedChange::size).sum();
        Self { changes, bytes }
    }
}
