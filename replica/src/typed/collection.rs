//! Typed collections as readers see them: live, pinned, or as a snapshot. Nothing here writes.

use std::{fmt, marker::PhantomData, sync::Arc};

use contract::{DocumentId, Epoch, Revision};

use super::{Projection, Typed};
use crate::BuildError;

/// A live collection of values of `T`. Each call reads the newest values; a caller that needs two
/// answers of the same moment takes a [`Snapshot`]. Cloning gives another handle.
pub struct Collection<T> {
    /// Where the newest projection is.
    typed: Arc<Typed>,
    /// The index of the decoder of the collection as `T`.
    decoder: usize,
    kind: PhantomData<fn() -> T>,
}

impl<T: Send + Sync + 'static> Collection<T> {
    /// The collection as values of `T`.
    ///
    /// # Errors
    /// When the builder did not give the collection this type.
    pub(crate) fn new(typed: Arc<Typed>, name: &str) -> Result<Self, BuildError> {
        Ok(Self {
            decoder: typed.decoder::<T>(name)?,
            typed,
            kind: PhantomData,
        })
    }

    /// The value of a document; `None` when the document does not exist, or never had a value that
    /// fits the type.
    pub fn get(&self, id: impl AsRef<str>) -> Option<Arc<T>> {
        let projection = self.typed.projection.load();
        projection.get(self.decoder, id.as_ref())?.value()
    }

    /// The collection at this moment.
    /// It does not follow later changes.
    pub fn snapshot(&self) -> Snapshot<T> {
        Snapshot::new(self.typed.projection(), self.decoder)
    }

    /// How many documents have a value.
    pub fn len(&self) -> usize {
        self.typed.projection.load().len(self.decoder)
    }

    /// Whether no document has a value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Clone for Collection<T> {
    fn clone(&self) -> Self {
        Self {
            typed: Arc::clone(&self.typed),
            decoder: self.decoder,
            kind: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Collection<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Collection({:?})", self.typed.decoders.get(self.decoder))
    }
}

/// All typed collections at one moment, which stays as it is. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Pin {
    typed: Arc<Typed>,
    /// All typed collections at the moment of the pin.
    projection: Arc<Projection>,
}

impl Pin {
    /// The typed collections as they are now.
    pub(crate) fn new(typed: Arc<Typed>) -> Self {
        Self {
            projection: typed.projection(),
            typed,
        }
    }

    /// A collection at this moment.
    ///
    /// # Errors
    /// When the builder did not give the collection this type.
    pub fn collection<T: Send + Sync + 'static>(
        &self,
        name: &str,
    ) -> Result<Snapshot<T>, BuildError> {
        Ok(Snapshot::new(
            Arc::clone(&self.projection),
            self.typed.decoder::<T>(name)?,
        ))
    }
}

/// A collection at one moment, which stays as it is. Cloning is cheap.
///
/// It holds the values of its moment in memory for as long as it lives. Two snapshots that share
/// values share their memory.
pub struct Snapshot<T> {
    projection: Arc<Projection>,
    decoder: usize,
    kind: PhantomData<fn() -> T>,
}

impl<T: Send + Sync + 'static> Snapshot<T> {
    /// One collection of a projection, by the index of its decoder.
    pub(crate) fn new(projection: Arc<Projection>, decoder: usize) -> Self {
        Self {
            projection,
            decoder,
            kind: PhantomData,
        }
    }

    /// The value of a document.
    pub fn get(&self, id: impl AsRef<str>) -> Option<Arc<T>> {
        self.projection.get(self.decoder, id.as_ref())?.value()
    }

    /// All values, by id.
    /// The order is that of the ids as text. It costs a sort of the whole collection; a caller that
    /// needs one value uses [`Snapshot::get`].
    pub fn iter(&self) -> impl Iterator<Item = (&DocumentId, &T)> {
        self.projection
            .by_id(self.decoder)
            .into_iter()
            .filter_map(|(id, value)| Some((id, value.as_ref()?)))
    }

    /// How many documents have a value.
    pub fn len(&self) -> usize {
        self.projection.len(self.decoder)
    }

    /// Whether no document has a value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Snapshot<T> {
    /// The watermark: every revision up to it was seen, whether its value fits or not.
    pub fn revision(&self) -> Revision {
        self.projection.watermark(self.decoder)
    }

    /// The history that revisions count in; `None` before the first load, and where the publisher
    /// counts no revisions.
    pub fn epoch(&self) -> Option<Epoch> {
        self.projection.epoch()
    }
}

impl<T> Clone for Snapshot<T> {
    fn clone(&self) -> Self {
        Self {
            projection: Arc::clone(&self.projection),
            decoder: self.decoder,
            kind: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Snapshot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Snapshot({} values at {})",
            self.projection.len(self.decoder),
            self.revision()
        )
    }
}
