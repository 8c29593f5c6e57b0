//! The queue that every write passes, and the handle that puts commands into it.
//!
//! The queue is bounded by number, by bytes and by time, so that a flood of writes is refused while
//! nothing was done yet, and not when memory ends. A command that is in the queue is processed to
//! its end, whether its client still waits or not.

use std::sync::Arc;

use contract::set::ChangeSetWritten;
use tokio::{
    sync::{
        OwnedSemaphorePermit, Semaphore,
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    time::Instant,
};
use tracing::{Span, field, info_span};

pub use super::group::WriterTask;
use crate::{
    decide::{Action, ChangeSetCommand, Command, Write, WriteError, WriteOutcome, WriteResult},
    feed_watch::FeedWatch,
    outbox::relay::CommittedChange,
    store::Store,
    write::change_set::written,
};

/// Most commands in the queue.
const QUEUE: usize = 4_096;
/// Most bytes of values in the queue.
const QUEUE_BYTES: usize = 64 << 20;
/// Memory that a write takes besides its value: a set of deletions is not small.
const WRITE_BYTES: usize = 256;

/// A command in the queue.
pub(super) struct QueuedCommand {
    pub(super) command: Command,
    /// The span of the write, from its request until its events are published.
    pub(super) span: Span,
    pub(super) answer: oneshot::Sender<WriteResult>,
    pub(super) queued_at: Instant,
    /// Its share of [`QUEUE_BYTES`].
    _memory: OwnedSemaphorePermit,
}

/// The handle through which requests and units of work write. Clones share the queue.
#[derive(Clone)]
pub struct Writer {
    queue: mpsc::Sender<QueuedCommand>,
    memory: Arc<Semaphore>,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer")
            .field("free_commands", &self.queue.capacity())
            .field("free_bytes", &self.memory.available_permits())
            .finish()
    }
}

/// Makes a writer and the task that has to run for it. Committed changes are sent to `relay`, and
/// `feed` is notified of each commit that changed something.
pub fn writer(
    store: Store,
    relay: mpsc::Sender<CommittedChange>,
    feed: FeedWatch,
) -> (Writer, WriterTask) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let writer = Writer {
        queue: sender,
        memory: Arc::new(Semaphore::new(QUEUE_BYTES)),
    };
    (writer, WriterTask::new(store, receiver, relay, feed))
}

impl Writer {
    /// Writes one document and waits for the outcome.
    ///
    /// # Errors
    /// When the write is refused, or was not committed. [`WriteError::Busy`] when the queue is
    /// full, [`WriteError::Stopping`] when the publisher stops.
    pub async fn write(&self, write: Write) -> Result<WriteOutcome, WriteError> {
        let span = info_span!(
            "write",
            collection = %write.collection,
            id = %write.id,
            revision = field::Empty,
        );
        let mut outcomes = self.submit(Command::Single(write), span).await?;
        // The task answers a single write with one outcome. Without it nothing is known.
        outcomes.pop().ok_or(WriteError::OutcomeUnknown)
    }

    /// Writes a change set and waits for the new revisions, in the order of the set.
    ///
    /// # Errors
    /// As [`Writer::write`]; the error of one change names its position.
    pub async fn write_set(&self, set: ChangeSetCommand) -> Result<ChangeSetWritten, WriteError> {
        let span = info_span!("write", set = set.id, changes = set.writes.len());
        let id = set.id.clone();
        let keys = set.writes.iter().map(Write::key).collect();
        let outcomes = self.submit(Command::ChangeSet(set), span).await?;
        Ok(written(id, keys, outcomes))
    }

    /// Puts a command into the queue and waits for its result.
    async fn submit(&self, command: Command, span: Span) -> WriteResult {
        let bytes = u32::try_from(size(&command)).map_err(|_too_large| WriteError::Busy)?;
        // Refused and not awaited: a client that waits for memory would hold its request in memory.
        let memory = self
            .memory
            .clone()
            .try_acquire_many_owned(bytes)
            .map_err(|_full| WriteError::Busy)?;
        let (answer, result) = oneshot::channel();
        let queued = QueuedCommand {
            command,
            span,
            answer,
            queued_at: Instant::now(),
            _memory: memory,
        };
        match self.queue.try_send(queued) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(WriteError::Busy),
            Err(TrySendError::Closed(_)) => return Err(WriteError::Stopping),
        }
        // The task ended before it answered: the command may have been committed.
        result.await.unwrap_or(Err(WriteError::OutcomeUnknown))
    }
}

/// Memory that a command takes in the queue and in a group, in bytes.
pub(super) fn size(command: &Command) -> usize {
    command
        .writes()
        .iter()
        .map(|write| WRITE_BYTES + value_size(&write.action))
        .sum()
}

fn value_size(action: &Action) -> usize {
    match action {
        Action::Create(value) | Action::Put(value) => value.as_str().len(),
        // The value that a patch makes is not known yet, so the size of the patch is used.
        Action::Patch(patch) => patch.to_string().len(),
        Action::Delete => 0,
    }
}
