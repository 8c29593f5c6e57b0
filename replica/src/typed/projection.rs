//! What the typed collections hold, as a function of the roots that were seen.
//!
//! The rules: a value that fits is taken. One that does not fit is refused, and the last good one
//! of its document stays, or none. While a refused value stands, nothing of the change set that
//! brought it is taken: the other members keep their last good values too. A refusal ends when its
//! document changes again or goes, and a document that changes again leaves its set. Which set a
//! value belongs to is known for the last sets only (see [`state::Root::set_of`]); a value
//! of an older one is refused alone.
//!
//! Nothing here waits, except to let others run while much is read.

use std::{collections::BTreeSet, sync::Arc};

use contract::{CollectionName, DocumentId, Epoch, Revision, status::RefusedValue};
use foldhash::fast::RandomState;
use imbl::{GenericHashMap, OrdMap, shared_ptr::DefaultSharedPtr};
use state::{Difference, Root};
use tokio::task::yield_now;

use super::{Held, Lens};

/// Bytes that are read at a stretch.
const STRETCH: usize = 256 << 10;

/// A document through a lens.
type Key = (usize, DocumentId);

/// Values by id. Readers look up one at a time, so they are found by hash; who wants them in order
/// sorts them.
type Values = GenericHashMap<DocumentId, Held, RandomState, DefaultSharedPtr>;

/// One moment of all typed collections. Cloning shares everything.
#[derive(Debug, Clone, Default)]
pub(crate) struct Projection {
    lenses: Arc<[Lens]>,
    root: Root,
    loaded: bool,
    /// By lens.
    values: Vec<Values>,
    /// What the root holds and is not taken: refused, or held back with its set.
    pending: OrdMap<Key, Pending>,
}

/// What a document would be; `None` when it is gone.
type Pending = Result<Option<Held>, RefusedValue>;

impl Projection {
    pub(crate) fn new(lenses: Arc<[Lens]>) -> Self {
        Self {
            values: vec![Values::default(); lenses.len()],
            lenses,
            ..Self::default()
        }
    }

    /// What becomes of it when this root is seen.
    pub(crate) async fn next(&self, root: &Root) -> Self {
        let mut next = Self {
            root: root.clone(),
            loaded: true,
            ..self.clone()
        };
        if self.lenses.is_empty() {
            return next;
        }
        let mut read = 0;
        for difference in root.changes_since(&self.root) {
            let of_it = |(_index, lens): &(usize, &Lens)| lens.collection == *difference.collection;
            for (index, lens) in self.lenses.iter().enumerate().filter(of_it) {
                let pending = difference
                    .now
                    .map(|document| lens.read(document))
                    .transpose();
                read += difference.now.map_or(0, |document| document.json().len());
                next.pending.insert((index, difference.id.clone()), pending);
                if read > STRETCH {
                    read = 0;
                    yield_now().await;
                }
            }
        }
        next.settle();
        next
    }

    /// Takes what is pending, unless it is refused or belongs to what is.
    fn settle(&mut self) {
        let Self {
            lenses,
            root,
            values,
            pending,
            ..
        } = self;
        let set_of =
            |(lens, id): &Key| Some(root.set_of(&lenses.get(*lens)?.collection, id)?.id.as_str());
        let refused = pending.iter().filter(|(_key, pending)| pending.is_err());
        let suspended: BTreeSet<&str> = refused.filter_map(|(key, _refused)| set_of(key)).collect();
        let mut left = OrdMap::new();
        for (key, now) in std::mem::take(pending) {
            let held_back =
                !suspended.is_empty() && set_of(&key).is_some_and(|set| suspended.contains(set));
            match now {
                Ok(now) if !held_back => {
                    let Some(values) = values.get_mut(key.0) else {
                        continue;
                    };
                    match now {
                        Some(held) => _ = values.insert(key.1, held),
                        None => _ = values.remove(&key.1),
                    }
                }
                waiting => _ = left.insert(key, waiting),
            }
        }
        *pending = left;
    }

    /// Whether there is anything to read.
    pub(crate) fn loaded(&self) -> bool {
        self.loaded
    }

    /// See [`Root::generation`].
    pub(crate) fn generation(&self) -> u64 {
        self.root.generation()
    }

    pub(crate) fn epoch(&self) -> Option<Epoch> {
        self.root.epoch()
    }

    pub(crate) fn get(&self, lens: usize, id: &str) -> Option<&Held> {
        self.values.get(lens)?.get(id)
    }

    pub(crate) fn len(&self, lens: usize) -> usize {
        self.values.get(lens).map_or(0, Values::len)
    }

    pub(crate) fn by_id(&self, lens: usize) -> Vec<(&DocumentId, &Held)> {
        let mut all: Vec<_> = self.values.get(lens).into_iter().flatten().collect();
        all.sort_unstable_by_key(|(id, _held)| *id);
        all
    }

    pub(crate) fn watermark(&self, lens: usize) -> Revision {
        let held = self
            .lenses
            .get(lens)
            .and_then(|lens| self.root.collection(&lens.collection));
        held.map_or(0, state::CollectionState::watermark)
    }

    /// What this has of a lens that another moment has not, by revision: what it was, and what it
    /// is. What is gone comes last.
    pub(crate) fn changes_since(
        &self,
        old: &Self,
        lens: usize,
    ) -> Vec<(DocumentId, Option<Held>, Option<Held>)> {
        let (Some(before), Some(now)) = (old.values.get(lens), self.values.get(lens)) else {
            return Vec::new();
        };
        // A value changes when its document does, or when what held it back is over.
        let differences = self.root.changes_since(&old.root);
        let of_it = |difference: &Difference<'_>| {
            self.lenses
                .get(lens)
                .is_some_and(|lens| lens.collection == *difference.collection)
        };
        let changed = differences
            .iter()
            .filter(|difference| of_it(difference))
            .map(|difference| difference.id);
        let pending = old
            .pending
            .keys()
            .filter(|(of, _id)| *of == lens)
            .map(|(_lens, id)| id);
        let ids: BTreeSet<_> = changed.chain(pending).collect();
        let change = |id: &DocumentId| (id.clone(), before.get(id).cloned(), now.get(id).cloned());
        let mut changes: Vec<_> = ids
            .into_iter()
            .map(change)
            .filter(|(_id, before, now)| before != now)
            .collect();
        changes.sort_by_key(|(_id, _before, now)| {
            now.as_ref().map_or(Revision::MAX, |held| held.revision)
        });
        changes
    }

    /// What is refused of a collection, by id.
    pub(crate) fn refusals(
        &self,
        collection: &CollectionName,
    ) -> impl Iterator<Item = &RefusedValue> {
        let of_it = |lens: usize| {
            self.lenses
                .get(lens)
                .is_some_and(|lens| lens.collection == *collection)
        };
        let refused = self
            .pending
            .iter()
            .filter_map(|(key, pending)| Some((key, pending.as_ref().err()?)));
        refused
            .filter(move |((lens, _id), _refusal)| of_it(*lens))
            .map(|(_key, refusal)| refusal)
    }

    /// What is refused here and was not in the moment before.
    pub(crate) fn refused_since(&self, before: &Self) -> Vec<(&Lens, &RefusedValue)> {
        let refused = self
            .pending
            .iter()
            .filter_map(|(key, pending)| Some((key, pending.as_ref().err()?)));
        let new = refused.filter(|(key, refusal)| {
            !before
                .pending
                .get(*key)
                .is_some_and(|before| before.as_ref().err() == Some(*refusal))
        });
        new.filter_map(|((lens, _id), refusal)| Some((self.lenses.get(*lens)?, refusal)))
            .collect()
    }
}
