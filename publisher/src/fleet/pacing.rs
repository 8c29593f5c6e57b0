//! How soon a replica may check in again after its revisions moved: the bound on what early
//! check-ins cost all publishers of a store together. Nothing here waits or sends.
//!
//! A replica checks in at its interval, and earlier when it applied changes, so that the list of
//! replicas is fresh. With N live replicas and a pause of P ms between two early check-ins of one
//! replica, the fleet sends at most N · 1000 / P of them in a second. P is 2 ms for each replica
//! and never below 500 ms:
//!
//! | N | P | early check-ins a second, at most |
//! |---|---|---|
//! | 10 | 500 ms | 20 |
//! | 250 | 500 ms | 500 |
//! | 1,000 | 2 s | 500 |
//! | 20,000 | 40 s | 500 |
//!
//! From 5,000 replicas with an interval of 10 s on, P reaches the interval: no check-in is early.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard},
};

use crate::store::replicas::MAX_REPLICAS;

/// The shortest pause, in milliseconds: small fleets do not need more than two reports a second.
const MIN_PAUSE_MS: u64 = 500;
/// Milliseconds of pause for each replica: 1000 ms / 2 ms = 500 early check-ins a second.
const PAUSE_MS_PER_REPLICA: u64 = 2;

/// The pause between two check-ins of a replica whose revisions move, in milliseconds.
pub(super) fn report_after_ms(replicas: usize) -> u64 {
    let replicas = u64::try_from(replicas).unwrap_or(u64::MAX);
    replicas
        .saturating_mul(PAUSE_MS_PER_REPLICA)
        .max(MIN_PAUSE_MS)
}

/// The shortest pause between two check-ins of a replica that is asked to confirm what it applies: a
/// request waits for them, and changes that come together are confirmed together.
const MIN_CONFIRM_MS: u64 = 5;
/// Replicas for each further millisecond of it: at most 5,000 such check-ins a second.
const REPLICAS_PER_CONFIRM_MS: u64 = 5;

/// The pause between two check-ins of a replica while requests wait for them, in milliseconds.
pub(super) fn confirm_after_ms(replicas: usize) -> u64 {
    let replicas = u64::try_from(replicas).unwrap_or(u64::MAX);
    (replicas / REPLICAS_PER_CONFIRM_MS).max(MIN_CONFIRM_MS)
}

/// The number of live replicas, counted without a read of the store for each check-in.
#[derive(Debug, Default)]
pub(super) struct FleetSize(Mutex<Names>);

#[derive(Debug, Default)]
struct Names {
    /// Replicas that were live when the rows of all publishers were last read, and those that
    /// checked in here since. They make a fleet that starts at once count before its rows are read.
    live: HashSet<String>,
    /// Replicas that checked in here since the last read of the rows began.
    since_read: HashSet<String>,
}

impl FleetSize {
    /// Counts a replica that checked in with this publisher.
    pub(super) fn note(&self, instance: &str) {
        let mut names = self.lock();
        let Names { live, since_read } = &mut *names;
        for set in [live, since_read] {
            // Most names are known, and are not copied again; their number is bounded.
            if set.len() < MAX_REPLICAS && !set.contains(instance) {
                set.insert(instance.to_owned());
            }
        }
    }

    /// A read of the rows begins: what is noted from now on may not be in them.
    pub(super) fn begin_read(&self) {
        self.lock().since_read.clear();
    }

    /// Replaces the live replicas by those that were read. Replicas that are gone no longer count.
    pub(super) fn end_read(&self, live: impl Iterator<Item = String>) {
        let mut names = self.lock();
        names.live = live.chain(names.since_read.iter().cloned()).collect();
    }

    /// Live replicas: exact after each read, and never too few by more than the new replicas of
    /// other publishers.
    pub(super) fn get(&self) -> usize {
        self.lock().live.len()
    }

    fn lock(&self) -> MutexGuard<'_, Names> {
        self.0.lock().expect("no holder of this lock can panic")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn early_check_ins_never_exceed_500_a_second_over_the_fleet() {
        assert_eq!(report_after_ms(0), 500);
        assert_eq!(report_after_ms(250), 500);
        assert_eq!(report_after_ms(251), 502);
        assert_eq!(report_after_ms(1_000), 2_000);
        for replicas in [1, 10, 249, 250, 251, 1_000, 5_000, MAX_REPLICAS] {
            let per_second = replicas as f64 * 1_000.0 / report_after_ms(replicas) as f64;
            assert!(per_second <= 500.0, "{replicas} replicas: {per_second}");
        }
        assert_eq!(report_after_ms(usize::MAX), u64::MAX);
    }

    #[test]
    fn confirmations_never_exceed_5000_a_second_over_a_fleet_of_more_than_25() {
        assert_eq!(confirm_after_ms(0), 5);
        assert_eq!(confirm_after_ms(10), 5);
        assert_eq!(confirm_after_ms(1_000), 200);
        for replicas in [25, 30, 1_000, MAX_REPLICAS] {
            let per_second = replicas as f64 * 1_000.0 / confirm_after_ms(replicas) as f64;
            assert!(per_second <= 5_000.0, "{replicas} replicas: {per_second}");
        }
    }

    #[test]
    fn a_replica_counts_once_and_until_it_is_gone() {
        let size = FleetSize::default();
        let names = |names: &[&str]| -> Vec<String> {
            names.iter().map(|name| (*name).to_owned()).collect()
        };
        for instance in ["a", "b", "a"] {
            size.note(instance);
        }
        assert_eq!(size.get(), 2);
        size.begin_read();
        size.note("late");
        size.end_read(names(&["a", "b", "elsewhere"]).into_iter());
        assert_eq!(size.get(), 4, "one checked in while the rows were read");
        size.note("a");
        assert_eq!(size.get(), 4, "its row was counted");
        size.begin_read();
        size.end_read(names(&["elsewhere"]).into_iter());
        assert_eq!(size.get(), 1, "replicas that are gone are not counted");
        (0..2 * MAX_REPLICAS).for_each(|number| size.note(&number.to_string()));
        assert_eq!(size.get(), MAX_REPLICAS, "the memory is bounded");
    }
}
