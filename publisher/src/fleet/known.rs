//! Which replicas are known, since when, and how much memory their records take.
//!
//! Any client can send a check-in with a new name. A replica that is known keeps its place in the list
//! and its alarms, whatever comes after it: beyond the bounds the newest names are refused, never the
//! ones that sort last. Nothing here is stored; after a restart the replicas of the store are known.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use crate::store::replicas::MAX_REPLICAS;

/// Bytes of the records of all replicas.
pub(super) const FLEET_BYTES: usize = 16 << 20;
/// A replica raises at most one alarm in this time.
const ALARM_PERIOD: Duration = Duration::from_secs(60);

/// The known replicas.
#[derive(Debug, Default)]
pub(super) struct KnownReplicas(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    by_name: HashMap<String, KnownReplica>,
    /// Bytes of all records.
    bytes: usize,
    next_place: u64,
    /// The last generation of the rows that were read.
    read: u64,
}

#[derive(Debug)]
struct KnownReplica {
    /// The order in which replicas became known.
    place: u64,
    bytes: usize,
    /// The run of the process that checked in here last, if any did.
    boot_id: Option<String>,
    alarmed_at: Option<Instant>,
    /// The caller that checked in with this name, and until when the name is its own.
    owner: Option<(String, DateTime<Utc>)>,
    /// The generation of the rows in which it was, or in which it checked in.
    seen_in: u64,
}

impl KnownReplicas {
    /// Admits the record of a check-in, or of a row of the store. `false` when it exceeds the bounds:
    /// the replica is answered and not listed.
    pub(super) fn admit(&self, instance: &str, bytes: usize) -> bool {
        let mut known = self.lock();
        let old = known.by_name.get(instance).map(|known| known.bytes);
        let total = known.bytes - old.unwrap_or(0) + bytes;
        if total > FLEET_BYTES || (old.is_none() && known.by_name.len() >= MAX_REPLICAS) {
            return false;
        }
        known.bytes = total;
        let (place, seen_in) = (known.next_place, known.read);
        match known.by_name.get_mut(instance) {
            Some(replica) => {
                replica.bytes = bytes;
                replica.seen_in = seen_in;
            }
            None => {
                known.next_place += 1;
                let replica = KnownReplica {
                    place,
                    bytes,
                    boot_id: None,
                    alarmed_at: None,
                    owner: None,
                    seen_in,
                };
                known.by_name.insert(instance.to_owned(), replica);
            }
        }
        true
    }

    /// A check-in of this run of a replica. Whether an earlier one was received of the same run, so
    /// that its alarms count.
    pub(super) fn checked_in(&self, instance: &str, boot_id: &str) -> bool {
        let mut known = self.lock();
        let Some(replica) = known.by_name.get_mut(instance) else {
            return false;
        };
        let is_known = replica.boot_id.as_deref() == Some(boot_id);
        if !is_known {
            replica.boot_id = Some(boot_id.to_owned());
        }
        is_known
    }

    /// A check-in that makes the name the caller's own for some time. `false` when it is another
    /// caller's, who checked in with it while the replica is live. A name that is not known is nobody's.
    pub(super) fn own(
        &self,
        instance: &str,
        caller: &str,
        until: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> bool {
        // Under one lock: of two callers that come at once, one has the name.
        let mut known = self.lock();
        let Some(replica) = known.by_name.get_mut(instance) else {
            return true;
        };
        match &mut replica.owner {
            Some((owner, owned)) if owner == caller => *owned = until.max(*owned),
            Some((_other, owned)) if *owned >= now => return false,
            owner => *owner = Some((caller.to_owned(), until)),
        }
        true
    }

    /// Whether an alarm of this replica is raised now: one in a minute.
    pub(super) fn may_alarm(&self, instance: &str, now: Instant) -> bool {
        let mut known = self.lock();
        let Some(replica) = known.by_name.get_mut(instance) else {
            return false;
        };
        let is_due = replica
            .alarmed_at
            .is_none_or(|last| now.saturating_duration_since(last) >= ALARM_PERIOD);
        if is_due {
            replica.alarmed_at = Some(now);
        }
        is_due
    }

    /// The place of a replica: known ones first, in the order in which they became known.
    pub(super) fn place(&self, instance: &str) -> u64 {
        let known = self.lock();
        known
            .by_name
            .get(instance)
            .map_or(u64::MAX, |replica| replica.place)
    }

    /// All rows are about to be read: what is not among them afterwards, and did not check in since,
    /// is forgotten by [`Self::end_read`].
    pub(super) fn begin_read(&self) {
        self.lock().read += 1;
    }

    /// The names that were read.
    pub(super) fn end_read<'a>(&self, names: impl Iterator<Item = &'a str>) {
        let mut known = self.lock();
        let read = known.read;
        for name in names {
            if let Some(replica) = known.by_name.get_mut(name) {
                replica.seen_in = read;
            }
        }
        known
            .by_name
            .retain(|_name, replica| replica.seen_in == read);
        known.bytes = known.by_name.values().map(|replica| replica.bytes).sum();
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().expect("no holder of this lock can panic")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_check_ins_are_bounded_by_their_number() {
        let known = KnownReplicas::default();
        for number in 0..MAX_REPLICAS {
            assert!(known.admit(&number.to_string(), 1));
        }
        assert!(!known.admit("new", 1) && known.admit("0", 2));
    }

    #[test]
    fn large_check_ins_of_new_names_push_no_known_replica_out() {
        let known = KnownReplicas::default();
        for number in 0..200 {
            assert!(known.admit(&format!("known-{number}"), 1_000));
        }
        let large = 64 << 10;
        let admitted = (0..5_000)
            .filter(|number| known.admit(&format!("aaa-{number}"), large))
            .count();
        assert!(admitted * large < FLEET_BYTES && admitted > 200);
        for number in 0..200 {
            assert!(known.admit(&format!("known-{number}"), 1_000), "{number}");
        }
        assert!(known.place("known-199") < known.place("aaa-0"));
        known.begin_read();
        assert!(known.admit("known-0", 1_000));
        known.end_read(["known-1"].into_iter());
        assert_eq!(known.place("aaa-0"), u64::MAX, "silent names are forgotten");
        assert!(known.place("known-1") < known.place("new"));
        assert!(
            known.admit("known-2", FLEET_BYTES / 2),
            "their bytes are free"
        );
    }

    #[test]
    fn a_name_is_its_callers_own_while_the_replica_is_live() {
        let known = KnownReplicas::default();
        let at = |second: i64| DateTime::from_timestamp(second, 0).expect("a time");
        assert!(known.own("r", "a", at(10), at(0)));
        assert!(known.own("r", "b", at(10), at(1)), "it is not listed");
        known.admit("r", 1);
        assert!(known.own("r", "a", at(10), at(0)));
        assert!(!known.own("r", "b", at(99), at(5)));
        assert!(!known.own("r", "b", at(99), at(10)));
        assert!(known.own("r", "a", at(20), at(10)));
        assert!(!known.own("r", "b", at(30), at(20)));
        assert!(
            known.own("r", "b", at(30), at(21)),
            "the replica was silent"
        );
        assert!(!known.own("r", "a", at(40), at(22)));
    }

    #[test]
    fn an_alarm_is_of_a_known_run_and_once_a_minute() {
        let known = KnownReplicas::default();
        assert!(!known.checked_in("a", "1"), "not admitted");
        known.admit("a", 1);
        assert!(!known.checked_in("a", "1") && known.checked_in("a", "1"));
        assert!(!known.checked_in("a", "2"), "another run");
        let now = Instant::now();
        assert!(known.may_alarm("a", now) && !known.may_alarm("a", now + ALARM_PERIOD / 2));
        assert!(known.may_alarm("a", now + ALARM_PERIOD));
        assert!(!known.may_alarm("b", now));
    }
}
