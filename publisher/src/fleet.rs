//! The fleet: replicas check in, are told where everything stands and whether they diverged, and
//! can be seen by everybody.
//!
//! Publishers hold no state: rows of replicas are in the store, written in bulk once a second and
//! never by a request. What a replica says is a report, never a truth: it changes no document.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use contract::fleet::{
    CheckIn, CheckInAnswer, EpochDeclared, ReplicaList, ReplicaRecord, RestoreEpochRequest,
    ResyncReason,
};
use tokio::{
    sync::Semaphore,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    api::error::ApiError,
    fleet::{
        check_ins::{Desk, DeskTask, Reading},
        restore::{EpochTask, Epochs},
    },
    metrics::Metrics,
    store::{
        Store,
        replicas::{MAX_REPLICAS, ReplicaRow},
    },
    transport::direct::{Subscribers, trust::Caller},
};

mod check_ins;
mod limits;
mod restore;

const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// Rounds of flushing after which those that are silent for too long are forgotten.
const FORGET_EVERY: u32 = 10;
/// Rounds of flushing after which `LOCAL` looks for the replicas of other publishers.
const LOOK_EVERY: u32 = 2;
/// Bytes of rows that may wait to be written.
const PENDING_BYTES: usize = 64 << 20;
/// Bytes of check-ins that may wait for their answer.
const WAITING_BYTES: usize = 32 << 20;
/// A replica is gone after this many of its intervals in silence, and never sooner than
/// [`SOONEST_GONE`].
const SILENT_INTERVALS: u64 = 3;
const SOONEST_GONE: TimeDelta = TimeDelta::seconds(3);

/// Where requests reach the fleet. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Fleet {
    store: Store,
    desk: Desk,
    epochs: Epochs,
    pending: Arc<Mutex<Pending>>,
    local: Option<Subscribers>,
    metrics: Arc<Metrics>,
    /// For check-ins that wait for their answer.
    memory: Arc<Semaphore>,
}

/// Rows that are not written yet.
#[derive(Debug, Default)]
struct Pending {
    rows: HashMap<String, (ReplicaRow, usize)>,
    bytes: usize,
    /// Those that are being written: until that is done the store does not have them.
    writing: HashMap<String, (ReplicaRow, usize)>,
}

/// The tasks behind a [`Fleet`].
pub struct Tasks {
    /// Answers check-ins.
    pub desk: DeskTask,
    /// Writes rows.
    pub keeper: KeeperTask,
    /// Declares epochs.
    pub epochs: EpochTask,
}

/// A fleet and the tasks that have to run for it. `local` are the subscribers that events go to
/// without a broker.
pub fn fleet(
    store: Store,
    forget_after: Duration,
    local: Option<Subscribers>,
    metrics: Arc<Metrics>,
) -> (Fleet, Tasks) {
    let (desk, desk_task) = check_ins::desk(store.clone());
    let pending = Arc::default();
    let members = Members {
        store: store.clone(),
        pending: Arc::clone(&pending),
    };
    let (epochs, epoch_task) = restore::epochs(members, metrics.clone());
    let fleet = Fleet {
        store,
        desk,
        epochs,
        pending,
        local,
        metrics,
        memory: Arc::new(Semaphore::new(WAITING_BYTES)),
    };
    let keeper = KeeperTask {
        fleet: fleet.clone(),
        forget_after,
    };
    (
        fleet,
        Tasks {
            desk: desk_task,
            keeper,
            epochs: epoch_task,
        },
    )
}

/// Reads what the store and this publisher know together.
#[derive(Debug, Clone)]
struct Members {
    store: Store,
    pending: Arc<Mutex<Pending>>,
}

impl Members {
    async fn read(&self) -> anyhow::Result<Vec<ReplicaRecord>> {
        Ok(self
            .rows()
            .await?
            .into_iter()
            .map(|row| row.record)
            .collect())
    }

    async fn rows(&self) -> anyhow::Result<Vec<ReplicaRow>> {
        // Before the store is read: what is written in between is in one of the two.
        let unwritten = lock(&self.pending).all();
        let rows = self.store.replicas().await?.into_iter();
        let mut rows: HashMap<_, _> = rows
            .map(|row| (row.record.check_in.instance.clone(), row))
            .collect();
        for row in unwritten {
            let name = &row.record.check_in.instance;
            if rows
                .get(name)
                .is_none_or(|written| written.record.seen <= row.record.seen)
            {
                rows.insert(name.clone(), row);
            }
        }
        let now = Utc::now();
        let mut rows: Vec<_> = rows.into_values().collect();
        rows.iter_mut()
            .for_each(|row| row.record.gone = is_gone(&row.record, now));
        rows.sort_unstable_by(|one, other| {
            one.record
                .check_in
                .instance
                .cmp(&other.record.check_in.instance)
        });
        rows.truncate(MAX_REPLICAS);
        Ok(rows)
    }
}

impl Fleet {
    /// A replica says where it is, in the body of its request.
    ///
    /// # Errors
    /// 400 when the body is no check-in of it, 503 when the store does not answer.
    pub async fn check_in(
        &self,
        instance: &str,
        body: &[u8],
        caller: Caller<'_>,
    ) -> Result<CheckInAnswer, ApiError> {
        let bytes =
            u32::try_from(body.len()).map_err(|_beyond_any_limit| ApiError::fleet_too_busy())?;
        let _memory = self
            .memory
            .try_acquire_many(bytes)
            .map_err(|_full| ApiError::fleet_too_busy())?;
        let check_in = limits::read(instance, body)?;
        self.note(&check_in, body.len(), caller);
        let settled = check_in.collections.iter().filter_map(|(name, report)| {
            let (epoch, settled) = (report.epoch?, report.settled?);
            Some((name.clone(), epoch, settled.revision))
        });
        let reading = self
            .desk
            .read(settled.collect())
            .await
            .ok_or_else(ApiError::store_unavailable)?;
        self.epochs.compare(&check_in, &reading);
        Ok(self.answer(&check_in, &reading))
    }

    fn answer(&self, check_in: &CheckIn, reading: &Reading) -> CheckInAnswer {
        let heads = check_in
            .collections
            .keys()
            .filter_map(|name| reading.heads.get(name).cloned())
            .collect();
        let diverged = check_in.collections.iter().filter(|(name, report)| {
            let (Some(epoch), Some(settled)) = (report.epoch, report.settled) else {
                return false;
            };
            let truth = reading.digest(&((*name).clone(), epoch, settled.revision));
            truth.is_some_and(|truth| truth != settled.digest)
        });
        let resync: std::collections::BTreeMap<_, _> = diverged
            .map(|(name, _report)| (name.clone(), ResyncReason::Diverged))
            .collect();
        for collection in resync.keys() {
            self.metrics.diverged.inc();
            error!(
                instance = check_in.instance, %collection,
                "{} has DIVERGED in {collection}: what it holds is not what the log says. It loads everything anew",
                check_in.instance,
            );
        }
        CheckInAnswer {
            report_after_ms: None,
            heads,
            age: 0,
            resync,
        }
    }

    fn note(&self, check_in: &CheckIn, bytes: usize, caller: Caller<'_>) {
        let heard = self
            .local
            .as_ref()
            .map(|local| local.heard(caller))
            .unwrap_or_default();
        if let Some(local) = &self.local
            && let Some(url) = base_url(check_in)
        {
            local.add(url, &heard);
        }
        let member = ReplicaRecord {
            check_in: check_in.clone(),
            seen: Utc::now(),
            gone: false,
        };
        lock(&self.pending).put(
            ReplicaRow {
                record: member,
                source: heard,
            },
            bytes,
        );
    }

    fn members(&self) -> Members {
        Members {
            store: self.store.clone(),
            pending: self.pending.clone(),
        }
    }

    /// All replicas that any publisher of this store knows, by name.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn list(&self) -> anyhow::Result<ReplicaList> {
        Ok(ReplicaList {
            replicas: self.members().read().await?,
        })
    }

    /// The operator says that the store was restored.
    ///
    /// # Errors
    /// 409 when that cannot be, 503 when it cannot be now.
    pub async fn declare(&self, wish: RestoreEpochRequest) -> Result<EpochDeclared, ApiError> {
        self.epochs.by_hand(wish).await
    }
}

impl Pending {
    /// The older ones of a replica first.
    fn all(&self) -> Vec<ReplicaRow> {
        self.writing
            .values()
            .chain(self.rows.values())
            .map(|(row, _bytes)| row.clone())
            .collect()
    }

    fn begin_to_write(&mut self) -> Vec<ReplicaRow> {
        self.bytes = 0;
        self.writing = std::mem::take(&mut self.rows);
        self.writing
            .values()
            .map(|(row, _bytes)| row.clone())
            .collect()
    }

    fn end_to_write(&mut self, well: bool) {
        let written = std::mem::take(&mut self.writing);
        if !well {
            written
                .into_values()
                .for_each(|(row, bytes)| self.put(row, bytes));
        }
    }

    /// The newest wins. Beyond the bounds a replica is answered and not seen: a huge fleet must not
    /// take the memory.
    fn put(&mut self, row: ReplicaRow, bytes: usize) {
        let name = &row.record.check_in.instance;
        let old = self.rows.get(name);
        if old.is_some_and(|(old, _bytes)| old.record.seen > row.record.seen) {
            return;
        }
        let held = old.map(|(_old, bytes)| *bytes);
        let after = self.bytes - held.unwrap_or(0) + bytes;
        if after > PENDING_BYTES || (held.is_none() && self.rows.len() >= MAX_REPLICAS) {
            return;
        }
        self.bytes = after;
        self.rows.insert(name.clone(), (row, bytes));
    }
}

/// Writes rows, forgets old ones, and tells `LOCAL` who is there.
pub struct KeeperTask {
    fleet: Fleet,
    forget_after: Duration,
}

impl KeeperTask {
    /// Runs until no more requests will come; what is noted then is written first.
    ///
    /// # Errors
    /// Never; the signature is the supervisor's.
    pub async fn run(self, no_more_requests: CancellationToken) -> anyhow::Result<()> {
        let mut rounds = interval(FLUSH_EVERY);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut round, mut failing) = (0_u32, false);
        while no_more_requests
            .run_until_cancelled(rounds.tick())
            .await
            .is_some()
        {
            let done = self.round(round).await;
            match &done {
                Err(error) if !failing => warn!("the fleet cannot be kept for now: {error:#}"),
                Ok(()) if failing => info!("the fleet is kept again"),
                _ => {}
            }
            failing = done.is_err();
            round = round.wrapping_add(1);
        }
        self.flush()
            .await
            .unwrap_or_else(|error| warn!("the last check-ins were not kept: {error:#}"));
        Ok(())
    }

    async fn round(&self, round: u32) -> anyhow::Result<()> {
        self.flush().await?;
        if round.is_multiple_of(FORGET_EVERY) {
            let silent = TimeDelta::from_std(self.forget_after).unwrap_or(TimeDelta::MAX);
            let before = Utc::now()
                .checked_sub_signed(silent)
                .unwrap_or(DateTime::UNIX_EPOCH);
            self.fleet.store.forget_replicas(before).await?;
        }
        if let Some(local) = self
            .fleet
            .local
            .as_ref()
            .filter(|_local| round.is_multiple_of(LOOK_EVERY))
        {
            let rows = self.fleet.members().rows().await?;
            let here = rows.iter().filter(|row| !row.record.gone);
            local.replace(
                here.filter_map(|row| Some((base_url(&row.record.check_in)?, &row.source))),
            );
        }
        Ok(())
    }

    async fn flush(&self) -> anyhow::Result<()> {
        let rows = lock(&self.fleet.pending).begin_to_write();
        if rows.is_empty() {
            return Ok(());
        }
        let written = self.fleet.store.put_replicas(rows).await;
        lock(&self.fleet.pending).end_to_write(written.is_ok());
        written
    }
}

fn base_url(check_in: &CheckIn) -> Option<reqwest::Url> {
    limits::base_url(check_in.base_url.as_deref()?).ok()
}

fn is_gone(member: &ReplicaRecord, now: DateTime<Utc>) -> bool {
    let silence = i64::try_from(member.check_in.interval_ms.saturating_mul(SILENT_INTERVALS))
        .unwrap_or(i64::MAX);
    let silence = TimeDelta::try_milliseconds(silence)
        .unwrap_or(TimeDelta::MAX)
        .max(SOONEST_GONE);
    now.signed_duration_since(member.seen) > silence
}

fn lock(pending: &Mutex<Pending>) -> MutexGuard<'_, Pending> {
    pending.lock().expect("no holder of this lock can panic")
}

#[cfg(test)]
mod tests;
