//! Epochs: a database that was restored goes on under a new one, so that replicas know it from
//! progress.
//!
//! A counter is never below the clock, in milliseconds since 1970, so that a history which was
//! declared, then lost with its database before any replica reported it, shares its name with no
//! other.
//!
//! A replica that is ahead of the head is only a suspicion. It is believed after a write that only
//! the true primary confirms, and acted on when documents, heads and log agree; a dump that is
//! half-way in does not. A blank store is never declared without the operator, because replicas
//! hold what it lost.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, ensure};
use chrono::Utc;
use contract::{
    CollectionName, Digest, Epoch, Head, Problem, Revision,
    fleet::{CheckIn, EpochDeclared, RestoreEpochRequest},
};
use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    api::error::ApiError,
    fleet::{Members, check_ins::Reading},
    metrics::Metrics,
    store::Store,
};

/// At most one look at a suspicion in this time.
const EVERY: Duration = Duration::from_secs(5);
/// A counter this far beyond ours, or beyond the clock in milliseconds (a day), is no restore but
/// nonsense, and would use up the numbers.
const BELIEVED: u64 = 86_400_000;
/// The last counter: what every store can hold.
const LAST: u64 = i64::MAX as u64;

/// What replicas, or this publisher itself, know of this lineage that the store did not.
#[derive(Debug, Clone, Default)]
struct Suspicion {
    /// The highest counter of the lineage that was reported.
    counter: u64,
    /// The highest revision that was reported, and in which epoch.
    ahead: BTreeMap<CollectionName, (Epoch, Revision)>,
}

/// Where suspicions are raised and epochs declared. Cloning shares it.
#[derive(Debug, Clone)]
pub(super) struct Epochs(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    members: Members,
    suspicion: Mutex<Option<Suspicion>>,
    raised: Notify,
    /// One declaration at a time.
    declaring: tokio::sync::Mutex<()>,
    metrics: Arc<Metrics>,
}

/// The task behind [`Epochs`].
pub struct EpochTask(Epochs);

pub(super) fn epochs(members: Members, metrics: Arc<Metrics>) -> (Epochs, EpochTask) {
    let (suspicion, raised, declaring) = Default::default();
    let epochs = Epochs(Arc::new(Shared {
        members,
        suspicion,
        raised,
        declaring,
        metrics,
    }));
    (epochs.clone(), EpochTask(epochs))
}

/// Why no epoch was declared.
#[derive(Debug, thiserror::Error)]
enum Undeclared {
    /// It can never work like this.
    #[error("{0}")]
    Never(String),
    /// The store is not in a state to be declared; later it may be.
    #[error("{0:#}")]
    NotNow(#[from] anyhow::Error),
}

impl Epochs {
    /// Raises a suspicion when a report is beyond what was read after it came.
    pub(super) fn compare(&self, check_in: &CheckIn, reading: &Reading) {
        let mut suspicion = Suspicion::default();
        for (name, report) in &check_in.collections {
            let (Some(head), Some(epoch)) = (reading.heads.get(name), report.epoch) else {
                continue;
            };
            let settled = report.settled.map_or(0, |settled| settled.revision);
            // What it only heard of was committed as well: events are sent after the commit.
            let revision = settled.max(report.revision).max(report.known);
            if believable(epoch, head.epoch) && epoch.counter > head.epoch.counter {
                suspicion.counter = suspicion.counter.max(epoch.counter);
            } else if epoch == head.epoch && revision > head.revision {
                suspicion.ahead.insert(name.clone(), (epoch, revision));
            }
        }
        if suspicion.counter > 0 || !suspicion.ahead.is_empty() {
            self.raise(suspicion);
        }
    }

    fn raise(&self, new: Suspicion) {
        let mut held = self
            .0
            .suspicion
            .lock()
            .expect("no holder of this lock can panic");
        let held = held.get_or_insert_default();
        held.counter = held.counter.max(new.counter);
        for (name, place) in new.ahead {
            let highest = held.ahead.entry(name).or_insert(place);
            *highest = place.max(*highest);
        }
        self.0.raised.notify_one();
    }

    fn store(&self) -> &Store {
        &self.0.members.store
    }

    async fn heads(&self) -> anyhow::Result<(Epoch, Vec<Head>)> {
        self.store().confirm_primary().await?;
        let heads = self
            .store()
            .heads(&self.store().policy().collections)
            .await?;
        Ok((heads.first().context("no collections")?.epoch, heads))
    }

    /// The operator's word in place of a suspicion.
    pub(super) async fn by_hand(
        &self,
        RestoreEpochRequest { adopt }: RestoreEpochRequest,
    ) -> Result<EpochDeclared, ApiError> {
        let declared = self.declare_by_hand(adopt).await;
        declared
            .map(|epoch| EpochDeclared { epoch })
            .map_err(|undeclared| match undeclared {
                Undeclared::Never(why) => {
                    Problem::new(contract::ProblemKind::NotDeclared, why).into()
                }
                Undeclared::NotNow(error) => {
                    warn!("an epoch that was asked for was not declared: {error:#}");
                    let detail = format!(
                        "Nothing was changed, try again when the restore is complete: {error:#}"
                    );
                    Problem::new(contract::ProblemKind::NotDeclaredNow, detail).into()
                }
            })
    }

    async fn declare_by_hand(&self, adopt: bool) -> Result<Epoch, Undeclared> {
        let _alone = self.0.declaring.lock().await;
        let (from, _heads) = self.heads().await?;
        let lineage = if adopt {
            self.foreign_lineage(from).await?
        } else {
            from.lineage
        };
        let highest = if lineage == from.lineage {
            from.counter
        } else {
            0
        };
        // A person vouches for it: what was declared under a clock far ahead, and then restored
        // away, is beyond belief otherwise.
        let sensible = |epoch: Epoch| epoch.lineage == lineage && epoch.counter < LAST;
        let counter = self.highest_reported(highest, sensible).await?;
        self.go_on(from, lineage, counter).await
    }

    /// The only lineage besides ours that replicas follow.
    async fn foreign_lineage(&self, ours: Epoch) -> Result<u32, Undeclared> {
        let mut foreign: Vec<_> = self.reported().await?;
        foreign.retain(|epoch| epoch.lineage != ours.lineage);
        foreign.sort_unstable();
        foreign.dedup_by_key(|epoch| epoch.lineage);
        match foreign[..] {
            [one] => Ok(one.lineage),
            [] => Err(Undeclared::Never(
                "No replica that is there reports another lineage: there is nothing to adopt. Wait until the replicas \
                 have checked in here"
                    .to_owned(),
            )),
            _ => Err(Undeclared::Never(format!(
                "Replicas report several other lineages, and only one can be adopted: {foreign:?}. Stop the replicas \
                 that belong elsewhere"
            ))),
        }
    }

    async fn highest_reported(
        &self,
        floor: u64,
        believed: impl Fn(Epoch) -> bool,
    ) -> anyhow::Result<u64> {
        let reported = self
            .reported()
            .await?
            .into_iter()
            .filter(|epoch| believed(*epoch));
        Ok(reported.map(|epoch| epoch.counter).fold(floor, u64::max))
    }

    /// The epochs that replicas report which are not gone.
    async fn reported(&self) -> anyhow::Result<Vec<Epoch>> {
        let members = self
            .0
            .members
            .read()
            .await?
            .into_iter()
            .filter(|member| !member.gone);
        let reports = members.flat_map(|member| member.check_in.collections.into_values());
        Ok(reports.filter_map(|report| report.epoch).collect())
    }

    /// Looks at a suspicion. `Ok(None)` = nothing was behind it.
    async fn look(&self, suspicion: &Suspicion) -> Result<Option<Epoch>, Undeclared> {
        let _alone = self.0.declaring.lock().await;
        let (from, heads) = self.heads().await?;
        let ahead = |head: &Head| {
            let reported = suspicion.ahead.get(&head.collection);
            reported.is_some_and(|(epoch, revision)| *epoch == from && *revision > head.revision)
        };
        let lost = suspicion
            .ahead
            .values()
            .map(|(epoch, _revision)| *epoch)
            .filter(|epoch| believable(*epoch, from));
        let lost = lost
            .map(|epoch| epoch.counter)
            .max()
            .unwrap_or(0)
            .max(suspicion.counter);
        if lost <= from.counter && !heads.iter().any(ahead) {
            return Ok(None);
        }
        if heads.iter().all(|head| head.revision == 0) {
            return Err(Undeclared::Never(
                "replicas, or this publisher, know what this store does not: it is BLANK. Nothing is declared, and the replicas keep what \
                 they hold. Restore a dump; or, if it is meant to be empty, say so with POST /v1/epoch"
                    .to_owned(),
            ));
        }
        let floor = Epoch {
            counter: from.counter.max(lost),
            ..from
        };
        let counter = self
            .highest_reported(floor.counter, |epoch| believable(epoch, floor))
            .await?;
        self.go_on(from, from.lineage, counter).await.map(Some)
    }

    async fn go_on(&self, from: Epoch, lineage: u32, highest: u64) -> Result<Epoch, Undeclared> {
        if highest >= LAST {
            return Err(Undeclared::Never(format!(
                "There is no counter after {highest}"
            )));
        }
        let to = Epoch {
            lineage,
            counter: (highest + 1).max(clock()),
        };
        self.verify(from).await?;
        let declared = self.store().declare_epoch(from, to).await?;
        ensure_declared(declared)?;
        self.0.metrics.epochs_declared.inc();
        warn!(%from, %to, "EPOCH {to} was declared: this store was restored, and every replica loads it anew");
        Ok(to)
    }

    /// Documents, heads and log agree for every collection, at one moment.
    async fn verify(&self, epoch: Epoch) -> anyhow::Result<()> {
        let mut reading = self
            .store()
            .documents(&self.store().policy().collections)
            .await?;
        ensure!(
            reading.epoch == epoch,
            "another epoch was declared meanwhile"
        );
        let mut sums = BTreeMap::<CollectionName, (u64, Digest)>::new();
        while let Some(piece) = reading.next().await? {
            let (count, digest) = sums.entry(piece.collection).or_default();
            for document in &piece.documents {
                *count += 1;
                *digest = digest.with(document.id(), document.revision(), document.crc());
            }
        }
        for head in &reading.heads {
            let (count, digest) = sums.get(&head.collection).copied().unwrap_or_default();
            ensure!(
                (count, digest) == (head.count, head.digest),
                "the documents of {} do not add up to its head ({count} instead of {}): is a restore under way?",
                head.collection,
                head.count
            );
            self.verify_log(head).await?;
        }
        Ok(())
    }

    /// The log ends where the head is: with a record missing there feeds would have a gap, and with
    /// one too many no write would ever succeed again.
    async fn verify_log(&self, head: &Head) -> anyhow::Result<()> {
        let name = &head.collection;
        let torn = || {
            format!(
                "the log of {name} does not end at revision {}: is a restore under way?",
                head.revision
            )
        };
        if head.revision >= head.oldest {
            let last = self
                .store()
                .changes(name, head.revision - 1, 1, 1)
                .await?
                .into_iter()
                .next();
            ensure!(
                last.is_some_and(
                    |last| (last.revision, last.digest) == (head.revision, head.digest)
                ),
                torn()
            );
        }
        if let Some(next) = self
            .store()
            .changes(name, head.revision, 1, 1)
            .await?
            .into_iter()
            .next()
        {
            // Unless somebody wrote it since.
            let now = self.store().heads(&[name.clone()].into()).await?;
            ensure!(
                now.first().is_some_and(|now| now.revision >= next.revision),
                torn()
            );
        }
        Ok(())
    }
}

fn ensure_declared(declared: bool) -> anyhow::Result<()> {
    ensure!(declared, "another publisher declared an epoch first");
    Ok(())
}

/// Whether an epoch can be one of our own future, which a restore took away.
fn believable(reported: Epoch, ours: Epoch) -> bool {
    reported.lineage == ours.lineage
        && reported.counter <= ours.counter.max(clock()).saturating_add(BELIEVED)
}

/// Milliseconds since 1970; 0 before.
fn clock() -> u64 {
    Utc::now().timestamp_millis().try_into().unwrap_or(0)
}

impl EpochTask {
    /// Looks at suspicions until it is told to stop.
    ///
    /// # Errors
    /// Never; the signature is the supervisor's.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let Self(epochs) = self;
        // Nothing here is lost half-way: a declaration is one transaction.
        stop.run_until_cancelled(async {
            loop {
                tokio::select! {
                    () = epochs.0.raised.notified() => {}
                    () = epochs.behind() => {}
                }
                epochs.look_at_what_was_raised().await;
                sleep(EVERY).await;
            }
        })
        .await;
        Ok(())
    }
}

impl Epochs {
    /// Waits until this publisher itself finds the store behind what it has seen committed, and
    /// raises that.
    async fn behind(&self) {
        let Some(newest) = self.store().committed_heads() else {
            return std::future::pending().await;
        };
        newest.until_regressed().await;
        self.raise(Suspicion {
            counter: 0,
            ahead: newest.positions(),
        });
    }

    async fn look_at_what_was_raised(&self) {
        let raised = self
            .0
            .suspicion
            .lock()
            .expect("no holder of this lock can panic")
            .take();
        let Some(suspicion) = raised else { return };
        match self.look(&suspicion).await {
            Ok(Some(_declared)) => {}
            Ok(None) => {
                info!("somebody was ahead of what was read here; the primary is not behind")
            }
            // Who is still ahead says so again.
            Err(Undeclared::Never(why)) => error!("{why}"),
            Err(Undeclared::NotNow(error)) => {
                warn!("replicas are ahead of this store, which cannot be declared yet: {error:#}");
                self.raise(suspicion);
            }
        }
    }
}
