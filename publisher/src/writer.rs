//! The writer: one task that gathers waiting writes into groups and commits each group as one.
//!
//! There is no lingering: a group is whatever waited while the group before it was committed. Once a write is queued it runs
//! to its end, whether its client still waits or not. It never decides what a write means; [`crate::fold`] does.

use std::sync::Arc;

use contract::Change;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::{
    error::ApiError,
    fold::{Action, Verdict, Write},
    store::{CommitError, Store},
};

/// Writes that may wait; beyond that clients are asked to come back.
const QUEUE: usize = 4_096;
/// Writes in a group.
const GROUP_WRITES: usize = 256;
/// Bytes of documents in a group.
const GROUP_BYTES: usize = 4 << 20;

struct Waiting {
    write: Write,
    answer: oneshot::Sender<Verdict>,
}

/// Where requests hand in their writes. Cloning shares the queue.
#[derive(Clone)]
pub struct Writer {
    queue: mpsc::Sender<Waiting>,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("room", &self.queue.capacity()).finish()
    }
}

impl Writer {
    /// Queues a write and waits for its verdict.
    ///
    /// # Errors
    /// The verdict's own, or 503 when the queue is full or the writer has stopped.
    pub async fn write(&self, write: Write) -> Verdict {
        let (answer, verdict) = oneshot::channel();
        self.queue.try_send(Waiting { write, answer }).map_err(|_full_or_stopped| ApiError::busy())?;
        verdict.await.unwrap_or_else(|_stopped| Err(ApiError::outcome_unknown()))
    }
}

/// The task behind [`Writer`].
pub struct WriterTask {
    store: Store,
    queue: mpsc::Receiver<Waiting>,
    relay: mpsc::Sender<Change>,
}

/// A writer and the task that has to run for it. Committed changes go to `relay`.
pub fn writer(store: Store, relay: mpsc::Sender<Change>) -> (Writer, WriterTask) {
    let (sender, queue) = mpsc::channel(QUEUE);
    (Writer { queue: sender }, WriterTask { store, queue, relay })
}

impl WriterTask {
    /// Commits groups until it is told that no more requests will come, then those that still wait.
    ///
    /// # Errors
    /// Never; the signature is the supervisor's.
    pub async fn run(mut self, no_more_requests: CancellationToken) -> anyhow::Result<()> {
        // A write that did not fit into its group begins the next one.
        let mut left_over = None;
        loop {
            let first = match left_over.take() {
                Some(waiting) => Some(waiting),
                None => tokio::select! {
                    waiting = self.queue.recv() => waiting,
                    () = no_more_requests.cancelled(), if !self.queue.is_closed() => {
                        self.queue.close();
                        continue;
                    }
                },
            };
            let Some(first) = first else { return Ok(()) };
            let (group, rest) = self.gather(first);
            left_over = rest;
            self.commit(group).await;
        }
    }

    fn gather(&mut self, first: Waiting) -> (Vec<Waiting>, Option<Waiting>) {
        let mut bytes = size(&first.write);
        let mut group = vec![first];
        while group.len() < GROUP_WRITES
            && let Ok(next) = self.queue.try_recv()
        {
            bytes += size(&next.write);
            if bytes > GROUP_BYTES {
                return (group, Some(next));
            }
            group.push(next);
        }
        (group, None)
    }

    async fn commit(&self, group: Vec<Waiting>) {
        let (writes, answers): (Vec<_>, Vec<_>) =
            group.into_iter().map(|waiting| (waiting.write, waiting.answer)).unzip();
        let writes: Arc<[Write]> = writes.into();
        let verdicts = match self.store.commit(writes.clone()).await {
            Ok(committed) => {
                self.hand_to_relay(committed.changes);
                committed.verdicts
            }
            Err(failure) => {
                log(&failure, writes.len());
                vec![Err(failure.answer()); writes.len()]
            }
        };
        for (answer, verdict) in answers.into_iter().zip(verdicts) {
            // A client that hung up needs no answer; its write is committed all the same.
            drop(answer.send(verdict));
        }
    }

    /// What finds no room stays owed in the log, where the relay's sweep finds it.
    fn hand_to_relay(&self, changes: Vec<Change>) {
        for change in changes {
            if self.relay.try_send(change).is_err() {
                return;
            }
        }
    }
}

fn size(write: &Write) -> usize {
    match &write.action {
        Action::Create(config) | Action::Put(config) => config.as_str().len(),
        // What a patch makes is at most a document; its own size stands for it.
        Action::Patch(patch) => patch.to_string().len(),
        Action::Delete => 0,
    }
}

fn log(failure: &CommitError, writes: usize) {
    match failure {
        CommitError::NotCommitted(_) => warn!(writes, "a group of writes was answered 503: {failure}"),
        CommitError::OutcomeUnknown(_) => error!(writes, "a group of writes was answered 503: {failure}"),
    }
}
