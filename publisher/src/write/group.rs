//! The task that takes commands out of the queue and commits them in groups, one transaction per
//! group.
//!
//! A group is the commands that arrived while the group before it was committed: there is no delay
//! to collect more. If the store refuses a group, its halves are tried separately, so that one bad
//! command does not affect the others; a change set is never divided. The task does not decide what
//! a write does; [`crate::decide`] does.
//!
//! The embedded store blocks for its disk, so its groups have a thread of their own: a command goes from
//! its request to that thread and back, and passes no other.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use anyhow::bail;
use contract::Change;
use futures_util::FutureExt;
use service::runtime::{log_rate::LogRate, tasks::on_thread};
use tokio::{
    sync::{Semaphore, mpsc},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{Span, debug, error, warn};

use super::{QUEUE_TIME, ahead::size, queue::QueuedCommand};
use crate::{
    decide::{Command, WriteError, WriteResult},
    feed_watch::FeedWatch,
    outbox::relay::{self, CommittedChange},
    store::{CommitError, Committed, Store},
};

/// Most writes in a group, including those of its change sets.
const GROUP_WRITES: usize = 256;
/// Most bytes of values in a group.
const GROUP_BYTES: usize = 4 << 20;
/// How long the store may take for writes after the process was asked to stop: less than requests
/// that have begun are given.
const STOP_TIME: Duration = Duration::from_secs(3);

/// The task of a [`Writer`](super::queue::Writer).
pub struct WriterTask {
    groups: Groups,
    /// The relay goes on while it exists.
    relay: mpsc::Sender<CommittedChange>,
    /// Cancelled when writes are given up: each caller then answers for itself.
    given_up: CancellationToken,
}

/// What commits the groups.
struct Groups {
    store: Store,
    queue: mpsc::Receiver<QueuedCommand>,
    /// It does not keep the relay: a thread that hangs in the disk must not.
    relay: mpsc::WeakSender<CommittedChange>,
    /// Bytes of values that may wait for the relay.
    relay_memory: Arc<Semaphore>,
    feed: FeedWatch,
}

impl WriterTask {
    pub(super) fn new(
        store: Store,
        queue: mpsc::Receiver<QueuedCommand>,
        relay: mpsc::Sender<CommittedChange>,
        feed: FeedWatch,
        given_up: CancellationToken,
    ) -> Self {
        let groups = Groups {
            store,
            queue,
            relay: relay.downgrade(),
            relay_memory: Arc::new(Semaphore::new(relay::QUEUE_BYTES)),
            feed,
        };
        Self {
            groups,
            relay,
            given_up,
        }
    }

    /// Commits groups until `no_more_requests` is cancelled, then the commands that still wait. What
    /// the store has not committed [`STOP_TIME`] after `stop` is given up, so that every caller is
    /// answered while connections are open.
    ///
    /// # Errors
    /// When this process can no longer write to the store.
    pub async fn run(
        self,
        stop: CancellationToken,
        no_more_requests: CancellationToken,
    ) -> anyhow::Result<()> {
        let Self {
            groups,
            relay: _until_ended,
            given_up,
        } = self;
        let ended = no_more_requests.clone();
        // A store that does not answer holds up neither a caller nor the end of the process.
        let give_up = async {
            stop.cancelled().await;
            sleep(STOP_TIME).await;
            given_up.cancel();
            ended.cancelled().await;
        };
        let commits = match groups.store {
            Store::Embedded(_) => on_thread("writer", groups.run(no_more_requests)).left_future(),
            Store::Mongo(_) => groups.run(no_more_requests).right_future(),
        };
        tokio::select! {
            biased;
            ended = commits => ended,
            () = give_up => Ok(()),
        }
    }
}

impl Groups {
    async fn run(mut self, no_more_requests: CancellationToken) -> anyhow::Result<()> {
        // Commands that did not fit into a group begin the next one.
        let mut pending = VecDeque::new();
        loop {
            if let Some(reason) = self.store.broken() {
                bail!("{reason}; restart the publisher to find out what was written");
            }
            if pending.is_empty() {
                tokio::select! {
                    // Another task found the store broken. Without this branch a publisher that
                    // gets no writes would not notice.
                    () = self.store.until_broken() => continue,
                    next = self.queue.recv() => match next {
                        Some(next) => pending.push_back(next),
                        None => return Ok(()),
                    },
                    // The queue takes no more commands; those in it are still committed.
                    () = no_more_requests.cancelled(), if !self.queue.is_closed() => {
                        self.queue.close();
                        continue;
                    }
                }
            }
            while pending.len() < GROUP_WRITES
                && let Ok(next) = self.queue.try_recv()
            {
                pending.push_back(next);
            }
            let group = begin(take_group(&mut pending));
            if !group.is_empty() {
                self.commit(group, &mut pending).await;
            }
        }
    }

    /// Commits a group and answers its commands. Those that did not fit into the transaction are
    /// put back in front of `pending`.
    async fn commit(&self, mut group: Vec<QueuedCommand>, pending: &mut VecDeque<QueuedCommand>) {
        let commands: Arc<[Command]> = group.iter().map(|queued| queued.command.clone()).collect();
        let committed = self.store.commit(commands).await;
        match committed {
            // A store may decide fewer commands than it got, but never none.
            Ok(committed) => {
                // From the last to the first, so that the order of the commands is kept.
                for queued in group.split_off(committed.results.len()).into_iter().rev() {
                    queued.turn.wait_again();
                    pending.push_front(queued);
                }
                self.finish(group, committed);
            }
            // One command cannot be stored, and it is not known which. A single command, also a
            // change set, has no halves.
            Err(CommitError::Refused(error)) if group.len() > 1 => {
                debug!(
                    commands = group.len(),
                    "the store refused a group of writes; its halves are tried separately: {error:#}"
                );
                let second = group.split_off(group.len() / 2);
                Box::pin(self.commit(group, pending)).await;
                Box::pin(self.commit(second, pending)).await;
            }
            Err(error) => {
                log_failure(&error, &group);
                for queued in group {
                    answer(queued, Err(error.answer()));
                }
            }
        }
    }

    /// Sends the changes of a committed group to the relay, and its results to the callers.
    fn finish(&self, group: Vec<QueuedCommand>, committed: Committed) {
        if !committed.changes.is_empty() {
            self.feed.wake();
        }
        // The changes are in the order of the commands, so each command takes its own from the
        // front.
        let mut changes = committed.changes.into_iter();
        for (queued, result) in group.into_iter().zip(committed.results) {
            for change in changes.by_ref().take(count_changes(&result)) {
                // The span of a change set has several revisions, and records none.
                if let Command::Single(_) = queued.command {
                    queued.span.record("revision", change.revision);
                }
                self.hand_over(change, &queued.span);
            }
            answer(queued, result);
        }
    }

    /// Gives a committed change to the relay. A change for which the relay has no memory or no
    /// free slot stays pending in the log, where the sweep of the relay finds it.
    fn hand_over(&self, change: Change, span: &Span) {
        span.in_scope(|| {
            debug!(
                collection = %change.collection,
                id = %change.id,
                revision = change.revision,
                correlator = %change.correlator(),
                "a change is committed",
            );
        });
        // The change is not pending, so nothing else publishes it either (requirement D2).
        if !self.store.policy().broadcast.publishes(&change.collection) {
            return;
        }
        let bytes = change
            .config_data
            .as_ref()
            .map_or(0, |value| value.as_str().len());
        let Ok(bytes) = u32::try_from(bytes) else {
            // No document is that large. If one were, the sweep would publish it.
            return;
        };
        let Ok(permit) = self.relay_memory.clone().try_acquire_many_owned(bytes) else {
            // The writer does not wait for a slow transport: the sweep publishes the change.
            return;
        };
        let committed = CommittedChange {
            change,
            permit,
            span: span.clone(),
        };
        // It fails when the relay's queue is full, or closed because events are switched off.
        if let Some(relay) = self.relay.upgrade() {
            drop(relay.try_send(committed));
        }
    }
}

/// Takes the commands that fit into a group, at least the first.
fn take_group(pending: &mut VecDeque<QueuedCommand>) -> Vec<QueuedCommand> {
    let mut group = Vec::new();
    let mut writes = 0;
    let mut bytes = 0;
    while let Some(next) = pending.front() {
        writes += next.command.writes().len();
        bytes += size(&next.command);
        // The first command is taken whatever its size, because it would never fit otherwise.
        if !group.is_empty() && (writes > GROUP_WRITES || bytes > GROUP_BYTES) {
            break;
        }
        group.extend(pending.pop_front());
    }
    group
}

/// Begins the commands of a group. Those that waited too long are answered: their clients have given up
/// by now, and nothing was tried. So are those that are given up, by their callers.
fn begin(group: Vec<QueuedCommand>) -> Vec<QueuedCommand> {
    let mut begun = Vec::with_capacity(group.len());
    for queued in group {
        if queued.queued_at.elapsed() >= QUEUE_TIME {
            answer(queued, Err(WriteError::NotCommitted));
        } else if queued.turn.begin() {
            begun.push(queued);
        }
    }
    begun
}

fn answer(queued: QueuedCommand, result: WriteResult) {
    // A caller that is gone needs no answer; its write is committed nevertheless.
    drop(queued.answer.send(result));
}

/// How many change records a command has: a write that changed nothing has none.
fn count_changes(result: &WriteResult) -> usize {
    result
        .iter()
        .flatten()
        .filter(|outcome| outcome.operation.is_some())
        .count()
}

/// Rate of the lines about failed groups: on a full disk every group fails.
static FAILURES: LogRate = LogRate::new();

fn log_failure(error: &CommitError, group: &[QueuedCommand]) {
    let Some(left_out) = FAILURES.due() else {
        return;
    };
    let commands = group.len();
    let mut writes = group.iter().flat_map(|queued| queued.command.writes());
    let first = writes
        .next()
        .map(|write| format!("{}/{}", write.collection, write.id))
        .unwrap_or_default();
    let answer = error.answer();
    match error {
        // A disk that is full stays so until a person frees space.
        CommitError::NotCommitted(_) if answer != WriteError::DiskFull => {
            warn!(
                commands,
                first,
                "a group of writes that begins with {first} was not committed and is answered 503: \
                 {error}: {:#}{left_out}",
                error.cause()
            );
        }
        CommitError::NotCommitted(_) | CommitError::Refused(_) | CommitError::OutcomeUnknown(_) => {
            error!(
                commands,
                first,
                "a group of writes that begins with {first} failed in the store and is answered {}: \
                 {error}: {:#}{left_out}",
                answer.kind().status(),
                error.cause()
            );
        }
    }
}
