//! The reports of all known replicas at one moment, arranged so that a wait need not look at each of them.
//!
//! Pure: nothing here waits, and no report changes.

use std::collections::HashMap;

use contract::{
    CollectionName, Epoch, Revision,
    applied::{MAX_NAMED, NotApplied, NotAppliedReason},
    fleet::CollectionReport,
    status::ReplicaState,
};

use tokio::time::Instant;

use super::{AppliedWrite, Newest};
use crate::fleet::records::Record;

/// The reports of one moment.
#[derive(Debug)]
pub(super) struct Look {
    at: Instant,
    /// Those of live replicas, by name.
    live: Vec<Record>,
    gone: Vec<Record>,
    followers: HashMap<CollectionName, Followers>,
}

/// The live replicas that follow a collection.
#[derive(Debug, Default)]
struct Followers {
    replicas: usize,
    /// The revisions that they report in each epoch, ascending, of those that refuse no value.
    revisions: HashMap<Epoch, Vec<Revision>>,
    /// The others. What such a replica has applied depends on the document.
    refusing: Vec<Record>,
}

/// How many replicas have applied a write.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) replicas: usize,
    pub(super) applied: usize,
    pub(super) gone: usize,
    pub(super) missing: Vec<NotApplied>,
}

impl Look {
    pub(super) fn new(records: Vec<Record>, at: Instant) -> Self {
        let (gone, mut live): (Vec<_>, Vec<_>) =
            records.into_iter().partition(|record| record.is_gone(at));
        live.sort_unstable_by(|one, other| one.name().cmp(other.name()));
        let mut followers: HashMap<CollectionName, Followers> = HashMap::new();
        for record in &live {
            for (name, report) in &record.row.record.check_in.collections {
                let of = followers.entry(name.clone()).or_default();
                of.replicas += 1;
                if record.row.source.ahead.contains(name) {
                    continue;
                }
                if !report.refusals.is_empty() || report.refused_values > 0 {
                    of.refusing.push(record.clone());
                } else if let Some(epoch) = report.epoch {
                    of.revisions.entry(epoch).or_default().push(report.revision);
                }
            }
        }
        for revisions in followers
            .values_mut()
            .flat_map(|of| of.revisions.values_mut())
        {
            revisions.sort_unstable();
        }
        Self {
            at,
            live,
            gone,
            followers,
        }
    }

    /// How many replicas it has.
    pub(super) fn replicas(&self) -> usize {
        self.live.len() + self.gone.len()
    }

    /// How many replicas a wait for this write looks at one by one.
    pub(super) fn one_by_one(&self, write: &AppliedWrite) -> usize {
        match only(write) {
            Some((name, _revision)) => self.followers.get(name).map_or(0, |of| of.refusing.len()),
            None => self.live.len(),
        }
    }

    /// How many have applied a write. A report beyond the `newest` revision counts for nothing. `names`
    /// says whether those that have not applied it are named.
    pub(super) fn standing(
        &self,
        write: &AppliedWrite,
        newest: Option<&Newest>,
        names: bool,
    ) -> Standing {
        let follows = |record: &&Record| {
            let reports = &record.row.record.check_in.collections;
            write
                .revisions
                .keys()
                .any(|name| reports.contains_key(name))
        };
        let has_applied = |record: &&Record| has_applied(write, newest, record);
        let (replicas, applied) = match only(write) {
            Some((name, revision)) => match self.followers.get(name) {
                Some(of) => {
                    let reported = of
                        .revisions
                        .get(&write.epoch)
                        .map_or(&[][..], Vec::as_slice);
                    let behind = reported.partition_point(|reported| *reported < revision);
                    let beyond =
                        reported.partition_point(|reported| is_committed(newest, name, *reported));
                    let refusing = of.refusing.iter().filter(has_applied).count();
                    (of.replicas, beyond.saturating_sub(behind) + refusing)
                }
                None => (0, 0),
            },
            // A replica that follows several of them has applied it when it has all of these.
            None => {
                let live = || self.live.iter().filter(follows);
                (live().count(), live().filter(has_applied).count())
            }
        };
        let missing = || {
            let live = self.live.iter().filter(follows);
            let missing = live.filter_map(|record| not_applied(write, newest, record, self.at));
            missing.take(MAX_NAMED).collect()
        };
        Standing {
            replicas,
            applied,
            gone: self.gone.iter().filter(follows).count(),
            missing: if names && applied < replicas {
                missing()
            } else {
                Vec::new()
            },
        }
    }
}

/// The collection of a write of one collection, and its last revision.
fn only(write: &AppliedWrite) -> Option<(&CollectionName, Revision)> {
    let mut revisions = write.revisions.iter();
    let (name, revision) = revisions.next()?;
    revisions.next().is_none().then_some((name, *revision))
}

/// Whether a replica has reached a write in one of its collections.
fn reached(write: &AppliedWrite, target: Revision, report: &CollectionReport) -> bool {
    report.epoch == Some(write.epoch) && report.revision >= target
}

/// Whether the store has this revision of a collection, in the epoch of the write.
fn is_committed(newest: Option<&Newest>, name: &CollectionName, revision: Revision) -> bool {
    newest.is_none_or(|newest| newest.get(name).is_some_and(|newest| revision <= *newest))
}

/// Whether a report is of the history of the store.
fn is_of_store(
    newest: Option<&Newest>,
    name: &CollectionName,
    report: &CollectionReport,
    record: &Record,
) -> bool {
    !record.row.source.ahead.contains(name) && is_committed(newest, name, report.revision)
}

fn has_applied(write: &AppliedWrite, newest: Option<&Newest>, record: &Record) -> bool {
    let reports = &record.row.record.check_in.collections;
    write.revisions.iter().all(|(name, target)| {
        reports.get(name).is_none_or(|report| {
            reached(write, *target, report)
                && is_of_store(newest, name, report, record)
                && refused(write, name, *target, report).is_none()
        })
    })
}

/// Why a replica has not applied a write; `None` when it has.
fn not_applied(
    write: &AppliedWrite,
    newest: Option<&Newest>,
    record: &Record,
    now: Instant,
) -> Option<NotApplied> {
    let check_in = &record.row.record.check_in;
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
        if reached(write, *target, report) && !is_of_store(newest, name, report, record) {
            let detail = format!(
                "it reports revision {revision} of {name} in a history that the store no longer has: the \
                 store was restored, or a new epoch was declared since the write. Replicas load again then; \
                 ask with GET /v1/collections/{name}/applied"
            );
            return Some(because(NotAppliedReason::Behind, revision, detail));
        }
        if reached(write, *target, report) {
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
                "its last check-in, {:.1} s ago, reports revision {revision} of {name}, not {target}",
                now.saturating_duration_since(record.at).as_secs_f32()
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
