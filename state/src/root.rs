//! The state that readers see: every followed collection at one moment. It never changes after it
//! was published.

use std::collections::BTreeMap;

use contract::{ChangeSet, CollectionName, Document, DocumentId, Epoch, Replaced, Revision};
use imbl::OrdMap;

use crate::{collection::CollectionState, sets::RecentSets};

/// An immutable view over all followed collections. A reader that needs several documents of one
/// moment takes one clone and reads all of them from it. Cloning is cheap, and a clone is never changed
/// by a later step.
#[derive(Debug, Clone, Default)]
pub struct Root {
    /// The epoch of all revisions; `None` before the first load, and without revisions.
    pub(crate) epoch: Option<Epoch>,
    /// The lineages that the store had before, as its heads last named them. Not on the disk.
    pub(crate) replaces: Replaced,
    /// One entry per followed collection, from the beginning.
    pub(crate) collections: OrdMap<CollectionName, CollectionState>,
    /// Number of replacements of the whole state.
    pub(crate) generation: u64,
    /// The last change sets, to find the other documents of a set.
    pub(crate) sets: RecentSets,
}

/// The difference of one document between two moments. Several changes in between give one
/// difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Difference<'a> {
    /// Its collection.
    pub collection: &'a CollectionName,
    /// The document.
    pub id: &'a DocumentId,
    /// The old document; `None` when it did not exist.
    pub before: Option<&'a Document>,
    /// The new document; `None` when it no longer exists.
    pub now: Option<&'a Document>,
}

impl<'a> Difference<'a> {
    /// The difference of one document; `None` where there is no document at all.
    fn of(
        collection: &'a CollectionName,
        before: Option<&'a Document>,
        now: Option<&'a Document>,
    ) -> Option<Self> {
        Some(Self {
            collection,
            id: now.or(before)?.id(),
            before,
            now,
        })
    }
}

impl Root {
    /// The epoch; `None` until the first load.
    pub fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    /// The lineages that the store of the epoch had before: a replica that follows this one has to
    /// know them as well.
    pub fn replaces(&self) -> &Replaced {
        &self.replaces
    }

    /// Whether every collection that is followed from the beginning was loaded at least once, and
    /// there is one. Before that there is nothing to serve. A collection that joined later holds up
    /// no reader of the others.
    pub fn loaded(&self) -> bool {
        !self.collections.is_empty()
            && self
                .collections
                .values()
                .all(|collection| collection.loaded || collection.joining)
    }

    /// A followed collection.
    pub fn collection(&self, name: &CollectionName) -> Option<&CollectionState> {
        self.collections.get(name)
    }

    /// All followed collections, by name.
    pub fn collections(&self) -> impl Iterator<Item = (&CollectionName, &CollectionState)> {
        self.collections.iter()
    }

    /// Where catch-up must start: the watermark of every collection that misses a revision which is
    /// known to exist. A collection that was never loaded is not in it: it needs a load.
    ///
    /// The result is empty when the replica has every change that it knows of.
    pub fn gaps(&self) -> BTreeMap<CollectionName, Revision> {
        let lacks = |(_name, held): &(&CollectionName, &CollectionState)| {
            held.loaded && held.versioned && held.known > held.watermark
        };
        self.collections
            .iter()
            .filter(lacks)
            .map(|(name, held)| (name.clone(), held.watermark))
            .collect()
    }

    /// A live document.
    pub fn get(&self, collection: &CollectionName, id: &DocumentId) -> Option<&Document> {
        self.collections.get(collection)?.get(id)
    }

    /// Counts the replacements of the whole state: a first load, a newer epoch, a reset after a
    /// divergence. Differences across such a replacement are not changes that a client made.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The differences from `old` to this state, by collection and id. Parts that both share are
    /// skipped.
    ///
    /// The cost is proportional to the differences and not to the number of documents, when one
    /// state was derived from the other.
    pub fn changes_since<'a>(&'a self, old: &'a Self) -> Vec<Difference<'a>> {
        let mut differences = Vec::new();
        for (collection, held) in &self.collections {
            match old.collections.get(collection) {
                Some(old) => {
                    let changed = old.documents.differences(&held.documents);
                    differences.extend(
                        (changed.into_iter())
                            .filter_map(|(before, now)| Difference::of(collection, before, now)),
                    );
                }
                // The collection is new to this replica: all its documents are new.
                None => differences.extend(
                    (held.documents.iter())
                        .filter_map(|now| Difference::of(collection, None, Some(now))),
                ),
            }
        }
        // Collections that are no longer followed.
        for (collection, old) in old
            .collections
            .iter()
            .filter(|(name, _old)| !self.collections.contains_key(*name))
        {
            differences.extend(
                (old.documents.iter())
                    .filter_map(|before| Difference::of(collection, Some(before), None)),
            );
        }
        differences
    }

    /// The change set that gave a document its value, or deleted it, if it is one of the last 256
    /// change sets.
    pub fn set_of(&self, collection: &CollectionName, id: &DocumentId) -> Option<&ChangeSet> {
        self.sets.set_of(
            collection,
            id,
            self.get(collection, id).map(Document::revision),
        )
    }
}
