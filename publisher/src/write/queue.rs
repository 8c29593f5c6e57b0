//! The queue that every write passes, and the handle that puts commands into it.
//!
//! The queue is bounded by number, by bytes and by time, so that a flood of writes is refused while
//! nothing was done yet, and not when memory ends. A command that is in the queue is processed to
//! its end, whether its client still waits or not.

use std::sync::{
    Arc,
    atomic::{
        AtomicU8,
        Ordering::{AcqRel, Acquire},
    },
};

use contract::set::ChangeSetWritten;
use service::runtime::log_rate::LogRate;
use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{Span, field, info_span, warn};

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
    pub(super) turn: Turn,
    /// Its share of the memory of the queue.
    _memory: Memory,
}

/// Whether a queued command was begun: its caller may give up and answer, and then has to know. Clones
/// share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Turn(Arc<AtomicU8>);

impl Turn {
    const WAITS: u8 = 0;
    const BEGUN: u8 = 1;
    const GIVEN_UP: u8 = 2;

    /// The command is about to be committed. `false` when its caller has given it up.
    pub(super) fn begin(&self) -> bool {
        self.step(Self::WAITS, Self::BEGUN)
    }

    /// The command was not tried, and waits again.
    pub(super) fn wait_again(&self) {
        self.step(Self::BEGUN, Self::WAITS);
    }

    /// The caller gives the command up. `false` when it was begun: its outcome is not known.
    fn give_up(&self) -> bool {
        self.step(Self::WAITS, Self::GIVEN_UP)
    }

    fn step(&self, from: u8, to: u8) -> bool {
        self.0.compare_exchange(from, to, AcqRel, Acquire).is_ok()
    }
}

/// The handle through which requests and units of work write. Clones share the queue.
#[derive(Clone)]
pub struct Writer {
    pub(super) queue: mpsc::Sender<QueuedCommand>,
    ahead: Ahead,
    /// Cancelled when writes are given up, after the process was asked to stop.
    pub(super) given_up: CancellationToken,
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
        given_up: CancellationToken::new(),
    };
    let given_up = writer.given_up.clone();
    let task = WriterTask::new(store, receiver, relay, feed, given_up);
    (writer, task)
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
        let turn = Turn::default();
        let queued = QueuedCommand {
            command,
            span,
            answer,
            queued_at: Instant::now(),
            turn: turn.clone(),
            _memory: memory,
        };
        match self.queue.try_send(queued) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(WriteError::Busy),
            Err(TrySendError::Closed(_)) => return Err(WriteError::Stopping),
        }
        tokio::select! {
            biased;
            // The task ended before it answered: the command may have been committed.
            answered = result => answered.unwrap_or(Err(WriteError::OutcomeUnknown)),
            () = self.given_up.cancelled() => {
                let error = if turn.give_up() {
                    WriteError::Stopping
                } else {
                    WriteError::OutcomeUnknown
                };
                static LINES: LogRate = LogRate::new();
                if let Some(left_out) = LINES.due() {
                    warn!(
                        "a write is given up, because the publisher stops and the store did not \
                         answer in time: {error}{left_out}"
                    );
                }
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_command_is_either_begun_or_given_up_and_never_both() {
        for _round in 0..2_000 {
            let turn = Turn::default();
            let task = turn.clone();
            let begun = thread::scope(|scope| {
                let begun = scope.spawn(move || task.begin());
                let given_up = turn.give_up();
                let begun = begun.join().expect("no panic");
                assert_ne!(begun, given_up, "one of them comes first");
                begun
            });
            turn.wait_again();
            assert_eq!(turn.begin(), begun, "only what was begun can wait again");
        }
    }
}
