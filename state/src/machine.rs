//! Decide and apply: the only place where the state of a replica changes.
//!
//! Everything here is synchronous and pure: no I/O, no clock. The caller publishes
//! [`Machine::root`] after each step.
//!
//! The invariants that the property tests check: readers see either all parts of a change set or
//! none; a document never gets an older revision within one epoch, except by a reset; a watermark
//! never passes a revision that was not seen; the memory for changes that wait is bounded.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use contract::{CanonicalJson, CollectionName, Document, DocumentId, Head, Revision, SetPart};

use crate::{
    collection::CollectionState,
    image::Image,
    received::{Decision, ReceivedChange},
    root::Root,
    sets::RecentSets,
    snapshot::{self, InstallError, InstallKind, Installed, Snapshot},
};

/// Largest number of changes that are kept before the first load. A change beyond that arrives with
/// the load, or leaves a gap that catch-up closes.
const MAX_EARLY: usize = 4_096;
/// Largest size of their values, in bytes.
const MAX_EARLY_BYTES: usize = 16 << 20;

/// Identifies a load. A newer load makes the result of every older one invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadId(u64);

/// Something that became visible to readers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VisibleChange {
    /// A change, or a newer revision of the same document.
    Change(Arc<ReceivedChange>),
    /// A snapshot: the changes that were reported before do not lead to the current state.
    Installed,
}

/// The writer of a replica. There is one; readers hold clones of its [`Root`].
///
/// A load takes time, and changes arrive meanwhile. So [`Machine::begin_load`] gives an id, and
/// [`Machine::install`] accepts a snapshot only for the newest id; changes that arrived in between
/// are applied over the snapshot.
#[derive(Debug)]
pub struct Machine {
    pub(crate) root: Root,
    /// Changes that arrived before the first load, in the order of arrival.
    early: Vec<ReceivedChange>,
    early_bytes: usize,
    /// Number of loads that have begun; the newest one alone may install.
    generation: u64,
    /// Whether a load is under way. Tombstones are kept meanwhile.
    loading: bool,
    /// What became visible and was not taken yet.
    visible: Vec<VisibleChange>,
    /// The highest revisions seen when the load began. It is set only when an older snapshot could
    /// show half of a change set.
    floor: BTreeMap<CollectionName, Revision>,
    /// The watermarks of the diverged collections when the load began.
    diverged_at: BTreeMap<CollectionName, Revision>,
}

impl Machine {
    /// A machine that follows these collections and has no documents.
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

    /// The current state.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Takes everything that became visible since the last call, in the order in which it became
    /// visible, which is not the order of revisions. Call it after every step; the list has no
    /// other bound.
    pub fn take_visible(&mut self) -> Vec<VisibleChange> {
        std::mem::take(&mut self.visible)
    }

    /// The decision about a change, without applying it.
    ///
    /// A change is visible at once when every change set before it is visible and all parts of its
    /// own set have arrived; otherwise it is staged.
    pub fn decide(&self, change: &ReceivedChange) -> Decision {
        let Some(collection) = self.root.collection(&change.collection) else {
            return Decision::NotFollowed;
        };
        match self.root.epoch {
            None => return Decision::Early,
            Some(epoch) if epoch != change.epoch => return Decision::OtherEpoch,
            // Restored from an image that did not have this collection: its load is still to come.
            Some(_ours) if !collection.versioned => return Decision::Early,
            Some(_ours) => {}
        }
        if self.is_unconfirmed(collection, change) {
            return Decision::Unconfirmed;
        }
        // A deletion counts as well: its tombstone has the newer revision.
        let superseded = collection.held(&change.id) > change.revision;
        // The order of these checks matters: the cheap and final ones come first.
        if collection.covered(change.revision) {
            Decision::Duplicate
        } else if change.change_set.is_none()
            && collection.watermark >= change.last_set
            && superseded
        {
            Decision::Superseded
        } else if change.lacks_value() {
            Decision::NeedsValue
        } else if !self.ready(change, Some(change)) {
            if collection.staged.has_capacity(change) {
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

    /// Applies a change as [`Machine::decide`] says, and then every staged change that waited for
    /// it. Missing changes of other documents do not delay it, unless they belong to an earlier
    /// change set.
    pub fn apply(&mut self, change: &ReceivedChange) -> Decision {
        let decision = self.decide(change);
        match decision {
            Decision::Early => self.keep_early(change),
            Decision::Duplicate
            | Decision::OtherEpoch
            | Decision::NotFollowed
            | Decision::Unconfirmed => {}
            // The change cannot be kept, but its revision is now known to be missing.
            Decision::NeedsValue | Decision::NoCapacity => self.note_known_set(change),
            Decision::Staged => {
                self.note_known_set(change);
                if let Some(collection) = self.root.collections.get_mut(&change.collection) {
                    collection.staged.make_capacity(change);
                    collection.staged.insert(change);
                    collection.note_proof(change.revision, change.proof);
                }
            }
            Decision::Applied | Decision::Superseded => {
                // First the change, then the rest of its set, then everything that waited for these.
                self.apply_visible(change);
                self.apply_visible_set(change);
                self.settle();
            }
        }
        decision
    }

    /// Applies a record of the feed. The feed is the change log, so the record replaces a staged
    /// change of the same revision that an event brought. A wrong event therefore blocks nothing
    /// for longer than the next catch-up.
    pub fn apply_record(&mut self, record: &ReceivedChange) -> Decision {
        if self.root.epoch == Some(record.epoch)
            && let Some(collection) = self.root.collections.get_mut(&record.collection)
        {
            collection.confirm(record.revision, record.proof);
            if collection
                .staged
                .get(record.revision)
                .is_some_and(|waiting| waiting != record)
            {
                // An event said something else about this revision. The log is right.
                collection.staged.remove(record.revision);
            }
            // A set is committed as a whole, so its last revisions exist too.
            for part in record.change_set.iter().flat_map(|set| &set.parts) {
                if let Some(collection) = self.root.collections.get_mut(&part.collection) {
                    collection.confirmed = collection.confirmed.max(part.last);
                }
            }
        }
        self.apply(record)
    }

    /// Whether a change names revisions that an event alone does not show to exist: its own, the end
    /// of a part of its set, or a last set that is not before it.
    fn is_unconfirmed(&self, collection: &CollectionState, change: &ReceivedChange) -> bool {
        let far_part = |part: &SetPart| {
            self.root
                .collection(&part.collection)
                .is_some_and(|collection| collection.versioned && collection.is_far(part.last))
        };
        collection.is_far(change.revision)
            || change.last_set >= change.revision
            || change
                .change_set
                .iter()
                .flat_map(|set| &set.parts)
                .any(far_part)
    }

    /// Keeps a change until its collection is loaded.
    fn keep_early(&mut self, change: &ReceivedChange) {
        let bytes = self.early_bytes + change.size();
        // Beyond the bound the change is not kept: the load brings it, or catch-up does.
        if self.early.len() < MAX_EARLY && bytes <= MAX_EARLY_BYTES {
            self.early_bytes = bytes;
            self.early.push(change.clone());
        }
    }

    /// Makes one change visible and reports it. The caller has decided that it may be.
    fn apply_visible(&mut self, change: &ReceivedChange) {
        let loading = self.loading;
        let Some(collection) = self.root.collections.get_mut(&change.collection) else {
            return;
        };
        // A superseded change is not what readers see, so its set is not remembered for the document.
        if collection.held(&change.id) < change.revision {
            self.root.sets.note(change);
        }
        collection.apply_visible(change);
        self.visible
            .push(VisibleChange::Change(Arc::new(change.clone())));
        // A load that is under way may still bring the document as it was before its deletion.
        if !loading {
            collection.prune_tombstones();
        }
    }

    /// Whether a change may become visible: every earlier change set is visible, and all other
    /// parts of its own set have arrived. `coming` counts as arrived.
    fn ready(&self, change: &ReceivedChange, coming: Option<&ReceivedChange>) -> bool {
        let Some(collection) = self.root.collection(&change.collection) else {
            return false;
        };
        // Without a set of its own, a change waits for the change set before it and nothing else.
        let Some(set) = &change.change_set else {
            return collection.watermark >= change.last_set;
        };
        set.parts.iter().all(|part| {
            // Parts in collections that are not followed are never sent here.
            let Some(collection) = self.root.collection(&part.collection) else {
                return true;
            };
            let here = |revision| {
                let coming = coming.filter(|change| {
                    change.collection == part.collection && change.revision == revision
                });
                let waiting = coming.or_else(|| collection.staged.get(revision));
                collection.seen(revision)
                    || waiting.is_some_and(|change| collection.watermark >= change.last_set)
            };
            // Revisions up to the watermark were seen, so the check starts after it.
            (part.first.max(collection.watermark + 1)..=part.last).all(here)
        })
    }

    /// Makes staged changes visible until none is ready. The caller publishes once, afterwards.
    ///
    /// Only the lowest staged change of a collection can be ready: every higher one waits for the
    /// same set.
    fn settle(&mut self) {
        let lowest = |machine: &Self| {
            let mut lowest = machine
                .root
                .collections
                .values()
                .filter_map(|collection| collection.staged.lowest());
            lowest.find(|change| machine.ready(change, None)).cloned()
        };
        while let Some(change) = lowest(self) {
            self.unstage(&change.collection, change.revision);
            self.apply_visible_set(&change);
        }
    }

    /// Makes the other parts of the change set of a change visible.
    fn apply_visible_set(&mut self, change: &ReceivedChange) {
        for part in change.change_set.iter().flat_map(|set| &set.parts) {
            let Some(collection) = self.root.collection(&part.collection) else {
                continue;
            };
            let waiting = collection.staged.within(part.first..=part.last);
            waiting
                .into_iter()
                .for_each(|revision| self.unstage(&part.collection, revision));
        }
    }

    /// Makes a staged change visible; nothing happens when there is none with this revision.
    fn unstage(&mut self, name: &CollectionName, revision: Revision) {
        let collection = self.root.collections.get_mut(name);
        if let Some(change) = collection.and_then(|collection| collection.staged.remove(revision)) {
            self.apply_visible(&change);
        }
    }

    /// Marks all revisions of the change set of a change as known, so that catch-up asks for the
    /// missing ones.
    fn note_known_set(&mut self, change: &ReceivedChange) {
        self.note_known(&change.collection, change.revision);
        if let Some(collection) = self.root.collections.get_mut(&change.collection) {
            collection.note_proof(change.revision, change.proof);
        }
        for part in change.change_set.iter().flat_map(|set| &set.parts) {
            self.note_known(&part.collection, part.last);
        }
    }

    /// Marks a revision as known to exist, without having seen it.
    pub fn note_known(&mut self, collection: &CollectionName, revision: Revision) {
        if let Some(collection) = self.root.collections.get_mut(collection) {
            collection.known = collection.known.max(revision);
        }
    }

    /// Compares with the heads of a publisher. Returns whether this replica misses something that
    /// they name.
    ///
    /// Heads of another epoch confirm nothing and give `true`: a load is needed.
    pub fn compare(&mut self, heads: &[Head]) -> bool {
        let mut lacks = false;
        for head in heads {
            let Some(collection) = self.root.collections.get_mut(&head.collection) else {
                continue;
            };
            if self.root.epoch == Some(head.epoch) {
                self.root.replaces.clone_from(&head.replaces);
                // A head names a revision that exists, even if no event of it ever arrives.
                collection.known = collection.known.max(head.revision);
                collection.confirm(head.revision, head.proof);
                lacks |= collection.watermark < head.revision;
            } else {
                lacks = true;
            }
        }
        lacks
    }

    /// Marks a collection whose digest differed from the digest of its publisher at the same
    /// revision.
    ///
    /// The next load, whose snapshot is at or above the watermark at its beginning, replaces all
    /// documents up to the revision of the snapshot. This is a reset: the held values were wrong,
    /// so a document may get an older revision. Documents above the revision of the snapshot stay;
    /// if these are wrong too, the digests differ again at the next settled point.
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

    /// Marks a collection that holds or knows of a revision which was never committed: its publisher
    /// has checked the proof. `head` is the revision of the publisher.
    ///
    /// The next load whose snapshot is not older than `head` replaces the whole collection, whatever
    /// revision is held. This is a reset, as for a diverged collection.
    pub fn mark_refuted(&mut self, name: &CollectionName, head: Revision) {
        self.mark_diverged(name);
        if let Some(collection) = self
            .root
            .collections
            .get_mut(name)
            .filter(|collection| collection.diverged)
        {
            collection.refuted = Some(head);
        }
    }

    /// Continues from an image. Returns whether it did: only a machine that has loaded nothing can.
    /// A followed collection that is not in the image stays unloaded; a collection of the image
    /// that is not followed is ignored.
    pub fn restore(&mut self, image: Image) -> bool {
        // An image is older than anything that was loaded, so it must not replace it.
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

    /// Follows these collections too; the next load brings them. Before the first load they are as
    /// those of [`Machine::new`], later they join (see [`CollectionState::joining`]). A collection
    /// that is not loaded and not among them is given up. Never removes one that was loaded.
    ///
    /// Follows at most `max` collections, and returns the names that it has no place for.
    pub fn follow(
        &mut self,
        served: &BTreeSet<CollectionName>,
        max: usize,
    ) -> BTreeSet<CollectionName> {
        let given_up = |(name, held): &(&CollectionName, &CollectionState)| {
            !held.loaded && !served.contains(*name)
        };
        let before = self.root.collections.clone();
        for (name, _held) in before.iter().filter(given_up) {
            self.root.collections.remove(name);
        }
        let joining = self.root.epoch.is_some();
        let mut left_out = BTreeSet::new();
        for name in served {
            if self.root.collections.contains_key(name) {
                continue;
            }
            if self.root.collections.len() < max {
                let held = CollectionState {
                    joining,
                    ..CollectionState::default()
                };
                self.root.collections.insert(name.clone(), held);
            } else {
                left_out.insert(name.clone());
            }
        }
        // A set that waited for a part which is not coming any more waits no longer.
        self.settle();
        left_out
    }

    /// Begins a load of all followed collections. It makes every load before it invalid.
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
        // An image may have one part of a change set whose other part is in a collection that was
        // not followed then.
        if self
            .root
            .collections
            .values()
            .any(|collection| !collection.versioned)
        {
            // A snapshot below these revisions could show such a set in one collection only.
            let seen =
                |(name, held): (&CollectionName, &CollectionState)| (name.clone(), held.highest());
            self.floor = self.root.collections.iter().map(seen).collect();
        }
        LoadId(self.generation)
    }

    /// Ends a load that failed. The state stays as it is; tombstones may be removed again.
    ///
    /// A load that a newer one has replaced is ignored.
    pub fn abandon_load(&mut self, generation: LoadId) {
        if generation == LoadId(self.generation) {
            self.loading = false;
        }
    }

    /// Installs a complete snapshot, all collections in one step, and then the changes that arrived
    /// before it.
    ///
    /// # Errors
    /// When a newer load has begun, when the snapshot comes from another store or an older epoch
    /// (a blank store never replaces what is held), or when it is too old to complete the current state. Nothing has changed then.
    pub fn install(
        &mut self,
        generation: LoadId,
        snapshot: Snapshot,
    ) -> Result<Installed, InstallError> {
        if generation != LoadId(self.generation) || !self.loading {
            return Err(InstallError::Superseded);
        }
        self.loading = false;
        // On an error nothing has changed: `install` checks everything before its first write.
        let installed =
            snapshot::install(&mut self.root, &self.floor, &self.diverged_at, snapshot)?;
        self.visible.push(VisibleChange::Installed);
        if installed.how == InstallKind::Replaced {
            // Revisions of the new epoch have no relation to the remembered sets.
            self.root.sets = RecentSets::default();
        }
        self.root.generation +=
            u64::from(installed.how == InstallKind::Replaced || installed.resets > 0);
        // The snapshot may have completed sets that were waiting.
        self.settle();
        self.replay_early();
        Ok(installed)
    }

    /// Applies the changes that arrived before the load, each with a new decision.
    fn replay_early(&mut self) {
        self.early_bytes = 0;
        for change in std::mem::take(&mut self.early) {
            // Without its value the change leaves a gap, which the next heads show.
            self.apply(&change);
        }
    }

    /// Replaces an unversioned collection by a full list (requirement A20: `load()`). A versioned
    /// collection is not changed.
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
            // Only the first list replaces the whole state; later lists are changes.
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

    /// Sets a document of an unversioned collection (requirement A20: `addLocal`). Without revisions
    /// the last call wins. Returns whether the collection is unversioned.
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

    /// Removes a document of an unversioned collection (requirement A20: `removeLocal`). Returns
    /// whether it existed.
    pub fn remove_unversioned(&mut self, name: &CollectionName, id: &DocumentId) -> bool {
        let collection = self
            .root
            .collections
            .get_mut(name)
            .filter(|collection| !collection.versioned);
        collection.is_some_and(|collection| collection.remove(id))
    }
}
