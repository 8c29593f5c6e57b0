//! The queue that every write passes, and the handle that puts commands into it.
//!
//! The queue is bounded by number, by bytes and by time, so that a flood of writes is refused while
//! nothing was done yet, and not when memory ends. A command that is in the queue is processed to
//! its end, whether its client still waits or not.

use contract::set::ChangeSetWritten;
use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    time::Instant,
};
use tracing::{Span, field, info_span};

pub use super::group::WriterTask;
use crate::{
    decide::{ChangeSetCommand, Checked, Command, Write, WriteError, WriteOutcome, WriteResult},
    feed_watch::FeedWatch,
    outbox::relay::CommittedChange,
    store::Store,
    write::{
        ahead::{Ahead, Memory, size},
        change_set::written,
        large_work::LargeWork,
    },
};

/// Attempts for a command whose documents change between the check and the transaction. In the last
/// one the transaction checks the values; what refers to a document is never searched there.
const ATTEMPTS: usize = 5;

/// A command in the queue.
pub(super) struct QueuedCommand {
    pub(super) command: Command,
    /// The span of the write, from its request until its events are published.
    pub(super) span: Span,
    pub(super) answer: oneshot::Sender<WriteResult>,
    pub(super) queued_at: Instant,
    /// Its share of the memory of the queue.
    _memory: Memory,
}

/// The handle through which requests and units of work write. Clones share the queue.
#[derive(Clone)]
pub struct Writer {
    queue: mpsc::Sender<QueuedCommand>,
    ahead: Ahead,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer")
            .field("free_commands", &self.queue.capacity())
            .field("free_bytes", &self.ahead.free_bytes())
            .finish()
    }
}

/// Makes a writer and the task that has to run for it. Committed changes are sent to `relay`, and
/// `feed` is notified of each commit that changed something. `max_queued` is the most commands in the
/// queue.
pub fn writer(
    store: Store,
    relay: mpsc::Sender<CommittedChange>,
    feed: FeedWatch,
    max_queued: usize,
) -> (Writer, WriterTask) {
    let (sender, receiver) = mpsc::channel(max_queued);
    let writer = Writer {
        queue: sender,
        ahead: Ahead::new(store.clone()),
    };
    (writer, WriterTask::new(store, receiver, relay, feed))
}

impl Writer {
    /// Where large values are parsed and checked.
    pub fn large_work(&self) -> &LargeWork {
        self.ahead.large_work()
    }

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

    /// Whether a change set would be accepted now. Nothing is written, and nothing waits for it.
    ///
    /// # Errors
    /// As [`Writer::write_set`], besides those of the queue.
    pub async fn judge(&self, set: ChangeSetCommand) -> Result<(), WriteError> {
        let since = Instant::now();
        let mut command = Command::ChangeSet(set);
        let mut memory = vec![self.ahead.reserve(size(&command))?];
        self.ahead
            .check(&mut command, true, since, &mut memory)
            .await?;
        self.ahead.judge(command).await
    }

    /// Checks a command, puts it into the queue and waits for its result; again when its document
    /// changed in between.
    async fn submit(&self, mut command: Command, span: Span) -> WriteResult {
        let since = Instant::now();
        let mut attempt = 1;
        loop {
            let mut memory = vec![self.ahead.reserve(size(&command))?];
            if attempt < ATTEMPTS {
                let all = attempt > 1;
                self.ahead
                    .check(&mut command, all, since, &mut memory)
                    .await?;
            } else {
                for write in command.writes_mut() {
                    write.checked = Some(Checked::InTransaction);
                }
                self.ahead.check_deletes(&mut command, since).await?;
            }
            let result = self.enqueue(command.clone(), memory, span.clone()).await;
            match result {
                Err(error) if attempt < ATTEMPTS && *error.cause() == WriteError::Outdated => {
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    /// Puts a command into the queue and waits for its result.
    async fn enqueue(&self, command: Command, memory: Memory, span: Span) -> WriteResult {
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
