//! The last change sets, so that a reader that refuses one document of a set can find the others.
//!
//! Nothing about the state is decided here: readers see every change set complete without it. It is
//! bounded, and not saved to disk.

use std::sync::Arc;

use contract::{ChangeSet, CollectionName, DocumentId, Revision};
use imbl::{OrdMap, Vector};

use crate::received::ReceivedChange;

/// Number of change sets that are remembered.
const MAX_SETS: usize = 256;

/// The last change sets that became visible. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub(crate) struct RecentSets {
    /// Oldest first.
    sets: Vector<Arc<ChangeSet>>,
    /// Index by collection and first revision; the value is the last revision.
    parts: OrdMap<(CollectionName, Revision), (Revision, Arc<ChangeSet>)>,
    /// The deletions of these sets: a deleted document has no revision of its own.
    deleted: OrdMap<(CollectionName, DocumentId), Revision>,
}

impl RecentSets {
    /// Remembers the change set of a change that became visible.
    pub(crate) fn note(&mut self, change: &ReceivedChange) {
        // The changes of one set become visible one after another, so comparing with the last set is
        // enough.
        if let Some(set) = &change.change_set
            && self.sets.back().is_none_or(|last| last.id != set.id)
        {
            self.remember(set);
        }
        let gone = change.change_set.is_some() && change.config.is_none();
        // A new value removes the deletion that was remembered for the document.
        if gone || !self.deleted.is_empty() {
            let key = (change.collection.clone(), change.id.clone());
            _ = if gone {
                self.deleted.insert(key, change.revision)
            } else {
                self.deleted.remove(&key)
            };
        }
    }

    /// Adds a set to the index; the oldest set and its deletions leave it.
    fn remember(&mut self, set: &Arc<ChangeSet>) {
        if self.sets.len() == MAX_SETS
            && let Some(oldest) = self.sets.pop_front()
        {
            for part in &oldest.parts {
                self.parts.remove(&(part.collection.clone(), part.first));
                let of_it =
                    |((name, _id), revision): &(&(CollectionName, DocumentId), &Revision)| {
                        *name == part.collection && (part.first..=part.last).contains(*revision)
                    };
                let gone: Vec<_> = self
                    .deleted
                    .iter()
                    .filter(of_it)
                    .map(|(key, _revision)| key.clone())
                    .collect();
                gone.iter().for_each(|key| _ = self.deleted.remove(key));
            }
        }
        self.sets.push_back(Arc::clone(set));
        for part in &set.parts {
            self.parts.insert(
                (part.collection.clone(), part.first),
                (part.last, Arc::clone(set)),
            );
        }
    }

    /// The change set that gave a document its value; `revision` is the revision of the document,
    /// if it exists.
    pub(crate) fn set_of(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
        revision: Option<Revision>,
    ) -> Option<&ChangeSet> {
        // A document that does not exist may have been deleted by one of the sets.
        let revision = match revision {
            Some(revision) => revision,
            None => *self.deleted.get(&(collection.clone(), id.clone()))?,
        };
        let ((name, _first), (last, set)) = self.parts.get_prev(&(collection.clone(), revision))?;
        (name == collection && revision <= *last).then_some(set)
    }
}
