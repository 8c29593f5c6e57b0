//! Decide and apply: the only place where a replica changes its mind.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use contract::{CanonicalJson, CollectionName, Document, DocumentId, Head, Revision};

use crate::{
    collection::CollectionState,
    image::Image,
    received::{Decision, ReceivedChange},
    root::Root,
    sets::RecentSets,
    snapshot::{self, InstallError, InstallKind, Installed, Snapshot},
};

/// Changes that arrive before the first load are kept up to this many; beyond that the load brings
/// them anyway, or the hole that they leave is seen and healed.
const MAX_EARLY: usize = 4_096;
/// Bytes of their values.
const MAX_EARLY_BYTES: usize = 16 << 20;

/// Which load an answer belongs to. A newer load makes all answers to older ones void.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadId(u64);

/// What became visible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VisibleChange {
    /// A change, or something newer of the same document in its place.
    Change(Arc<ReceivedChange>),
    /// A snapshot: what was told of before is no account of what is held any more.
    Installed,
}

/// The writer's side of a replica. There is one; readers hold clones of its [`Root`].
#[derive(Debug)]
pub struct Machine {
    pub(crate) root: Root,
    early: Vec<ReceivedChange>,
    early_bytes: usize,
    generation: u64,
    loading: bool,
    visible: Vec<VisibleChange>,
    /// What was seen when the load under way began, if a snapshot below it could show half of a
    /// set.
    floor: BTreeMap<CollectionName, Revision>,
    /// The watermarks of diverged collections when the load under way began.
    diverged_at: BTreeMap<CollectionName, Revision>,
}

impl Machine {
    /// A machine that follows these collections and holds nothing.
    pub fn new(collections: &BTreeSet<CollectionName>) -> Self {
        let collections = collections
            .iter()
            .map(|name| (name.clone(), CollectionState::default()))
            .collect();
        Self {
            root: Root {
                collections,
                ..Root::default()
            },
            early: Vec::new(),
            early_bytes: 0,
            generation: 0,
            loading: false,
            visible: Vec::new(),
            floor: BTreeMap::new(),
            diverged_at: BTreeMap::new(),
        }
    }

    /// What it holds now.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// What has become visible since this was last asked, in the order in which it did; not in the
    /// order of revisions. Ask after every step, else it grows.
    pub fn take_visible(&mut self) -> Vec<VisibleChange> {
        std::mem::take(&mut self.visible)
    }

    /// What would become of a change. Pure: the answer and nothing else.
    pub fn decide(&self, hint: &ReceivedChange) -> Decision {
        let Some(collection) = self.root.collection(&hint.collection) else {
            return Decision::NotFollowed;
        };
        match self.root.epoch {
            None => return Decision::Early,
            Some(epoch) if epoch != hint.epoch => return Decision::OtherEpoch,
            // Restored without this collection: it has yet to be loaded.
            Some(_ours) if !collection.versioned => return Decision::Early,
            Some(_ours) => {}
        }
        let superseded = collection.held(&hint.id) > hint.revision;
        if collection.covered(hint.revision) {
            Decision::Duplicate
        } else if hint.change_set.is_none() && collection.watermark >= hint.last_set && superseded {
            Decision::Superseded
        } else if hint.lacks_value() {
            Decision::NeedsValue
        } else if !self.ready(hint, Some(hint)) {
            if collection.staged.has_capacity(hint) {
                Decision::Staged
            } else {
                Decision::NoCapacity
            }
        } else if superseded {
            Decision::Superseded
        } else {
            Decision::Applied
        }
    }

    /// Does what [`Machine::decide`] says, and then whatever had waited for it. Changes of other
    /// documents that are still missing do not hold it up, unless they are of a set that comes
    /// before it.
    pub fn apply(&mut self, hint: &ReceivedChange) -> Decision {
        let decision = self.decide(hint);
        match decision {
            Decision::Early => self.keep_early(hint),
            Decision::Duplicate | Decision::OtherEpoch | Decision::NotFollowed => {}
            Decision::NeedsValue | Decision::NoCapacity => self.note_known_set(hint),
            Decision::Staged => {
                self.note_known_set(hint);
                if let Some(collection) = self.root.collections.get_mut(&hint.collection) {
                    collection.staged.make_capacity(hint);
                    collection.staged.insert(hint);
                }
            }
            Decision::Applied | Decision::Superseded => {
                self.apply_visible(hint);
                self.apply_visible_set(hint);
                self.settle();
            }
        }
        decision
    }

    /// Applies a record of the feed, which is the log itself: it takes the place of what an event
    /// said of a revision that still waits. So an event that is wrong holds nothing up for
    /// longer than the next delta takes.
    pub fn apply_record(&mut self, record: &ReceivedChange) -> Decision {
        if self.root.epoch == Some(record.epoch)
            && let Some(collection) = self.root.collections.get_mut(&record.collection)
            && collection
                .staged
                .get(record.revision)
                .is_some_and(|waiting| waiting != record)
        {
            collection.staged.remove(record.revision);
        }
        self.apply(record)
    }

    fn keep_early(&mut self, hint: &ReceivedChange) {
        let bytes = self.early_bytes + hint.size();
        if self.early.len() < MAX_EARLY && bytes <= MAX_EARLY_BYTES {
            self.early_bytes = bytes;
            self.early.push(hint.clone());
        }
    }

    fn apply_visible(&mut self, hint: &ReceivedChange) {
        let loading = self.loading;
        let Some(collection) = self.root.collections.get_mut(&hint.collection) else {
            return;
        };
        if collection.held(&hint.id) < hint.revision {
            self.root.sets.note(hint);
        }
        collection.apply_visible(hint);
        self.visible
            .push(VisibleChange::Change(Arc::new(hint.clone())));
        // A load under way may still bring a page from before the deletion.
        if !loading {
            collection.prune_tombstones();
        }
    }

    /// Whether a change may be visible now: every set before it is, and the rest of its own set is
    /// here. `coming` counts as here.
    fn ready(&self, hint: &ReceivedChange, coming: Option<&ReceivedChange>) -> bool {
        let Some(collection) = self.root.collection(&hint.collection) else {
            return false;
        };
        let Some(set) = &hint.change_set else {
            return collection.watermark >= hint.last_set;
        };
        set.parts.iter().all(|part| {
            // What is not followed is not waited for.
            let Some(collection) = self.root.collection(&part.collection) else {
                return true;
            };
            let here = |revision| {
                let coming = coming
                    .filter(|hint| hint.collection == part.collection && hint.revision == revision);
                let waiting = coming.or_else(|| collection.staged.get(revision));
                collection.seen(revision)
                    || waiting.is_some_and(|hint| collection.watermark >= hint.last_set)
            };
            (part.first.max(collection.watermark + 1)..=part.last).all(here)
        })
    }

    /// Makes visible what waits for nothing any more, until nothing moves. Callers publish once,
    /// after it.
    ///
    /// Only the lowest that waits in a collection can be ready: whatever is above has to wait for
    /// its set as well.
    fn settle(&mut self) {
        let lowest = |machine: &Self| {
            let mut lowest = machine
                .root
                .collections
                .values()
                .filter_map(|collection| collection.staged.lowest());
            lowest.find(|hint| machine.ready(hint, None)).cloned()
        };
        while let Some(hint) = lowest(self) {
            self.unstage(&hint.collection, hint.revision);
            self.apply_visible_set(&hint);
        }
    }

    /// Makes the rest of a change's set visible.
    fn apply_visible_set(&mut self, hint: &ReceivedChange) {
        for part in hint.change_set.iter().flat_map(|set| &set.parts) {
            let Some(collection) = self.root.collection(&part.collection) else {
                continue;
            };
            let waiting = collection.staged.within(part.first..=part.last);
            waiting
                .into_iter()
                .for_each(|revision| self.unstage(&part.collection, revision));
        }
    }

    fn unstage(&mut self, name: &CollectionName, revision: Revision) {
        let collection = self.root.collections.get_mut(name);
        if let Some(hint) = collection.and_then(|collection| collection.staged.remove(revision)) {
            self.apply_visible(&hint);
        }
    }

    /// The parts of a set make their revisions known, so that what is missing of it heals.
    fn note_known_set(&mut self, hint: &ReceivedChange) {
        self.note_known(&hint.collection, hint.revision);
        for part in hint.change_set.iter().flat_map(|set| &set.parts) {
            self.note_known(&part.collection, part.last);
        }
    }

    /// Notes that a revision exists, without having seen it.
    pub fn note_known(&mut self, collection: &CollectionName, revision: Revision) {
        if let Some(collection) = self.root.collections.get_mut(collection) {
            collection.known = collection.known.max(revision);
        }
    }

    /// Takes note of a publisher's heads; whether this replica lacks something that they name.
    ///
    /// Heads of another history confirm nothing and are answered `true`: only a load can tell what
    /// to make of them.
    pub fn compare(&mut self, heads: &[Head]) -> bool {
        let mut lacks = false;
        for head in heads {
            let Some(collection) = self.root.collections.get_mut(&head.collection) else {
                continue;
            };
            if self.root.epoch == Some(head.epoch) {
                collection.known = collection.known.max(head.revision);
                lacks |= collection.watermark < head.revision;
            } else {
                lacks = true;
            }
        }
        lacks
    }

    /// Notes that a collection's digest was found to differ from its publisher's at the same
    /// revision.
    ///
    /// The next load, whose snapshot is at or above the watermark of its beginning, replaces
    /// whatever is held up to the snapshot's revision, by values read anew. It is a reset: what
    /// it held there was wrong, so a document may go back. What it holds above that
    /// revision stays; if that is wrong too, the digests differ again at the next settled moment.
    pub fn mark_diverged(&mut self, name: &CollectionName) {
        if let Some(collection) = self
            .root
            .collections
            .get_mut(name)
            .filter(|collection| collection.versioned)
        {
            collection.diverged = true;
        }
    }

    /// Goes on from where another process left off; whether it did. Only a machine that has loaded
    /// nothing can. What is followed and not in the image stays unloaded, what is in it and not
    /// followed is ignored.
    pub fn restore(&mut self, image: Image) -> bool {
        if self.root.epoch.is_some()
            || self
                .root
                .collections
                .values()
                .any(|collection| collection.loaded)
        {
            return false;
        }
        self.root.epoch = image.root.epoch;
        self.root.generation += 1;
        for (name, held) in image.root.collections {
            if let Some(collection) = self.root.collections.get_mut(&name) {
                *collection = held;
            }
        }
        self.replay_early();
        true
    }

    /// Begins a load of all followed collections and voids any load before it.
    pub fn begin_load(&mut self) -> LoadId {
        self.generation += 1;
        self.loading = true;
        self.floor.clear();
        let diverged_at = self
            .root
            .collections
            .iter()
            .filter(|(_name, held)| held.diverged);
        self.diverged_at = diverged_at
            .map(|(name, held)| (name.clone(), held.watermark))
            .collect();
        // An image may hold a set whose other half is in a collection that was not followed then.
        if self
            .root
            .collections
            .values()
            .any(|collection| !collection.versioned)
        {
            let seen =
                |(name, held): (&CollectionName, &CollectionState)| (name.clone(), held.highest());
            self.floor = self.root.collections.iter().map(seen).collect();
        }
        LoadId(self.generation)
    }

    /// Ends a load that came to nothing.
    pub fn abandon_load(&mut self, generation: LoadId) {
        if generation == LoadId(self.generation) {
            self.loading = false;
        }
    }

    /// Installs a proven snapshot, all collections in one step, and then what had come early.
    ///
    /// # Errors
    /// When the load was voided by a newer one, when good data would be replaced by another store's
    /// or an older history's (NeverEmpty), or when it is too old to complete what is held.
    /// Nothing changed then.
    pub fn install(
        &mut self,
        generation: LoadId,
        snapshot: Snapshot,
    ) -> Result<Installed, InstallError> {
        if generation != LoadId(self.generation) || !self.loading {
            return Err(InstallError::Superseded);
        }
        self.loading = false;
        let installed =
            snapshot::install(&mut self.root, &self.floor, &self.diverged_at, snapshot)?;
        self.visible.push(VisibleChange::Installed);
        if installed.how == InstallKind::Replaced {
            // Revisions count anew.
            self.root.sets = RecentSets::default();
        }
        self.root.generation +=
            u64::from(installed.how == InstallKind::Replaced || installed.resets > 0);
        self.settle();
        self.replay_early();
        Ok(installed)
    }

    fn replay_early(&mut self) {
        self.early_bytes = 0;
        for hint in std::mem::take(&mut self.early) {
            // Without its value an early change stays a hole that the next heads show.
            self.apply(&hint);
        }
    }

    /// Replaces an unversioned collection by a full list (requirement A20: `load()`). A versioned one
    /// is left alone.
    pub fn replace_unversioned(
        &mut self,
        name: &CollectionName,
        documents: Vec<(DocumentId, CanonicalJson)>,
    ) {
        if let Some(collection) = self
            .root
            .collections
            .get_mut(name)
            .filter(|collection| !collection.versioned)
        {
            self.root.generation += u64::from(!collection.loaded);
            *collection = CollectionState {
                loaded: true,
                ..CollectionState::default()
            };
            for (id, config) in documents {
                collection.put(Document::new(id, 0, &config));
            }
        }
    }

    /// Sets a document of an unversioned collection (requirement A20: `addLocal`); whether it could.
    pub fn add_unversioned(
        &mut self,
        name: &CollectionName,
        id: DocumentId,
        config: &CanonicalJson,
    ) -> bool {
        let Some(collection) = self
            .root
            .collections
            .get_mut(name)
            .filter(|collection| !collection.versioned)
        else {
            return false;
        };
        collection.put(Document::new(id, 0, config));
        true
    }

    /// Takes a document of an unversioned collection away (requirement A20: `removeLocal`); whether it
    /// was there.
    pub fn remove_unversioned(&mut self, name: &CollectionName, id: &DocumentId) -> bool {
        let collection = self
            .root
            .collections
            .get_mut(name)
            .filter(|collection| !collection.versioned);
        collection.is_some_and(|collection| collection.remove(id))
    }
}
