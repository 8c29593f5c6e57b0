//! Retention: removes the oldest changes from the log, so that it does not grow indefinitely.
//!
//! A change is kept while it is among the newest, or is recent, or is pending. Only a prefix of the
//! log is removed, and a head never names a record that is gone. Every publisher does this; several
//! at the same time do no harm. While a dump is put back ([`PutBack`]) nothing is removed.
//!
//! Where this publisher sends no events, of any collection or of one without a topic, no change is
//! kept because it is pending: it will never be published here, and the log would grow indefinitely.
//! This includes changes that another publisher of the same store would publish. So all publishers
//! of a store have the same settings of events.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use contract::{CollectionName, Revision};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::put_back::{PutBack, Reason};
use crate::store::Store;

/// Changes that are removed in one step, at most: writers of the collection wait for one step.
const STEP_CHANGES: usize = 1_000;
/// Pause between two steps, in which waiting writers are served.
const STEP_PAUSE: Duration = Duration::from_millis(50);
/// A change that blocks retention for this long is reported.
const REPORT_AFTER: Duration = Duration::from_secs(3_600);

/// What the log keeps.
#[derive(Debug, Clone, Copy)]
pub struct RetentionPolicy {
    /// This many of the newest changes of each collection, whatever their age.
    pub changes: u64,
    /// All changes that are younger than this many hours.
    pub hours: u32,
    /// Time between two rounds, approximately.
    pub round: Duration,
}

impl RetentionPolicy {
    /// Changes that were committed before this time are old enough to be removed.
    fn before(&self) -> DateTime<Utc> {
        let age = TimeDelta::hours(i64::from(self.hours));
        Utc::now()
            .checked_sub_signed(age)
            .unwrap_or(DateTime::<Utc>::MIN_UTC)
    }
}

/// Trims the logs of all collections of a store, round by round.
pub struct Retention {
    store: Store,
    policy: RetentionPolicy,
    blocked: BlockedCollections,
    put_back: PutBack,
    /// Why it waits; `None` while it trims.
    waits: Option<Reason>,
    /// Whether it was reported that change sets cannot be found.
    unindexed: bool,
}

/// The pending changes that block retention, by collection.
#[derive(Default)]
struct BlockedCollections(HashMap<CollectionName, BlockedBy>);

struct BlockedBy {
    revision: Revision,
    since: Instant,
    reported: bool,
}

impl BlockedBy {
    fn new(revision: Revision, since: Instant) -> Self {
        Self {
            revision,
            since,
            reported: false,
        }
    }
}

impl BlockedCollections {
    /// Records what blocks a collection, and returns whether to report it: once for each change
    /// that blocks for [`REPORT_AFTER`].
    fn is_to_report(
        &mut self,
        collection: &CollectionName,
        blocked_by: Option<Revision>,
        now: Instant,
    ) -> bool {
        let Some(revision) = blocked_by else {
            self.0.remove(collection);
            return false;
        };
        let blocked = self
            .0
            .entry(collection.clone())
            .or_insert_with(|| BlockedBy::new(revision, now));
        // Another change: the one before it was published.
        if blocked.revision != revision {
            *blocked = BlockedBy::new(revision, now);
        }
        if blocked.reported || now.duration_since(blocked.since) < REPORT_AFTER {
            return false;
        }
        blocked.reported = true;
        true
    }
}

impl Retention {
    /// Retention for the logs of a store.
    pub fn new(store: Store, policy: RetentionPolicy) -> Self {
        Self {
            store,
            policy,
            blocked: BlockedCollections::default(),
            put_back: PutBack::default(),
            waits: None,
            unindexed: false,
        }
    }

    /// Trims, round by round, until `stop` is cancelled.
    ///
    /// # Errors
    /// Never; the supervisor expects this signature.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut failing = false;
        if (stop.run_until_cancelled(self.index_sets()).await).is_none() {
            return Ok(());
        }
        loop {
            // At random, so that publishers that were started together do not all trim at the same
            // time.
            let pause = self.policy.round.mul_f64(rand::random_range(0.67..=1.33));
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = sleep(pause) => {}
            }
            let result = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                result = self.round() => result,
            };
            // One line when it begins, not one per round.
            match result {
                Ok(()) => failing = false,
                Err(error) if !failing => {
                    failing = true;
                    warn!("the change log cannot be trimmed and keeps growing: {error:#}");
                }
                Err(_reported_before) => {}
            }
        }
    }

    /// Lets change sets of publishers of an earlier version be found.
    async fn index_sets(&mut self) {
        match self.store.index_sets().await {
            Ok(()) => self.unindexed = false,
            // One line when it begins.
            Err(error) if !self.unindexed => {
                self.unindexed = true;
                warn!("change sets of an earlier version cannot be found yet: {error:#}");
            }
            Err(_reported_before) => {}
        }
    }

    async fn round(&mut self) -> anyhow::Result<()> {
        self.index_sets().await;
        let store = self.store.clone();
        if self.waits(&store).await? {
            return Ok(());
        }
        let mut failed = Ok(());
        for collection in store.policy().collections.all().iter() {
            let trimmed = self.trim(collection).await;
            let blocked_by = match trimmed {
                Ok(blocked_by) => blocked_by,
                // The others are trimmed all the same.
                Err(error) => {
                    failed = Err(error.context(format!("trimming the log of {collection}")));
                    continue;
                }
            };
            if self
                .blocked
                .is_to_report(collection, blocked_by, Instant::now())
            {
                warn!(
                    %collection, revision = blocked_by,
                    "an old change is still pending, so it and all changes after it stay in the \
                     log; check whether events of the collection can be published"
                );
            }
        }
        failed
    }

    /// Whether this round is left out, because a dump is being put back.
    async fn waits(&mut self, store: &Store) -> anyhow::Result<bool> {
        let reason = self.put_back.look(store).await?;
        // One line for each reason.
        if reason != self.waits {
            match &reason {
                Some(reason) => info!(
                    "the change log is not trimmed for now: the database is being put back ({reason})"
                ),
                None => info!("the change log is trimmed again"),
            }
        }
        self.waits = reason;
        Ok(self.waits.is_some())
    }

    /// Removes all changes that may be removed, step by step. Returns the pending change that
    /// blocks the next one, if there is one.
    async fn trim(&self, collection: &CollectionName) -> anyhow::Result<Option<Revision>> {
        let before = self.policy.before();
        let mut removed = 0;
        let blocked_by = loop {
            let trimmed = self
                .store
                .trim(collection, self.policy.changes, before, STEP_CHANGES)
                .await?;
            removed += trimmed.changes;
            if !trimmed.more {
                break trimmed.blocked_by;
            }
            sleep(STEP_PAUSE).await;
        };
        if removed > 0 {
            info!(%collection, changes = removed, "the oldest changes were removed from the log");
        }
        Ok(blocked_by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_that_blocks_retention_for_long_is_reported_once() {
        let mut blocked = BlockedCollections::default();
        let start = Instant::now();
        let collections: [CollectionName; 2] = ["A", "B"].map(|name| name.parse().expect("a name"));
        let [a, b] = &collections;
        let mut at = |minutes: u64, collection, by| {
            blocked.is_to_report(collection, by, start + Duration::from_secs(60 * minutes))
        };
        assert!(!at(0, a, Some(7)) && !at(59, a, Some(7)) && !at(59, b, Some(7)));
        assert!(
            at(60, a, Some(7)) && !at(61, a, Some(7)) && !at(600, a, Some(7)),
            "it is reported once"
        );
        assert!(
            !at(600, a, Some(8)) && !at(659, a, Some(8)) && at(660, a, Some(8)),
            "another change is reported on its own"
        );
        assert!(
            !at(700, a, None) && !at(701, a, Some(8)) && !at(760, a, Some(8)),
            "the time begins again after retention was not blocked"
        );
    }
}
