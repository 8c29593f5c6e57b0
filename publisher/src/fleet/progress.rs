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

use contract::{
    CollectionName, DocumentId, Epoch, Revision,
    applied::{Applied, WaitFor},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout, timeout_at},
};

use self::look::{Look, Standing};
use super::{known::KnownReplicas, records::Record};

mod look;

/// The shortest time between two looks of one wait at all reports.
const MIN_PAUSE: Duration = Duration::from_millis(5);
/// The same for each replica: to arrange the reports takes longer the more there are.
const PAUSE_PER_REPLICA: Duration = Duration::from_micros(20);

/// Time for the read of the newest revisions.
const NEWEST_TIME: Duration = Duration::from_secs(1);
/// The shortest time between two such reads of one wait.
const NEWEST_PAUSE: Duration = Duration::from_millis(100);

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
    newest: Mutex<HashMap<String, Record>>,
    /// Whether the rows of the store were read: before, replicas may be missing here.
    is_complete: AtomicBool,
    changed: watch::Sender<()>,
    arranged: Mutex<Option<Arranged>>,
    waiting: AtomicUsize,
    known: Arc<KnownReplicas>,
}

/// The newest revisions of the collections that are still in the epoch of a write.
pub(super) type Newest = BTreeMap<CollectionName, Revision>;

/// The newest arranged reports.
#[derive(Debug, Clone)]
struct Arranged {
    look: Arc<Look>,
    /// When they were read.
    at: Instant,
    /// Whether no replica is missing among them that is in a row.
    is_complete: bool,
    /// Live replicas that are not listed.
    unlisted: usize,
}

impl Arranged {
    /// Whether so many have applied a write. A replica that is not listed may follow it, and nothing is
    /// known of it.
    fn suffices(&self, wait: WaitFor, standing: &Standing) -> bool {
        self.is_complete && standing.applied >= wait.needed(standing.replicas + self.unlisted)
    }
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
    /// No report yet of the replicas that are known.
    pub(super) fn new(known: Arc<KnownReplicas>) -> Self {
        Self(Arc::new(Shared {
            known,
            ..Shared::default()
        }))
    }

    /// A check-in of a replica came: it is live, and its report follows.
    pub(super) fn renew(&self, instance: &str, at: Instant) {
        if let Some(record) = self.newest().get_mut(instance) {
            record.at = record.at.max(at);
        }
    }

    /// Keeps the report of a known replica, unless there is a newer one of it.
    pub(super) fn note(&self, record: &Record) {
        let mut newest = self.newest();
        let known = newest.get(record.name());
        if known.is_none_or(|known| known.at <= record.at) {
            newest.insert(record.name().to_owned(), record.clone());
        }
        drop(newest);
        self.0.changed.send_replace(());
    }

    /// Drops the report of a replica that is not listed.
    pub(super) fn forget(&self, instance: &str) {
        self.newest().remove(instance);
        self.0.changed.send_replace(());
    }

    /// The newest report of each known replica.
    pub(super) fn all(&self) -> HashMap<String, Record> {
        self.newest().clone()
    }

    /// Replaces all reports by those of the rows that were read. A check-in that came since the read
    /// `began` stays: it may be in no row yet.
    pub(super) fn replace(&self, records: &[Record], began: Instant) {
        let mut newest = self.newest();
        let mut known = std::mem::take(&mut *newest);
        for record in records {
            let record = match known.remove(record.name()) {
                Some(known) if known.at >= record.at => known,
                _older => record.clone(),
            };
            newest.insert(record.name().to_owned(), record);
        }
        known.retain(|_name, record| record.at >= began);
        newest.extend(known);
        drop(newest);
        self.0.is_complete.store(true, Release);
        self.0.changed.send_replace(());
    }

    /// Waits until enough live replicas have applied a write, or the deadline is over. `names` says
    /// whether the answer names those that have not.
    ///
    /// `newest` reads the newest revisions after the reports were read: a report beyond them is of a
    /// history that the store has lost, and in another epoch nothing is known of the write. `None` when
    /// they cannot be read: then nothing is reached.
    pub(super) async fn until_applied(
        &self,
        write: &AppliedWrite,
        wait: WaitFor,
        deadline: Instant,
        names: bool,
        newest: impl AsyncFn() -> Option<Newest>,
    ) -> Applied {
        let begun = Instant::now();
        let waiting = Waiting::begin(&self.0.waiting);
        let mut changed = self.0.changed.subscribe();
        loop {
            changed.borrow_and_update();
            let is_over = Instant::now() >= deadline;
            let (arranged, is_shared) = self.look();
            if is_shared {
                // A report that came since it was read has woken nobody who begins now.
                changed.mark_changed();
            }
            let look = &arranged.look;
            let mut pause = waiting.pause(look, write);
            if is_over || arranged.suffices(wait, &look.standing(write, None, false)) {
                let newest = timeout(NEWEST_TIME, newest()).await.ok().flatten();
                let standing = look.standing(write, newest.as_ref(), names && is_over);
                let reached = newest.is_some() && arranged.suffices(wait, &standing);
                if reached || is_over {
                    let waited_ms = u64::try_from(begun.elapsed().as_millis());
                    return Applied {
                        wait,
                        reached,
                        replicas: standing.replicas as u64,
                        applied: standing.applied as u64,
                        gone: standing.gone as u64,
                        unlisted: arranged.unlisted as u64,
                        waited_ms: waited_ms.unwrap_or(u64::MAX),
                        missing: standing.missing,
                    };
                }
                pause = pause.max(NEWEST_PAUSE);
            }
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
            look: Arc::new(Look::new(records, Instant::now())),
            at,
            is_complete,
            unlisted: self.0.known.unlisted(at),
        };
        *last = Some(arranged.clone());
        (arranged, false)
    }

    fn newest(&self) -> MutexGuard<'_, HashMap<String, Record>> {
        // No code that holds the lock leaves the reports half changed.
        self.0.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
