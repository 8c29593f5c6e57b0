//! The writer: one task that gathers what waits, writes and change sets, into groups and commits
//! each group as one.
//!
//! A change set is never split. There is no lingering: a group is whatever waited while the group
//! before it was committed. Once a write is queued it runs to its end, whether its client still
//! waits or not. It never decides what a write means; [`crate::fold`] does.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use anyhow::bail;
use contract::Change;
use tokio::{
    sync::{
        OwnedSemaphorePermit, Semaphore,
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::{
    api::{error::ApiError, feed_watch::FeedWatch},
    decide::{Action, Done, Entry, Set, Write, WriteResult},
    outbox::{relay, relay::Handed},
    store::{CommitError, Store},
};

/// Entries that may wait; beyond that clients are asked to come back.
const QUEUE: usize = 4_096;
/// Bytes of documents that may wait.
const QUEUE_BYTES: usize = 64 << 20;
/// How long a write may wait before it is tried.
const QUEUE_TIME: Duration = Duration::from_secs(5);
/// Writes in a group, those of its sets included.
const GROUP_WRITES: usize = 256;
/// What a write takes up beside its value: a set of deletions is not small.
const WRITE_BYTES: usize = 256;
/// Bytes of documents in a group.
const GROUP_BYTES: usize = 4 << 20;

struct Waiting {
    entry: Entry,
    answer: oneshot::Sender<WriteResult>,
    since: Instant,
    /// Its share of the memory for what waits.
    _memory: OwnedSemaphorePermit,
}

/// Where requests hand in their writes. Cloning shares the queue.
#[derive(Clone)]
pub struct Writer {
    queue: mpsc::Sender<Waiting>,
    memory: Arc<Semaphore>,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer")
            .field("room", &self.queue.capacity())
            .finish()
    }
}

impl Writer {
    /// Queues a write and waits for its verdict.
    ///
    /// # Errors
    /// The verdict's own, or 503 when the queue is full or the writer has stopped.
    pub async fn write(&self, write: Write) -> Result<Done, ApiError> {
        self.queue(Entry::One(write))
            .await?
            .pop()
            .ok_or_else(ApiError::outcome_unknown)
    }

    /// Queues a change set and waits for what its members came to, in order.
    ///
    /// # Errors
    /// As [`Writer::write`]; a member's own names the member.
    pub async fn write_set(&self, set: Set) -> WriteResult {
        self.queue(Entry::Set(set)).await
    }

    async fn queue(&self, entry: Entry) -> WriteResult {
        let (answer, verdict) = oneshot::channel();
        let bytes = u32::try_from(size(&entry)).map_err(|_beyond_any_limit| ApiError::busy())?;
        let memory = self
            .memory
            .clone()
            .try_acquire_many_owned(bytes)
            .map_err(|_full| ApiError::busy())?;
        let waiting = Waiting {
            entry,
            answer,
            since: Instant::now(),
            _memory: memory,
        };
        self.queue
            .try_send(waiting)
            .map_err(|refused| match refused {
                TrySendError::Full(_) => ApiError::busy(),
                TrySendError::Closed(_) => ApiError::stopping(),
            })?;
        verdict
            .await
            .unwrap_or_else(|_stopped| Err(ApiError::outcome_unknown()))
    }
}

/// The task behind [`Writer`].
pub struct WriterTask {
    store: Store,
    queue: mpsc::Receiver<Waiting>,
    relay: mpsc::Sender<Handed>,
    relay_memory: Arc<Semaphore>,
    feed: FeedWatch,
}

/// A writer and the task that has to run for it. Committed changes go to `relay`; `feed` hears that
/// there are some.
pub fn writer(store: Store, relay: mpsc::Sender<Handed>, feed: FeedWatch) -> (Writer, WriterTask) {
    let (sender, queue) = mpsc::channel(QUEUE);
    let relay_memory = Arc::new(Semaphore::new(relay::QUEUE_BYTES));
    let writer = Writer {
        queue: sender,
        memory: Arc::new(Semaphore::new(QUEUE_BYTES)),
    };
    (
        writer,
        WriterTask {
            store,
            queue,
            relay,
            relay_memory,
            feed,
        },
    )
}

impl WriterTask {
    /// Commits groups until it is told that no more requests will come, then those that still wait.
    ///
    /// # Errors
    /// When the store can no longer be written by this process.
    pub async fn run(mut self, no_more_requests: CancellationToken) -> anyhow::Result<()> {
        // What did not fit into a group begins the next one.
        let mut left_over = VecDeque::new();
        loop {
            if let Some(why) = self.store.broken() {
                bail!("{why}; start again to find out what was written");
            }
            if left_over.is_empty() {
                tokio::select! {
                    // Another task found out: without this nobody would, where no writes come.
                    () = self.store.until_broken() => continue,
                    waiting = self.queue.recv() => match waiting {
                        Some(waiting) => left_over.push_back(waiting),
                        None => return Ok(()),
                    },
                    () = no_more_requests.cancelled(), if !self.queue.is_closed() => {
                        self.queue.close();
                        continue;
                    }
                }
            }
            self.gather(&mut left_over);
            let (group, too_late) = take_group(&mut left_over)
                .into_iter()
                .partition(|waiting| waiting.since.elapsed() < QUEUE_TIME);
            for Waiting { answer, .. } in too_late {
                // Its client has turned to something else by now; nothing was tried.
                drop(answer.send(Err(ApiError::not_committed())));
            }
            self.commit(group, &mut left_over).await;
        }
    }

    fn gather(&mut self, waiting: &mut VecDeque<Waiting>) {
        while waiting.len() < GROUP_WRITES
            && let Ok(next) = self.queue.try_recv()
        {
            waiting.push_back(next);
        }
    }

    async fn commit(&self, mut group: Vec<Waiting>, left_over: &mut VecDeque<Waiting>) {
        if group.is_empty() {
            return;
        }
        let entries: Arc<[Entry]> = group.iter().map(|waiting| waiting.entry.clone()).collect();
        let verdicts = match self.store.commit(entries).await {
            Ok(committed) => {
                if !committed.changes.is_empty() {
                    self.feed.wake();
                }
                self.hand_to_relay(committed.changes);
                for waiting in group.split_off(committed.verdicts.len()).into_iter().rev() {
                    left_over.push_front(waiting);
                }
                committed.verdicts
            }
            // One of them does not go down: it must not take its neighbours with it. A set is one,
            // and stays whole.
            Err(CommitError::Refused(error)) if group.len() > 1 => {
                debug!(
                    entries = group.len(),
                    "a group is tried in halves: {error:#}"
                );
                let second = group.split_off(group.len() / 2);
                Box::pin(self.commit(group, left_over)).await;
                return Box::pin(self.commit(second, left_over)).await;
            }
            Err(failure) => {
                log(&failure, group.len());
                vec![Err(failure.answer()); group.len()]
            }
        };
        for (waiting, verdict) in group.into_iter().zip(verdicts) {
            // A client that hung up needs no answer; its write is committed all the same.
            drop(waiting.answer.send(verdict));
        }
    }

    /// What finds no room stays owed in the log, where the relay's sweep finds it.
    fn hand_to_relay(&self, changes: Vec<Change>) {
        for change in changes {
            let Change {
                collection,
                id,
                revision,
                ..
            } = &change;
            debug!(%collection, %id, revision, correlator = %change.correlator(), "a change is committed");
            let bytes = change
                .config_data
                .as_ref()
                .map_or(0, |config| config.as_str().len());
            let memory = u32::try_from(bytes)
                .ok()
                .and_then(|bytes| self.relay_memory.clone().try_acquire_many_owned(bytes).ok());
            if let Some(memory) = memory {
                // A full queue, or events switched off: nobody listens then.
                drop(self.relay.try_send((change, memory)));
            }
        }
    }
}

/// What fits into a group, and in any case the first.
fn take_group(waiting: &mut VecDeque<Waiting>) -> Vec<Waiting> {
    let (mut writes, mut bytes) = (0, 0);
    let fits = |next: &&Waiting| {
        writes += next.entry.writes().len();
        bytes += size(&next.entry);
        writes <= GROUP_WRITES && bytes <= GROUP_BYTES
    };
    let fitting = waiting.iter().take_while(fits).count();
    waiting.drain(..fitting.max(1)).collect()
}

fn size(entry: &Entry) -> usize {
    entry
        .writes()
        .iter()
        .map(|write| WRITE_BYTES + value_size(write))
        .sum()
}

fn value_size(write: &Write) -> usize {
    match &write.action {
        Action::Create(config) | Action::Put(config) => config.as_str().len(),
        // What a patch makes is at most a document; its own size stands for it.
        Action::Patch(patch) => patch.to_string().len(),
        Action::Delete => 0,
    }
}

fn log(failure: &CommitError, entries: usize) {
    match failure {
        CommitError::NotCommitted(_) => {
            warn!(entries, "a group of writes was answered 503: {failure}")
        }
        CommitError::Refused(_) | CommitError::OutcomeUnknown(_) => {
            error!(entries, "a group of writes was answered 503: {failure}");
        }
    }
}
