//! Decide and apply: the only place where a replica changes its mind.

use std::collections::BTreeSet;

use contract::{CanonicalJson, CollectionName, Document, DocumentId, Epoch, EventData, Head, Operation, Revision};

use crate::{
    collection::Collection,
    root::Root,
    snapshot::{self, Installed, NotInstalled, Snapshot},
};

/// Changes that arrive before the first load are kept up to this many; beyond that the load brings them anyway, or the
/// hole that they leave is seen and healed.
const MAX_EARLY: usize = 4_096;

/// Which load an answer belongs to. A newer load makes all answers to older ones void.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation(u64);

/// A change as it reaches the machine: complete, checked, and with a revision.
#[derive(Debug, Clone)]
pub struct Hint {
    /// Its collection.
    pub collection: CollectionName,
    /// The document.
    pub id: DocumentId,
    /// The history that `revision` counts in.
    pub epoch: Epoch,
    /// Its place in the collection.
    pub revision: Revision,
    /// What it does.
    pub op: Operation,
    /// The value, when it came along and its checksum holds.
    pub config: Option<CanonicalJson>,
}

impl Hint {
    /// What an event says, if it has a revision. A value whose checksum does not hold counts as absent.
    pub fn from_event(data: &EventData) -> Option<Self> {
        let intact = |config: &&CanonicalJson| data.crc.is_none_or(|crc| crc == config.crc());
        Some(Self {
            collection: data.collection.clone(),
            id: data.id.clone(),
            epoch: data.epoch?,
            revision: data.revision?,
            op: data.op,
            config: data.config_data.as_ref().filter(intact).cloned(),
        })
    }
}

/// What becomes of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The document changed.
    Applied,
    /// Its revision had been seen.
    Duplicate,
    /// The document is newer; the revision now counts as seen.
    Superseded,
    /// It counts in another history. Nothing changed.
    OtherEpoch,
    /// It came before the first load and is kept for it.
    Early,
    /// Its collection is not followed.
    NotFollowed,
    /// It would apply, but its value did not come along. Nothing changed.
    NeedsValue,
}

/// The writer's side of a replica. There is one; readers hold clones of its [`Root`].
#[derive(Debug)]
pub struct Machine {
    root: Root,
    early: Vec<Hint>,
    generation: u64,
    loading: bool,
}

impl Machine {
    /// A machine that follows these collections and holds nothing.
    pub fn new(collections: &BTreeSet<CollectionName>) -> Self {
        let collections = collections.iter().map(|name| (name.clone(), Collection::default())).collect();
        Self { root: Root { epoch: None, collections }, early: Vec::new(), generation: 0, loading: false }
    }

    /// What it holds now.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// What would become of a change. Pure: the answer and nothing else.
    pub fn decide(&self, hint: &Hint) -> Decision {
        let Some(collection) = self.root.collection(&hint.collection) else { return Decision::NotFollowed };
        match self.root.epoch {
            None => return Decision::Early,
            Some(epoch) if epoch != hint.epoch => return Decision::OtherEpoch,
            Some(_ours) => {}
        }
        if collection.covered(hint.revision) {
            Decision::Duplicate
        } else if collection.held(&hint.id) > hint.revision {
            Decision::Superseded
        } else if hint.op != Operation::Delete && hint.config.is_none() {
            Decision::NeedsValue
        } else {
            Decision::Applied
        }
    }

    /// Does what [`Machine::decide`] says. Changes of other documents that are still missing do not hold this one up.
    pub fn apply(&mut self, hint: &Hint) -> Decision {
        let decision = self.decide(hint);
        match decision {
            Decision::Early => self.keep_early(hint),
            Decision::Applied | Decision::Superseded => self.change(hint, decision),
            Decision::NeedsValue => self.heard_of(&hint.collection, hint.revision),
            Decision::Duplicate | Decision::OtherEpoch | Decision::NotFollowed => {}
        }
        decision
    }

    fn keep_early(&mut self, hint: &Hint) {
        if self.early.len() < MAX_EARLY {
            self.early.push(hint.clone());
        }
    }

    fn change(&mut self, hint: &Hint, decision: Decision) {
        let loading = self.loading;
        let Some(collection) = self.root.collections.get_mut(&hint.collection) else { return };
        if decision == Decision::Applied {
            match &hint.config {
                Some(config) if hint.op != Operation::Delete => {
                    collection.put(Document::new(hint.id.clone(), hint.revision, config));
                }
                _ => {
                    collection.remove(&hint.id);
                    collection.tombstones.insert(hint.id.clone(), hint.revision);
                }
            }
        }
        collection.see(hint.revision);
        // A load under way may still bring a page from before the deletion.
        if !loading {
            collection.bury();
        }
    }

    /// Notes that a revision exists, without having seen it.
    pub fn heard_of(&mut self, collection: &CollectionName, revision: Revision) {
        if let Some(collection) = self.root.collections.get_mut(collection) {
            collection.known = collection.known.max(revision);
        }
    }

    /// Takes note of a publisher's heads; whether this replica lacks something that they name.
    ///
    /// Heads of another history confirm nothing and are answered `true`: only a load can tell what to make of them.
    pub fn compare(&mut self, heads: &[Head]) -> bool {
        let mut lacks = false;
        for head in heads {
            let Some(collection) = self.root.collections.get_mut(&head.collection) else { continue };
            if self.root.epoch == Some(head.epoch) {
                collection.known = collection.known.max(head.revision);
                lacks |= collection.watermark < head.revision;
            } else {
                lacks = true;
            }
        }
        lacks
    }

    /// Begins a load of all followed collections and voids any load before it.
    pub fn begin_load(&mut self) -> Generation {
        self.generation += 1;
        self.loading = true;
        Generation(self.generation)
    }

    /// Ends a load that came to nothing.
    pub fn abandon_load(&mut self, generation: Generation) {
        if generation == Generation(self.generation) {
            self.loading = false;
        }
    }

    /// Installs a proven snapshot, all collections in one step, and then what had come early.
    ///
    /// # Errors
    /// When the load was voided by a newer one, or when good data would be replaced by another store's or an older
    /// history's (NeverEmpty). Nothing changed then.
    pub fn install(&mut self, generation: Generation, snapshot: Snapshot) -> Result<Installed, NotInstalled> {
        if generation != Generation(self.generation) || !self.loading {
            return Err(NotInstalled::Voided);
        }
        self.loading = false;
        let installed = snapshot::install(&mut self.root, snapshot)?;
        for hint in std::mem::take(&mut self.early) {
            // Without its value an early change stays a hole that the next heads show.
            self.apply(&hint);
        }
        Ok(installed)
    }

    /// Replaces an unversioned collection by a full list (seeds.md A20: `load()`). A versioned one is left alone.
    pub fn replace_unversioned(&mut self, name: &CollectionName, documents: Vec<(DocumentId, CanonicalJson)>) {
        if let Some(collection) = self.root.collections.get_mut(name).filter(|collection| !collection.versioned) {
            *collection = Collection { loaded: true, ..Collection::default() };
            for (id, config) in documents {
                collection.put(Document::new(id, 0, &config));
            }
        }
    }

    /// Sets a document of an unversioned collection (seeds.md A20: `addLocal`); whether it could.
    pub fn add_unversioned(&mut self, name: &CollectionName, id: DocumentId, config: &CanonicalJson) -> bool {
        let Some(collection) = self.root.collections.get_mut(name).filter(|collection| !collection.versioned) else {
            return false;
        };
        collection.put(Document::new(id, 0, config));
        true
    }

    /// Takes a document of an unversioned collection away (seeds.md A20: `removeLocal`); whether it was there.
    pub fn remove_unversioned(&mut self, name: &CollectionName, id: &DocumentId) -> bool {
        let collection = self.root.collections.get_mut(name).filter(|collection| !collection.versioned);
        collection.is_some_and(|collection| collection.remove(id))
    }
}
