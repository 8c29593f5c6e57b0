//! Retention: takes the oldest changes out of the log, so that it does not grow for ever.
//!
//! A change is kept while it is among the newest, or younger than the age, or owed. Only a prefix goes, and a head never names
//! a record that is gone. Every publisher does this; several at once do no harm.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use contract::CollectionName;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::store::Store;

/// Records that go in one step, at most: writers of the collection wait for no more than that.
const STEP: usize = 1_000;
/// Between two steps, for those who wait.
const PAUSE: Duration = Duration::from_millis(50);

/// What the log keeps.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// So many changes of each collection, whatever their age.
    pub changes: u64,
    /// What is younger than so many hours, however many there are.
    pub hours: u32,
    /// How long to wait from one round to the next, more or less.
    pub round: Duration,
}

impl Keep {
    /// Changes committed before this moment are no longer young.
    fn before(&self) -> DateTime<Utc> {
        let age = TimeDelta::hours(i64::from(self.hours));
        Utc::now().checked_sub_signed(age).unwrap_or(DateTime::<Utc>::MIN_UTC)
    }
}

/// Runs beside the writer.
pub struct Retention {
    store: Store,
    keep: Keep,
}

impl Retention {
    /// Trims the logs of a store.
    pub fn new(store: Store, keep: Keep) -> Self {
        Self { store, keep }
    }

    /// Trims, round by round, until it is told to stop.
    ///
    /// # Errors
    /// Never; the signature is the supervisor's.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut failing = false;
        loop {
            // Publishers that were started together must not all trim together.
            let pause = self.keep.round.mul_f64(rand::random_range(0.67..=1.33));
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = sleep(pause) => {}
            }
            let trimmed = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                trimmed = self.round() => trimmed,
            };
            // One line when it begins, not one per round.
            match trimmed {
                Ok(()) => failing = false,
                Err(error) if !failing => {
                    failing = true;
                    warn!("the change log cannot be trimmed, it goes on growing: {error:#}");
                }
                Err(_as_before) => {}
            }
        }
    }

    async fn round(&self) -> anyhow::Result<()> {
        for collection in &self.store.terms().collections {
            self.trim(collection).await?;
        }
        Ok(())
    }

    async fn trim(&self, collection: &CollectionName) -> anyhow::Result<()> {
        let (mut all, before) = (0, self.keep.before());
        loop {
            let trimmed = self.store.trim(collection, self.keep.changes, before, STEP).await?;
            all += trimmed;
            if trimmed < STEP {
                break;
            }
            sleep(PAUSE).await;
        }
        if all > 0 {
            info!(%collection, changes = all, "the oldest changes were taken out of the log");
        }
        Ok(())
    }
}
