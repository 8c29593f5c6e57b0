//! A full load: proven complete first, then installed in one step.

use std::collections::BTreeMap;

use contract::{
    CollectionName, Document, Epoch, Head, Revision,
    snapshot::{SnapshotEnd, SnapshotError, SnapshotItem, SnapshotProof, SnapshotStart},
};

use crate::{collection::CollectionState, root::Root};

/// A snapshot while it is read. It collects documents, and can be installed only through
/// [`SnapshotBuilder::complete`].
#[derive(Debug)]
pub struct SnapshotBuilder {
    proof: SnapshotProof,
    documents: BTreeMap<CollectionName, Vec<Document>>,
}

/// A snapshot whose items add up to its heads.
#[derive(Debug)]
pub struct Snapshot {
    epoch: Epoch,
    parts: BTreeMap<CollectionName, Part>,
}

#[derive(Debug)]
struct Part {
    head: Head,
    documents: Vec<Document>,
}

/// What an install did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Installed {
    /// What became of what was held.
    pub how: InstallKind,
    /// InstallKind many diverged collections were reset.
    pub resets: usize,
}

/// What an install made of what was held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstallKind {
    /// The same history went on.
    CaughtUp,
    /// A first load, or a newer history: the snapshot alone holds.
    Replaced,
}

/// Why good data stays and the snapshot goes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InstallError {
    /// A newer load began.
    #[error("a newer load has begun")]
    Superseded,
    /// It comes from a store of another lineage: a blank one, or one that was put in its place.
    #[error("it comes from another store (epoch {0}); the last good values stay")]
    OtherStore(Epoch),
    /// It comes from a history that was left.
    #[error("it comes from the older history {0}; the last good values stay")]
    OlderEpoch(Epoch),
    /// It is older than what was held when its load began, and would show half of a set.
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
        let held = root.collection(&item.collection);
        let held = held.filter(|held| !held.diverged);
        let held = held.and_then(|held| held.same(&item.id, item.revision, item.crc));
        let document = match held {
            Some(held) => held.clone(),
            None => Document::new(item.id, item.revision, &item.config_data),
        };
        self.documents
            .entry(item.collection)
            .or_default()
            .push(document);
        Ok(())
    }

    /// Ends with the last line: proves that nothing is missing, damaged or repeated.
    ///
    /// # Errors
    /// When counts or digests disagree, or a collection that `root` follows is absent.
    pub fn complete(mut self, end: &SnapshotEnd, root: &Root) -> Result<Snapshot, SnapshotError> {
        let SnapshotStart { epoch, heads } = self.proof.finish(end)?;
        let mut part = |head: Head| {
            let documents = self.documents.remove(&head.collection).unwrap_or_default();
            (head.collection.clone(), Part { head, documents })
        };
        let parts: BTreeMap<_, _> = heads.into_iter().map(&mut part).collect();
        match root
            .collections
            .keys()
            .find(|name| !parts.contains_key(*name))
        {
            Some(missing) => Err(SnapshotError::Missing(missing.clone())),
            None => Ok(Snapshot { epoch, parts }),
        }
    }
}

/// Installs a snapshot over all collections, unless it is below `floor`.
///
/// A collection that is ahead of the snapshot stays as it is while another is replaced, and yet no
/// set is torn: W never passes a set that is not visible, so a set below W here was made visible in
/// all collections at once, and there it is in the snapshot or above its revision, where it stays.
/// What breaks this is a collection that was not followed when the set came: that is what `floor`
/// is for.
pub(crate) fn install(
    root: &mut Root,
    floor: &BTreeMap<CollectionName, Revision>,
    diverged_at: &BTreeMap<CollectionName, Revision>,
    snapshot: Snapshot,
) -> Result<Installed, InstallError> {
    let how = admit(root, floor, &snapshot)?;
    let mut resets = 0;
    for (name, part) in snapshot.parts {
        let diverged_at = diverged_at.get(&name).copied();
        if let Some(held) = root.collections.get_mut(&name) {
            let diverged = held.diverged;
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

/// NeverEmpty: only a later history of the same store may replace what is held. Such a one may be
/// empty: a publisher declares it after it has verified its store, and a blank store has another
/// lineage.
fn admit(
    root: &Root,
    floor: &BTreeMap<CollectionName, Revision>,
    snapshot: &Snapshot,
) -> Result<InstallKind, InstallError> {
    let theirs = snapshot.epoch;
    let Some(ours) = root.epoch else {
        // Lists of a publisher that counts no revisions are good data as well.
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
    if theirs.lineage != ours.lineage {
        Err(InstallError::OtherStore(theirs))
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
    fn into_collection(self) -> CollectionState {
        let mut collection = CollectionState {
            loaded: true,
            versioned: true,
            ..CollectionState::default()
        };
        collection.documents = self
            .documents
            .into_iter()
            .map(|document| (document.id().clone(), document))
            .collect();
        collection.digest = self.head.digest;
        collection.see_all(self.head.revision);
        collection.note_settled();
        collection
    }

    /// The snapshot, overridden by every held document or tombstone of a higher revision than its
    /// head's. `diverged_at` is the watermark that a diverged collection had when the load began.
    fn catch_up(self, held: &mut CollectionState, diverged_at: Option<Revision>) {
        let at = self.head.revision;
        let suffices = match diverged_at {
            // Every change above the snapshot has come since the load began, so every deletion
            // among them is still known: it can be laid over the snapshot in full, also
            // while changes keep coming.
            Some(watermark) if held.diverged && at >= watermark => false,
            _ if held.diverged => held.watermark > at,
            _ => held.watermark >= at,
        };
        if held.versioned && suffices {
            return held.prune_tombstones();
        }
        let mut next = self.into_collection();
        for document in held
            .documents
            .values()
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
        next.known = next.known.max(held.known);
        // Which revisions were seen is carried over, never guessed from documents: a superseded one
        // leaves no trace there.
        next.beyond = held.beyond.clone();
        if held.watermark > at {
            next.beyond.insert(at + 1..=held.watermark);
        }
        next.see_all(at);
        next.staged = held.staged.above(next.watermark);
        // The snapshot's own moment is not one of this collection when newer changes lie over it.
        next.last_settled = held.last_settled.filter(|_last| !held.diverged);
        next.note_settled();
        next.prune_tombstones();
        *held = next;
    }
}
