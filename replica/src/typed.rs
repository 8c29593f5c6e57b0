//! The configuration as values of the service's own types, read in memory.
//!
//! Every followed collection that has a type is projected from the same view and swapped in one
//! step (`projection`), so what is pinned is consistent over all of them. A value that does not fit
//! its type (`lens`) is refused: the last good one stays. Reading never waits and never fails; raw
//! reads and digests are not concerned by anything here.

mod following;
mod lens;
mod projection;

use std::{any::TypeId, fmt, marker::PhantomData, sync::Arc};

use contract::{CollectionName, DocumentId, Epoch, Revision, status::RefusedValue};
pub(crate) use lens::{Held, Lens, shortened};
pub(crate) use projection::Projection;
use tokio::sync::watch;

use crate::{Mistake, Replica, handlers::Handlers, shown::Shown};

/// The typed half of a replica.
#[derive(Debug, Default)]
pub(crate) struct Typed {
    pub(crate) lenses: Arc<[Lens]>,
    pub(crate) handlers: Handlers,
    /// Made by one future, in `following`.
    projection: Shown<Projection>,
    /// Bumped after it was swapped.
    stepped: watch::Sender<()>,
}

impl Typed {
    pub(crate) fn new(lenses: Vec<Lens>, handlers: Handlers) -> Self {
        let lenses: Arc<[Lens]> = lenses.into();
        let projection = Shown::new(Projection::new(Arc::clone(&lenses)));
        Self {
            lenses,
            handlers,
            projection,
            stepped: watch::Sender::default(),
        }
    }

    pub(crate) fn projection(&self) -> Arc<Projection> {
        self.projection.get()
    }

    /// Whoever waits for another projection waits here.
    pub(crate) fn stepped(&self) -> watch::Receiver<()> {
        self.stepped.subscribe()
    }

    pub(crate) fn refusals(&self, collection: &CollectionName, most: usize) -> Vec<RefusedValue> {
        self.projection
            .look()
            .refusals(collection)
            .take(most)
            .cloned()
            .collect()
    }

    fn lens<T: 'static>(&self, collection: &str) -> Result<usize, Mistake> {
        let fits =
            |lens: &Lens| lens.collection.as_str() == collection && lens.kind == TypeId::of::<T>();
        self.lenses
            .iter()
            .position(fits)
            .ok_or_else(|| Mistake::NotTyped {
                collection: collection.to_owned(),
                type_name: std::any::type_name::<T>(),
            })
    }
}

impl Replica {
    /// A collection whose documents are values of `T`. It is empty until the first load
    /// ([`Replica::ready`]).
    ///
    /// # Errors
    /// When the builder was not told that it has this type.
    pub fn collection<T: Send + Sync + 'static>(
        &self,
        name: &str,
    ) -> Result<Collection<T>, Mistake> {
        let lens = self.typed().lens::<T>(name)?;
        Ok(Collection {
            replica: self.clone(),
            lens,
            kind: PhantomData,
        })
    }

    /// All typed collections at one moment, which stays as it is, whatever comes later.
    pub fn pin(&self) -> Pin {
        Pin {
            replica: self.clone(),
            projection: self.typed().projection(),
        }
    }
}

/// A live collection of values of `T`. Each call sees the newest; who needs two answers of the same
/// moment takes a [`Snapshot`].
pub struct Collection<T> {
    replica: Replica,
    lens: usize,
    kind: PhantomData<fn() -> T>,
}

impl<T: Send + Sync + 'static> Collection<T> {
    /// The value of a document; `None` when there is none, or none that ever fit.
    pub fn get(&self, id: impl AsRef<str>) -> Option<Arc<T>> {
        let projection = self.replica.typed().projection.look();
        projection.get(self.lens, id.as_ref())?.value()
    }

    /// This moment of it.
    pub fn snapshot(&self) -> Snapshot<T> {
        Snapshot::new(self.replica.typed().projection(), self.lens)
    }

    /// How many documents have a value.
    pub fn len(&self) -> usize {
        self.replica.typed().projection.look().len(self.lens)
    }

    /// Whether no document has a value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Clone for Collection<T> {
    fn clone(&self) -> Self {
        Self {
            replica: self.replica.clone(),
            lens: self.lens,
            kind: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Collection<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Collection({:?})",
            self.replica.typed().lenses.get(self.lens)
        )
    }
}

/// One moment of all typed collections.
#[derive(Debug, Clone)]
pub struct Pin {
    replica: Replica,
    projection: Arc<Projection>,
}

impl Pin {
    /// A collection at this moment.
    ///
    /// # Errors
    /// When the builder was not told that it has this type.
    pub fn collection<T: Send + Sync + 'static>(&self, name: &str) -> Result<Snapshot<T>, Mistake> {
        Ok(Snapshot::new(
            Arc::clone(&self.projection),
            self.replica.typed().lens::<T>(name)?,
        ))
    }
}

/// One moment of a collection. Cloning is cheap.
pub struct Snapshot<T> {
    projection: Arc<Projection>,
    lens: usize,
    kind: PhantomData<fn() -> T>,
}

impl<T: Send + Sync + 'static> Snapshot<T> {
    pub(crate) fn new(projection: Arc<Projection>, lens: usize) -> Self {
        Self {
            projection,
            lens,
            kind: PhantomData,
        }
    }

    /// The value of a document.
    pub fn get(&self, id: impl AsRef<str>) -> Option<Arc<T>> {
        self.projection.get(self.lens, id.as_ref())?.value()
    }

    /// All values, by id.
    pub fn iter(&self) -> impl Iterator<Item = (&DocumentId, &T)> {
        self.projection
            .by_id(self.lens)
            .into_iter()
            .filter_map(|(id, held)| Some((id, held.look()?)))
    }

    /// How many documents have a value.
    pub fn len(&self) -> usize {
        self.projection.len(self.lens)
    }

    /// Whether no document has a value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Snapshot<T> {
    /// The watermark: every revision up to it was seen, whether its value fits or not.
    pub fn revision(&self) -> Revision {
        self.projection.watermark(self.lens)
    }

    /// The history that revisions count in; `None` before the first load, and where the publisher
    /// counts none.
    pub fn epoch(&self) -> Option<Epoch> {
        self.projection.epoch()
    }
}

impl<T> Clone for Snapshot<T> {
    fn clone(&self) -> Self {
        Self {
            projection: Arc::clone(&self.projection),
            lens: self.lens,
            kind: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Snapshot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Snapshot({} values at {})",
            self.projection.len(self.lens),
            self.revision()
        )
    }
}

#[cfg(test)]
mod tests;
