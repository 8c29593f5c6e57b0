//! A full load: proven complete first, then installed in one step.

use std::collections::BTreeMap;

use contract::{CollectionName, Digest, Document, Epoch, Head, Revision, snapshot};

use crate::{collection::Collection, root::Root};

/// A snapshot on its way in. It collects items and can be installed only through
/// [`Builder::complete`].
#[derive(Debug)]
pub struct Builder {
    epoch: Epoch,
    parts: BTreeMap<CollectionName, Part>,
    count: u64,
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
    digest: Digest,
    documents: Vec<Document>,
}

/// Why an answer is not a snapshot. Nothing of it may be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Incomplete {
    /// An item of a collection that the first line does not name.
    #[error("an item of {0}, which the first line does not name")]
    Stranger(CollectionName),
    /// A value whose checksum does not hold.
    #[error("the checksum of {collection}/{id} does not hold")]
    Damaged {
        /// Its collection.
        collection: CollectionName,
        /// Its id.
        id: String,
    },
    /// The end line counts other items than came.
    #[error("{came} items came, the end line says {said}")]
    Count {
        /// Items that came.
        came: u64,
        /// Items that the end line counts.
        said: u64,
    },
    /// Items and head of a collection disagree.
    #[error("the items of {0} do not add up to its head")]
    Digest(CollectionName),
    /// A followed collection is not in it.
    #[error("{0} is not in it")]
    Missing(CollectionName),
}

/// What an install did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Installed {
    /// What became of what was held.
    pub how: How,
    /// How many distrusted collections were reset.
    pub resets: usize,
}

/// What an install made of what was held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// The same history went on.
    Caught,
    /// A first load, or a newer history: the snapshot alone holds.
    Replaced,
}

/// Why good data stays and the snapshot goes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotInstalled {
    /// A newer load began.
    #[error("a newer load has begun")]
    Voided,
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
    pub fn begin(start: snapshot::Start) -> Builder {
        let part = |head: Head| {
            (
                head.collection.clone(),
                Part {
                    head,
                    digest: Digest::default(),
                    documents: Vec::new(),
                },
            )
        };
        Builder {
            epoch: start.epoch,
            parts: start.heads.into_iter().map(part).collect(),
            count: 0,
        }
    }
}

impl Builder {
    /// Takes an item. One that `root` already holds at the same revision and checksum keeps the
    /// held buffer, unless the collection is distrusted.
    ///
    /// # Errors
    /// When the item is damaged or not announced.
    pub fn item(&mut self, item: snapshot::Item, root: &Root) -> Result<(), Incomplete> {
        let snapshot::Item {
            collection,
            id,
            revision,
            crc,
            config_data,
        } = item;
        let Some(part) = self.parts.get_mut(&collection) else {
            return Err(Incomplete::Stranger(collection));
        };
        if config_data.crc() != crc {
            return Err(Incomplete::Damaged {
                collection,
                id: id.to_string(),
            });
        }
        let held = root.collection(&collection).filter(|held| !held.distrusted);
        let held = held.and_then(|held| held.same(&id, revision, crc));
        part.digest = part.digest.with(&id, revision, crc);
        part.documents.push(
            held.cloned()
                .unwrap_or_else(|| Document::new(id, revision, &config_data)),
        );
        self.count += 1;
        Ok(())
    }

    /// Ends with the last line: proves that nothing is missing, damaged or doubled.
    ///
    /// # Errors
    /// When counts or digests disagree, or a collection that `root` follows is not in it.
    pub fn complete(self, end: &snapshot::End, root: &Root) -> Result<Snapshot, Incomplete> {
        if end.count != self.count {
            return Err(Incomplete::Count {
                came: self.count,
                said: end.count,
            });
        }
        for (name, part) in &self.parts {
            if part.head.count != part.documents.len() as u64 || part.head.digest != part.digest {
                return Err(Incomplete::Digest(name.clone()));
            }
        }
        match root
            .collections
            .keys()
            .find(|name| !self.parts.contains_key(*name))
        {
            Some(missing) => Err(Incomplete::Missing(missing.clone())),
            None => Ok(Snapshot {
                epoch: self.epoch,
                parts: self.parts,
            }),
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
    doubted: &BTreeMap<CollectionName, Revision>,
    snapshot: Snapshot,
) -> Result<Installed, NotInstalled> {
    let how = admit(root, floor, &snapshot)?;
    let mut resets = 0;
    for (name, part) in snapshot.parts {
        let doubted = doubted.get(&name).copied();
        if let Some(held) = root.collections.get_mut(&name) {
            let distrusted = held.distrusted;
            match how {
                How::Replaced => *held = part.into_collection(),
                How::Caught => part.catch_up(held, doubted),
            }
            resets += usize::from(distrusted && !held.distrusted);
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
) -> Result<How, NotInstalled> {
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
            Err(NotInstalled::OtherStore(theirs))
        } else {
            Ok(How::Replaced)
        };
    };
    if theirs.lineage != ours.lineage {
        Err(NotInstalled::OtherStore(theirs))
    } else if theirs.counter < ours.counter {
        Err(NotInstalled::OlderEpoch(theirs))
    } else if theirs != ours {
        Ok(How::Replaced)
    } else {
        let behind =
            |(name, part): &(&CollectionName, &Part)| floor.get(*name) > Some(&part.head.revision);
        match snapshot.parts.iter().find(behind) {
            Some((name, _part)) => Err(NotInstalled::Behind(name.clone())),
            None => Ok(How::Caught),
        }
    }
}

impl Part {
    fn into_collection(self) -> Collection {
        let mut collection = Collection {
            loaded: true,
            versioned: true,
            ..Collection::default()
        };
        collection.documents = self
            .documents
            .into_iter()
            .map(|document| (document.id().clone(), document))
            .collect();
        collection.digest = self.digest;
        collection.see_all(self.head.revision);
        collection.note_settled();
        collection
    }

    /// The snapshot, overridden by every held document or tombstone of a higher revision than its
    /// head's. `doubted` is the watermark that a distrusted collection had when the load began.
    fn catch_up(self, held: &mut Collection, doubted: Option<Revision>) {
        let at = self.head.revision;
        let suffices = match doubted {
            // Every change above the snapshot has come since the load began, so every deletion
            // among them is still known: it can be laid over the snapshot in full, also
            // while changes keep coming.
            Some(watermark) if held.distrusted && at >= watermark => false,
            _ if held.distrusted => held.watermark > at,
            _ => held.watermark >= at,
        };
        if held.versioned && suffices {
            return held.bury();
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
        next.last_settled = held.last_settled.filter(|_last| !held.distrusted);
        next.note_settled();
        next.bury();
        *held = next;
    }
}
