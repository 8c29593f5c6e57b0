//! Retention: takes the oldest changes out of the log, so that it does not grow for ever.
//!
//! A change is kept while it is among the newest, or younger than the age, or owed. Only a prefix
//! goes, and a head never names a record that is gone. Every publisher does this; several at once
//! do no harm.
//!
//! With events switched off nothing is kept for being owed: nobody will ever send it, and the log
//! would grow for ever. That goes for what publishers of the same store owe which do send: switch
//! events off for all of them or for none.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use contract::{CollectionName, Revision};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::store::{Store, Trimmed};

/// Records that go in one step, at most: writers of the collection wait for no more than that.
const STEP: usize = 1_000;
/// Between two steps, for those who wait.
const PAUSE: Duration = Duration::from_millis(50);

/// The same owed change at the end of what may go for so long is worth a word.
const HELD_UP: Duration = Duration::from_secs(3_600);

/// What the log keeps.
#[derive(Debug, Clone, Copy)]
pub struct RetentionPolicy {
    /// So many changes of each collection, whatever their age.
    pub changes: u64,
    /// What is younger than so many hours, however many there are.
    pub hours: u32,
    /// How long to wait from one round to the next, more or less.
    pub round: Duration,
}

impl RetentionPolicy {
    /// Changes committed before this moment are no longer young.
    fn before(&self) -> DateTime<Utc> {
        let age = TimeDelta::hours(i64::from(self.hours));
        Utc::now()
            .checked_sub_signed(age)
            .unwrap_or(DateTime::<Utc>::MIN_UTC)
    }
}

/// Runs beside the writer.
pub struct Retention {
    store: Store,
    keep: RetentionPolicy,
    held_up: HeldUp,
}

/// The owed changes that keep what is old from going, since when, and whether that was said.
#[derive(Default)]
struct HeldUp(HashMap<CollectionName, (Revision, Instant, bool)>);

impl HeldUp {
    /// Whether it is time to say that this change has been in the way for long: once.
    fn is_long(&mut self, collection: &CollectionName, by: Option<Revision>, now: Instant) -> bool {
        let Some(revision) = by else {
            self.0.remove(collection);
            return false;
        };
        let held = self
            .0
            .entry(collection.clone())
            .or_insert((revision, now, false));
        if held.0 != revision {
            *held = (revision, now, false);
        }
        let (_revision, since, said) = held;
        let long = !*said && now.duration_since(*since) >= HELD_UP;
        *said |= long;
        long
    }
}

impl Retention {
    /// Trims the logs of a store.
    pub fn new(store: Store, keep: RetentionPolicy) -> Self {
        Self {
            store,
            keep,
            held_up: HeldUp::default(),
        }
    }

    /// Trims, round by round, until it is told to stop.
    ///
    /// # Errors
    /// Never; the signature is the supervisor's.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
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

    async fn round(&mut self) -> anyhow::Result<()> {
        let store = self.store.clone();
        for collection in &store.policy().collections {
            let held_up = self.trim(collection).await?;
            if self.held_up.is_long(collection, held_up, Instant::now()) {
                warn!(
                    %collection, revision = held_up,
                    "an old change is still owed, so nothing from there on leaves the log: can its event not be sent?"
                );
            }
        }
        Ok(())
    }

    /// The owed change that ends it, if one does.
    async fn trim(&self, collection: &CollectionName) -> anyhow::Result<Option<Revision>> {
        let (mut all, before) = (0, self.keep.before());
        let held_up = loop {
            let Trimmed {
                changes,
                blocked_by: held_up,
            } = self
                .store
                .trim(collection, self.keep.changes, before, STEP)
                .await?;
            all += changes;
            if changes < STEP {
                break held_up;
            }
            sleep(PAUSE).await;
        };
        if all > 0 {
            info!(%collection, changes = all, "the oldest changes were taken out of the log");
        }
        Ok(held_up)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_change_that_is_owed_for_long_is_said_once() {
        let (mut held_up, start) = (HeldUp::default(), Instant::now());
        let collections: [CollectionName; 2] = ["A", "B"].map(|name| name.parse().expect("a name"));
        let [a, b] = &collections;
        let mut at = |minutes: u64, collection, by| {
            held_up.is_long(collection, by, start + Duration::from_secs(60 * minutes))
        };
        assert!(!at(0, a, Some(7)) && !at(59, a, Some(7)) && !at(59, b, Some(7)));
        assert!(
            at(60, a, Some(7)) && !at(61, a, Some(7)) && !at(600, a, Some(7)),
            "once"
        );
        assert!(
            !at(600, a, Some(8)) && !at(659, a, Some(8)) && at(660, a, Some(8)),
            "another one"
        );
        assert!(
            !at(700, a, None) && !at(701, a, Some(8)) && !at(760, a, Some(8)),
            "it went on in between"
        );
    }
}
