//! Where the sweep of the log is: which pending changes it reads next.
//!
//! It visits one collection after the other, and continues in each where it stopped, so that
//! changes that cannot be published do not keep it from those after them. Nothing is read here.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound::{Excluded, Unbounded},
};

use anyhow::Context;
use contract::{Change, CollectionName, Revision};

/// The position of the sweep.
pub(super) struct Sweep {
    /// The last revision that was read, by collection; 0 = it begins at the start.
    after: BTreeMap<CollectionName, Revision>,
    next: CollectionName,
    reading: bool,
}

impl Sweep {
    /// A sweep that begins with the first collection.
    ///
    /// # Errors
    /// When there is no collection.
    pub(super) fn new(collections: &BTreeSet<CollectionName>) -> anyhow::Result<Self> {
        Ok(Self {
            after: collections.iter().map(|name| (name.clone(), 0)).collect(),
            next: collections.first().context("no collections")?.clone(),
            reading: false,
        })
    }

    /// Whether a read has begun and not ended.
    pub(super) fn is_reading(&self) -> bool {
        self.reading
    }

    /// Begins a read: the collection, and the revision after which it reads.
    pub(super) fn begin(&mut self) -> (CollectionName, Revision) {
        self.reading = true;
        let collection = self.next.clone();
        let after = self.after.get(&collection).copied().unwrap_or(0);
        (collection, after)
    }

    /// Ends a read that failed: the next one begins at the same position.
    pub(super) fn fail(&mut self) {
        self.reading = false;
    }

    /// Ends a read of at most `limit` changes. Returns whether another collection is to be read in
    /// this round.
    pub(super) fn advance(
        &mut self,
        collection: CollectionName,
        changes: &[Change],
        limit: usize,
    ) -> bool {
        self.reading = false;
        // As many as were asked for: there may be more in this collection. They are read when there
        // is room for them.
        if changes.len() == limit {
            let reached = changes.last().map_or(0, |change| change.revision);
            self.after.insert(collection, reached);
            return false;
        }
        self.after.insert(collection.clone(), 0);
        let following = self
            .after
            .range((Excluded(collection), Unbounded))
            .map(|(name, _after)| name.clone())
            .next();
        match following {
            Some(name) => {
                self.next = name;
                true
            }
            // The round ends. The timer begins the next one, with the first collection.
            None => {
                if let Some(first) = self.after.keys().next() {
                    self.next.clone_from(first);
                }
                false
            }
        }
    }
}
