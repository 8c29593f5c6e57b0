//! A restored store: it continues under a new epoch, so that replicas can tell the restore from
//! progress.
//!
//! An epoch is a lineage and a counter. A new counter is never below the clock, in milliseconds
//! since 1970. A history that was declared and then lost with its database, before any replica
//! reported it, therefore shares its epoch with no other.
//!
//! A replica that is ahead of the head is evidence of a restore only with a proof that this store
//! made ([`claims`]); whatever else it says is ignored. Evidence is checked after a write that only
//! the primary can confirm. An epoch is declared when documents, heads and log agree ([`verify`]);
//! during a restore they do not. For a blank store no epoch is declared without the operator,
//! because the replicas still hold what the store lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use anyhow::ensure;
use chrono::Utc;
use contract::{
    CollectionName, Epoch, Head, Revision,
    fleet::{CheckIn, CollectionReport, RestoreEpochRequest},
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use self::claims::{Claim, Secrets, UnprovenLog};
use super::{check_ins::HeadsSnapshot, error::FleetError, records::Record, registry::Registry};
use crate::{
    metrics::Metrics,
    store::{Store, StoreIdentity, integrity::is_unproven},
};

pub(super) mod claims;
mod verify;

/// Time between two examinations of evidence.
const EXAMINE_PERIOD: Duration = Duration::from_secs(5);
/// A counter without a proof that is further than this beyond the clock (a day in milliseconds) is
/// not used: it would use up the numbers.
const MAX_COUNTER_LEAD: u64 = 86_400_000;
/// The largest counter that every store can hold.
const MAX_COUNTER: u64 = i64::MAX as u64;
/// A lineage is renewed only when its counter is further than this beyond the clock (ten years in
/// milliseconds): before, the clock reaches it.
const RENEWAL_LEAD: u64 = 10 * 365 * 86_400_000;

/// Why an epoch is declared, for the log.
#[derive(Debug, Clone, Copy)]
enum Cause {
    /// The store lacks what was committed, or its heads were made again.
    Evidence,
    /// An operator or a repair asked for it.
    Request,
}

/// Why no epoch was declared.
#[derive(Debug, thiserror::Error)]
enum DeclareError {
    /// The request is out of bounds.
    #[error("{reason}")]
    Invalid {
        /// JSON pointer to the value at fault.
        pointer: &'static str,
        /// What is expected.
        reason: String,
    },
    /// A repetition does not help.
    #[error("{0}")]
    Impossible(String),
    /// The store is not in a state for it; later it may be.
    #[error("{0:#}")]
    NotNow(#[from] anyhow::Error),
}

impl From<DeclareError> for FleetError {
    fn from(error: DeclareError) -> Self {
        match error {
            DeclareError::Invalid { pointer, reason } => {
                Self::InvalidEpochRequest { pointer, reason }
            }
            DeclareError::Impossible(reason) => Self::NotDeclared(reason),
            DeclareError::NotNow(error) => Self::NotDeclaredNow(error),
        }
    }
}

/// The highest revision of each collection, and its epoch, that a replica proved or that this
/// publisher has seen committed, and that the store does not have.
type Evidence = BTreeMap<CollectionName, (Epoch, Revision)>;

/// The collections in which a report is ahead of the heads.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// All of them.
    pub(super) names: BTreeSet<CollectionName>,
    /// Those without a proof.
    pub(super) unproven: BTreeMap<CollectionName, Claim>,
}

/// The highest counter of a lineage that was proven. The store may have begun another lineage since
/// the evidence was added, whose counters have no relation to those of before.
fn highest_counter(evidence: &Evidence, lineage: u32) -> u64 {
    let epochs = evidence.values().map(|(epoch, _revision)| *epoch);
    let of_lineage = epochs.filter(|epoch| epoch.lineage == lineage);
    of_lineage
        .map(|epoch| epoch.counter)
        .max()
        .unwrap_or_default()
}

/// Collects evidence of a restore and declares epochs. Cloning shares it.
#[derive(Debug, Clone)]
pub(super) struct Restore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    registry: Registry,
    evidence: Mutex<Option<Evidence>>,
    evidence_added: Notify,
    /// One declaration at a time.
    declaring: tokio::sync::Mutex<()>,
    secrets: Secrets,
    unproven: UnprovenLog,
    metrics: Arc<Metrics>,
}

/// The task behind [`Restore`].
pub struct RestoreTask(Restore);

impl RestoreTask {
    /// Declares the epoch that a repair before this start left undeclared, and examines evidence until
    /// `stop`.
    ///
    /// # Errors
    /// Never; the signature is the supervisor's.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let Self(restore) = self;
        let work = async { tokio::join!(restore.examine_all(), restore.finish_repair()) };
        // It may be cut off anywhere: a declaration is a single transaction of the store.
        stop.run_until_cancelled(work).await;
        Ok(())
    }
}

impl Restore {
    /// A detector, and the task that has to run for it.
    pub(super) fn new(registry: Registry, metrics: Arc<Metrics>) -> (Self, RestoreTask) {
        let restore = Self(Arc::new(Shared {
            registry,
            evidence: Mutex::default(),
            evidence_added: Notify::new(),
            declaring: tokio::sync::Mutex::default(),
            secrets: Secrets::default(),
            unproven: UnprovenLog::default(),
            metrics,
        }));
        (restore.clone(), RestoreTask(restore))
    }

    /// Compares a report with the heads, which were read after it came. What is ahead of them and
    /// proven becomes evidence; what is ahead and not proven is counted.
    pub(super) async fn compare(&self, check_in: &CheckIn, snapshot: &HeadsSnapshot) -> Ahead {
        let ahead: Vec<_> = check_in
            .collections
            .iter()
            // A collection that this publisher does not serve has no head.
            .filter_map(|(name, report)| Claim::of(name, report, snapshot.heads.get(name)?))
            .collect();
        let names = ahead.iter().map(|claim| claim.collection.clone()).collect();
        let mut compared = Ahead {
            names,
            ..Ahead::default()
        };
        if ahead.is_empty() {
            return compared;
        }
        let Some(secret) = self.0.secrets.get(self.store()).await else {
            // Without the secret no claim can be verified.
            return compared;
        };
        let mut evidence = Evidence::default();
        let unproven = &mut compared.unproven;
        for claim in ahead {
            if claim.verify(&secret) {
                let Claim { epoch, known, .. } = claim;
                evidence.insert(claim.collection, (epoch, known));
            } else {
                unproven.insert(claim.collection.clone(), claim);
            }
        }
        if !evidence.is_empty() {
            self.add(evidence);
        }
        if !unproven.is_empty() {
            self.0.metrics.unproven_claims.inc();
            self.0.unproven.note(&check_in.instance);
        }
        compared
    }

    /// Declares an epoch because the operator asks for it.
    pub(super) async fn declare(&self, request: RestoreEpochRequest) -> Result<Epoch, FleetError> {
        let declared = self.declare_on_request(request).await;
        if let Err(DeclareError::NotNow(error)) = &declared {
            warn!("the operator requested an epoch and none was declared: {error:#}");
        }
        Ok(declared?)
    }

    async fn declare_on_request(
        &self,
        request: RestoreEpochRequest,
    ) -> Result<Epoch, DeclareError> {
        // Two declarations at the same time would both follow the same epoch, and one would fail.
        let _alone = self.0.declaring.lock().await;
        // By hand a counter may be named that no replica can prove, and never one that uses up the
        // numbers.
        let limit = clock().saturating_add(MAX_COUNTER_LEAD);
        let counter = request.counter.unwrap_or(0);
        if counter > limit {
            return Err(DeclareError::Invalid {
                pointer: "/counter",
                reason: format!(
                    "expected at most {limit}: a day, in milliseconds, after the clock of this \
                     publisher"
                ),
            });
        }
        if request.renew && (request.adopt.is_some() || request.counter.is_some()) {
            return Err(DeclareError::Invalid {
                pointer: "/renew",
                reason: "expected no \"adopt\" and no \"counter\" beside it: a renewal begins a \
                         lineage of its own"
                    .to_owned(),
            });
        }
        let (identity, _heads) = self.confirmed_heads().await?;
        let from = identity.epoch;
        if request.renew {
            return self.renew(&identity).await;
        }
        let Some(lineage) = request.adopt else {
            let highest = self.highest_proven(&identity).await?;
            return self
                .declare_after(from, from.lineage, highest.max(counter), Cause::Request)
                .await;
        };
        let foreign = self.foreign_lineage(from, &lineage).await?;
        // Another store made the proofs of the other lineage, so its counters have bounds instead.
        let highest = foreign
            .iter()
            .map(|epoch| epoch.counter)
            .filter(|counter| *counter <= limit)
            .fold(counter, u64::max);
        self.declare_after(from, foreign[0].lineage, highest, Cause::Request)
            .await
    }

    /// Begins a new lineage, which the replicas of the present one follow because its heads name it.
    async fn renew(&self, identity: &StoreIdentity) -> Result<Epoch, DeclareError> {
        // A replica may prove a counter that was lost with a database.
        let highest = self.highest_proven(identity).await?;
        if highest <= clock().saturating_add(RENEWAL_LEAD) {
            return Err(DeclareError::Impossible(format!(
                "The counter {highest} is not near the end: a lineage is renewed when its counter is \
                 more than ten years, in milliseconds, after the clock of this publisher. After a \
                 restore send POST /v1/epoch without \"renew\""
            )));
        }
        let from = identity.epoch;
        let lineage = loop {
            let drawn = Epoch {
                lineage: rand::random(),
                counter: 1,
            };
            if drawn.lineage != from.lineage && !identity.replaces.includes(drawn) {
                break drawn.lineage;
            }
        };
        self.declare_after(from, lineage, 0, Cause::Request).await
    }

    /// The epochs of a lineage that live replicas report: at least one.
    async fn foreign_lineage(&self, ours: Epoch, named: &str) -> Result<Vec<Epoch>, DeclareError> {
        let mut foreign = self.reported_epochs().await?;
        foreign.retain(|epoch| epoch.lineage != ours.lineage);
        let lineages: BTreeSet<_> = foreign
            .iter()
            .map(|epoch| format!("{:08x}", epoch.lineage))
            .collect();
        foreign.retain(|epoch| format!("{:08x}", epoch.lineage) == named);
        if !foreign.is_empty() {
            return Ok(foreign);
        }
        Err(DeclareError::Impossible(if lineages.is_empty() {
            "No live replica reports another lineage: there is nothing to adopt. Wait until the \
             replicas have checked in here"
                .to_owned()
        } else {
            let lineages: Vec<_> = lineages.into_iter().collect();
            format!(
                "No live replica reports the lineage {named:?}. Name one of those that they report: \
                 {}. Check first to which store it belongs",
                lineages.join(", ")
            )
        }))
    }

    /// The highest counter of our lineage: that of the store, or one that a live replica proves.
    async fn highest_proven(&self, identity: &StoreIdentity) -> anyhow::Result<u64> {
        let StoreIdentity { epoch, secret, .. } = identity;
        let proven = |name: &CollectionName, report: &CollectionReport| {
            let reported = report.epoch?;
            let proof = report.proof?;
            (reported.lineage == epoch.lineage
                && secret.verifies(reported, name, report.known, &proof))
            .then_some(reported.counter)
        };
        let mut highest = epoch.counter;
        for record in self.live_records().await? {
            for (name, report) in &record.row.record.check_in.collections {
                highest = highest.max(proven(name, report).unwrap_or(0));
            }
        }
        Ok(highest)
    }

    /// The epochs that live replicas report.
    async fn reported_epochs(&self) -> anyhow::Result<Vec<Epoch>> {
        let records = self.live_records().await?;
        let reports =
            (records.iter()).flat_map(|record| record.row.record.check_in.collections.values());
        Ok(reports.filter_map(|report| report.epoch).collect())
    }

    async fn live_records(&self) -> anyhow::Result<Vec<Record>> {
        let mut records = self.0.registry.records().await?;
        let now = Instant::now();
        records.retain(|record| !record.is_gone(now));
        Ok(records)
    }

    /// Examines evidence. `Ok(None)` when the store has all of it.
    async fn examine(&self, evidence: &Evidence) -> Result<Option<Epoch>, DeclareError> {
        let _alone = self.0.declaring.lock().await;
        // The evidence may come from a read of an old primary: it is compared with confirmed heads.
        let (identity, heads) = self.confirmed_heads().await?;
        let from = identity.epoch;
        let lost_counter = highest_counter(evidence, from.lineage);
        let lost_revisions = heads.iter().any(|head| {
            evidence
                .get(&head.collection)
                .is_some_and(|(epoch, revision)| *epoch == from && *revision > head.revision)
        });
        if lost_counter <= from.counter && !lost_revisions {
            return Ok(None);
        }
        // A new epoch makes every replica load, and would empty them all.
        if heads.iter().all(|head| head.revision == 0) {
            return Err(DeclareError::Impossible(
                "the store is blank, but replicas or this publisher have seen revisions that it \
                 does not have. No epoch is declared and the replicas keep what they hold. Restore \
                 a dump; or, if the store is meant to be empty, send POST /v1/epoch"
                    .to_owned(),
            ));
        }
        // Other replicas may prove counters beyond those of the evidence.
        let highest = self.highest_proven(&identity).await?.max(lost_counter);
        let declared = self
            .declare_after(from, from.lineage, highest, Cause::Evidence)
            .await?;
        Ok(Some(declared))
    }

    /// Declares the epoch after `highest`, if the store is whole.
    async fn declare_after(
        &self,
        from: Epoch,
        lineage: u32,
        highest: u64,
        cause: Cause,
    ) -> Result<Epoch, DeclareError> {
        if highest >= MAX_COUNTER {
            return Err(DeclareError::Impossible(format!(
                "There is no counter after {highest}. Begin a new lineage, which the replicas of this \
                 store follow: send POST /v1/epoch with {{\"renew\": true}}, or run `confcast \
                 restore-epoch --renew`"
            )));
        }
        let to = Epoch {
            lineage,
            counter: (highest + 1).max(clock()),
        };
        // During a restore the parts of the store do not agree; an epoch would then confirm a mix.
        verify::verify(self.store(), from).await?;
        if !self.store().declare_epoch(from, to).await? {
            let error = anyhow::anyhow!("another publisher declared an epoch first");
            return Err(DeclareError::NotNow(error));
        }
        self.0.metrics.epochs_declared.inc();
        let reason = match cause {
            Cause::Evidence => "this store was restored or repaired",
            Cause::Request if from.lineage == to.lineage => {
                "POST /v1/epoch or a repair requested it"
            }
            Cause::Request => "POST /v1/epoch changed the lineage of this store",
        };
        warn!(
            %from, %to,
            "epoch {to} was declared because {reason}: every replica loads again"
        );
        Ok(to)
    }

    /// Identity and heads that are not the past: the primary has just confirmed a write.
    async fn confirmed_heads(&self) -> anyhow::Result<(StoreIdentity, Vec<Head>)> {
        self.store().confirm_primary().await?;
        let identity = self.store().identity().await?;
        let collections = &self.store().policy().collections.all();
        let heads = self.store().heads(collections).await?;
        ensure!(
            heads.iter().all(|head| head.epoch == identity.epoch),
            "another epoch was declared meanwhile"
        );
        Ok((identity, heads))
    }

    fn store(&self) -> &Store {
        self.0.registry.store()
    }

    async fn examine_all(&self) {
        loop {
            tokio::select! {
                () = self.0.evidence_added.notified() => {}
                () = self.heads_regressed() => {}
            }
            self.examine_what_was_added().await;
            // Check-ins keep adding evidence; each examination writes to the store and may read
            // all of it.
            sleep(EXAMINE_PERIOD).await;
        }
    }

    /// Declares the epoch of a repair whose process stopped before it did. Tried until it is declared.
    async fn finish_repair(&self) {
        let mut reported = false;
        loop {
            match self.has_unproven_head().await {
                Ok(false) => return,
                Ok(true) => match self.declare_for_repair().await {
                    Err(error) if !reported => {
                        reported = true;
                        warn!(
                            "a repair of this store ended before its epoch was declared, and none can \
                             be declared yet, will be tried again: {error:#}"
                        );
                    }
                    _declared_or_reported => {}
                },
                // Readiness says why.
                Err(error) => debug!("the heads cannot be examined yet: {error:#}"),
            }
            sleep(EXAMINE_PERIOD).await;
        }
    }

    async fn has_unproven_head(&self) -> anyhow::Result<bool> {
        let collections = self.store().policy().collections.all();
        Ok(self
            .store()
            .heads(&collections)
            .await?
            .iter()
            .any(is_unproven))
    }

    /// Declares an epoch if a head has no proof. Another declaration may have been made since it was
    /// read.
    async fn declare_for_repair(&self) -> Result<(), DeclareError> {
        let _alone = self.0.declaring.lock().await;
        let (identity, heads) = self.confirmed_heads().await?;
        if heads.iter().any(is_unproven) {
            let from = identity.epoch;
            let highest = self.highest_proven(&identity).await?;
            self.declare_after(from, from.lineage, highest, Cause::Evidence)
                .await?;
        }
        Ok(())
    }

    /// Waits until heads that this publisher read are behind what it has seen committed, and adds
    /// that as evidence.
    async fn heads_regressed(&self) {
        let Some(committed) = self.store().committed_heads() else {
            // One process owns the store, and nothing else can put it back.
            return std::future::pending().await;
        };
        committed.until_regressed().await;
        self.add(committed.positions());
    }

    async fn examine_what_was_added(&self) {
        let Some(evidence) = self.evidence().take() else {
            // A notification of evidence that the last examination included.
            return;
        };
        match self.examine(&evidence).await {
            Ok(Some(_declared)) => {}
            Ok(None) => info!(
                ?evidence,
                "a replica or this publisher was ahead of the heads that were read; the primary \
                 has all of it, so the store was not restored"
            ),
            // A replica that is still ahead reports it again.
            Err(error @ (DeclareError::Impossible(_) | DeclareError::Invalid { .. })) => {
                error!(
                    ?evidence,
                    "replicas are ahead of this store and no epoch is declared: {error}"
                );
            }
            Err(DeclareError::NotNow(error)) => {
                warn!(
                    ?evidence,
                    "replicas are ahead of this store and no epoch can be declared yet, will be \
                     tried again: {error:#}"
                );
                self.add(evidence);
            }
        }
    }

    /// Merges evidence with what was not examined yet.
    fn add(&self, new: Evidence) {
        let mut evidence = self.evidence();
        let evidence = evidence.get_or_insert_default();
        for (name, position) in new {
            let highest = evidence.entry(name).or_insert(position);
            *highest = position.max(*highest);
        }
        self.0.evidence_added.notify_one();
    }

    fn evidence(&self) -> MutexGuard<'_, Option<Evidence>> {
        self.0
            .evidence
            .lock()
            .expect("no holder of this lock can panic")
    }
}

/// Milliseconds since 1970; 0 before.
fn clock() -> u64 {
    Utc::now().timestamp_millis().try_into().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Evidence waited while an operator renewed the lineage: the counter of the old one began an
    /// epoch of the new one.
    #[test]
    fn a_counter_of_another_lineage_is_no_evidence() {
        let name = |text: &str| text.parse::<CollectionName>().expect("a name");
        let epoch = |lineage, counter| Epoch { lineage, counter };
        let evidence = Evidence::from([
            (name("A"), (epoch(1, i64::MAX as u64), 9)),
            (name("B"), (epoch(2, 5), 9)),
            (name("C"), (epoch(2, 4), 9)),
        ]);
        assert_eq!(highest_counter(&evidence, 2), 5);
        assert_eq!(highest_counter(&evidence, 3), 0);
    }
}
