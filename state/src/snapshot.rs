//! A full load: first proven complete, then installed in one step.
//!
//! A [`SnapshotBuilder`] takes the items; [`SnapshotBuilder::complete`] proves that nothing is
//! missing; [`crate::Machine::install`] replaces the state. A snapshot that is cut off or damaged is
//! never installed, not even in part.

use std::collections::{BTreeMap, BTreeSet};

use contract::{
    CollectionName, Document, Epoch, Head, Revision,
    snapshot::{SnapshotEnd, SnapshotError, SnapshotItem, SnapshotProof, SnapshotStart},
};

use crate::{collection::CollectionState, documents::Documents, root::Root};

/// A snapshot while it is read. It collects documents, and can be installed only through
/// [`SnapshotBuilder::complete`].
#[derive(Debug)]
pub struct SnapshotBuilder {
    proof: SnapshotProof,
    documents: BTreeMap<CollectionName, Vec<Document>>,
}

/// A snapshot whose items add up to its heads: count and digest of each collection match. Only
/// [`SnapshotBuilder::complete`] makes one.
#[derive(Debug)]
pub struct Snapshot {
    epoch: Epoch,
    parts: BTreeMap<CollectionName, Part>,
}

/// The documents of one collection, with the head that they were proven against.
#[derive(Debug)]
struct Part {
    head: Head,
    documents: Documents,
}

/// The result of an install: for log lines and metrics of the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Installed {
    /// What happened to the state.
    pub how: InstallKind,
    /// Number of diverged collections that were reset.
    pub resets: usize,
}

/// What an install did with the previous state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstallKind {
    /// The same epoch continues.
    CaughtUp,
    /// A first load, or a newer epoch: the snapshot replaces everything.
    Replaced,
}

/// Why the state stays and the snapshot is discarded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InstallError {
    /// A newer load has begun.
    #[error("a newer load has begun")]
    Superseded,
    /// The snapshot comes from a store of another lineage that does not replace the one that is
    /// followed: a blank store, or one that took the place of the store.
    #[error("it comes from another store (epoch {0}); the last good values stay")]
    OtherStore(Epoch),
    /// The snapshot belongs to an older epoch.
    #[error("it comes from the older history {0}; the last good values stay")]
    OlderEpoch(Epoch),
    /// The snapshot is older than the state was when its load began, and would show half of a
    /// change set.
    #[error("it is older than what is held of {0}; the last good values stay")]
    Behind(CollectionName),
}

impl Snapshot {
    /// Begins with the first line of a snapshot.
    pub fn begin(start: SnapshotStart) -> SnapshotBuilder {
        let proof = SnapshotProof::begin(start);
        SnapshotBuilder {
            proof,
            documents: BTreeMap::new(),
        }
    }
}

impl SnapshotBuilder {
    /// Takes an item. One that `root` already holds at the same revision and checksum keeps the
    /// held buffer, unless the collection is marked as diverged.
    ///
    /// # Errors
    /// When the item is damaged or not announced.
    pub fn item(&mut self, item: SnapshotItem, root: &Root) -> Result<(), SnapshotError> {
        self.proof.item(&item)?;
        // Equal documents share one buffer: a load of unchanged data then needs no second copy. Not
        // for a diverged collection, whose values are in doubt.
        let held = root.collection(&item.collection);
        let held = held.filter(|held| !held.diverged);
        let held = held.and_then(|held| held.same(&item.document));
        let document = held.cloned().unwrap_or(item.document);
        self.documents
            .entry(item.collection)
            .or_default()
            .push(document);
        Ok(())
    }

    /// Ends with the last line: proves that nothing is missing, damaged or repeated.
    ///
    /// # Errors
    /// When counts or digests disagree, or a collection that `root` has loaded is absent, or
    /// all are.
    pub fn complete(self, end: &SnapshotEnd, root: &Root) -> Result<Snapshot, SnapshotError> {
        self.complete_without(end, root, &BTreeSet::new())
    }

    /// As [`Self::complete`]; the collections `unserved` may be absent, because the source does not
    /// serve them. What is held of them stays.
    ///
    /// # Errors
    /// As [`Self::complete`].
    pub fn complete_without(
        mut self,
        end: &SnapshotEnd,
        root: &Root,
        unserved: &BTreeSet<CollectionName>,
    ) -> Result<Snapshot, SnapshotError> {
        let SnapshotStart { epoch, heads } = self.proof.finish(end)?;
        let mut part = |head: Head| {
            let documents = self.documents.remove(&head.collection);
            let documents = documents.unwrap_or_default().into();
            (head.collection.clone(), Part { head, documents })
        };
        let parts: BTreeMap<_, _> = heads.into_iter().map(&mut part).collect();
        // Heads prove the collections that they name; a collection that they do not name would lose
        // all its documents. One that is not loaded has none to lose, but a snapshot of none at all
        // is no load.
        let nothing = parts.is_empty();
        match root.collections.iter().find(|(name, held)| {
            let wanted = held.loaded && !unserved.contains(*name);
            (wanted || nothing) && !parts.contains_key(*name)
        }) {
            Some((missing, _held)) => Err(SnapshotError::Missing(missing.clone())),
            None => Ok(Snapshot { epoch, parts }),
        }
    }
}

/// Installs a snapshot over all collections, unless it is below `floor`.
///
/// A collection that is ahead of the snapshot keeps its newer documents while another is replaced,
/// and still no change set is torn. The watermark never passes a set that is not visible, so a set
/// below it became visible in all collections at once; each part is either in the snapshot or above
/// its revision, where it stays. The exception is a collection that was not followed when the set
/// arrived: `floor` covers that case.
pub(crate) fn install(
    root: &mut Root,
    floor: &BTreeMap<CollectionName, Revision>,
    diverged_at: &BTreeMap<CollectionName, Revision>,
    snapshot: Snapshot,
) -> Result<Installed, InstallError> {
    let how = admit(root, floor, &snapshot)?;
    // From here on nothing can fail, so the state is never left half installed.
    if let Some(part) = snapshot.parts.values().next() {
        root.replaces.clone_from(&part.head.replaces);
    }
    let mut resets = 0;
    if how == InstallKind::Replaced {
        let absent: Vec<_> = root
            .collections
            .iter()
            .filter(|(name, held)| held.loaded && !snapshot.parts.contains_key(*name))
            .map(|(name, _held)| name.clone())
            .collect();
        for name in absent {
            if let Some(held) = root.collections.get_mut(&name) {
                held.outlive_history();
            }
        }
    }
    for (name, part) in snapshot.parts {
        let diverged_at = diverged_at.get(&name).copied();
        if let Some(held) = root.collections.get_mut(&name) {
            let diverged = held.diverged;
            // A new epoch counts revisions from its own beginning, so nothing held can be compared.
            match how {
                InstallKind::Replaced => *held = part.into_collection(),
                InstallKind::CaughtUp => part.catch_up(held, diverged_at),
            }
            resets += usize::from(diverged && !held.diverged);
        }
    }
    root.epoch = Some(snapshot.epoch);
    Ok(Installed { how, resets })
}

/// Decides whether a snapshot may be installed, without changing anything.
///
/// A blank store never replaces what is held: only a later epoch of the same store, or a lineage that
/// replaces the one that is followed, may replace the state. Such an epoch may be empty: a publisher declares it after it verified its store, and a
/// blank store has another lineage.
fn admit(
    root: &Root,
    floor: &BTreeMap<CollectionName, Revision>,
    snapshot: &Snapshot,
) -> Result<InstallKind, InstallError> {
    let theirs = snapshot.epoch;
    let Some(ours) = root.epoch else {
        // Lists of a publisher without revisions are good data as well.
        let holds_any = |name: &CollectionName| {
            root.collections
                .get(name)
                .is_some_and(|held| held.count() > 0)
        };
        let blank = snapshot
            .parts
            .iter()
            .any(|(name, part)| part.head.revision == 0 && holds_any(name));
        return if blank {
            Err(InstallError::OtherStore(theirs))
        } else {
            Ok(InstallKind::Replaced)
        };
    };
    // The lineage says which store it is, the counter how often it was restored. Where a store
    // renewed its lineage, the counter of the new one has no relation to ours.
    if theirs.lineage != ours.lineage {
        let renewed = |part: &Part| part.head.replaces.includes(ours);
        if snapshot.parts.values().all(renewed) {
            Ok(InstallKind::Replaced)
        } else {
            Err(InstallError::OtherStore(theirs))
        }
    } else if theirs.counter < ours.counter {
        Err(InstallError::OlderEpoch(theirs))
    } else if theirs != ours {
        Ok(InstallKind::Replaced)
    } else {
        let behind =
            |(name, part): &(&CollectionName, &Part)| floor.get(*name) > Some(&part.head.revision);
        match snapshot.parts.iter().find(behind) {
            Some((name, _part)) => Err(InstallError::Behind(name.clone())),
            None => Ok(InstallKind::CaughtUp),
        }
    }
}

impl Part {
    /// A collection that has exactly the state of the snapshot.
    fn into_collection(self) -> CollectionState {
        let mut collection = CollectionState {
            documents: self.documents,
            digest: self.head.digest,
            loaded: true,
            versioned: true,
            ..CollectionState::default()
        };
        collection.confirm(self.head.revision, self.head.proof);
        collection.see_all(self.head.revision);
        collection.note_settled();
        collection
    }

    /// The snapshot, overridden by every document or tombstone with a revision above its head.
    /// `diverged_at` is the watermark of a diverged collection when the load began.
    fn catch_up(self, held: &mut CollectionState, diverged_at: Option<Revision>) {
        let at = self.head.revision;
        // Nothing of it was committed with certainty, so nothing of it is kept. What comes later is
        // in the feed.
        if held.refuted.is_some_and(|head| head <= at) {
            *held = self.into_collection();
            return;
        }
        let suffices = match diverged_at {
            // Every change above the snapshot arrived after the load began, so the tombstones of
            // all deletions among them still exist. They can be applied over the snapshot, also
            // while changes keep arriving.
            Some(watermark) if held.diverged && at >= watermark => false,
            _ if held.diverged => held.watermark > at,
            _ => held.watermark >= at,
        };
        // What is held is at least as new as the snapshot: nothing to install.
        if held.versioned && suffices {
            held.confirm(at, self.head.proof);
            return held.prune_tombstones();
        }
        let mut next = self.into_collection();
        // Events that arrived during the load are newer than the snapshot and win.
        for document in held
            .documents
            .iter()
            .filter(|document| document.revision() > at)
        {
            next.put(document.clone());
        }
        for (id, revision) in held
            .tombstones
            .iter()
            .filter(|(_id, revision)| **revision > at)
        {
            next.remove(id);
            next.tombstones.insert(id.clone(), *revision);
        }
        // A revision that exists does not stop existing because the snapshot is older.
        next.known = next.known.max(held.known);
        next.confirmed = next.confirmed.max(held.confirmed);
        if let Some((revision, proof)) = held.proven.filter(|_proven| !held.diverged) {
            next.note_proof(revision, Some(proof));
        }
        // The seen revisions are carried over and not derived from the documents: a superseded
        // change leaves no document.
        next.beyond = held.beyond.clone();
        if held.watermark > at {
            next.beyond.insert(at + 1..=held.watermark);
        }
        next.see_all(at);
        next.staged = held.staged.above(next.watermark);
        // The revision of the snapshot is no settled point when newer changes are applied over it.
        next.last_settled = held.last_settled.filter(|_last| !held.diverged);
        next.note_settled();
        next.prune_tombstones();
        *held = next;
    }
}
