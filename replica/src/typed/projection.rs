//! The values of the typed collections, as a function of the roots that were seen.
//!
//! The rules: a value that fits its type is taken. A value that does not fit is refused, and the
//! last good value of its document stays, or none. While a value is refused, nothing of the change
//! set that brought it is taken: the other members keep their last good values too. A refusal ends
//! when its document changes again or is deleted, and a document that changes again leaves its set.
//! The set of a value is known for the last sets only (see [`state::Root::set_of`]); a value of an
//! older set is refused alone.
//!
//! Nothing here does I/O, and nothing waits, except to let other tasks run while much is decoded.

use std::{collections::BTreeSet, sync::Arc};

use contract::{
    CollectionName, Document, DocumentId, Epoch, Revision, secrets::SecretRef, status::RefusedValue,
};
use imbl::OrdMap;
use state::{HasId, IdMap, Root};
use tokio::task::yield_now;

use super::{
    TypedDecoder, TypedValue,
    opening::{Opening, Reopen, refs_of},
};

/// Bytes that are decoded before other tasks may run.
const BYTES_PER_YIELD: usize = 256 << 10;

/// A decoder by its index, and a document.
/// The same document has one key per type that it is read as.
type Key = (usize, DocumentId);

/// The values of a decoder.
type Values = IdMap<Entry>;

/// A value, and its id beside it: a lookup compares the id first.
#[derive(Debug, Clone)]
struct Entry {
    id: DocumentId,
    value: TypedValue,
}

impl HasId for Entry {
    fn id(&self) -> &DocumentId {
        &self.id
    }
}

/// All typed collections at one moment. Cloning shares everything.
#[derive(Debug, Clone, Default)]
pub(crate) struct Projection {
    /// The decoders of the replica.
    decoders: Arc<[TypedDecoder]>,
    /// The newest root that was seen; none without types.
    root: Root,
    /// Whether any root was seen.
    loaded: bool,
    /// Whether there was a moment at which every document had a value. It stays: a new document
    /// whose value is refused does not end the readiness of a service that works.
    was_whole: bool,
    /// By the index of the decoder.
    values: Vec<Values>,
    /// Values of the root that are not taken: refused, or held back with their set.
    pending: OrdMap<Key, Pending>,
    /// Opens the secrets of documents.
    opening: Arc<Opening>,
    /// How often documents were decoded again that had not changed.
    reopened: u64,
}

/// The new value of a document, `None` when it was deleted; or why it is refused.
type Pending = Result<Option<TypedValue>, RefusedValue>;

/// A value that is refused now and was not before.
#[derive(Debug)]
pub(crate) struct NewRefusal<'a> {
    /// The type that it does not fit.
    pub(crate) decoder: &'a TypedDecoder,
    /// Where it does not fit.
    pub(crate) refusal: &'a RefusedValue,
    /// The revision of the value that stays in its place; `None` when there was never one.
    pub(crate) earlier: Option<Revision>,
}

impl Projection {
    /// A projection that has seen nothing.
    pub(crate) fn new(decoders: Arc<[TypedDecoder]>, opening: Arc<Opening>) -> Self {
        Self {
            values: vec![Values::default(); decoders.len()],
            decoders,
            opening,
            ..Self::default()
        }
    }

    /// The projection after this root is seen.
    /// It decodes what differs from the root that was seen before. While it decodes much, it lets
    /// other tasks run; the caller publishes the result in one step. Documents whose secrets became
    /// others are decoded again.
    pub(crate) async fn next_after(&self, root: &Root, reopen: &Reopen) -> Self {
        let mut next = Self {
            loaded: true,
            ..self.clone()
        };
        // Without types nothing is compared with a later root, and none is kept in memory.
        if self.decoders.is_empty() {
            next.was_whole = true;
            return next;
        }
        next.root = root.clone();
        let mut bytes = 0;
        // Only what differs is decoded: the cost is that of the change, not of the collection.
        for difference in root.changes_since(&self.root) {
            for (index, decoder) in self.decoders.iter().enumerate() {
                // One document may be read as several types, each with a value of its own.
                if decoder.collection != *difference.collection {
                    continue;
                }
                let pending = difference
                    .now
                    .map(|document| decoder.decode(document, &self.opening))
                    .transpose();
                bytes += difference.now.map_or(0, |document| document.json().len());
                next.pending.insert((index, difference.id.clone()), pending);
                // The task also serves the intake, which must not wait for a large load.
                if bytes > BYTES_PER_YIELD {
                    bytes = 0;
                    yield_now().await;
                }
            }
        }
        if reopen.is_due() {
            next.reopen(reopen).await;
        }
        next.settle();
        let whole = next.without_value().next().is_none();
        next.was_whole |= whole;
        next
    }

    /// Decodes documents again that did not change.
    async fn reopen(&mut self, reopen: &Reopen) {
        self.reopened += 1;
        let (decoders, root) = (Arc::clone(&self.decoders), self.root.clone());
        for (index, decoder) in decoders.iter().enumerate() {
            let Some(collection) = root.collection(&decoder.collection) else {
                continue;
            };
            for document in collection.documents() {
                let key = (index, document.id().clone());
                let is_refused = matches!(self.pending.get(&key), Some(Err(_)));
                if self.opening.concerns(reopen, document, is_refused) {
                    let decoded = decoder.decode(document, &self.opening);
                    self.pending.insert(key, decoded.map(Some));
                    yield_now().await;
                }
            }
        }
    }

    /// The documents of typed collections in a newer root that are not in this one.
    pub(crate) fn new_documents<'a>(
        &'a self,
        root: &'a Root,
    ) -> impl Iterator<Item = &'a Document> {
        let is_needed = self.opening.has_store();
        let differences = is_needed.then(|| root.changes_since(&self.root));
        let differences = differences.into_iter().flatten();
        differences
            .filter(|difference| {
                let mut decoders = self.decoders.iter();
                decoders.any(|decoder| decoder.collection == *difference.collection)
            })
            .filter_map(|difference| difference.now)
    }

    /// The entries of secret stores that the documents of typed collections refer to.
    pub(crate) fn secret_refs(&self) -> BTreeSet<SecretRef> {
        let collections: BTreeSet<_> = (self.decoders.iter())
            .map(|decoder| &decoder.collection)
            .collect();
        let collections = collections.into_iter();
        let states = collections.filter_map(|name| self.root.collection(name));
        let documents = states.flat_map(state::CollectionState::documents);
        documents.flat_map(refs_of).collect()
    }

    /// Takes the pending values that are not refused and do not belong to a set of a refused one.
    /// The others stay pending, and are looked at again after the next root.
    fn settle(&mut self) {
        let Self {
            decoders,
            root,
            values,
            pending,
            ..
        } = self;
        let set_of = |(decoder, id): &Key| {
            Some(
                root.set_of(&decoders.get(*decoder)?.collection, id)?
                    .id
                    .as_str(),
            )
        };
        let refused = pending.iter().filter(|(_key, pending)| pending.is_err());
        // A set is taken whole or not at all, so one refused member holds back the others.
        let suspended: BTreeSet<&str> = refused.filter_map(|(key, _refused)| set_of(key)).collect();
        let mut remaining = OrdMap::new();
        for (key, now) in std::mem::take(pending) {
            // Most projections have no refused value, and then no set is looked up.
            let held_back =
                !suspended.is_empty() && set_of(&key).is_some_and(|set| suspended.contains(set));
            match now {
                Ok(now) if !held_back => {
                    // Each decoder has its values, so this never fails.
                    let Some(values) = values.get_mut(key.0) else {
                        continue;
                    };
                    match now {
                        Some(value) => _ = values.insert(Entry { id: key.1, value }),
                        // A deletion always fits.
                        None => _ = values.remove(key.1.as_str()),
                    }
                }
                // It is tried again with the next root.
                waiting => _ = remaining.insert(key, waiting),
            }
        }
        *pending = remaining;
    }

    /// Whether a loaded root was seen.
    pub(crate) fn loaded(&self) -> bool {
        self.loaded
    }

    /// Whether there was a moment at which every document had a value.
    pub(crate) fn was_whole(&self) -> bool {
        self.was_whole
    }

    /// The collections with documents that have never had a value: refused, or held back with their
    /// set.
    pub(crate) fn partial(&self) -> BTreeSet<CollectionName> {
        self.without_value()
            .filter_map(|((decoder, _id), _pending)| self.decoders.get(*decoder))
            .map(|decoder| decoder.collection.clone())
            .collect()
    }

    /// The refused values of documents that have never had a value, each with its decoder.
    pub(crate) fn refused_without_value(
        &self,
    ) -> impl Iterator<Item = (&TypedDecoder, &RefusedValue)> {
        self.without_value()
            .filter_map(|((decoder, _id), pending)| {
                Some((self.decoders.get(*decoder)?, pending.as_ref().err()?))
            })
    }

    /// What is pending of documents that have never had a value. A deletion takes nothing from them.
    fn without_value(&self) -> impl Iterator<Item = (&Key, &Pending)> {
        self.pending.iter().filter(|((decoder, id), pending)| {
            !matches!(pending, Ok(None)) && self.get(*decoder, id.as_str()).is_none()
        })
    }

    /// See [`Root::generation`].
    pub(crate) fn generation(&self) -> u64 {
        self.root.generation()
    }

    /// The history that revisions count in; `None` while they are not counted.
    pub(crate) fn epoch(&self) -> Option<Epoch> {
        self.root.epoch()
    }

    /// The value of a document by the index of its decoder.
    pub(crate) fn get(&self, decoder: usize, id: &str) -> Option<&TypedValue> {
        Some(&self.values.get(decoder)?.get(id)?.value)
    }

    /// The number of values of a decoder.
    pub(crate) fn len(&self, decoder: usize) -> usize {
        self.values.get(decoder).map_or(0, Values::len)
    }

    /// All values of a decoder, sorted by id. It costs a sort.
    pub(crate) fn by_id(&self, decoder: usize) -> Vec<(&DocumentId, &TypedValue)> {
        let values = self.values.get(decoder).into_iter();
        let mut all: Vec<_> = values
            .flat_map(Values::iter)
            .map(|entry| (&entry.id, &entry.value))
            .collect();
        all.sort_unstable_by_key(|(id, _value)| *id);
        all
    }

    /// The watermark of the collection of a decoder: values that are refused count too.
    pub(crate) fn watermark(&self, decoder: usize) -> Revision {
        self.decoders
            .get(decoder)
            .and_then(|decoder| self.root.collection(&decoder.collection))
            .map_or(0, state::CollectionState::watermark)
    }

    /// The values of a decoder that are others than at an older moment, by revision: the value then,
    /// and the value now. Deletions come last.
    ///
    /// Both projections must be of the same generation: in a new one everything may differ, and
    /// handlers get a resync instead.
    pub(crate) fn changes_since(
        &self,
        old: &Self,
        decoder: usize,
    ) -> Vec<(DocumentId, Option<TypedValue>, Option<TypedValue>)> {
        let (Some(before), Some(now)) = (old.values.get(decoder), self.values.get(decoder)) else {
            return Vec::new();
        };
        // A value changes when its document does, or when its set is no longer held back.
        let differences = self.root.changes_since(&old.root);
        let changed = differences
            .iter()
            .filter(|difference| self.decodes(decoder, difference.collection))
            .map(|difference| difference.id);
        let pending = old
            .pending
            .keys()
            .filter(|(of, _id)| *of == decoder)
            .map(|(_decoder, id)| id);
        // Documents that were decoded again may be any.
        let reopened = (self.reopened != old.reopened).then(|| now.iter().map(HasId::id));
        let reopened = reopened.into_iter().flatten();
        let ids: BTreeSet<_> = changed.chain(pending).chain(reopened).collect();
        let value = |values: &Values, id: &DocumentId| Some(values.get(id.as_str())?.value.clone());
        let mut changes: Vec<_> = ids
            .into_iter()
            .map(|id| (id.clone(), value(before, id), value(now, id)))
            .filter(|(_id, before, now)| before != now)
            .collect();
        // In the order in which the values were written.
        changes.sort_by_key(|(_id, _before, now)| {
            now.as_ref().map_or(Revision::MAX, |value| value.revision)
        });
        changes
    }

    /// The refused values of a collection, by id.
    pub(crate) fn refusals(
        &self,
        collection: &CollectionName,
    ) -> impl Iterator<Item = &RefusedValue> {
        self.refused()
            .filter(move |((decoder, _id), _refusal)| self.decodes(*decoder, collection))
            .map(|(_key, refusal)| refusal)
    }

    /// The values that are refused here and were not at the moment before.
    /// A value that is refused for another reason than before counts as new.
    pub(crate) fn refused_since(&self, before: &Self) -> Vec<NewRefusal<'_>> {
        let new = self.refused().filter(|(key, refusal)| {
            !before
                .pending
                .get(*key)
                .is_some_and(|before| before.as_ref().err() == Some(*refusal))
        });
        new.filter_map(|((decoder, id), refusal)| {
            Some(NewRefusal {
                decoder: self.decoders.get(*decoder)?,
                refusal,
                earlier: self.get(*decoder, id.as_str()).map(|value| value.revision),
            })
        })
        .collect()
    }

    /// All refused values, without those that are held back with them.
    fn refused(&self) -> impl Iterator<Item = (&Key, &RefusedValue)> {
        self.pending
            .iter()
            .filter_map(|(key, pending)| Some((key, pending.as_ref().err()?)))
    }

    /// Whether a decoder is one of this collection.
    fn decodes(&self, decoder: usize, collection: &CollectionName) -> bool {
        self.decoders
            .get(decoder)
            .is_some_and(|decoder| decoder.collection == *collection)
    }
}
