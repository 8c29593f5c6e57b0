//! What readers see: every followed collection at one moment.

use std::collections::BTreeMap;

use contract::{CollectionName, Document, DocumentId, Epoch, Revision};
use imbl::OrdMap;

use crate::collection::Collection;

/// An immutable view over all followed collections. Cloning is cheap and pins the moment: whatever is applied later,
/// a clone never changes.
#[derive(Debug, Clone, Default)]
pub struct Root {
    pub(crate) epoch: Option<Epoch>,
    pub(crate) collections: OrdMap<CollectionName, Collection>,
}

impl Root {
    /// The history it is in; `None` until the first load.
    pub fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    /// Whether every followed collection was loaded at least once. Before that there is nothing to serve.
    pub fn loaded(&self) -> bool {
        self.collections.values().all(|collection| collection.loaded)
    }

    /// A followed collection.
    pub fn collection(&self, name: &CollectionName) -> Option<&Collection> {
        self.collections.get(name)
    }

    /// All followed collections, by name.
    pub fn collections(&self) -> impl Iterator<Item = (&CollectionName, &Collection)> {
        self.collections.iter()
    }

    /// Where a delta has to start: the watermark of every collection that lacks something known to exist.
    pub fn gaps(&self) -> BTreeMap<CollectionName, Revision> {
        let lacks = |(_name, held): &(&CollectionName, &Collection)| {
            held.loaded && held.versioned && held.known > held.watermark
        };
        self.collections.iter().filter(lacks).map(|(name, held)| (name.clone(), held.watermark)).collect()
    }

    /// A live document.
    pub fn get(&self, collection: &CollectionName, id: &DocumentId) -> Option<&Document> {
        self.collections.get(collection)?.get(id)
    }
}
