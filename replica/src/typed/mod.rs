//! The configuration as values of the service's own types, read from memory.
//!
//! Every followed collection that has a type is projected from the same view and published in one
//! step ([`projection`]), so a pin is consistent over all of them. A value that does not fit its
//! type ([`decoder`]) is refused: the last good one stays, if there was one. A first load with refused
//! values is no success unless the service says so (`readiness`). Handlers are notified of each change
//! ([`handlers`], `flow`). Reading never waits and never fails; raw reads and digests do not depend
//! on anything here.

mod collection;
mod decoder;
mod flow;
mod handlers;
mod opening;
mod projection;
mod readiness;
mod secret;
mod secret_store;

use std::{any::TypeId, collections::BTreeSet, fmt, sync::Arc};

use contract::{
    CollectionName, Revision,
    status::{MAX_REFUSALS, RefusedValue},
};
use tokio::sync::watch;

pub use collection::{Collection, Pin, Snapshot};
pub(crate) use decoder::{TypedDecoder, TypedValue};
pub use handlers::{DocumentChange, HandlerError, Update};
pub(crate) use handlers::{Handler, Handlers};
pub(crate) use opening::Opening;
pub(crate) use projection::Projection;
pub use readiness::{FirstLoad, NotReady, PartialLoad};
pub use secret::Secret;
pub use secret_store::SecretStore;
pub(crate) use secret_store::StoreCache;

use crate::{
    BuildError,
    cache::{Cache, SwapCell, TypedReach},
    change_traces::ChangeTraces,
};

/// The typed collections and the handlers of a replica.
#[derive(Debug, Default)]
pub(crate) struct Typed {
    /// One per collection and type. Other parts refer to a decoder by its index here.
    decoders: Arc<[TypedDecoder]>,
    /// The handlers, in the order of registration.
    handlers: Handlers,
    /// Written by [`Typed::run_projection`] only.
    projection: SwapCell<Projection>,
    /// Notified after each swap.
    projected: watch::Sender<()>,
    /// What the first load must bring before the replica is ready.
    first_load: FirstLoad,
    /// Opens the secrets of documents.
    opening: Arc<Opening>,
    /// The spans that handlers continue.
    traces: Arc<ChangeTraces>,
}

impl Typed {
    /// Typed collections and handlers that were notified of nothing yet. `handlers` refer to
    /// `decoders` by index.
    pub(crate) fn new(
        decoders: Vec<TypedDecoder>,
        handlers: Handlers,
        first_load: FirstLoad,
        opening: Arc<Opening>,
    ) -> Self {
        let decoders: Arc<[TypedDecoder]> = decoders.into();
        let projection = Projection::new(Arc::clone(&decoders), Arc::clone(&opening));
        let projection = SwapCell::new(projection);
        Self {
            decoders,
            handlers,
            projection,
            projected: watch::Sender::default(),
            first_load,
            opening,
            traces: Arc::default(),
        }
    }

    /// The spans of the newest changes, which the intake notes.
    pub(crate) fn traces(&self) -> &Arc<ChangeTraces> {
        &self.traces
    }

    /// Opens the secrets of documents.
    pub(crate) fn opening(&self) -> &Opening {
        &self.opening
    }

    /// What typed readers can read before anything was projected: nothing.
    pub(crate) fn reach_at_start(&self) -> TypedReach {
        TypedReach {
            unread: (self.decoders.iter())
                .map(|decoder| decoder.collection.clone())
                .collect(),
            partial: BTreeSet::new(),
        }
    }

    /// The newest projection, to be kept.
    /// It stays as it is.
    pub(crate) fn projection(&self) -> Arc<Projection> {
        self.projection.load_full()
    }

    /// Changes with every new projection.
    fn projected(&self) -> watch::Receiver<()> {
        self.projected.subscribe()
    }

    /// Values of a collection that do not fit their type, at most `max`.
    /// By type, then by id: a document may be read as several types.
    pub(crate) fn refusals(&self, collection: &CollectionName, max: usize) -> Vec<RefusedValue> {
        self.projection
            .load()
            .refusals(collection)
            .take(max)
            .cloned()
            .collect()
    }

    /// The number of values of a collection that do not fit their type.
    pub(crate) fn refused_values(&self, collection: &CollectionName) -> u64 {
        self.projection.load().refusals(collection).count() as u64
    }

    /// The index of the decoder of a collection and a type.
    ///
    /// # Errors
    /// When the builder did not give the collection this type.
    fn decoder<T: 'static>(&self, collection: &str) -> Result<usize, BuildError> {
        self.decoders
            .iter()
            .position(|decoder| {
                decoder.collection.as_str() == collection && decoder.type_id == TypeId::of::<T>()
            })
            .ok_or_else(|| BuildError::NotTyped {
                collection: collection.to_owned(),
                type_name: std::any::type_name::<T>(),
            })
    }

    /// Resolves as soon as everything was loaded and can be read, typed collections included, whether
    /// their values fit or not.
    pub(crate) async fn loaded(&self) {
        let mut projected = self.projected();
        // Subscribed before the projection is read, so that no change is missed in between.
        while !self.projection.load().loaded() {
            if projected.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// The watermark of what is read as values; `None` of a collection without a type.
    pub(crate) fn watermark(&self, collection: &CollectionName) -> Option<Revision> {
        let mut decoders = self.decoders.iter();
        let decoder = decoders.position(|decoder| decoder.collection == *collection)?;
        Some(self.projection.load().watermark(decoder))
    }

    /// Resolves as soon as the values of a collection are those of a revision or a newer one; at once
    /// of a collection without a type.
    pub(crate) async fn until_revision(&self, collection: &CollectionName, revision: Revision) {
        let mut projected = self.projected();
        while (self.watermark(collection)).is_some_and(|watermark| watermark < revision) {
            if projected.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Whether the first load has brought what it must.
    ///
    /// # Errors
    /// When it is not complete, or when values of it were refused and that is not allowed.
    pub(crate) fn readiness(&self) -> Result<(), NotReady> {
        let projection = self.projection.load();
        if !projection.loaded() {
            return Err(NotReady::Loading);
        }
        match self.first_load {
            FirstLoad::Partial => Ok(()),
            FirstLoad::Whole if projection.was_whole() => Ok(()),
            FirstLoad::Whole => Err(NotReady::partial(&projection)),
        }
    }

    /// Projects every view that readers may see; when it is slow, only the newest. It never ends.
    pub(crate) async fn run_projection(&self, cache: &Cache) {
        let refs = || self.projection().secret_refs();
        tokio::join!(self.project(cache), Box::pin(self.opening.run(refs)));
    }

    async fn project(&self, cache: &Cache) {
        let mut written = cache.written();
        loop {
            written.mark_unchanged();
            if self.project_newest(cache).await && self.decoders.is_empty() {
                // Without types nothing reads the projection: no change need wake this.
                drop(written);
                return std::future::pending().await;
            }
            // No view is kept meanwhile, nor what it has of documents that are replaced.
            let written = async { written.changed().await };
            tokio::select! {
                changed = written => {
                    if changed.is_err() {
                        return std::future::pending().await;
                    }
                }
                () = self.opening.until_changed() => {}
            }
        }
    }

    /// Projects the newest view, if readers may see it. Returns whether they may.
    async fn project_newest(&self, cache: &Cache) -> bool {
        let view = cache.view();
        // A view that is hidden or incomplete must not become values.
        if !view.loaded() {
            return false;
        }
        let before = self.projection();
        self.opening
            .fetch_new(before.new_documents(view.root()))
            .await;
        let reopen = self.opening.take_changed();
        let next = before.next_after(view.root(), &reopen).await;
        // First the log, then the readers: an old value has its reason in the log.
        log_refusals(&next, &before);
        let reach = TypedReach {
            unread: BTreeSet::new(),
            partial: next.partial(),
        };
        // A reference to the old projection would keep it in memory until the next change.
        drop(before);
        drop(self.projection.publish(next));
        // After the values, so that no state promises what cannot be read yet.
        cache.note_typed(reach);
        self.projected.send_replace(());
        true
    }
}

/// Logs the values that are refused in `next` and were not in `before`.
/// At most [`MAX_REFUSALS`] of them have a line of their own; the others are counted in one line.
fn log_refusals(next: &Projection, before: &Projection) {
    let refused = next.refused_since(before);
    for new in refused.iter().take(MAX_REFUSALS) {
        let RefusedValue {
            id,
            revision,
            pointer,
            ..
        } = new.refusal;
        let collection = &new.decoder.collection;
        tracing::warn!(
            %collection, %id, revision, pointer,
            "the value of {collection}/{id} at revision {revision} does not fit {} at {pointer:?}, {}",
            new.decoder.type_name,
            Consequence(new.earlier)
        );
    }
    let further = refused.get(MAX_REFUSALS..).unwrap_or_default();
    if !further.is_empty() {
        let stay = further.iter().filter(|new| new.earlier.is_some()).count();
        tracing::warn!(
            "{} further values do not fit their types: the last good values of {stay} of these documents stay, the others have no value",
            further.len()
        );
    }
}

/// What follows for a document whose value is refused; with the revision of its last good value.
struct Consequence(Option<Revision>);

impl fmt::Display for Consequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(revision) => write!(f, "the last good value stays (revision {revision})"),
            None => f.write_str("the document has no value, because it never had one that fits"),
        }
    }
}

#[cfg(test)]
mod tests;
