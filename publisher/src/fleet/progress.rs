//! How far each replica is, by its newest check-in, and waiting until enough of them have applied a
//! write.
//!
//! The newest report of each known replica is in memory, so a wait reads nothing from the store. The
//! reports that other publishers of the store received come with the rows that the registry reads.
//! Nothing here decides which replicas are known, and nothing is sent.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use contract::{
    CollectionName, DocumentId, Epoch, Revision,
    applied::{Applied, WaitFor},
    fleet::ReplicaRecord,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout_at},
};

use self::look::Look;

mod look;

/// The shortest time between two looks of one wait at all reports.
const MIN_PAUSE: Duration = Duration::from_millis(5);
/// The same for each replica: to arrange the reports takes longer the more there are.
const PAUSE_PER_REPLICA: Duration = Duration::from_micros(20);

/// What a write asks of a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppliedWrite {
    /// The epoch of the revisions.
    pub epoch: Epoch,
    /// The last revision of the write in each of its collections.
    pub revisions: BTreeMap<CollectionName, Revision>,
    /// Its documents, each with its revision. `None` where they are not known: then a refusal of any
    /// value up to the revision of its collection counts.
    pub documents: Option<Vec<(CollectionName, DocumentId, Revision)>>,
}

/// The newest report of each known replica. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    newest: Mutex<HashMap<String, Arc<ReplicaRecord>>>,
    /// Whether the rows of the store were read: before, replicas may be missing here.
    is_complete: AtomicBool,
    changed: watch::Sender<()>,
    arranged: Mutex<Option<Arranged>>,
    waiting: AtomicUsize,
}

/// The newest arranged reports.
#[derive(Debug, Clone)]
struct Arranged {
    look: Arc<Look>,
    /// When they were read.
    at: Instant,
    /// Whether no replica is missing among them.
    is_complete: bool,
}

/// One wait, until this is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Relaxed);
        Self(waiting)
    }

    /// Time between two looks of this wait, if one looks at this many replicas one by one.
    fn pause(&self, look: &Look, write: &AppliedWrite) -> Duration {
        let waits = u32::try_from(self.0.load(Relaxed)).unwrap_or(u32::MAX);
        let one_by_one = per_replica(look.one_by_one(write)).saturating_mul(waits);
        per_replica(look.replicas()).max(MIN_PAUSE) + one_by_one
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

fn per_replica(replicas: usize) -> Duration {
    PAUSE_PER_REPLICA.saturating_mul(u32::try_from(replicas).unwrap_or(u32::MAX))
}

impl Progress {
    /// Keeps the report of a known replica, unless there is a newer one of it.
    pub(super) fn note(&self, record: &ReplicaRecord) {
        let name = &record.check_in.instance;
        let mut newest = self.newest();
        if newest
            .get(name)
            .is_none_or(|known| known.seen <= record.seen)
        {
            newest.insert(name.clone(), Arc::new(record.clone()));
        }
        drop(newest);
        self.0.changed.send_replace(());
    }

    /// Replaces all reports by those of the rows that were read. A check-in that came since the read
    /// `began` stays: it may be in no row yet.
    pub(super) fn replace<'a>(
        &self,
        records: impl Iterator<Item = &'a ReplicaRecord>,
        began: DateTime<Utc>,
    ) {
        let mut newest = self.newest();
        let mut known = std::mem::take(&mut *newest);
        for record in records {
            let name = &record.check_in.instance;
            let record = match known.remove(name) {
                Some(known) if known.seen >= record.seen => known,
                _older => Arc::new(record.clone()),
            };
            newest.insert(name.clone(), record);
        }
        known.retain(|_name, record| record.seen >= began);
        newest.extend(known);
        drop(newest);
        self.0.is_complete.store(true, Release);
        self.0.changed.send_replace(());
    }

    /// Waits until enough live replicas have applied a write, or the deadline is over. `names` says
    /// whether the answer names those that have not.
    pub async fn until_applied(
        &self,
        write: &AppliedWrite,
        wait: WaitFor,
        deadline: Instant,
        names: bool,
    ) -> Applied {
        let begun = Instant::now();
        let waiting = Waiting::begin(&self.0.waiting);
        let mut changed = self.0.changed.subscribe();
        loop {
            changed.borrow_and_update();
            let is_over = Instant::now() >= deadline;
            let (
                Arranged {
                    look, is_complete, ..
                },
                is_shared,
            ) = self.look();
            if is_shared {
                // A report that came since it was read has woken nobody who begins now.
                changed.mark_changed();
            }
            let standing = look.standing(write, names && is_over);
            let reached = is_complete && standing.applied >= wait.needed(standing.replicas);
            if reached || is_over {
                let waited_ms = u64::try_from(begun.elapsed().as_millis());
                return Applied {
                    wait,
                    reached,
                    replicas: standing.replicas as u64,
                    applied: standing.applied as u64,
                    gone: standing.gone as u64,
                    waited_ms: waited_ms.unwrap_or(u64::MAX),
                    missing: standing.missing,
                };
            }
            let pause = waiting.pause(&look, write);
            // A look after the deadline gives the answer; a shared one is 20 µs old for each replica at
            // most.
            drop(timeout_at(deadline, changed.changed()).await);
            sleep_until(deadline.min(Instant::now() + pause)).await;
        }
    }

    /// The reports of now, and whether they were arranged a moment ago: all that wait share those.
    fn look(&self) -> (Arranged, bool) {
        // Nothing that holds this lock or the other one waits or leaves anything half changed.
        let mut last = self
            .0
            .arranged
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let at = Instant::now();
        if let Some(arranged) = &*last
            && at < arranged.at + per_replica(arranged.look.replicas())
        {
            return (arranged.clone(), true);
        }
        // Before the reports: rows that are read meanwhile complete only a later look.
        let is_complete = self.0.is_complete.load(Acquire);
        // Check-ins wait for the copy alone.
        let records: Vec<_> = self.newest().values().cloned().collect();
        let arranged = Arranged {
            look: Arc::new(Look::new(records.into_iter(), Utc::now())),
            at,
            is_complete,
        };
        *last = Some(arranged.clone());
        (arranged, false)
    }

    fn newest(&self) -> MutexGuard<'_, HashMap<String, Arc<ReplicaRecord>>> {
        // No code that holds the lock leaves the reports half changed.
        self.0.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
