//! The flow of one handler: everything, then change after change; from the beginning when it fails
//! or a new history begins.
//!
//! At the start and in a new history handlers are told everything one after the other, in the order
//! of registration, because what they keep may refer to each other. One that fails, hangs or panics
//! has had its turn: it is told again later, beside the others, and never holds them up for longer
//! than the patience allows.

use std::{panic::AssertUnwindSafe, pin::pin, sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};
use futures_util::{FutureExt, future::join_all};
use tokio::{sync::watch, time::sleep};

use super::{HandlerError, Row, Told};
use crate::{
    Replica,
    error::causes,
    typed::{Projection, shortened},
};

/// Wait after the first failure, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

impl Replica {
    /// Tells all handlers, until `stopping`. None is interrupted by that: each ends with what it is
    /// at.
    pub(crate) async fn handle(&self, stopping: &watch::Sender<bool>) {
        let flows = 0..self.typed().handlers.all.len();
        join_all(flows.map(|index| Box::pin(self.tell(index, stopping.subscribe())))).await;
        // Nothing is left to be told; who waits here waits for the end.
        _ = stopping.subscribe().wait_for(|stopping| *stopping).await;
    }

    async fn tell(&self, index: usize, mut stopping: watch::Receiver<bool>) {
        let (first, longest) = BACKOFF;
        let delays = ExponentialBuilder::new().with_jitter().without_max_times();
        let delays = delays.with_min_delay(first).with_max_delay(longest);
        let mut waits = delays.build();
        let mut handled: Option<Arc<Projection>> = None;
        loop {
            let newest = tokio::select! {
                biased;
                _ = stopping.wait_for(|stopping| *stopping) => return,
                newest = self.newest(index, handled.as_ref()) => newest,
            };
            let result = match handled
                .take()
                .filter(|handled| handled.generation() == newest.generation())
            {
                Some(handled) => self.changes(index, &handled, &newest, &stopping).await,
                None => self.everything(index, &newest).await,
            };
            if result.is_ok() && *stopping.borrow() {
                return;
            }
            self.went(index, &newest, &result);
            if result.is_ok() {
                handled = Some(newest);
                waits = delays.build();
                continue;
            }
            // It has no end; one that had would go on at its longest.
            let wait = waits.next().unwrap_or(longest);
            tokio::select! {
                _ = stopping.wait_for(|stopping| *stopping) => return,
                () = sleep(wait) => {}
                () = self.generation_after(Some(newest.generation())) => {}
            }
        }
    }

    /// The moment to tell next: any newer one, or, for who begins anew, the newest when it is its
    /// turn.
    async fn newest(&self, index: usize, handled: Option<&Arc<Projection>>) -> Arc<Projection> {
        let (typed, tried) = (self.typed(), &self.typed().handlers.tried);
        let (mut stepped, mut turns) = (typed.stepped(), tried.subscribe());
        loop {
            stepped.mark_unchanged();
            turns.mark_unchanged();
            let newest = typed.projection();
            let generation = newest.generation();
            let goes_on = match handled {
                Some(handled) if Arc::ptr_eq(handled, &newest) => false,
                Some(handled) if handled.generation() == generation => true,
                _ => {
                    newest.loaded()
                        && turns
                            .borrow()
                            .iter()
                            .take(index)
                            .all(|tried| *tried >= Some(generation))
                }
            };
            if goes_on {
                return newest;
            }
            tokio::select! {
                _ = stepped.changed() => {}
                _ = turns.changed() => {}
            }
        }
    }

    async fn everything(&self, index: usize, newest: &Arc<Projection>) -> Result<(), HandlerError> {
        if let Some(row) = self.typed().handlers.rows().get_mut(index) {
            row.told = false;
        }
        let result = self.call(index, Told::Everything(Arc::clone(newest))).await;
        self.has_tried(index, newest.generation());
        result
    }

    async fn changes(
        &self,
        index: usize,
        handled: &Projection,
        newest: &Projection,
        stopping: &watch::Receiver<bool>,
    ) -> Result<(), HandlerError> {
        let Some(lens) = self
            .typed()
            .handlers
            .all
            .get(index)
            .map(|handler| handler.lens)
        else {
            return Ok(());
        };
        let watermark = newest.watermark(lens);
        for (id, previous, current) in newest.changes_since(handled, lens) {
            if *stopping.borrow() {
                break;
            }
            self.call(
                index,
                Told::Change {
                    id,
                    previous,
                    current,
                    watermark,
                },
            )
            .await?;
        }
        Ok(())
    }

    /// Calls a handler. While it is at it, others lose patience.
    async fn call(&self, index: usize, told: Told) -> Result<(), HandlerError> {
        let Some(handler) = self.typed().handlers.all.get(index) else {
            return Ok(());
        };
        let called = AssertUnwindSafe(async { (handler.call)(told).await }).catch_unwind();
        let losing_patience = async {
            loop {
                let tried = self
                    .typed()
                    .handlers
                    .tried
                    .borrow()
                    .get(index)
                    .copied()
                    .flatten();
                self.generation_after(tried).await;
                sleep(self.typed().handlers.patience).await;
                self.has_tried(index, self.typed().projection().generation());
            }
        };
        let mut losing_patience = pin!(losing_patience);
        tokio::select! {
            biased;
            result = called => result.unwrap_or_else(|panic| Err(panicked(&*panic).into())),
            () = &mut losing_patience => Ok(()),
        }
    }

    /// Resolves as soon as another generation than this can be told.
    async fn generation_after(&self, tried: Option<u64>) {
        let mut stepped = self.typed().stepped();
        loop {
            stepped.mark_unchanged();
            let newest = self.typed().projection();
            if newest.loaded() && Some(newest.generation()) > tried {
                return;
            }
            if stepped.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    fn has_tried(&self, index: usize, generation: u64) {
        self.typed().handlers.tried.send_modify(|all| {
            if let Some(tried) = all.get_mut(index) {
                *tried = (*tried).max(Some(generation));
            }
        });
    }

    /// Remembers how it went; logs a failure when it is new, and its end.
    fn went(&self, index: usize, newest: &Projection, result: &Result<(), HandlerError>) {
        let handlers = &self.typed().handlers;
        let Some(handler) = handlers.all.get(index) else {
            return;
        };
        let (name, error) = (
            &handler.name,
            result
                .as_ref()
                .err()
                .map(|error| shortened(&causes(&**error))),
        );
        let mut rows = handlers.rows();
        let Some(row) = rows.get_mut(index) else {
            return;
        };
        let revision = if error.is_none() {
            newest.watermark(handler.lens)
        } else {
            row.revision
        };
        let before = std::mem::replace(
            row,
            Row {
                told: error.is_none(),
                revision,
                error: error.clone(),
            },
        );
        drop(rows);
        match (before.error, error) {
            (None, Some(error)) => {
                tracing::warn!(
                    handler = name,
                    "{name} failed and will be told everything again: {error}"
                );
            }
            (Some(_), Some(error)) => {
                tracing::debug!(handler = name, "{name} failed again: {error}")
            }
            (Some(_), None) => tracing::info!(handler = name, "{name} is in step again"),
            (None, None) => {}
        }
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("it panicked: {}", text.unwrap_or("it did not say why"))
}
