//! What readers see: every followed collection at one moment.

use std::collections::BTreeMap;

use contract::{ChangeSet, CollectionName, Document, DocumentId, Epoch, Revision};
use imbl::{OrdMap, ordmap::DiffItem};

use crate::{collection::CollectionState, sets::RecentSets};

/// An immutable view over all followed collections. Cloning is cheap and pins the moment: whatever
/// is applied later, a clone never changes.
#[derive(Debug, Clone, Default)]
pub struct Root {
    pub(crate) epoch: Option<Epoch>,
    pub(crate) collections: OrdMap<CollectionName, CollectionState>,
    pub(crate) generation: u64,
    pub(crate) sets: RecentSets,
}

/// What became of one document between two moments. However often it changed in between, there is
/// one difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Difference<'a> {
    /// Its collection.
    pub collection: &'a CollectionName,
    /// The document.
    pub id: &'a DocumentId,
    /// What it was; `None` when it was not there.
    pub before: Option<&'a Document>,
    /// What it is; `None` when it is not there any more.
    pub now: Option<&'a Document>,
}

impl Root {
    /// The history it is in; `None` until the first load.
    pub fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    /// Whether every followed collection was loaded at least once. Before that there is nothing to
    /// serve.
    pub fn loaded(&self) -> bool {
        self.collections
            .values()
            .all(|collection| collection.loaded)
    }

    /// A followed collection.
    pub fn collection(&self, name: &CollectionName) -> Option<&CollectionState> {
        self.collections.get(name)
    }

    /// All followed collections, by name.
    pub fn collections(&self) -> impl Iterator<Item = (&CollectionName, &CollectionState)> {
        self.collections.iter()
    }

    /// Where a delta has to start: the watermark of every collection that lacks something known to
    /// exist.
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

    /// Counts how often what is held was replaced by what counts anew: a first load, a newer
    /// history, a reset of what had diverged. Differences across that are no changes that
    /// anybody made.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What has to be done to `old` to make it this: by collection, then by id. What both share is
    /// not looked at.
    pub fn changes_since<'a>(&'a self, old: &'a Self) -> Vec<Difference<'a>> {
        let mut differences = Vec::new();
        for (collection, held) in &self.collections {
            let push = |(id, before, now)| {
                differences.push(Difference {
                    collection,
                    id,
                    before,
                    now,
                })
            };
            match old.collections.get(collection) {
                Some(old) => old
                    .documents
                    .diff(&held.documents)
                    .map(split)
                    .for_each(push),
                None => held
                    .documents
                    .iter()
                    .map(|(id, now)| (id, None, Some(now)))
                    .for_each(push),
            }
        }
        for (collection, old) in old
            .collections
            .iter()
            .filter(|(name, _old)| !self.collections.contains_key(*name))
        {
            let gone = |(id, before)| Difference {
                collection,
                id,
                before: Some(before),
                now: None,
            };
            differences.extend(old.documents.iter().map(gone));
        }
        differences
    }

    /// The change set that made a document what it is, or took it away, when that is one of the
    /// last 256 that came.
    pub fn set_of(&self, collection: &CollectionName, id: &DocumentId) -> Option<&ChangeSet> {
        self.sets.set_of(
            collection,
            id,
            self.get(collection, id).map(Document::revision),
        )
    }
}

fn split<'a>(
    item: DiffItem<'a, 'a, DocumentId, Document>,
) -> (&'a DocumentId, Option<&'a Document>, Option<&'a Document>) {
    match item {
        DiffItem::Add(id, now) => (id, None, Some(now)),
        DiffItem::Update {
            old: (id, before),
            new: (_id, now),
        } => (id, Some(before), Some(now)),
        DiffItem::Remove(id, before) => (id, Some(before), None),
    }
}
