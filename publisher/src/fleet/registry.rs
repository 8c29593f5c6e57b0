//! The records of the replicas: which replicas there are, in which state, and when each was last
//! seen.
//!
//! A record waits in memory until the next bulk write; no request writes a row. The list merges the
//! rows of the store with the records that wait, so a check-in is in the list of its own publisher
//! at once, and in the list of other publishers after at most [`flush_period`]. Nothing here
//! decides about documents.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use contract::fleet::{CheckIn, MAX_INTERVAL_MS, ReplicaRecord, Transport};
use service::runtime::log_rate::LogRate;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{known::KnownReplicas, limits, pacing::FleetSize, progress::Progress};
use crate::{
    store::{
        Store,
        replicas::{MAX_REPLICAS, ReplicaRow},
    },
    transport::{confirm::Confirmations, direct::SubscriberRegistry},
};

/// Time between two rounds in which the replicas that are silent for too long are forgotten.
const FORGET_PERIOD: Duration = Duration::from_secs(10);
/// Time between two reads of all rows, to count the live replicas.
const COUNT_PERIOD: Duration = Duration::from_secs(10);
/// The same where events go straight to subscribers: a replica that checked in with another
/// publisher gets events of this one after at most this time.
const DISCOVER_PERIOD: Duration = Duration::from_secs(2);
/// A replica is gone after this many of its intervals in silence, and never sooner than
/// [`MIN_SILENCE`].
const SILENT_INTERVALS: u64 = 3;
const MIN_SILENCE: TimeDelta = TimeDelta::seconds(3);

/// The longest time for which a name is a caller's own after its check-in.
const MAX_OWNED: TimeDelta = TimeDelta::minutes(3);

/// Limits the lines about subscribers that get no events.
static REFUSED: LogRate = LogRate::new();

/// Time between two bulk writes of the records that wait.
///
/// Other publishers read what is written to MongoDB, so it is written soon. A file belongs to one
/// process, which merges what waits into every list: a write sooner would show nothing new and
/// only delay commits.
fn flush_period(store: &Store) -> Duration {
    match store {
        Store::Embedded(_) => Duration::from_secs(1),
        Store::Mongo(_) => Duration::from_millis(250),
    }
}

/// The records of the store and of this publisher together. Cloning shares them.
#[derive(Debug, Clone)]
pub(super) struct Registry {
    store: Store,
    waiting: Arc<Mutex<WaitingRows>>,
    size: Arc<FleetSize>,
    known: Arc<KnownReplicas>,
    progress: Progress,
    confirmations: Confirmations,
}

impl Registry {
    /// A registry on the rows of a store.
    ///
    /// While `confirmations` are wanted, the rows that other publishers write are read all the time.
    pub(super) fn new(store: Store, confirmations: Confirmations) -> Self {
        Self {
            store,
            waiting: Arc::default(),
            size: Arc::default(),
            known: Arc::default(),
            progress: Progress::default(),
            confirmations,
        }
    }

    /// The store that keeps the rows.
    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Live replicas, approximately; see [`FleetSize`].
    pub(super) fn size(&self) -> usize {
        self.size.get()
    }

    /// The replicas that are known.
    pub(super) fn known(&self) -> &KnownReplicas {
        &self.known
    }

    /// How far the known replicas are.
    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Notes a check-in, which counts for this many bytes. Beyond the bounds the replica is answered
    /// and not listed: a huge fleet must not exhaust the memory. `false`, and nothing is noted, when the
    /// name is another caller's.
    pub(super) fn note(&self, row: ReplicaRow, bytes: usize) -> bool {
        let instance = &row.record.check_in.instance;
        let is_own = || match &row.source.caller {
            Some(caller) => {
                let until = owned_until(&row.record);
                self.known.own(instance, caller, until, row.record.seen)
            }
            None => true,
        };
        // Again after the admission, which makes a new name known.
        if !is_own() {
            return false;
        }
        self.size.note(instance);
        if self.known.admit(instance, bytes) {
            if !is_own() {
                return false;
            }
            self.progress.note(&row.record);
            self.waiting().put(row);
        }
        true
    }

    /// All replicas that any publisher of the store knows, by name.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) async fn records(&self) -> anyhow::Result<Vec<ReplicaRecord>> {
        let rows = self.rows().await?;
        Ok(rows.into_iter().map(|row| row.record).collect())
    }

    /// The same, with what decides whether events go to the replica.
    pub(super) async fn rows(&self) -> anyhow::Result<Vec<ReplicaRow>> {
        // Before the store is read: a row that is written in between is in one of the two.
        let waiting = self.waiting().all();
        let stored = self.store.replicas().await?;
        let mut rows: HashMap<_, _> = stored
            .into_iter()
            .map(|row| (row.record.check_in.instance.clone(), row))
            .collect();
        for row in waiting {
            let name = &row.record.check_in.instance;
            // A replica may have checked in with another publisher since.
            let newer = rows
                .get(name)
                .is_none_or(|stored| stored.record.seen <= row.record.seen);
            if newer {
                rows.insert(name.clone(), row);
            }
        }
        let now = Utc::now();
        let mut rows: Vec<_> = rows.into_values().collect();
        for row in &mut rows {
            row.record.gone = is_gone(&row.record, now);
        }
        // The replicas that were known first stay, whatever their names are.
        if rows.len() > MAX_REPLICAS {
            rows.sort_by_cached_key(|row| self.known.place(&row.record.check_in.instance));
            rows.truncate(MAX_REPLICAS);
        }
        rows.sort_unstable_by(|one, other| {
            let name = &one.record.check_in.instance;
            name.cmp(&other.record.check_in.instance)
        });
        Ok(rows)
    }

    /// Writes the records that wait, in one call. Where that fails they wait again.
    async fn flush(&self) -> anyhow::Result<()> {
        let rows = self.waiting().begin_write();
        if rows.is_empty() {
            return Ok(());
        }
        let written = self.store.put_replicas(rows).await;
        self.waiting().end_write(written.is_ok());
        written
    }

    fn waiting(&self) -> MutexGuard<'_, WaitingRows> {
        self.waiting
            .lock()
            .expect("no holder of this lock can panic")
    }
}

/// Rows that are not written yet, the newest of each replica. Only those of known replicas come
/// here, so [`KnownReplicas`] bounds them.
#[derive(Debug, Default)]
pub(super) struct WaitingRows {
    rows: HashMap<String, ReplicaRow>,
    /// Rows of the present write: until it ends the store does not have them.
    writing: HashMap<String, ReplicaRow>,
}

impl WaitingRows {
    /// All rows; of one replica the older first.
    fn all(&self) -> Vec<ReplicaRow> {
        let rows = self.writing.values().chain(self.rows.values());
        rows.cloned().collect()
    }

    /// Takes all rows for a write. They are still in [`Self::all`] until [`Self::end_write`].
    fn begin_write(&mut self) -> Vec<ReplicaRow> {
        self.writing = std::mem::take(&mut self.rows);
        self.writing.values().cloned().collect()
    }

    /// Drops the rows that were written, or puts them back.
    fn end_write(&mut self, succeeded: bool) {
        let written = std::mem::take(&mut self.writing);
        if !succeeded {
            // `put` keeps a newer row that arrived during the write.
            for row in written.into_values() {
                self.put(row);
            }
        }
    }

    /// Keeps the row, unless a newer one of that replica waits: check-ins of one replica may arrive out
    /// of order, on different connections.
    fn put(&mut self, row: ReplicaRow) {
        let name = &row.record.check_in.instance;
        let waits = self.rows.get(name);
        if waits.is_none_or(|waits| waits.record.seen <= row.record.seen) {
            self.rows.insert(name.clone(), row);
        }
    }
}

/// Writes rows, forgets silent replicas, counts the live ones and keeps the list of subscribers of
/// the transport `LOCAL` up to date.
pub struct RegistryTask {
    registry: Registry,
    subscribers: Option<SubscriberRegistry>,
    forget_after: Duration,
    next_forget: Instant,
    next_read: Instant,
}

impl RegistryTask {
    pub(super) fn new(
        registry: Registry,
        subscribers: Option<SubscriberRegistry>,
        forget_after: Duration,
    ) -> Self {
        let now = Instant::now();
        Self {
            registry,
            subscribers,
            forget_after,
            next_forget: now,
            next_read: now,
        }
    }

    /// Runs until `no_more_requests`; the records that wait then are written first.
    ///
    /// # Errors
    /// Never; the signature is the supervisor's.
    pub async fn run(mut self, no_more_requests: CancellationToken) -> anyhow::Result<()> {
        let mut rounds = interval(flush_period(self.registry.store()));
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        while no_more_requests
            .run_until_cancelled(rounds.tick())
            .await
            .is_some()
        {
            let done = self.round().await;
            // One line when the failure begins and one when it ends, not one per round.
            match &done {
                // A round without a row asks the store nothing, so it proves nothing.
                Ok(false) => continue,
                Err(error) if !failing => {
                    warn!(
                        "replica records cannot be written or read, will be tried again: {error:#}"
                    );
                }
                Ok(true) if failing => info!("replica records are written and read again"),
                _ => {}
            }
            failing = done.is_err();
        }
        // The requests have ended, so this is the last write.
        if let Err(error) = self.registry.flush().await {
            warn!("the last check-ins were not written to the store: {error:#}");
        }
        Ok(())
    }

    /// Returns whether the store was read.
    async fn round(&mut self) -> anyhow::Result<bool> {
        self.registry.flush().await?;
        let now = Instant::now();
        if now >= self.next_forget {
            self.next_forget = now + FORGET_PERIOD;
            // A setting beyond all time means that no replica is forgotten.
            let silence = TimeDelta::from_std(self.forget_after).unwrap_or(TimeDelta::MAX);
            let before = Utc::now()
                .checked_sub_signed(silence)
                .unwrap_or(DateTime::UNIX_EPOCH);
            self.registry.store().forget_replicas(before).await?;
        }
        // A file has no other publisher, which could have received a check-in.
        let is_awaited = matches!(self.registry.store(), Store::Mongo(_))
            && self.registry.confirmations.are_wanted();
        if now >= self.next_read || is_awaited {
            self.next_read = now + self.read_period();
            self.read_all().await?;
            return Ok(true);
        }
        Ok(false)
    }

    fn read_period(&self) -> Duration {
        match self.subscribers {
            Some(_) => DISCOVER_PERIOD,
            None => COUNT_PERIOD,
        }
    }

    async fn read_all(&self) -> anyhow::Result<()> {
        // Before the rows are read: a check-in during the read counts in any case.
        let begun = std::time::Instant::now();
        let seen_since = Utc::now();
        self.registry.size.begin_read();
        self.registry.known.begin_read();
        let mut rows = self.registry.rows().await?;
        for row in &rows {
            // After a restart those of the store are known before any new name.
            let instance = &row.record.check_in.instance;
            if self.registry.known.place(instance) == u64::MAX {
                let bytes = serde_json::to_vec(row).map_or(0, |json| json.len());
                self.registry.known.admit(instance, bytes);
            }
            // Another publisher may have taken the check-in.
            if let Some(caller) = &row.source.caller {
                let until = owned_until(&row.record);
                (self.registry.known).own(instance, caller, until, Utc::now());
            }
        }
        let names = rows.iter().map(|row| row.record.check_in.instance.as_str());
        self.registry.known.end_read(names);
        self.registry
            .progress
            .replace(rows.iter().map(|row| &row.record), seen_since);
        rows.retain(|row| !row.record.gone);
        let names = rows.iter().map(|row| row.record.check_in.instance.clone());
        self.registry.size.end_read(names);
        if let Some(subscribers) = &self.subscribers {
            let expecting = rows.iter();
            let expecting = expecting.filter(|row| expects_events(&row.record.check_in));
            let refused = subscribers.newly_refused(
                expecting.filter_map(|row| Some((base_url(&row.record.check_in)?, &row.source))),
            );
            for line in refused {
                // Who checks in chooses the URL, so the number of lines has no other limit.
                if let Some(left_out) = REFUSED.due() {
                    warn!("{line}{left_out}");
                }
            }
            subscribers.replace(
                rows.iter()
                    .filter_map(|row| Some((base_url(&row.record.check_in)?, &row.source))),
                begun,
            );
        }
        Ok(())
    }
}

/// Whether the replica expects events of a publisher that posts them, and not by another transport.
pub(super) fn expects_events(check_in: &CheckIn) -> bool {
    matches!(check_in.transport, None | Some(Transport::Local))
}

/// The base URL of the replica, if it reported a valid one.
pub(super) fn base_url(check_in: &CheckIn) -> Option<reqwest::Url> {
    limits::base_url(check_in.base_url.as_deref()?).ok()
}

/// Until when its name is its caller's own: a caller that took the name of another one's replica must not
/// keep it by a long interval.
fn owned_until(record: &ReplicaRecord) -> DateTime<Utc> {
    let longest = record.seen.checked_add_signed(MAX_OWNED);
    live_until(record).min(longest.unwrap_or(DateTime::<Utc>::MAX_UTC))
}

pub(super) fn is_gone(record: &ReplicaRecord, now: DateTime<Utc>) -> bool {
    now > live_until(record)
}

/// Until when the replica counts as live without another check-in.
fn live_until(record: &ReplicaRecord) -> DateTime<Utc> {
    // A row may be older than the bound on intervals.
    let interval_ms = record.check_in.interval_ms.min(MAX_INTERVAL_MS);
    let silence = i64::try_from(interval_ms * SILENT_INTERVALS)
        .ok()
        .and_then(TimeDelta::try_milliseconds)
        .unwrap_or(MIN_SILENCE)
        .max(MIN_SILENCE);
    let until = record.seen.checked_add_signed(silence);
    until.unwrap_or(DateTime::<Utc>::MAX_UTC)
}

#[cfg(test)]
mod tests;
