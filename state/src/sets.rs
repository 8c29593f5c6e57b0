//! Which change sets came last, so that who refuses one document knows what belongs to it.
//!
//! It decides nothing about what is held: raw readers see every set whole without it. It is
//! bounded, and not on disk.

use std::sync::Arc;

use contract::{ChangeSet, CollectionName, DocumentId, Revision};
use imbl::{OrdMap, Vector};

use crate::received::ReceivedChange;

/// Sets that are remembered.
const MAX_SETS: usize = 256;

/// The last sets whose members became visible. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub(crate) struct RecentSets {
    /// Oldest first.
    sets: Vector<Arc<ChangeSet>>,
    /// The same by collection and first revision, with the last revision.
    parts: OrdMap<(CollectionName, Revision), (Revision, Arc<ChangeSet>)>,
    /// What the members of these sets took away: an absent document has no revision of its own.
    deleted: OrdMap<(CollectionName, DocumentId), Revision>,
}

impl RecentSets {
    /// Notes that a change became visible, in this order.
    pub(crate) fn note(&mut self, hint: &ReceivedChange) {
        if let Some(set) = &hint.change_set
            && self.sets.back().is_none_or(|last| last.id != set.id)
        {
            self.remember(set);
        }
        let gone = hint.change_set.is_some() && hint.config.is_none();
        if gone || !self.deleted.is_empty() {
            let key = (hint.collection.clone(), hint.id.clone());
            _ = if gone {
                self.deleted.insert(key, hint.revision)
            } else {
                self.deleted.remove(&key)
            };
        }
    }

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

    /// The set that made a document what it is: `revision` when it is there.
    pub(crate) fn set_of(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
        revision: Option<Revision>,
    ) -> Option<&ChangeSet> {
        let revision = match revision {
            Some(revision) => revision,
            None => *self.deleted.get(&(collection.clone(), id.clone()))?,
        };
        let ((name, _first), (last, set)) = self.parts.get_prev(&(collection.clone(), revision))?;
        (name == collection && revision <= *last).then_some(set)
    }
}
