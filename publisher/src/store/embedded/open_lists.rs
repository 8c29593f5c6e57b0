//! The lists that are being read, and the documents that commits replaced meanwhile.
//!
//! A list is one snapshot, and no transaction may be held while its reader takes its time: it would
//! keep the write-ahead log from being reused. So each piece of a list is read in a transaction of
//! its own, and a commit leaves here what it replaces, for every list that has not read that far.
//! Nothing here reads or writes the file.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use contract::{CollectionName, Document, DocumentId, Head, Revision};

use crate::{decide::DocumentKey, store::embedded::rows::Piece};

/// Bytes of replaced documents for all lists together. Above it the list that needs most of them
/// fails.
const MAX_BYTES: usize = 64 << 20;
/// Bytes of one entry besides its document.
const ENTRY_BYTES: usize = 200;

/// A document as it was before a commit.
#[derive(Debug, Clone)]
pub(super) struct Image {
    pub(super) key: DocumentKey,
    /// The revision that replaced it.
    pub(super) replaced_by: Revision,
    /// `None` if the document did not exist.
    pub(super) document: Option<Document>,
}

/// All open lists of a store.
#[derive(Default)]
pub(super) struct OpenLists(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    next: u64,
    lists: BTreeMap<u64, List>,
    /// The images of a commit that is under way: a list that begins now may not see it.
    committing: Vec<Image>,
}

#[derive(Default)]
struct List {
    collections: BTreeSet<CollectionName>,
    /// The revisions of the snapshot; `None` until they were read.
    revisions: Option<BTreeMap<CollectionName, Revision>>,
    /// Everything up to this key was read.
    read: Option<DocumentKey>,
    images: BTreeMap<DocumentKey, Vec<Image>>,
    bytes: usize,
    /// Too much was replaced; the images are gone.
    lost: bool,
}

/// A list stayed open while too much was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the list is read too slowly: more than {MAX_BYTES} bytes of documents were replaced since \
     the open lists began"
)]
pub(super) struct TooSlow;

impl OpenLists {
    /// Registers a list. Its heads are to be read after it, and then given to [`OpenList::begin`].
    pub(super) fn open(&self, collections: BTreeSet<CollectionName>) -> OpenList {
        let mut state = lock(&self.0);
        let id = state.next;
        state.next += 1;
        let mut list = List {
            collections,
            ..List::default()
        };
        state.committing.iter().for_each(|image| list.keep(image));
        state.lists.insert(id, list);
        OpenList {
            id,
            state: self.0.clone(),
        }
    }

    /// Gives all lists the images of a commit that is about to happen. The guard is dropped after the
    /// commit ended.
    pub(super) fn replace(&self, images: Vec<Image>) -> Committing {
        let mut state = lock(&self.0);
        for list in state.lists.values_mut() {
            images.iter().for_each(|image| list.keep(image));
        }
        while state.lists.values().map(|list| list.bytes).sum::<usize>() > MAX_BYTES {
            let largest = state.lists.values_mut().max_by_key(|list| list.bytes);
            let Some(list) = largest else { break };
            list.images.clear();
            list.bytes = 0;
            list.lost = true;
        }
        state.committing = images;
        Committing(self.0.clone())
    }
}

/// A commit that is under way.
pub(super) struct Committing(Arc<Mutex<State>>);

impl Drop for Committing {
    fn drop(&mut self) {
        lock(&self.0).committing.clear();
    }
}

/// One open list. Dropping it ends it.
pub(super) struct OpenList {
    id: u64,
    state: Arc<Mutex<State>>,
}

impl OpenList {
    /// Says which snapshot the list is. An image that is part of the snapshot is dropped.
    pub(super) fn begin(&self, heads: &[Head]) {
        let mut state = lock(&self.state);
        let Some(list) = state.lists.get_mut(&self.id) else {
            return;
        };
        let revisions: BTreeMap<_, _> = heads
            .iter()
            .map(|head| (head.collection.clone(), head.revision))
            .collect();
        let kept = std::mem::take(&mut list.images);
        list.bytes = 0;
        list.revisions = Some(revisions);
        kept.values().flatten().for_each(|image| list.keep(image));
    }

    /// The documents of the snapshot in the range of a piece that was read after `after`.
    ///
    /// # Errors
    /// When documents of the snapshot are no longer known.
    pub(super) fn at_snapshot(
        &self,
        head: &Head,
        after: Option<&DocumentId>,
        piece: Piece,
    ) -> Result<Vec<Document>, TooSlow> {
        let mut state = lock(&self.state);
        let list = state.lists.get_mut(&self.id).ok_or(TooSlow)?;
        if list.lost {
            return Err(TooSlow);
        }
        let in_range = |id: &DocumentId| {
            after.is_none_or(|after| id > after)
                && piece.last.as_ref().is_none_or(|last| id <= last)
        };
        let keys: Vec<_> = list
            .images
            .keys()
            .filter(|(collection, id)| *collection == head.collection && in_range(id))
            .cloned()
            .collect();
        if let Some(last) = &piece.last {
            list.read = Some((head.collection.clone(), last.clone()));
        }
        let newer = |document: &Document| document.revision() > head.revision;
        if keys.is_empty() && !piece.documents.iter().any(newer) {
            return Ok(piece.documents);
        }
        let mut documents: BTreeMap<_, _> = piece
            .documents
            .into_iter()
            .filter(|document| !newer(document))
            .map(|document| (document.id().clone(), document))
            .collect();
        for key in keys {
            let image = list.take(&key);
            match image.and_then(|image| image.document) {
                Some(document) => documents.insert(key.1, document),
                None => documents.remove(&key.1),
            };
        }
        Ok(documents.into_values().collect())
    }
}

impl Drop for OpenList {
    fn drop(&mut self) {
        lock(&self.state).lists.remove(&self.id);
    }
}

impl List {
    /// Keeps an image if the list may need it: the oldest one that is newer than the snapshot.
    fn keep(&mut self, image: &Image) {
        let (collection, _id) = &image.key;
        let passed = self.read.as_ref().is_some_and(|read| image.key <= *read);
        if self.lost || passed || !self.collections.contains(collection) {
            return;
        }
        let snapshot = self
            .revisions
            .as_ref()
            .map(|revisions| revisions.get(collection).copied().unwrap_or(0));
        if snapshot.is_some_and(|snapshot| image.replaced_by <= snapshot) {
            return;
        }
        let kept = match self.images.entry(image.key.clone()) {
            Entry::Occupied(_) if snapshot.is_some() => return,
            Entry::Occupied(kept) => kept.into_mut(),
            Entry::Vacant(kept) => kept.insert(Vec::new()),
        };
        kept.push(image.clone());
        self.bytes += bytes(image);
    }

    fn take(&mut self, key: &DocumentKey) -> Option<Image> {
        let mut images = self.images.remove(key)?;
        self.bytes = self.bytes.saturating_sub(images.iter().map(bytes).sum());
        images.truncate(1);
        images.pop()
    }
}

fn bytes(image: &Image) -> usize {
    let document = image
        .document
        .as_ref()
        .map_or(0, |document| document.json().len());
    ENTRY_BYTES + document
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // No code that holds the lock leaves the state half changed.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
