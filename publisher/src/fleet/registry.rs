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
use contract::fleet::{CheckIn, ReplicaRecord, Transport};
use service::runtime::log_rate::LogRate;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    known::KnownReplicas,
    limits,
    pacing::FleetSize,
    progress::Progress,
    records::{Record, RowReader, silence},
};
use crate::{
    store::{
        Store,
        replicas::{CheckInSource, ReplicaRow},
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
/// The longest time for which a name is a caller's own after its check-in.
const MAX_OWNED: Duration = Duration::from_secs(180);

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
    /// Held while the rows of the store are read, with the time at which the last read began: what they
    /// are parsed into is in memory once, and not once for each reader.
    reading: Arc<tokio::sync::Mutex<Option<Instant>>>,
    confirmations: Confirmations,
}

impl Registry {
    /// A registry on the rows of a store.
    ///
    /// While `confirmations` are wanted, the rows that other publishers write are read all the time.
    pub(super) fn new(store: Store, confirmations: Confirmations) -> Self {
        let known = Arc::<KnownReplicas>::default();
        Self {
            store,
            waiting: Arc::default(),
            size: Arc::default(),
            progress: Progress::new(known.clone()),
            known,
            reading: Arc::default(),
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

    /// A check-in came, whose report is not compared yet: the replica is live, whatever becomes of it.
    /// `false` when the name is another caller's.
    pub(super) fn claim(&self, check_in: &CheckIn, source: &CheckInSource, at: Instant) -> bool {
        if let Some(caller) = &source.caller {
            let until = at + silence(check_in).min(MAX_OWNED);
            if !self.known.own(&check_in.instance, caller, until, at) {
                return false;
            }
        }
        if !self.known.is_unlisted(&check_in.instance) {
            self.progress.renew(&check_in.instance, at);
        }
        true
    }

    /// Notes a check-in that came `at` this time. Beyond the bound it is noted without its texts; a
    /// replica that does not fit even so is answered and not listed: a huge fleet must not exhaust the
    /// memory. `false`, and nothing is noted, when the name is another caller's.
    pub(super) fn note(&self, check_in: CheckIn, source: CheckInSource, at: Instant) -> bool {
        self.size.note(&check_in.instance);
        let record = ReplicaRecord {
            check_in,
            seen: Utc::now(),
            gone: false,
            undelivered: None,
        };
        let mut row = ReplicaRow { record, source };
        if !self.admit(&row) {
            limits::leave_out_texts(&mut row.record.check_in);
            if !self.admit(&row) {
                let check_in = &row.record.check_in;
                self.known
                    .refuse(&check_in.instance, at + silence(check_in));
                // What it reported before is of the past.
                self.progress.forget(&check_in.instance);
                return true;
            }
        }
        let mut record = Record {
            row: Arc::new(row),
            at,
        };
        // Again, because the admission made a new name known.
        if !self.is_own(&record) {
            return false;
        }
        let mut waiting = self.waiting();
        // With the lock: what a read of the rows does not find here is later than all that it finds.
        record.at = Instant::now();
        self.progress.note(&record);
        waiting.put(record);
        true
    }

    fn admit(&self, row: &ReplicaRow) -> bool {
        let json = serde_json::to_vec(row).map_or(usize::MAX, |json| json.len());
        let instance = &row.record.check_in.instance;
        self.known.admit(instance, limits::cost(row, json))
    }

    /// Whether the name of a record is that of its caller.
    fn is_own(&self, record: &Record) -> bool {
        match &record.row.source.caller {
            Some(caller) => {
                let until = owned_until(record);
                (self.known).own(record.name(), caller, until, record.at)
            }
            None => true,
        }
    }

    /// All replicas that any publisher of the store knows, by name.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) async fn records(&self) -> anyhow::Result<Vec<Record>> {
        let mut last_read = self.reading.lock().await;
        // Before the store is read: a row that is written in between is in one of the two.
        let (begun, mut waiting) = {
            let waiting = self.waiting();
            (Instant::now(), waiting.all())
        };
        let newest = self.progress.all();
        for (name, record) in &mut waiting {
            // A later check-in, or a renewal.
            if let Some(newest) = newest.get(name) {
                *record = newest.clone();
            }
        }
        let reader = RowReader::new(self.known.clone(), newest, waiting, begun, *last_read);
        let reader = self.store.replicas(reader, RowReader::read).await?;
        *last_read = Some(begun);
        Ok(reader.records())
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
    rows: HashMap<String, Record>,
    /// Rows of the present write: until it ends the store does not have them.
    writing: HashMap<String, Record>,
}

impl WaitingRows {
    /// All rows, the newest of each replica.
    fn all(&self) -> HashMap<String, Record> {
        let mut rows = self.writing.clone();
        rows.extend(self.rows.clone());
        rows
    }

    /// Takes all rows for a write. They are still in [`Self::all`] until [`Self::end_write`].
    fn begin_write(&mut self) -> Vec<Arc<ReplicaRow>> {
        self.writing = std::mem::take(&mut self.rows);
        let rows = self.writing.values();
        rows.map(|record| record.row.clone()).collect()
    }

    /// Drops the rows that were written, or puts them back.
    fn end_write(&mut self, succeeded: bool) {
        let written = std::mem::take(&mut self.writing);
        if !succeeded {
            // `put` keeps a newer row that arrived during the write.
            for record in written.into_values() {
                self.put(record);
            }
        }
    }

    /// Keeps the row, unless a newer one of that replica waits: check-ins of one replica may arrive out
    /// of order, on different connections.
    fn put(&mut self, record: Record) {
        let waits = self.rows.get(record.name());
        if waits.is_none_or(|waits| waits.at <= record.at) {
            self.rows.insert(record.name().to_owned(), record);
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
    pub(super) async fn round(&mut self) -> anyhow::Result<bool> {
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
        let begun = Instant::now();
        let registry = &self.registry;
        registry.size.begin_read();
        registry.known.begin_read();
        let mut records = registry.records().await?;
        for record in &records {
            // Another publisher may have taken the check-in.
            registry.is_own(record);
        }
        registry.known.end_read(records.iter().map(Record::name));
        registry.progress.replace(&records, begun);
        let now = Instant::now();
        records.retain(|record| !record.is_gone(now));
        let names = records.iter().map(|record| record.name().to_owned());
        registry.size.end_read(names);
        if let Some(subscribers) = &self.subscribers {
            let rows = records.iter().map(|record| &record.row);
            let expecting = rows
                .clone()
                .filter(|row| expects_events(&row.record.check_in));
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
                rows.filter_map(|row| Some((base_url(&row.record.check_in)?, &row.source))),
                begun.into_std(),
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
fn owned_until(record: &Record) -> Instant {
    record.live_until().min(record.at + MAX_OWNED)
}

#[cfg(test)]
mod tests;
