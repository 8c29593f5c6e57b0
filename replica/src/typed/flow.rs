//! The flow of one handler: a resync, then change after change; a resync again when it fails or a
//! new history begins.
//!
//! At the start and in a new history handlers get their resyncs one after the other, in the order
//! of registration, because what they store may refer to each other. A handler that fails, hangs or
//! panics has had its turn: its next resync comes later, concurrently with the others, and never
//! delays them for longer than the patience.

use std::{panic::AssertUnwindSafe, pin::pin, sync::Arc};

use client::{RetryPolicy, error::causes};
use contract::{DocumentId, Revision};
use futures_util::{FutureExt, future::join_all};
use tokio::{sync::watch, time::sleep};
use tracing::{Instrument, Span};

use super::{
    Handler, HandlerError, Projection, Typed,
    decoder::shortened,
    handlers::{Notification, Progress},
};
use crate::change_traces::record_failure;

impl Typed {
    /// Notifies all handlers, until `stopping`. A call is not interrupted by that: each handler
    /// finishes its call.
    pub(crate) async fn run_handlers(&self, stopping: &watch::Sender<bool>) {
        let flows = self
            .handlers
            .all
            .iter()
            .enumerate()
            .map(|(index, handler)| {
                let flow = HandlerFlow {
                    typed: self,
                    handler,
                    index,
                    stopping: stopping.subscribe(),
                };
                Box::pin(flow.run())
            });
        // Concurrently on the task of the caller: this crate spawns none.
        join_all(flows).await;
        // No handler is left; the caller waits here for the end.
        _ = stopping.subscribe().wait_for(|stopping| *stopping).await;
    }

    /// Resolves as soon as a newer generation than this one can be read.
    /// A generation is newer after every load in a new history, and `None` is older than all.
    async fn newer_generation(&self, tried: Option<u64>) {
        let mut projected = self.projected();
        loop {
            // Before the state is read: a change after that wakes the wait below.
            projected.mark_unchanged();
            let newest = self.projection();
            if newest.loaded() && Some(newest.generation()) > tried {
                return;
            }
            if projected.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

/// One handler and its place in the order of registration.
struct HandlerFlow<'a> {
    /// The projection, and the progress of all handlers.
    typed: &'a Typed,
    /// The handler of this flow.
    handler: &'a Handler,
    /// Its place in the order of registration.
    index: usize,
    /// Turns `true` when the replica stops.
    stopping: watch::Receiver<bool>,
}

impl HandlerFlow<'_> {
    /// Notifies the handler until `stopping`.
    ///
    /// After a failure it waits by [`RetryPolicy::REPLICA_HANDLER`], and then the handler starts
    /// again with a resync.
    async fn run(mut self) {
        let mut waits = RetryPolicy::REPLICA_HANDLER.waits();
        let mut stopping = self.stopping.clone();
        let mut handled: Option<Arc<Projection>> = None;
        loop {
            let newest = tokio::select! {
                biased;
                _ = self.stopping.wait_for(|stopping| *stopping) => return,
                newest = next(self.typed, self.index, handled.as_ref()) => newest,
            };
            // In a new generation what the handler knows is no longer valid: it starts again.
            let result = match handled
                .take()
                .filter(|handled| handled.generation() == newest.generation())
            {
                Some(handled) => self.notify_changes(&handled, &newest).await,
                None => self.resync(&newest).await,
            };
            // Changes that were left out because of the stop must not count as handled.
            if result.is_ok() && *stopping.borrow() {
                return;
            }
            self.note(&newest, &result);
            // Only success moves the handler on; after a failure it has handled nothing.
            if result.is_ok() {
                handled = Some(newest);
                waits.reset();
                continue;
            }
            // A new generation ends the wait: the failure may have been about the old one. The
            // projection is not kept for so long.
            let generation = newest.generation();
            drop(newest);
            let wait = waits.next_wait();
            tokio::select! {
                _ = stopping.wait_for(|stopping| *stopping) => return,
                () = sleep(wait) => {}
                () = self.typed.newer_generation(Some(generation)) => {}
            }
        }
    }

    /// Notifies the handler of everything. Later handlers may go on then, whatever the result.
    async fn resync(&self, newest: &Arc<Projection>) -> Result<(), HandlerError> {
        // Until it succeeds the handler is not in step, whatever it knew before.
        if let Some(progress) = self.typed.handlers.progress().get_mut(self.index) {
            progress.in_step = false;
        }
        let result = self.call(Notification::Resync(Arc::clone(newest))).await;
        // Even after a failure: a handler that fails must not hold up the others.
        self.note_tried(newest.generation());
        result
    }

    /// Notifies the handler of each change between two moments, until one call fails.
    ///
    /// # Errors
    /// The error of the call that failed. The changes after it were not notified.
    async fn notify_changes(
        &self,
        handled: &Projection,
        newest: &Projection,
    ) -> Result<(), HandlerError> {
        let decoder = self.handler.decoder;
        let watermark = newest.watermark(decoder);
        for (id, previous, current) in newest.changes_since(handled, decoder) {
            // The call before this one was finished; no other one begins.
            if *self.stopping.borrow() {
                break;
            }
            let revision = current.as_ref().map_or(watermark, |value| value.revision);
            let span = self.span(&id, revision);
            let change = Notification::Changed {
                id,
                previous,
                current,
                watermark,
            };
            let called = self.call(change).instrument(span.clone()).await;
            if called.is_err() {
                record_failure(&span);
            }
            called?;
        }
        Ok(())
    }

    /// The span of a call for a document.
    fn span(&self, id: &DocumentId, revision: Revision) -> Span {
        let decoder = self.typed.decoders.get(self.handler.decoder);
        decoder.map_or_else(Span::none, |decoder| {
            let (traces, name) = (&self.typed.traces, &self.handler.name);
            traces.of_handler(name, &decoder.collection, id, revision)
        })
    }

    /// Calls the handler. While it runs, later handlers wait for it no longer than the patience.
    ///
    /// # Errors
    /// What the handler returned, or that it panicked.
    async fn call(&self, notification: Notification) -> Result<(), HandlerError> {
        // Code of the embedding service runs here: a panic is its failure, not that of the replica.
        let call = AssertUnwindSafe(async { (self.handler.call)(notification).await });
        let mut patience = pin!(self.lose_patience());
        tokio::select! {
            biased;
            result = call.catch_unwind() => {
                result.unwrap_or_else(|panic| Err(panic_message(&*panic).into()))
            }
            // It never ends, and is only polled while the handler runs.
            () = &mut patience => Ok(()),
        }
    }

    /// Lets later handlers go on when a new generation waited for this one for too long. It never
    /// ends.
    async fn lose_patience(&self) {
        let handlers = &self.typed.handlers;
        loop {
            let tried = handlers.tried.borrow().get(self.index).copied().flatten();
            self.typed.newer_generation(tried).await;
            sleep(handlers.patience).await;
            self.note_tried(self.typed.projection().generation());
        }
    }

    /// Later handlers need not wait for this one in this generation.
    fn note_tried(&self, generation: u64) {
        self.typed.handlers.tried.send_modify(|all| {
            if let Some(tried) = all.get_mut(self.index) {
                *tried = (*tried).max(Some(generation));
            }
        });
    }

    /// Remembers the result of a notification; logs a failure when it is new, and its end.
    fn note(&self, newest: &Projection, result: &Result<(), HandlerError>) {
        let name = &self.handler.name;
        let error = result
            .as_ref()
            .err()
            .map(|error| shortened(&causes(&**error)));
        let mut progress = self.typed.handlers.progress();
        let Some(progress_of_this) = progress.get_mut(self.index) else {
            return;
        };
        // After a failure the handler is where it was.
        let revision = if error.is_none() {
            newest.watermark(self.handler.decoder)
        } else {
            progress_of_this.revision
        };
        let next = Progress {
            in_step: error.is_none(),
            revision,
            error: error.clone(),
        };
        let before = std::mem::replace(progress_of_this, next);
        // The log may be slow, and the status needs the lock.
        drop(progress);
        match (before.error, error) {
            (None, Some(error)) => {
                tracing::warn!(
                    handler = name,
                    "the handler {name} failed, its next notification is a resync: {error}"
                );
            }
            (Some(_), Some(error)) => {
                tracing::debug!(handler = name, "the handler {name} failed again: {error}");
            }
            (Some(_), None) => {
                tracing::info!(handler = name, "the handler {name} is in step again");
            }
            (None, None) => {}
        }
    }
}

/// The moment that a handler is notified of next: any newer one; or, for a resync, the newest one
/// as soon as all earlier handlers have tried theirs.
async fn next(typed: &Typed, index: usize, handled: Option<&Arc<Projection>>) -> Arc<Projection> {
    let mut projected = typed.projected();
    let mut tried = typed.handlers.tried.subscribe();
    loop {
        projected.mark_unchanged();
        tried.mark_unchanged();
        let newest = typed.projection();
        let generation = newest.generation();
        let ready = match handled {
            // Nothing is new.
            Some(handled) if Arc::ptr_eq(handled, &newest) => false,
            // Changes need not wait for other handlers.
            Some(handled) if handled.generation() == generation => true,
            _ => {
                // A resync waits: what earlier handlers store may be referred to.
                let earlier_tried = tried
                    .borrow()
                    .iter()
                    .take(index)
                    .all(|tried| *tried >= Some(generation));
                newest.loaded() && earlier_tried
            }
        };
        if ready {
            return newest;
        }
        tokio::select! {
            _ = projected.changed() => {}
            _ = tried.changed() => {}
        }
    }
}

/// The text of a panic, when it has one.
fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("it panicked: {}", text.unwrap_or("without a message"))
}
