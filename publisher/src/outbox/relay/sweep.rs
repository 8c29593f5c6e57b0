//! The position of the sweep in the log: which pending changes it reads next.
//!
//! It visits one collection after the other, and continues in each where it stopped, so that
//! changes that cannot be published do not keep it from those after them. Nothing is read here.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound::{Excluded, Unbounded},
};

use anyhow::Context;
use contract::{CollectionName, Revision};

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

    /// Visits these collections too.
    pub(super) fn add(&mut self, collections: &BTreeSet<CollectionName>) {
        for name in collections {
            if !self.after.contains_key(name) {
                self.after.insert(name.clone(), 0);
            }
        }
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

    /// Ends a read. `next` is the revision after which there may be more in this collection: they are
    /// read when there are free slots for them. Returns whether another collection is to be read in
    /// this round.
    pub(super) fn advance(&mut self, collection: CollectionName, next: Option<Revision>) -> bool {
        self.reading = false;
        if let Some(reached) = next {
            self.after.insert(collection, reached);
            return false;
        }
        // The end of the collection. The next round begins at its start, where changes that failed
        // may still be pending.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> CollectionName {
        text.parse().expect("a name")
    }

    #[test]
    fn a_sweep_continues_where_it_stopped_and_visits_every_collection_once_per_round() {
        let mut sweep = Sweep::new(&BTreeSet::from([name("A"), name("B")])).expect("collections");
        assert_eq!(sweep.begin(), (name("A"), 0));
        assert!(sweep.is_reading());
        // A full read: the rest of the collection is read later.
        assert!(!sweep.advance(name("A"), Some(7)));
        assert!(!sweep.is_reading());
        assert_eq!(sweep.begin(), (name("A"), 7));
        // The end of the collection: the next one follows in the same round.
        assert!(sweep.advance(name("A"), None));
        assert_eq!(sweep.begin(), (name("B"), 0));
        // The end of the last one ends the round.
        assert!(!sweep.advance(name("B"), None));
        assert_eq!(sweep.begin(), (name("A"), 0));
    }

    #[test]
    fn a_collection_that_is_added_is_visited_in_the_next_round() {
        let mut sweep = Sweep::new(&BTreeSet::from([name("B")])).expect("collections");
        sweep.begin();
        sweep.add(&BTreeSet::from([name("A"), name("B")]));
        assert!(!sweep.advance(name("B"), None), "the last of the round");
        assert_eq!(sweep.begin(), (name("A"), 0));
        assert!(sweep.advance(name("A"), None));
        assert_eq!(sweep.begin(), (name("B"), 0));
    }

    #[test]
    fn a_read_that_failed_is_repeated_at_the_same_position() {
        let mut sweep = Sweep::new(&BTreeSet::from([name("A")])).expect("collections");
        sweep.begin();
        assert!(!sweep.advance(name("A"), Some(5)));
        assert_eq!(sweep.begin(), (name("A"), 5));
        sweep.fail();
        assert!(!sweep.is_reading());
        assert_eq!(sweep.begin(), (name("A"), 5));
    }
}
