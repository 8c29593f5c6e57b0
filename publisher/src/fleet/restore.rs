//! A restored store: it continues under a new epoch, so that replicas can tell the restore from
//! progress.
//!
//! An epoch is a lineage and a counter. A new counter is never below the clock, in milliseconds
//! since 1970. A history that was declared and then lost with its database, before any replica
//! reported it, therefore shares its epoch with no other.
//!
//! A replica that is ahead of the head is only evidence of a restore. It is checked after a write
//! that only the primary can confirm. An epoch is declared when documents, heads and log agree
//! ([`verify`]); during a restore they do not. For a blank store no epoch is declared without the
//! operator, because the replicas still hold what the store lost.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use anyhow::Context;
use chrono::Utc;
use contract::{CollectionName, Epoch, Head, Revision, fleet::CheckIn};
use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{check_ins::HeadsSnapshot, error::FleetError, registry::Registry};
use crate::{metrics::Metrics, store::Store};

mod verify;

/// Time between two examinations of evidence.
const EXAMINE_PERIOD: Duration = Duration::from_secs(5);
/// A counter that is further than this beyond the counter of the store, or beyond the clock (a day
/// in milliseconds), is not taken as one of our epochs: it would use up the numbers.
const MAX_COUNTER_LEAD: u64 = 86_400_000;
/// The largest counter that every store can hold.
const MAX_COUNTER: u64 = i64::MAX as u64;

/// Why no epoch was declared.
#[derive(Debug, thiserror::Error)]
enum DeclareError {
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
            DeclareError::Impossible(reason) => Self::NotDeclared(reason),
            DeclareError::NotNow(error) => Self::NotDeclaredNow(error),
        }
    }
}

/// Revisions and epochs of this lineage that a replica reported, or that this publisher has seen
/// committed, and that the store does not have.
#[derive(Debug, Clone, Default)]
struct Evidence {
    /// The highest counter of the lineage that was reported.
    counter: u64,
    /// The highest revision of each collection that was reported, and its epoch.
    ahead: BTreeMap<CollectionName, (Epoch, Revision)>,
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
    metrics: Arc<Metrics>,
}

/// The task behind [`Restore`].
pub struct RestoreTask(Restore);

impl RestoreTask {
    /// Examines evidence until `stop`.
    ///
    /// # Errors
    /// Never; the signature is the supervisor's.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let Self(restore) = self;
        // It may be cut off anywhere: a declaration is a single transaction of the store.
        stop.run_until_cancelled(restore.examine_all()).await;
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
            metrics,
        }));
        (restore.clone(), RestoreTask(restore))
    }

    /// Adds evidence when the report of a replica is beyond the heads, which were read after the
    /// report came.
    pub(super) fn compare(&self, check_in: &CheckIn, snapshot: &HeadsSnapshot) {
        let mut evidence = Evidence::default();
        for (name, report) in &check_in.collections {
            let Some(head) = snapshot.heads.get(name) else {
                // The replica follows a collection that this publisher does not serve.
                continue;
            };
            let Some(epoch) = report.epoch else { continue };
            let settled = report.settled.map_or(0, |settled| settled.revision);
            // A revision that the replica knows only from an event was committed as well: events
            // are sent after the commit.
            let revision = settled.max(report.revision).max(report.known);
            // A higher counter: the declaration of that epoch was lost. A higher revision in the
            // same epoch: changes were lost.
            if is_plausible(epoch, head.epoch) && epoch.counter > head.epoch.counter {
                evidence.counter = evidence.counter.max(epoch.counter);
            } else if epoch == head.epoch && revision > head.revision {
                evidence.ahead.insert(name.clone(), (epoch, revision));
            }
        }
        if evidence.counter > 0 || !evidence.ahead.is_empty() {
            self.add(evidence);
        }
    }

    /// Declares an epoch because the operator asks for it. With `adopt` the store takes over the
    /// lineage that the replicas report.
    pub(super) async fn declare(&self, adopt: bool) -> Result<Epoch, FleetError> {
        let declared = self.declare_on_request(adopt).await;
        if let Err(DeclareError::NotNow(error)) = &declared {
            warn!("the operator requested an epoch and none was declared: {error:#}");
        }
        Ok(declared?)
    }

    async fn declare_on_request(&self, adopt: bool) -> Result<Epoch, DeclareError> {
        // Two declarations at the same time would both follow the same epoch, and one would fail.
        let _alone = self.0.declaring.lock().await;
        let (from, _heads) = self.confirmed_heads().await?;
        let lineage = if adopt {
            self.foreign_lineage(from).await?
        } else {
            from.lineage
        };
        // The counters of two lineages are independent.
        let floor = if lineage == from.lineage {
            from.counter
        } else {
            0
        };
        // Any counter counts here, also an implausible one: it may have been declared under a clock
        // far ahead and then lost by the restore. The operator vouches for it.
        let counts = |epoch: Epoch| epoch.lineage == lineage && epoch.counter < MAX_COUNTER;
        let highest = self.highest_reported(floor, counts).await?;
        self.declare_after(from, lineage, highest).await
    }

    /// The only lineage besides ours that replicas follow.
    async fn foreign_lineage(&self, ours: Epoch) -> Result<u32, DeclareError> {
        let mut foreign = self.reported_epochs().await?;
        foreign.retain(|epoch| epoch.lineage != ours.lineage);
        foreign.sort_unstable();
        foreign.dedup_by_key(|epoch| epoch.lineage);
        match foreign[..] {
            [one] => Ok(one.lineage),
            [] => Err(DeclareError::Impossible(
                "No live replica reports another lineage: there is nothing to adopt. Wait until the \
                 replicas have checked in here"
                    .to_owned(),
            )),
            _ => Err(DeclareError::Impossible(format!(
                "Replicas report several other lineages, and only one can be adopted: {foreign:?}. \
                 Stop the replicas that belong to other stores"
            ))),
        }
    }

    /// The highest counter among `floor` and the reported epochs that count.
    async fn highest_reported(
        &self,
        floor: u64,
        counts: impl Fn(Epoch) -> bool,
    ) -> anyhow::Result<u64> {
        let reported = self.reported_epochs().await?.into_iter();
        Ok(reported
            .filter(|epoch| counts(*epoch))
            .map(|epoch| epoch.counter)
            .fold(floor, u64::max))
    }

    /// The epochs that live replicas report.
    async fn reported_epochs(&self) -> anyhow::Result<Vec<Epoch>> {
        let records = self.0.registry.records().await?.into_iter();
        let reports = records
            .filter(|record| !record.gone)
            .flat_map(|record| record.check_in.collections.into_values());
        Ok(reports.filter_map(|report| report.epoch).collect())
    }

    /// Examines evidence. `Ok(None)` when the store has all of it.
    async fn examine(&self, evidence: &Evidence) -> Result<Option<Epoch>, DeclareError> {
        let _alone = self.0.declaring.lock().await;
        // The evidence may come from a read of an old primary: it is compared with confirmed heads.
        let (from, heads) = self.confirmed_heads().await?;
        let lost_counter = evidence
            .ahead
            .values()
            .map(|(epoch, _revision)| *epoch)
            .filter(|epoch| is_plausible(*epoch, from))
            .map(|epoch| epoch.counter)
            .fold(evidence.counter, u64::max);
        let lost_revisions = heads.iter().any(|head| {
            evidence
                .ahead
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
        // Other replicas may report counters beyond those of the evidence.
        let floor = Epoch {
            counter: from.counter.max(lost_counter),
            ..from
        };
        let counts = |epoch| is_plausible(epoch, floor);
        let highest = self.highest_reported(floor.counter, counts).await?;
        let declared = self.declare_after(from, from.lineage, highest).await?;
        Ok(Some(declared))
    }

    /// Declares the epoch after `highest`, if the store is whole.
    async fn declare_after(
        &self,
        from: Epoch,
        lineage: u32,
        highest: u64,
    ) -> Result<Epoch, DeclareError> {
        if highest >= MAX_COUNTER {
            return Err(DeclareError::Impossible(format!(
                "There is no counter after {highest}"
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
        warn!(
            %from, %to,
            "epoch {to} was declared because this store was restored: every replica loads again"
        );
        Ok(to)
    }

    /// Epoch and heads that are not the past: the primary has just confirmed a write.
    async fn confirmed_heads(&self) -> anyhow::Result<(Epoch, Vec<Head>)> {
        self.store().confirm_primary().await?;
        let collections = &self.store().policy().collections;
        let heads = self.store().heads(collections).await?;
        let first = heads.first().context("no collections")?;
        Ok((first.epoch, heads))
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

    /// Waits until heads that this publisher read are behind what it has seen committed, and adds
    /// that as evidence.
    async fn heads_regressed(&self) {
        let Some(committed) = self.store().committed_heads() else {
            // One process owns the store, and nothing else can put it back.
            return std::future::pending().await;
        };
        committed.until_regressed().await;
        self.add(Evidence {
            counter: 0,
            ahead: committed.positions(),
        });
    }

    async fn examine_what_was_added(&self) {
        let Some(evidence) = self.evidence().take() else {
            // A notification of evidence that the last examination included.
            return;
        };
        match self.examine(&evidence).await {
            Ok(Some(_declared)) => {}
            Ok(None) => info!(
                "a replica or this publisher was ahead of the heads that were read; the primary \
                 has all of it, so the store was not restored"
            ),
            // A replica that is still ahead reports it again.
            Err(DeclareError::Impossible(reason)) => error!("{reason}"),
            Err(DeclareError::NotNow(error)) => {
                warn!(
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
        evidence.counter = evidence.counter.max(new.counter);
        for (name, position) in new.ahead {
            let highest = evidence.ahead.entry(name).or_insert(position);
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

/// Whether a reported epoch can be an epoch of our own future that a restore removed.
fn is_plausible(reported: Epoch, ours: Epoch) -> bool {
    let limit = ours.counter.max(clock()).saturating_add(MAX_COUNTER_LEAD);
    reported.lineage == ours.lineage && reported.counter <= limit
}

/// Milliseconds since 1970; 0 before.
fn clock() -> u64 {
    Utc::now().timestamp_millis().try_into().unwrap_or(0)
}
