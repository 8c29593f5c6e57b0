//! A consumer of a group: it reads events, gives them to a projection, and acknowledges what the
//! projection has stored. An entry that no attempt can process goes to a bounded list.
//!
//! Its connection is its own, because a blocking read holds up every other command. It never
//! acknowledges an entry before the projection returned, and never gives up: what fails is logged and
//! tried again until the consumer is stopped.

mod catch_up;
mod delivery;
mod maintenance;
mod projection;

use std::{collections::BTreeMap, time::Duration};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use broker::{ANSWER, BrokerError, Connection};
use contract::text::Escaped;
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use redis::{
    cmd,
    streams::{StreamAutoClaimReply, StreamId, StreamReadReply},
};
use tokio::time::{Instant, sleep};
use tracing::{error, warn};
use uuid::Uuid;

pub use delivery::{DeadLetter, Delivered};
pub use projection::{Projection, ProjectionError, Rejected};

use crate::{
    Aggregate, GroupName, Journal, JournalError,
    consumer::delivery::{decode, give_up},
};

/// Most entries in one batch.
const AT_ONCE: usize = 64;
/// How long a read waits for entries.
const BLOCK: Duration = Duration::from_secs(2);
/// Longest wait between two attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// The end of a consumer. Its parts share it.
type Stop<'a> = Shared<BoxFuture<'a, ()>>;

/// How a consumer behaves.
#[derive(Debug, Clone, Copy)]
pub struct ConsumerOptions {
    /// An entry that another consumer has not acknowledged for this time is taken over.
    pub take_over_after: Duration,
    /// A consumer that has nothing pending and has not read for this time is removed from the group.
    pub remove_after: Duration,
    /// Whether events that all groups have acknowledged are removed from the stream of all events.
    pub trim: bool,
}

impl Default for ConsumerOptions {
    fn default() -> Self {
        Self {
            take_over_after: Duration::from_secs(30),
            remove_after: Duration::from_secs(600),
            trim: true,
        }
    }
}

/// A consumer of one group. Its name is unique, so two processes never share what is pending.
#[derive(Debug)]
pub struct Consumer<A> {
    journal: Journal<A>,
    group: GroupName,
    name: String,
    options: ConsumerOptions,
}

impl<A: Aggregate> Consumer<A> {
    /// A consumer of a group. It connects when it runs.
    pub fn new(journal: Journal<A>, group: GroupName, options: ConsumerOptions) -> Self {
        Self {
            journal,
            group,
            name: format!("{}-{}", std::process::id(), Uuid::new_v4().simple()),
            options,
        }
    }

    /// Its name in the group.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Feeds a projection until `stop` ends. The batch that is under way is finished and acknowledged
    /// first, which takes about 2 s at most while Redis and the projection work.
    ///
    /// It may also be dropped at any of its awaits: what was not acknowledged is taken over by
    /// another consumer of the group.
    pub async fn run(
        &self,
        projection: &impl Projection<A>,
        stop: impl Future<Output = ()> + Send,
    ) {
        let stop = stop.boxed().shared();
        let mut waits = waits();
        let mut tried_letter = None;
        loop {
            let since = Instant::now();
            let served = self.serve(projection, &mut tried_letter, &stop);
            let Err(failed) = served.await else {
                return;
            };
            // A consumer that worked for a while begins with short waits again.
            if since.elapsed() > Duration::from_secs(30) {
                waits = self::waits();
            }
            let wait = waits.next().unwrap_or(LONGEST_WAIT);
            warn!(
                journal = %self.journal.name(),
                group = %self.group,
                wait_ms = wait.as_millis() as u64,
                "the consumer of the journal failed and begins again: {}",
                Escaped(&failed)
            );
            if !sleep_unless(wait, &stop).await {
                return;
            }
        }
    }

    /// Feeds a projection until it is stopped.
    async fn serve(
        &self,
        projection: &impl Projection<A>,
        tried_letter: &mut Option<String>,
        stop: &Stop<'_>,
    ) -> Result<(), ProjectionError> {
        if !self.journal.prepare_group(&self.group).await? {
            // Events of aggregates may have been trimmed before the group was made.
            let caught_up = self.catch_up_until(projection, stop).await?;
            if caught_up.is_none() {
                return Ok(());
            }
            self.journal.mark_caught_up(&self.group).await?;
        }
        self.catch_up_dead_letters(projection, tried_letter, stop)
            .await?;
        // A connection of its own: the answer to a read is waited for.
        let address = self.journal.link().address();
        let connected = address.connect(BLOCK + ANSWER).await;
        let mut connection = connected.map_err(JournalError::Unavailable)?;
        let mut maintained = None::<Instant>;
        // A read is not cancelled: Redis may have given its entries to this consumer already.
        while !is_stopped(stop) {
            let due = self.options.take_over_after / 2;
            if maintained.is_none_or(|at| at.elapsed() >= due) {
                self.maintain(&mut connection, projection, stop).await?;
                maintained = Some(Instant::now());
            }
            let entries = self.read(&mut connection).await?;
            self.process(&mut connection, projection, entries, stop)
                .await?;
        }
        Ok(())
    }

    /// The next entries, after a wait of at most [`BLOCK`].
    async fn read(&self, connection: &mut Connection) -> Result<Vec<StreamId>, JournalError> {
        let mut command = cmd("XREADGROUP");
        command.arg("GROUP").arg(self.group.as_str());
        command.arg(&self.name).arg("COUNT").arg(AT_ONCE);
        command.arg("BLOCK").arg(BLOCK.as_millis() as u64);
        command.arg("STREAMS").arg(self.journal.keys().events());
        command.arg(">");
        let read: Option<StreamReadReply> = ask(connection, &command).await?;
        let streams = read.into_iter().flat_map(|read| read.keys);
        Ok(streams.flat_map(|stream| stream.ids).collect())
    }

    /// Takes over what other consumers left, removes consumers that ended, and trims the stream.
    async fn maintain(
        &self,
        connection: &mut Connection,
        projection: &impl Projection<A>,
        stop: &Stop<'_>,
    ) -> Result<(), ProjectionError> {
        let mut from = "0-0".to_owned();
        loop {
            let mut command = cmd("XAUTOCLAIM");
            command.arg(self.journal.keys().events());
            command.arg(self.group.as_str()).arg(&self.name);
            command.arg(self.options.take_over_after.as_millis() as u64);
            command.arg(&from).arg("COUNT").arg(AT_ONCE);
            let claimed: StreamAutoClaimReply = ask(connection, &command).await?;
            if !claimed.deleted_ids.is_empty() || claimed.invalid_entries {
                // Another program removed entries that were pending; the aggregates still have
                // their events.
                warn!(
                    journal = %self.journal.name(),
                    group = %self.group,
                    "entries of the journal were removed before they were acknowledged: every \
                     aggregate is read again"
                );
                self.catch_up_until(projection, stop).await?;
            }
            self.process(connection, projection, claimed.claimed, stop)
                .await?;
            from = claimed.next_stream_id;
            if from == "0-0" || is_stopped(stop) {
                break;
            }
        }
        self.journal
            .remove_idle_consumers(&self.group, self.options.remove_after, &self.name)
            .await?;
        if self.options.trim {
            self.journal.trim().await?;
        }
        Ok(())
    }

    /// Gives entries to the projection, and acknowledges them when it has stored them.
    async fn process(
        &self,
        connection: &mut Connection,
        projection: &impl Projection<A>,
        entries: Vec<StreamId>,
        stop: &Stop<'_>,
    ) -> Result<(), ProjectionError> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut events = Vec::with_capacity(entries.len());
        let mut rejected = BTreeMap::new();
        for entry in &entries {
            match decode::<A::Event>(entry) {
                Ok(event) => events.push(event),
                Err(reason) => drop(rejected.insert(entry.id.clone(), reason)),
            }
        }
        let refused = self.until_stored(projection, &events, stop).await?;
        rejected.extend(refused.into_iter().map(|it| (it.position, it.reason)));
        let events_key = self.journal.keys().events();
        let mut acknowledge = cmd("XACK");
        acknowledge.arg(&events_key).arg(self.group.as_str());
        let mut stored = 0;
        for entry in &entries {
            let Some(reason) = rejected.get(&entry.id) else {
                acknowledge.arg(&entry.id);
                stored += 1;
                continue;
            };
            let command = give_up(self.journal.keys(), &self.group, entry, reason);
            if ask::<u64>(connection, &command).await? > 0 {
                error!(
                    journal = %self.journal.name(),
                    group = %self.group,
                    position = %entry.id,
                    "an entry of the journal cannot be processed and is kept in the list of dead \
                     letters: {}",
                    Escaped(reason)
                );
            }
        }
        if stored > 0 {
            ask::<u64>(connection, &acknowledge).await?;
        }
        Ok(())
    }

    /// Gives events to the projection until it has stored them. No further entries are read
    /// meanwhile, so nothing piles up here.
    ///
    /// # Errors
    /// The last failure, when it is stopped.
    async fn until_stored(
        &self,
        projection: &impl Projection<A>,
        events: &[Delivered<A::Event>],
        stop: &Stop<'_>,
    ) -> Result<Vec<Rejected>, ProjectionError> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let mut waits = waits();
        loop {
            let failed = match projection.project(events).await {
                Ok(rejected) => return Ok(rejected),
                Err(failed) => failed,
            };
            let wait = waits.next().unwrap_or(LONGEST_WAIT);
            warn!(
                journal = %self.journal.name(),
                group = %self.group,
                events = events.len(),
                wait_ms = wait.as_millis() as u64,
                "events of the journal are not projected yet and are tried again: {}",
                Escaped(&failed)
            );
            if !sleep_unless(wait, stop).await {
                return Err(failed);
            }
        }
    }
}

fn is_stopped(stop: &Stop<'_>) -> bool {
    stop.clone().now_or_never().is_some()
}

/// Waits, unless it is stopped before or meanwhile; then the result is `false`.
async fn sleep_unless(wait: Duration, stop: &Stop<'_>) -> bool {
    tokio::select! {
        biased;
        () = stop.clone() => false,
        () = sleep(wait) => true,
    }
}

async fn ask<T: redis::FromRedisValue>(
    connection: &mut Connection,
    command: &redis::Cmd,
) -> Result<T, JournalError> {
    let answer: Result<T, BrokerError> = connection.ask(command).await;
    answer.map_err(JournalError::Unavailable)
}

/// Waits between attempts: 0.1 s, doubling up to [`LONGEST_WAIT`], without end.
fn waits() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_jitter()
        .without_max_times()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(LONGEST_WAIT)
        .build()
}
