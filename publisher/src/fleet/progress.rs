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
            AtomicBool,
            Ordering::{Acquire, Release},
        },
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use contract::{
    CollectionName, DocumentId, Epoch, Revision,
    applied::{Applied, MAX_NAMED, NotApplied, NotAppliedReason, WaitFor},
    fleet::{CollectionReport, ReplicaRecord},
    status::ReplicaState,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout_at},
};

use super::registry::is_gone;

/// The shortest time between two looks of one wait at all reports.
const MIN_PAUSE: Duration = Duration::from_millis(5);
/// The same for each replica: a look takes longer the more there are.
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
}

/// How many replicas have applied a write.
#[derive(Debug, Default)]
struct Standing {
    replicas: usize,
    applied: usize,
    missing: Vec<NotApplied>,
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
        let mut changed = self.0.changed.subscribe();
        loop {
            changed.borrow_and_update();
            let is_over = Instant::now() >= deadline;
            let standing = self.look(write, names && is_over);
            let reached = self.0.is_complete.load(Acquire)
                && standing.applied >= wait.needed(standing.replicas);
            if reached || is_over {
                let waited_ms = u64::try_from(begun.elapsed().as_millis());
                return Applied {
                    wait,
                    reached,
                    replicas: standing.replicas as u64,
                    applied: standing.applied as u64,
                    waited_ms: waited_ms.unwrap_or(u64::MAX),
                    missing: standing.missing,
                };
            }
            let replicas = u32::try_from(standing.replicas).unwrap_or(u32::MAX);
            let pause = MIN_PAUSE.max(PAUSE_PER_REPLICA.saturating_mul(replicas));
            // A look after the deadline gives the answer, whatever came until then.
            drop(timeout_at(deadline, changed.changed()).await);
            sleep_until(deadline.min(Instant::now() + pause)).await;
        }
    }

    fn look(&self, write: &AppliedWrite, names: bool) -> Standing {
        let now = Utc::now();
        let mut standing = Standing::default();
        for record in self.newest().values() {
            let reports = &record.check_in.collections;
            let follows = |name| reports.contains_key(name);
            if is_gone(record, now) || !write.revisions.keys().any(follows) {
                continue;
            }
            standing.replicas += 1;
            match not_applied(write, record) {
                None => standing.applied += 1,
                Some(missing) if names => standing.missing.push(missing),
                Some(_missing) => {}
            }
        }
        standing
            .missing
            .sort_unstable_by(|one, other| one.instance.cmp(&other.instance));
        standing.missing.truncate(MAX_NAMED);
        standing
    }

    fn newest(&self) -> MutexGuard<'_, HashMap<String, Arc<ReplicaRecord>>> {
        // No code that holds the lock leaves the reports half changed.
        self.0.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a replica has not applied a write; `None` when it has.
fn not_applied(write: &AppliedWrite, record: &ReplicaRecord) -> Option<NotApplied> {
    let check_in = &record.check_in;
    let because = |reason, revision, detail| NotApplied {
        instance: check_in.instance.clone(),
        reason,
        revision,
        detail,
    };
    for (name, target) in &write.revisions {
        let Some(report) = check_in.collections.get(name) else {
            continue;
        };
        let revision = report.revision;
        if report.epoch == Some(write.epoch) && revision >= *target {
            if let Some(refused) = refused(write, name, *target, report) {
                return Some(because(NotAppliedReason::Refused, revision, refused));
            }
            continue;
        }
        if report.state == ReplicaState::Loading {
            let detail = format!("it has not loaded {name} yet");
            return Some(because(NotAppliedReason::Loading, revision, detail));
        }
        if let Some(fault) = check_in.intake {
            let names_url = check_in.base_url.is_some();
            let detail = fault.remedy(check_in.transport, names_url).to_owned();
            return Some(because(NotAppliedReason::NotReceiving, revision, detail));
        }
        let detail = match &report.reason {
            Some(reason) => reason.clone(),
            None => format!(
                "its last check-in, at {}, reports revision {revision} of {name}, not {target}",
                record.seen.format("%H:%M:%S%.3f")
            ),
        };
        return Some(because(NotAppliedReason::Behind, revision, detail));
    }
    None
}

/// What a replica says of a document of the write that its service refused.
fn refused(
    write: &AppliedWrite,
    name: &CollectionName,
    target: Revision,
    report: &CollectionReport,
) -> Option<String> {
    let refusal = report
        .refusals
        .iter()
        .find(|refusal| match &write.documents {
            Some(documents) => documents.iter().any(|(of, id, revision)| {
                of == name && *id == refusal.id && refusal.revision >= *revision
            }),
            None => refusal.revision <= target,
        });
    if let Some(refusal) = refusal {
        return Some(format!(
            "its service refused {name}/{} at {:?}",
            refusal.id, refusal.pointer
        ));
    }
    // The list has a bound: a document that is not in it may be refused all the same.
    (report.refused_values > report.refusals.len() as u64).then(|| {
        format!(
            "its service refuses {} values of {name}, more than it lists",
            report.refused_values
        )
    })
}

#[cfg(test)]
mod tests;
