//! Up to where the streams of events were read, where events come from streams. They are saved with
//! the image, so that a replica reads on where it stopped. Nothing here reads a stream.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use contract::CollectionName;

/// The position in the stream of each collection.
#[derive(Debug, Default)]
pub(crate) struct StreamCursors(Mutex<BTreeMap<CollectionName, String>>);

impl StreamCursors {
    /// All positions.
    pub(crate) fn snapshot(&self) -> BTreeMap<CollectionName, String> {
        self.lock().clone()
    }

    /// Takes over the positions of an image.
    pub(crate) fn restore(&self, cursors: BTreeMap<CollectionName, String>) {
        *self.lock() = cursors;
    }

    /// A stream was read up to here.
    #[cfg(feature = "redis")]
    pub(crate) fn set(&self, collection: CollectionName, cursor: String) {
        self.lock().insert(collection, cursor);
    }

    /// Takes over the positions of a new connection. A position that is known stays: it may be
    /// older, because a change before it is not on disk yet.
    #[cfg(feature = "redis")]
    pub(crate) fn insert_missing(&self, cursors: BTreeMap<CollectionName, String>) {
        let mut known = self.lock();
        for (collection, cursor) in cursors {
            known.entry(collection).or_insert(cursor);
        }
    }

    /// The positions. They are valid whatever happened while the lock was held.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<CollectionName, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
