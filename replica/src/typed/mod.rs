//! The configuration as values of the service's own types, read from memory.
//!
//! Every followed collection that has a type is projected from the same view and published in one
//! step ([`projection`]), so a pin is consistent over all of them. A value that does not fit its
//! type ([`decoder`]) is refused: the last good one stays. Handlers are notified of each change
//! ([`handlers`], `flow`). Reading never waits and never fails; raw reads and digests do not depend
//! on anything here.

mod collection;
mod decoder;
mod flow;
mod handlers;
mod projection;

use std::{any::TypeId, sync::Arc};

use contract::{
    CollectionName,
    status::{MAX_REFUSALS, RefusedValue},
};
use tokio::sync::watch;

pub use collection::{Collection, Pin, Snapshot};
pub(crate) use decoder::{TypedDecoder, TypedValue};
pub use handlers::{DocumentChange, HandlerError, Update};
pub(crate) use handlers::{Handler, Handlers};
pub(crate) use projection::Projection;

use crate::{
    BuildError,
    cache::{Cache, SwapCell},
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
}

impl Typed {
    /// Typed collections and handlers that were notified of nothing yet. `handlers` refer to
    /// `decoders` by index.
    pub(crate) fn new(decoders: Vec<TypedDecoder>, handlers: Handlers) -> Self {
        let decoders: Arc<[TypedDecoder]> = decoders.into();
        let projection = SwapCell::new(Projection::new(Arc::clone(&decoders)));
        Self {
            decoders,
            handlers,
            projection,
            projected: watch::Sender::default(),
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

    /// Resolves as soon as everything was loaded and can be read, typed collections included.
    pub(crate) async fn ready(&self) {
        let mut projected = self.projected();
        // Subscribed before the projection is read, so that no change is missed in between.
        while !self.projection.load().loaded() {
            if projected.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Projects every view that readers may see; when it is slow, only the newest. It never ends.
    pub(crate) async fn run_projection(&self, cache: &Cache) {
        let mut written = cache.written();
        loop {
            written.mark_unchanged();
            let view = cache.view();
            // A view that is hidden or incomplete must not become values.
            if view.loaded() {
                let before = self.projection();
                let next = before.next(view.root()).await;
                // First the log, then the readers: an old value has its reason in the log.
                log_refusals(&next, &before);
                drop(self.projection.publish(next));
                self.projected.send_replace(());
                if self.decoders.is_empty() {
                    // Without types nothing reads the projection: no change need wake this.
                    drop(written);
                    return std::future::pending().await;
                }
            }
            if written.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

/// Logs the values that are refused in `next` and were not in `before`.
/// At most [`MAX_REFUSALS`] of them have a line of their own; the others are counted in one line.
fn log_refusals(next: &Projection, before: &Projection) {
    let refused = next.refused_since(before);
    for (decoder, refusal) in refused.iter().take(MAX_REFUSALS) {
        let RefusedValue {
            id,
            revision,
            pointer,
            ..
        } = refusal;
        let collection = &decoder.collection;
        tracing::warn!(
            %collection, %id, revision, pointer,
            "the value of {collection}/{id} at revision {revision} does not fit {} at {pointer:?}, the last good value stays",
            decoder.type_name
        );
    }
    let more = refused.len().saturating_sub(MAX_REFUSALS);
    if more > 0 {
        tracing::warn!("{more} further values do not fit their types, the last good values stay");
    }
}

#[cfg(test)]
mod tests;
