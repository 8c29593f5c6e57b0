//! What a replica claims beyond the heads of the store, and whether it is proven.
//!
//! Only a proof that this store made counts: any client can send a check-in, and a replica may hold
//! forged claims. A claim without a proof costs one check, a count, and a log line at a bounded
//! rate. Nothing here declares anything.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use contract::{CollectionName, Epoch, Head, Proof, Revision, fleet::CollectionReport};
use tracing::{debug, warn};

use crate::store::{Store, StoreSecret};

/// How long a secret that was read is used. It is part of the store, so it changes only when the
/// whole database is replaced by another one.
const SECRET_LIFE: Duration = Duration::from_secs(5);
/// Time between two log lines about claims without a proof.
const LOG_PERIOD: Duration = Duration::from_secs(60);

/// A report about one collection that is ahead of its head.
#[derive(Debug, Clone)]
pub(in crate::fleet) struct Claim {
    /// The collection.
    pub(in crate::fleet) collection: CollectionName,
    /// The epoch that the replica reports.
    pub(in crate::fleet) epoch: Epoch,
    /// The revision that its proof is of.
    pub(super) known: Revision,
    proof: Option<Proof>,
    /// Epoch and revision of the head.
    head: (Epoch, Revision),
}

impl Claim {
    /// The claim of a report, if it is ahead of the head: a higher counter of the same lineage (the
    /// declaration of that epoch was lost), or a higher revision in the same epoch (changes were
    /// lost).
    pub(super) fn of(
        collection: &CollectionName,
        report: &CollectionReport,
        head: &Head,
    ) -> Option<Self> {
        let epoch = report.epoch?;
        let highest = [
            report.revision,
            report.known,
            report.settled.map_or(0, |settled| settled.revision),
            report.claimed.unwrap_or(0),
        ]
        .into_iter()
        .max()
        .unwrap_or(0);
        let later_epoch = epoch.lineage == head.epoch.lineage && epoch.counter > head.epoch.counter;
        (later_epoch || (epoch == head.epoch && highest > head.revision)).then(|| Self {
            collection: collection.clone(),
            epoch,
            known: report.known,
            proof: report.proof,
            head: (head.epoch, head.revision),
        })
    }

    /// Whether it is proven that the store lost something: the proof is of this store and is itself
    /// ahead of the head.
    pub(super) fn verify(&self, secret: &StoreSecret) -> bool {
        self.proof.is_some_and(|proof| {
            secret.verifies(self.epoch, &self.collection, self.known, &proof)
                && (self.epoch, self.known) > self.head
        })
    }

    /// Whether the replica has to load the collection again, because what it claims without a proof
    /// was never committed: every committed change has one, and a replica keeps that of the highest
    /// revision that it has seen. Only an event that nobody committed has none, or a wrong one.
    ///
    /// A later epoch is refuted by no load: the replica keeps what it holds, and an operator decides.
    pub(in crate::fleet) fn is_refuted(&self) -> bool {
        self.epoch == self.head.0
    }

    /// The highest revision that may be shown for the replica.
    pub(in crate::fleet) fn committed(&self) -> Revision {
        self.head.1
    }
}

/// The secret of the store, read when a claim has to be checked.
#[derive(Debug, Default)]
pub(super) struct Secrets(Mutex<Option<(Instant, StoreSecret)>>);

impl Secrets {
    /// The secret; `None` when the store cannot be read.
    pub(super) async fn get(&self, store: &Store) -> Option<StoreSecret> {
        let known = self.lock().clone();
        if let Some((read_at, secret)) = known
            && read_at.elapsed() < SECRET_LIFE
        {
            return Some(secret);
        }
        match store.identity().await {
            Ok(identity) => {
                *self.lock() = Some((Instant::now(), identity.secret.clone()));
                Some(identity.secret)
            }
            Err(error) => {
                debug!("the proofs of a check-in were not checked: {error:#}");
                None
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Instant, StoreSecret)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Logs claims without a proof, at most once in [`LOG_PERIOD`].
#[derive(Debug, Default)]
pub(super) struct UnprovenLog(Mutex<UnprovenCount>);

#[derive(Debug, Default)]
struct UnprovenCount {
    logged_at: Option<Instant>,
    /// Check-ins with such claims since the last line.
    since: u64,
}

impl UnprovenLog {
    /// Notes a check-in of this replica.
    pub(super) fn note(&self, instance: &str) {
        let mut count = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        count.since += 1;
        if count
            .logged_at
            .is_some_and(|logged_at| logged_at.elapsed() < LOG_PERIOD)
        {
            return;
        }
        count.logged_at = Some(Instant::now());
        let check_ins = std::mem::take(&mut count.since);
        warn!(
            instance,
            check_ins,
            "replica {instance} reports revisions or an epoch that this store never proved: they \
             are ignored, and no epoch is declared ({check_ins} such check-ins since the last line)"
        );
    }
}
