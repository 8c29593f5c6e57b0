//! The newest changes of each collection, in order: what a feed can be served from without a log.
//!
//! A ring holds what landed, up to the watermark and without a hole, so what readers cannot see is
//! not in it. A change that came beyond a hole waits until the watermark has passed it. What it
//! cannot tell (a load brought it, or its value never came because something newer was here)
//! empties it: it begins anew behind that. It is a part of the view, of the same moment as the
//! documents. No clock, no I/O.

use std::{collections::BTreeMap, sync::Arc};

use contract::{CollectionName, Epoch, EventData, Revision};
use imbl::OrdMap;
use state::{CollectionState, ReceivedChange, Root, VisibleChange};

/// Changes that are kept of each collection.
const MOST: usize = 1_024;
/// Bytes of their values; at least one change is kept.
const MOST_BYTES: usize = 16 << 20;

type Changes = OrdMap<Revision, Arc<ReceivedChange>>;

/// The rings of all collections. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rings {
    epoch: Option<Epoch>,
    rings: Arc<BTreeMap<CollectionName, Ring>>,
    /// Grows with every change of any of them.
    pub(crate) version: u64,
}

/// The newest changes of one collection.
#[derive(Debug, Clone, Default)]
pub struct Ring {
    /// Every change after this revision is here.
    base: Revision,
    /// The watermark: the revision of the newest change.
    top: Revision,
    kept: Kept,
    /// Beyond the watermark.
    beyond: Kept,
}

#[derive(Debug, Clone, Default)]
struct Kept {
    changes: Changes,
    bytes: usize,
}

impl Rings {
    pub(crate) fn ring(&self, name: &CollectionName) -> Option<&Ring> {
        self.rings.get(name)
    }

    /// Takes over what landed until `root`.
    pub(crate) fn follow(&mut self, landed: Vec<VisibleChange>, root: &Root) {
        if self.epoch != root.epoch() {
            *self = Self {
                epoch: root.epoch(),
                rings: Arc::default(),
                version: self.version + 1,
            };
        }
        for landed in landed {
            match landed {
                VisibleChange::Installed => {
                    self.version += 1;
                    self.edit().values_mut().for_each(Ring::empty);
                }
                VisibleChange::Change(hint) if Some(hint.epoch) == self.epoch => {
                    let watermark = root
                        .collection(&hint.collection)
                        .map_or(0, CollectionState::watermark);
                    if !hint.lacks_value() {
                        let moved = self
                            .edit()
                            .entry(hint.collection.clone())
                            .or_default()
                            .add(hint, watermark);
                        self.version += u64::from(moved);
                    }
                }
                VisibleChange::Change(_of_another_history) => {}
            }
        }
        for (name, held) in root.collections().filter(|(_name, held)| held.versioned()) {
            let moved = self
                .rings
                .get(name)
                .is_none_or(|ring| ring.top != held.watermark());
            if moved {
                self.version += 1;
                self.edit()
                    .entry(name.clone())
                    .or_default()
                    .advance(held.watermark());
            }
        }
    }

    fn edit(&mut self) -> &mut BTreeMap<CollectionName, Ring> {
        Arc::make_mut(&mut self.rings)
    }
}

impl Ring {
    /// The oldest revision that is here; one more than the watermark when there is none.
    pub fn oldest(&self) -> Revision {
        self.base + 1
    }

    /// The changes after a revision, in order, without a hole when it is not before the oldest.
    pub fn after(&self, since: Revision) -> impl Iterator<Item = EventData> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.kept
            .changes
            .range((Excluded(since), Unbounded))
            .filter_map(|(_revision, hint)| hint.event())
    }

    fn empty(&mut self) {
        (self.kept, self.base) = (Kept::default(), self.top);
    }

    /// Takes a change; whether it is shown at once.
    fn add(&mut self, hint: Arc<ReceivedChange>, watermark: Revision) -> bool {
        // What comes in order, as most does, need not wait for anything.
        let next = hint.revision == self.top + 1
            && hint.revision <= watermark
            && self.beyond.changes.is_empty();
        if next {
            self.top = hint.revision;
            self.kept.insert(hint);
            self.base = self.kept.bound().unwrap_or(self.base);
        } else if hint.revision > self.top {
            self.beyond.insert(hint);
            // The lowest go: when the watermark has passed them all, the highest are the newest.
            self.beyond.bound();
        }
        next
    }

    fn advance(&mut self, watermark: Revision) {
        if watermark < self.top {
            (self.kept, self.base) = (Kept::default(), watermark);
        }
        let mut first = watermark + 1;
        while first > self.top + 1 && self.beyond.changes.contains_key(&(first - 1)) {
            first -= 1;
        }
        if first > self.top + 1 {
            (self.kept, self.base) = (Kept::default(), first - 1);
        }
        while let Some(hint) = self.beyond.pop_up_to(watermark) {
            if hint.revision >= first {
                self.kept.insert(hint);
            }
        }
        self.top = watermark;
        self.base = self.kept.bound().unwrap_or(self.base);
    }
}

impl Kept {
    fn insert(&mut self, hint: Arc<ReceivedChange>) {
        self.bytes += hint.size();
        if let Some(old) = self.changes.insert(hint.revision, hint) {
            self.bytes -= old.size();
        }
    }

    fn pop_up_to(&mut self, highest: Revision) -> Option<Arc<ReceivedChange>> {
        let (lowest, hint) = self
            .changes
            .get_min()
            .filter(|(revision, _hint)| *revision <= highest)
            .cloned()?;
        self.changes.remove(&lowest);
        self.bytes -= hint.size();
        Some(hint)
    }

    /// Lets the lowest go until the rest fits; the last that went.
    fn bound(&mut self) -> Option<Revision> {
        let mut gone = None;
        while self.changes.len() > MOST || self.bytes > MOST_BYTES && self.changes.len() > 1 {
            gone = Some(self.pop_up_to(Revision::MAX)?.revision);
        }
        gone
    }
}

#[cfg(test)]
mod tests;
