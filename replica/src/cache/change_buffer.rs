//! The newest changes of each collection, in order: what a feed can be served from without a log.
//!
//! A buffer holds the changes that became visible, up to the watermark and without a hole; what
//! readers cannot see is not in it. A change beyond a hole waits until the watermark has passed it.
//! A revision that the buffer cannot tell (a load brought it, or its value was never received
//! because a newer one was here) empties it: it starts again behind that revision. The buffers are
//! a part of the view, so they match its documents. No clock, no I/O.

use std::{collections::BTreeMap, sync::Arc};

use contract::{CollectionName, Epoch, EventData, Revision};
use imbl::OrdMap;
use state::{CollectionState, ReceivedChange, Root, VisibleChange};

/// Changes that are kept of each collection.
const MAX_CHANGES: usize = 1_024;
/// Bytes of their values; at least one change is kept.
const MAX_BYTES: usize = 16 << 20;

/// The buffers of all collections. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub(crate) struct ChangeBuffers {
    /// The history that all revisions count in; `None` before the first load.
    epoch: Option<Epoch>,
    /// By collection. Copied on the first write after a view took a reference.
    buffers: Arc<BTreeMap<CollectionName, ChangeBuffer>>,
    /// Grows with every change of any buffer, and so with every watermark.
    pub(crate) version: u64,
}

/// The newest changes of one collection.
#[derive(Debug, Clone, Default)]
pub struct ChangeBuffer {
    /// Every change after this revision, up to `newest`, is in `visible`.
    before_oldest: Revision,
    /// The watermark: the revision of the newest change.
    newest: Revision,
    /// The changes up to the watermark, without a hole.
    visible: BoundedChanges,
    /// Changes beyond the watermark.
    out_of_order: BoundedChanges,
}

/// Changes by revision, and the bytes of their values.
#[derive(Debug, Clone, Default)]
struct BoundedChanges {
    /// The changes; the map shares its nodes with the views that were taken before.
    changes: OrdMap<Revision, Arc<ReceivedChange>>,
    /// Sum of [`ReceivedChange::size`] of all changes.
    bytes: usize,
}

impl ChangeBuffers {
    /// The buffer of a collection; `None` while it counts no revisions.
    pub(crate) fn buffer(&self, name: &CollectionName) -> Option<&ChangeBuffer> {
        self.buffers.get(name)
    }

    /// Takes over what became visible until `root`.
    pub(crate) fn update(&mut self, visible: Vec<VisibleChange>, root: &Root) {
        if self.epoch != root.epoch() {
            // In another history revisions count from the start.
            *self = Self {
                epoch: root.epoch(),
                buffers: Arc::default(),
                version: self.version + 1,
            };
        }
        for visible in visible {
            match visible {
                // A snapshot tells documents and not the changes that led to them.
                VisibleChange::Installed => {
                    self.version += 1;
                    self.edit().values_mut().for_each(ChangeBuffer::clear);
                }
                VisibleChange::Change(change) if Some(change.epoch) == self.epoch => {
                    let watermark = root
                        .collection(&change.collection)
                        .map_or(0, CollectionState::watermark);
                    // A change without its value cannot be served: the buffer starts behind it.
                    if !change.lacks_value() {
                        let added = self
                            .edit()
                            .entry(change.collection.clone())
                            .or_default()
                            .add(change, watermark);
                        self.version += u64::from(added);
                    }
                }
                VisibleChange::Change(_of_another_history) => {}
            }
        }
        for (name, collection) in root.collections().filter(|(_name, held)| held.versioned()) {
            // A watermark may also move by changes that the buffer cannot hold, and by a load.
            let moved = self
                .buffers
                .get(name)
                .is_none_or(|buffer| buffer.newest != collection.watermark());
            if moved {
                self.version += 1;
                self.edit()
                    .entry(name.clone())
                    .or_default()
                    .advance(collection.watermark());
            }
        }
    }

    /// The buffers for writing. It copies the map when a view still shares it, never the changes.
    fn edit(&mut self) -> &mut BTreeMap<CollectionName, ChangeBuffer> {
        Arc::make_mut(&mut self.buffers)
    }
}

impl ChangeBuffer {
    /// The oldest revision in the buffer; one more than the watermark when it is empty.
    pub fn oldest(&self) -> Revision {
        self.before_oldest + 1
    }

    /// The changes after a revision, in order. There is no hole in them when the revision is at
    /// least [`ChangeBuffer::oldest`] - 1.
    pub fn after(&self, since: Revision) -> impl Iterator<Item = EventData> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.visible
            .changes
            .range((Excluded(since), Unbounded))
            .filter_map(|(_revision, change)| change.event())
    }

    /// Empties the visible part: the buffer starts again after the watermark.
    fn clear(&mut self) {
        self.visible = BoundedChanges::default();
        self.before_oldest = self.newest;
    }

    /// Takes a change. Returns whether it is in the visible part at once.
    fn add(&mut self, change: Arc<ReceivedChange>, watermark: Revision) -> bool {
        // Fast path: most changes come in order, and nothing waits.
        let in_order = change.revision == self.newest + 1
            && change.revision <= watermark
            && self.out_of_order.changes.is_empty();
        if in_order {
            self.newest = change.revision;
            self.visible.insert(change);
            self.before_oldest = self.visible.trim().unwrap_or(self.before_oldest);
        } else if change.revision > self.newest {
            self.out_of_order.insert(change);
            // The lowest are removed: when the watermark has passed them all, the highest are the
            // newest.
            self.out_of_order.trim();
        }
        in_order
    }

    /// Follows the watermark: what waited up to it becomes visible.
    fn advance(&mut self, watermark: Revision) {
        // The watermark went back: the changes beyond it are no part of the documents any more.
        if watermark < self.newest {
            self.visible = BoundedChanges::default();
            self.before_oldest = watermark;
        }
        // The first revision of the unbroken run that ends at the watermark.
        let mut first = watermark + 1;
        while first > self.newest + 1 && self.out_of_order.changes.contains_key(&(first - 1)) {
            first -= 1;
        }
        if first > self.newest + 1 {
            // A revision before the run cannot be told: the buffer starts behind it.
            self.visible = BoundedChanges::default();
            self.before_oldest = first - 1;
        }
        while let Some(change) = self.out_of_order.pop_up_to(watermark) {
            // A change before the run follows a hole: a reader could not continue from it.
            if change.revision >= first {
                self.visible.insert(change);
            }
        }
        self.newest = watermark;
        self.before_oldest = self.visible.trim().unwrap_or(self.before_oldest);
    }
}

impl BoundedChanges {
    /// Takes a change; one of the same revision is replaced.
    fn insert(&mut self, change: Arc<ReceivedChange>) {
        self.bytes += change.size();
        if let Some(old) = self.changes.insert(change.revision, change) {
            self.bytes -= old.size();
        }
    }

    /// Removes the lowest change, if its revision is at most `highest`.
    fn pop_up_to(&mut self, highest: Revision) -> Option<Arc<ReceivedChange>> {
        let (lowest, change) = self
            .changes
            .get_min()
            .filter(|(revision, _change)| *revision <= highest)
            .cloned()?;
        self.changes.remove(&lowest);
        self.bytes -= change.size();
        Some(change)
    }

    /// Removes the lowest changes until the rest is within the limits. Returns the last revision
    /// that was removed.
    fn trim(&mut self) -> Option<Revision> {
        let mut removed = None;
        while self.changes.len() > MAX_CHANGES || self.bytes > MAX_BYTES && self.changes.len() > 1 {
            removed = Some(self.pop_up_to(Revision::MAX)?.revision);
        }
        removed
    }
}

#[cfg(test)]
mod tests;
