//! The relay: publishes committed changes through the transport until each event is accepted.
//!
//! A change passes through these states:
//!
//! 1. *Queued*: the writer has committed it and put it into the queue in memory. If the queue is
//!    full, it is only *pending* in the store.
//! 2. *In flight*: its event is being published, or waits for the next call of its collection, which
//!    carries all that wait ([`Gathered`]). Many changes are at the same time, in any order. If
//!    publishing fails, the change is forgotten here and stays pending.
//! 3. *Published*: the transport has accepted the event. In intervals all published changes are
//!    marked in the store with one call, and then forgotten here.
//!
//! The *sweep* reads pending changes from the log and puts them in flight: those that failed, those
//! that found the queue full, and those of a publisher that stopped. Publishing twice is harmless,
//! so nothing is locked between publishers. A change that cannot be published does not keep back
//! another one; while its topic hangs, others may wait for a slot until the transport gives it up.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use anyhow::anyhow;
use chrono::Utc;
use contract::{Change, CollectionName, DocumentId, Revision};
use futures_util::{
    future::{BoxFuture, FutureExt},
    stream::{FuturesUnordered, StreamExt},
};
use service::runtime::log_rate::LogRate;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::{Interval, MissedTickBehavior, interval},
};
use tracing::{Instrument, Span, debug, info, warn};

use crate::{
    metrics::Metrics,
    store::{PendingPage, Store},
    transport::Transport,
};

mod flush;
mod gathered;
mod marks;
mod sweep;

use gathered::{Gathered, TakenChange};
use marks::Marks;
use sweep::Sweep;

/// Changes in the queue between writer and relay, at most. The sweep finds the others.
pub const QUEUE: usize = 4_096;
/// Bytes of values in the queue, at most.
pub const QUEUE_BYTES: usize = 64 << 20;
/// Changes that are published at the same time, at most.
const IN_FLIGHT: usize = 64;
/// Changes from the sweep that are published at the same time, at most: the other slots are always
/// for queued changes.
const SWEPT_IN_FLIGHT: usize = 32;
const MARK_INTERVAL: Duration = Duration::from_millis(100);
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);
/// A change that is pending for longer than this is left to the sweep: its publisher stopped, had
/// no room for it in the queue, or could not publish it.
const UNPUBLISHED_AFTER: Duration = Duration::from_secs(1);

type ChangeKey = (CollectionName, Revision);

/// A committed change that the writer hands to the relay.
#[derive(Debug)]
pub struct CommittedChange {
    /// The change.
    pub change: Change,
    /// Its share of [`QUEUE_BYTES`]; released when the relay takes the change.
    pub permit: OwnedSemaphorePermit,
    /// The span of the write, so that log lines about the event are inside it.
    pub span: Span,
}

/// An operation of the relay that has ended.
enum Finished {
    /// Publishing changes of one collection with one call: a result for each.
    Publish {
        collection: CollectionName,
        changes: Vec<TakenChange>,
        results: Vec<anyhow::Result<()>>,
    },
    /// Marking published changes in the store.
    Mark {
        keys: Vec<ChangeKey>,
        result: anyhow::Result<()>,
    },
    /// Reading pending changes.
    Sweep {
        collection: CollectionName,
        result: anyhow::Result<PendingPage>,
    },
}

/// Publishes changes for as long as the writer may send more.
pub struct Relay {
    store: Store,
    transport: Arc<Transport>,
    changes: mpsc::Receiver<CommittedChange>,
    operations: FuturesUnordered<BoxFuture<'static, Finished>>,
    /// Changes that are in flight, or published and not yet marked. The sweep finds them in the log
    /// and must not publish them again.
    known: HashSet<ChangeKey>,
    /// Changes in flight that wait for a call.
    gathered: Gathered,
    in_flight: usize,
    /// How many of those in flight come from the sweep.
    swept_in_flight: usize,
    marks: Marks,
    sweep: Sweep,
    /// Collections of which the last call did not publish all changes.
    failing: BTreeSet<CollectionName>,
    metrics: Arc<Metrics>,
}

impl Relay {
    /// A relay that publishes what arrives in `changes`, and what is pending in `store`.
    ///
    /// # Errors
    /// When the store serves no collection.
    pub fn new(
        store: Store,
        transport: Arc<Transport>,
        changes: mpsc::Receiver<CommittedChange>,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            sweep: Sweep::new(&store.policy().collections.all())?,
            gathered: Gathered::new(transport.call_limits()),
            store,
            transport,
            changes,
            operations: FuturesUnordered::new(),
            known: HashSet::new(),
            in_flight: 0,
            swept_in_flight: 0,
            marks: Marks::new(),
            failing: BTreeSet::new(),
            metrics,
        })
    }

    /// Publishes until no sender of changes is left; then flushes the queue.
    ///
    /// # Errors
    /// Never; the supervisor expects this signature.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let mut mark = timer(MARK_INTERVAL);
        let mut sweep = timer(SWEEP_INTERVAL);
        while !self.changes.is_closed() {
            self.step(&mut mark, &mut sweep).await;
        }
        self.flush().await;
        Ok(())
    }

    /// Waits for the next event and handles it.
    async fn step(&mut self, mark: &mut Interval, sweep: &mut Interval) {
        tokio::select! {
            Some(committed) = self.changes.recv(), if self.in_flight < IN_FLIGHT => self.take(committed),
            Some(finished) = self.operations.next() => self.finish(finished),
            _ = mark.tick() => self.mark(),
            _ = sweep.tick() => self.sweep(),
        }
    }

    /// Takes a change, and what else is in the queue already: one call may carry all of them.
    fn take(&mut self, committed: CommittedChange) {
        let mut next = Some(committed);
        while let Some(CommittedChange {
            change,
            permit: _released,
            span,
        }) = next
        {
            self.gather(change, span, false);
            next = (self.in_flight < IN_FLIGHT)
                .then(|| self.changes.try_recv().ok())
                .flatten();
        }
        self.send();
    }

    fn finish(&mut self, finished: Finished) {
        match finished {
            Finished::Publish {
                collection,
                changes,
                results,
            } => self.finish_publish(&collection, changes, results),
            Finished::Mark { keys, result } => self.finish_mark(keys, result),
            Finished::Sweep { collection, result } => self.finish_sweep(collection, result),
        }
    }

    /// Puts a change in flight, unless it is known. [`Self::send`] then sends it.
    fn gather(&mut self, change: Change, span: Span, swept: bool) {
        let key = (change.collection.clone(), change.revision);
        if !self.known.insert(key) {
            // The sweep found a change that is in flight or not yet marked.
            return;
        }
        self.in_flight += 1;
        self.swept_in_flight += usize::from(swept);
        self.gathered.add(TakenChange {
            change,
            span,
            sending: Span::none(),
            swept,
        });
    }

    /// Begins the calls that may begin now.
    fn send(&mut self) {
        while let Some((collection, mut changes)) = self.gathered.next_call() {
            let transport = self.transport.clone();
            for taken in &mut changes {
                taken.begin_sending(transport.kind());
            }
            // A call of several changes has no span: it belongs to several writes.
            let span = match changes.as_slice() {
                [only] => only.span.clone(),
                _ => Span::none(),
            };
            let publish = async move {
                let of_call: Vec<_> = changes.iter().map(|taken| &taken.change).collect();
                // Boxed once more, because the futures of the clients are nested almost as deep as
                // the compiler allows.
                let results = transport.publish_all(&of_call).boxed().await;
                Finished::Publish {
                    collection,
                    changes,
                    results,
                }
            };
            self.operations.push(publish.instrument(span).boxed());
        }
    }

    fn finish_publish(
        &mut self,
        collection: &CollectionName,
        changes: Vec<TakenChange>,
        results: Vec<anyhow::Result<()>>,
    ) {
        self.gathered.call_ended(collection);
        let (mut read_next, mut failed) = (false, None);
        let mut results = results.into_iter();
        for taken in changes {
            let result = results
                .next()
                .unwrap_or_else(|| Err(anyhow!("the transport gave no result for it")));
            read_next |= taken.swept && result.is_ok();
            let key = (taken.change.id.clone(), taken.change.revision);
            if let Err(error) = self.finish_change(taken, result) {
                failed.get_or_insert((key, error));
            }
        }
        self.note_call(collection, failed);
        self.send();
        // The next read of a backlog does not wait for the timer: it begins when half of the slots
        // are free.
        if read_next && self.swept_in_flight <= SWEPT_IN_FLIGHT / 2 {
            self.sweep();
        }
    }

    /// Ends the flight of a change. Passes the error of its event on.
    fn finish_change(
        &mut self,
        taken: TakenChange,
        result: anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        if result.is_err() {
            taken.note_failure();
        }
        let TakenChange {
            change,
            span,
            sending: _ended,
            swept,
        } = taken;
        self.in_flight -= 1;
        self.swept_in_flight -= usize::from(swept);
        self.metrics.event(result.is_ok());
        let Change {
            collection,
            id,
            revision,
            ..
        } = change;
        if result.is_ok() {
            span.in_scope(
                || debug!(%collection, %id, revision, "the event of a change is published"),
            );
            self.marks.add((collection, revision));
        } else {
            // Forgotten, so that the sweep tries it again.
            self.known.remove(&(collection, revision));
        }
        result
    }

    /// Notes whether a call published all its changes; `failed` is the first that it did not. One line
    /// when failures begin and one when they end, not one for each event.
    fn note_call(
        &mut self,
        collection: &CollectionName,
        failed: Option<((DocumentId, Revision), anyhow::Error)>,
    ) {
        let Some(((id, revision), error)) = failed else {
            if self.failing.remove(collection) {
                info!(%collection, "events of the collection are published again");
            }
            return;
        };
        if self.failing.insert(collection.clone()) {
            warn!(
                %collection, %id, revision,
                "events of the collection cannot be published, their changes stay pending: {error:#}"
            );
        }
    }

    /// Marks all published changes in the store, one call at a time.
    fn mark(&mut self) {
        let Some(keys) = self.marks.begin() else {
            return;
        };
        let store = self.store.clone();
        let mark = async move {
            let result = store.mark_published(&keys).await;
            Finished::Mark { keys, result }
        };
        self.operations.push(mark.boxed());
    }

    fn finish_mark(&mut self, keys: Vec<ChangeKey>, result: anyhow::Result<()>) {
        match result {
            Ok(()) => {
                self.marks.end();
                for key in keys {
                    self.known.remove(&key);
                }
            }
            // They stay known and are marked the next time.
            Err(error) => self.marks.fail(keys, &error),
        }
    }

    /// Reads pending changes, as many as there are slots for, one read at a time.
    fn sweep(&mut self) {
        let limit = SWEPT_IN_FLIGHT.saturating_sub(self.swept_in_flight);
        if self.sweep.is_reading() || limit == 0 {
            // The timer, or a publication that ends, begins the next read.
            return;
        }
        let store = self.store.clone();
        self.sweep.add(&store.policy().collections.all());
        let (collection, after) = self.sweep.begin();
        // Changes that were pending when the collection had a topic stay as they are.
        let has_topic = store.policy().broadcast.publishes(&collection);
        let read = async move {
            if !has_topic {
                let result = Ok(PendingPage::default());
                return Finished::Sweep { collection, result };
            }
            let now = Utc::now();
            // The publisher that committed a recent change is probably publishing it right now.
            let recent = now - UNPUBLISHED_AFTER..now + UNPUBLISHED_AFTER;
            let result = store.pending(&collection, after, recent, limit).await;
            Finished::Sweep { collection, result }
        };
        self.operations.push(read.boxed());
    }

    fn finish_sweep(&mut self, collection: CollectionName, result: anyhow::Result<PendingPage>) {
        let page = match result {
            Ok(page) => page,
            Err(error) => {
                // The timer repeats the read.
                self.sweep.fail();
                static FAILURES: LogRate = LogRate::new();
                if let Some(left_out) = FAILURES.due() {
                    warn!(%collection, "pending changes could not be read: {error:#}{left_out}");
                }
                return;
            }
        };
        let read_next = self.sweep.advance(collection, page.next);
        for change in page.changes {
            // The span of a change from the log ended with its process or when it left the queue.
            self.gather(change, Span::none(), true);
        }
        self.send();
        if read_next {
            self.sweep();
        }
    }
}

/// A timer that does not make up for ticks that it missed.
fn timer(period: Duration) -> Interval {
    let mut timer = interval(period);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    timer
}

#[cfg(test)]
mod tests;
