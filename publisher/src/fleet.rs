//! The fleet: replicas check in, learn where every collection stands and which of them they have to
//! load again, and are listed for operators.
//!
//! A publisher holds no state: the records of the replicas are rows of the store, written in bulk
//! and never by a request (`registry`). A check-in is a report and decides nothing about documents:
//! it is compared with the heads (`check_ins`), it may be the sign of a restored store (`restore`),
//! and it has bounds (`limits`, `pacing`). No HTTP type is named here; the API turns a
//! [`FleetError`] into an answer.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use auth::Session;
use chrono::Utc;
use contract::{
    CollectionName,
    access::{Identity, Right, Target},
    applied::{Applied, WaitFor},
    fleet::{
        CheckIn, CheckInAnswer, EpochDeclared, ReplicaList, ReplicaRecord, RestoreEpochRequest,
        ResyncReason,
    },
    text::Escaped,
};
use service::runtime::log_rate::LogRate;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};
use tracing::{error, warn};

pub use self::{
    check_ins::CheckInTask, error::FleetError, records::Record, registry::RegistryTask,
    restore::RestoreTask,
};
use self::{
    check_ins::{CheckInBatcher, HeadsSnapshot, HistoryPoint},
    progress::AppliedWrite,
    registry::Registry,
    restore::{Ahead, Restore, claims::Claim},
};
use crate::{
    metrics::Metrics,
    policy::Broadcast,
    store::{
        Store,
        replicas::{CheckInSource, ReplicaRow},
    },
    transport::{
        confirm::{ConfirmationWanted, Confirmations},
        direct::{SubscriberRegistry, trust::Peer},
    },
};

mod check_ins;
mod error;
mod known;
mod limits;
mod pacing;
pub mod progress;
mod records;
mod registry;
mod restore;

/// A page of replicas ends with the one with which it reaches this many bytes.
const PAGE_BYTES: usize = 1 << 20;
/// Bytes of check-ins that may wait for their answer: their bodies, and what these become in memory.
const WAITING_BYTES: usize = 64 << 20;

/// What requests of replicas and operators call. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Fleet {
    check_ins: CheckInBatcher,
    registry: Registry,
    restore: Restore,
    subscribers: Option<SubscriberRegistry>,
    metrics: Arc<Metrics>,
    /// What events there are, for the answers.
    broadcast: Broadcast,
    /// Bytes for check-ins that wait for their answer.
    memory: Arc<Semaphore>,
    /// Makes events ask for check-ins while a request waits for them.
    confirmations: Confirmations,
}

/// The tasks that have to run for a [`Fleet`].
pub struct FleetTasks {
    /// Answers check-ins.
    pub check_ins: CheckInTask,
    /// Writes and reads the records of the replicas.
    pub registry: RegistryTask,
    /// Declares an epoch after a restore.
    pub restore: RestoreTask,
}

impl Fleet {
    /// A fleet on a store, and the tasks that have to run for it. A replica that is silent for
    /// `forget_after` is forgotten. At most `max_check_ins` wait for an answer. `subscribers` are those that get events straight from this
    /// publisher.
    pub fn new(
        store: Store,
        max_check_ins: usize,
        forget_after: Duration,
        subscribers: Option<SubscriberRegistry>,
        confirmations: Confirmations,
        metrics: Arc<Metrics>,
    ) -> (Self, FleetTasks) {
        let broadcast = store.policy().broadcast.clone();
        let (check_ins, check_in_task) = CheckInBatcher::new(store.clone(), max_check_ins);
        let registry = Registry::new(store, confirmations.clone());
        let (restore, restore_task) = Restore::new(registry.clone(), metrics.clone());
        let tasks = FleetTasks {
            check_ins: check_in_task,
            registry: RegistryTask::new(registry.clone(), subscribers.clone(), forget_after),
            restore: restore_task,
        };
        let fleet = Self {
            check_ins,
            registry,
            restore,
            subscribers,
            metrics,
            broadcast,
            memory: Arc::new(Semaphore::new(WAITING_BYTES)),
            confirmations,
        };
        (fleet, tasks)
    }

    /// A replica reports its position, in the body of its request. `instance` is the name in the
    /// path. The caller is answered about the collections that it may follow. `session` is what it
    /// presented: it is asked again before an event goes to the caller.
    ///
    /// # Errors
    /// [`FleetError::InvalidInstance`] and [`FleetError::InvalidCheckIn`] when the report is not
    /// valid; [`FleetError::Forbidden`] when the caller may follow nothing of it; [`FleetError::Busy`], [`FleetError::Stopping`] and [`FleetError::StoreUnavailable`]
    /// when it may work later or at another publisher.
    pub async fn check_in(
        &self,
        instance: &str,
        body: &[u8],
        peer: Peer<'_>,
        caller: &Identity,
        session: Session,
    ) -> Result<CheckInAnswer, FleetError> {
        let at = Instant::now();
        let session = Arc::new(session);
        let _body = self.memory(body.len())?;
        // All of it is checked before any of it is used: every client can send a check-in.
        let mut check_in = limits::read(instance, body)?;
        let _read = self.memory(limits::memory(&check_in))?;
        leave_out_forbidden(&mut check_in, caller)?;
        let mut source = self.source(&check_in, peer, caller);
        let mut is_own = self.registry.claim(&check_in, &source, at);
        // Before the read, so that the replica gets events even if the store cannot be read.
        if is_own {
            self.subscribe(&check_in, &source, &session);
        }
        let points = settled_points(&check_in)
            .map(|(point, _digest)| point)
            .collect();
        let snapshot = self.check_ins.snapshot(points).await?;
        let Ahead { names, unproven } = self.restore.compare(&check_in, &snapshot).await;
        // Not before the read: what no head has is not kept as progress.
        source.ahead = names;
        if is_own {
            let kept = without_claims(limits::kept(&check_in, body.len()), &unproven);
            is_own = self.registry.note(kept, source.clone(), at);
            // Again: a read of the list that began after the first time, and before the replica was noted,
            // took its address away.
            if is_own {
                self.subscribe(&check_in, &source, &session);
            }
        }
        if !is_own {
            report_foreign_name(&check_in.instance, caller);
        }
        let known = self.registry.known();
        let is_known = is_own && known.checked_in(&check_in.instance, &check_in.boot_id);
        let mut answer = self.answer(&check_in, &snapshot, &unproven, is_known);
        let may_follow =
            |name: &CollectionName| caller.may(Right::Follow, Target::Collection(name));
        // Once, with the answer: a replica reports again what was not answered.
        if is_own && let Some(delays) = &check_in.apply_delays {
            self.metrics.applied(delays);
        }
        answer.served.retain(may_follow);
        answer.without_topic.retain(may_follow);
        if let Some(id_only) = &mut answer.id_only {
            id_only.retain(may_follow);
        }
        Ok(answer)
    }

    /// Bytes of check-ins that wait, until the permit is dropped.
    fn memory(&self, bytes: usize) -> Result<SemaphorePermit<'_>, FleetError> {
        let bytes = u32::try_from(bytes).map_err(|_too_many| FleetError::Busy)?;
        let permit = self.memory.try_acquire_many(bytes);
        permit.map_err(|_full| FleetError::Busy)
    }

    /// How a check-in was received.
    fn source(&self, check_in: &CheckIn, peer: Peer<'_>, caller: &Identity) -> CheckInSource {
        let mut source = match &self.subscribers {
            Some(subscribers) => subscribers.identify(peer),
            // Events go through a broker: nothing is sent to the address of the caller.
            None => Default::default(),
        };
        source.caller = Some(caller.name.to_string());
        if !caller.may(Right::Follow, Target::Service) {
            // Each of them was allowed before.
            source.follows = Some(check_in.collections.keys().cloned().collect());
        }
        source
    }

    /// Keeps the address of a replica where events go straight to it, unless the list has no place for
    /// the replica: the next read of the list would drop it.
    fn subscribe(&self, check_in: &CheckIn, source: &CheckInSource, session: &Arc<Session>) {
        if let Some(subscribers) = &self.subscribers
            && let Some(url) = registry::base_url(check_in)
            && self.registry.known().may_admit(&check_in.instance)
        {
            subscribers.add(url, source, session, &check_in.boot_id);
        }
    }

    fn answer(
        &self,
        check_in: &CheckIn,
        snapshot: &HeadsSnapshot,
        unproven: &BTreeMap<CollectionName, Claim>,
        is_known: bool,
    ) -> CheckInAnswer {
        let heads = check_in
            .collections
            .keys()
            .filter_map(|name| snapshot.heads.get(name).cloned())
            .collect();
        let mut resync: BTreeMap<_, _> = unproven
            .values()
            .filter(|claim| claim.is_refuted())
            .map(|claim| (claim.collection.clone(), ResyncReason::Unproven))
            .collect();
        for (point, reported) in settled_points(check_in) {
            // A digest that is not known here proves nothing: the point is of another history, was
            // trimmed, or was not read in time.
            let Some(expected) = snapshot.digest(&point) else {
                continue;
            };
            if reported == expected {
                continue;
            }
            // Anyone can report a wrong digest under a new name: it is loaded again, and is no alarm.
            if is_known
                && self
                    .registry
                    .known()
                    .may_alarm(&check_in.instance, Instant::now())
            {
                self.metrics.diverged.inc();
                error!(
                    instance = check_in.instance,
                    collection = %point.collection,
                    revision = point.revision,
                    "replica {} has diverged in {}: its digest is not the digest of the change \
                     log. It loads the collection again",
                    check_in.instance, point.collection,
                );
            }
            resync.insert(point.collection, ResyncReason::Diverged);
        }
        let served = snapshot.heads.keys();
        let id_only = served.filter(|name| self.broadcast.is_id_only(name));
        CheckInAnswer {
            report_after_ms: Some(pacing::report_after_ms(self.registry.size())),
            confirm_after_ms: Some(pacing::confirm_after_ms(self.registry.size())),
            heads,
            served: snapshot.heads.keys().cloned().collect(),
            age: 0,
            unsettled: Default::default(),
            without_topic: self.broadcast.without_topic(),
            id_only: Some(id_only.cloned().collect()),
            resync,
        }
    }

    /// All replicas that any publisher of this store knows, by name. A check-in with this publisher
    /// is among them at once.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn records(&self) -> anyhow::Result<Vec<Record>> {
        self.registry.records().await
    }

    /// The replicas after a name, at most `limit` and about [`PAGE_BYTES`].
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn page(&self, after: Option<&str>, limit: usize) -> anyhow::Result<ReplicaList> {
        let records = self.records().await?;
        let is_after = |record: &&Record| after.is_none_or(|after| record.name() > after);
        let mut rest = records.iter().filter(is_after).peekable();
        let mut replicas: Vec<ReplicaRecord> = Vec::new();
        let mut bytes = 0;
        let (now, clock) = (Instant::now(), Utc::now());
        while let Some(record) =
            rest.next_if(|_record| replicas.len() < limit && bytes < PAGE_BYTES)
        {
            let listed = ReplicaRecord {
                gone: record.is_gone(now),
                // The clock of another publisher may be ahead.
                seen: record.row.record.seen.min(clock),
                undelivered: self.undelivered(&record.row),
                ..record.row.record.clone()
            };
            bytes += serde_json::to_vec(&listed)?.len();
            replicas.push(listed);
        }
        let next = replicas.last().filter(|_last| rest.peek().is_some());
        Ok(ReplicaList {
            next: next.map(|last| last.check_in.instance.clone()),
            backlog: None,
            replicas,
        })
    }

    /// Why this publisher posts no events to a replica, where it would.
    fn undelivered(&self, row: &ReplicaRow) -> Option<String> {
        let check_in = &row.record.check_in;
        let base =
            registry::base_url(check_in).filter(|_base| registry::expects_events(check_in))?;
        self.subscribers.as_ref()?.undelivered(base, &row.source)
    }

    /// A request will wait for a write that it has not made yet: until this is dropped, events ask the
    /// replicas that apply them to check in at once.
    pub fn want_confirmations(&self) -> ConfirmationWanted {
        self.confirmations.want()
    }

    /// Whether a request waits for replicas.
    pub fn wants_confirmations(&self) -> bool {
        self.confirmations.are_wanted()
    }

    /// Live replicas that this publisher answers and does not list, because the list is full.
    pub fn unlisted(&self) -> usize {
        self.registry.known().unlisted(Instant::now())
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
        // One read answers all that wait, check-ins as well.
        let newest = async || {
            let snapshot = self.check_ins.snapshot(Vec::new()).await.ok()?;
            let heads = snapshot.heads.values();
            let heads = heads.filter(|head| head.epoch == write.epoch);
            Some(
                heads
                    .map(|head| (head.collection.clone(), head.revision))
                    .collect(),
            )
        };
        let progress = self.registry.progress();
        progress
            .until_applied(write, wait, deadline, names, newest)
            .await
    }

    /// The operator reports that the store was restored.
    ///
    /// # Errors
    /// [`FleetError::NotDeclared`] when no epoch can be declared for this store,
    /// [`FleetError::NotDeclaredNow`] when the store is not ready for it.
    pub async fn declare(&self, request: RestoreEpochRequest) -> Result<EpochDeclared, FleetError> {
        let epoch = self.restore.declare(request).await?;
        Ok(EpochDeclared { epoch })
    }
}

/// Leaves out what the caller may not follow, so that a replica whose rights were reduced stays in step
/// in the other collections.
///
/// # Errors
/// [`FleetError::Forbidden`] when nothing would be left.
fn leave_out_forbidden(check_in: &mut CheckIn, caller: &Identity) -> Result<(), FleetError> {
    let may_follow = |name: &CollectionName| caller.may(Right::Follow, Target::Collection(name));
    let forbidden = check_in.collections.keys().find(|name| !may_follow(name));
    if let Some(name) = forbidden.cloned() {
        let missing = caller.require(Right::Follow, Target::Collection(&name));
        if !check_in.collections.keys().any(may_follow) {
            return missing.map_err(FleetError::Forbidden);
        }
        static LINES: LogRate = LogRate::new();
        if let Some(left_out) = LINES.due() {
            warn!(
                instance = check_in.instance,
                caller = %Escaped(&caller.name),
                "replica {} reports {name}, which its caller {} may not follow; it is answered without \
                 it{left_out}",
                check_in.instance,
                Escaped(&caller.name)
            );
        }
    }
    check_in
        .collections
        .retain(|name, _report| may_follow(name));
    check_in.topics_not_subscribed.retain(may_follow);
    Ok(())
}

/// Two replicas with one name, or a caller that takes the name of another one's replica.
fn report_foreign_name(instance: &str, caller: &Identity) {
    static LINES: LogRate = LogRate::new();
    if let Some(left_out) = LINES.due() {
        warn!(
            instance,
            caller = %Escaped(&caller.name),
            "the caller {} checked in as replica {instance}, which is live and another caller's: it \
             is answered, and neither listed nor sent events{left_out}",
            Escaped(&caller.name)
        );
    }
}

/// The report without the revisions that were never committed.
fn without_claims(mut check_in: CheckIn, unproven: &BTreeMap<CollectionName, Claim>) -> CheckIn {
    for (name, claim) in unproven {
        if let Some(report) = check_in.collections.get_mut(name) {
            report.known = report.known.min(claim.committed());
            report.revision = report.revision.min(claim.committed());
            report.claimed = None;
            report.proof = None;
        }
    }
    check_in
}

/// The points of the report that can be compared, with the digest that the replica has there.
fn settled_points(check_in: &CheckIn) -> impl Iterator<Item = (HistoryPoint, contract::Digest)> {
    check_in.collections.iter().filter_map(|(name, report)| {
        // A replica that has not loaded yet has no settled point, and nothing to compare.
        let settled = report.settled?;
        let point = HistoryPoint {
            collection: name.clone(),
            epoch: report.epoch?,
            revision: settled.revision,
        };
        Some((point, settled.digest))
    })
}

#[cfg(test)]
mod tests;
