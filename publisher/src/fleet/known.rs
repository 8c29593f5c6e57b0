//! Which replicas are known, since when, and how much memory their records take.
//!
//! Any client can send a check-in with a new name. A replica that is known keeps its place in the list
//! and its alarms, whatever comes after it: beyond the bound new names are refused. Nothing here is stored; after a restart the replicas of the store are known.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use service::runtime::log_rate::LogRate;
use tokio::time::Instant;
use tracing::warn;

use crate::store::replicas::{FLEET_BYTES, MAX_REPLICAS, REPLICA_BYTES};

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
    /// Replicas that are answered and not listed, and until when each counts as live.
    unlisted: HashMap<String, Instant>,
    /// The last generation of the rows that were read.
    read: u64,
}

#[derive(Debug)]
struct KnownReplica {
    bytes: usize,
    /// The run of the process that checked in here last, if any did.
    boot_id: Option<String>,
    alarmed_at: Option<Instant>,
    /// The caller that checked in with this name, and until when the name is its own.
    owner: Option<(String, Instant)>,
    /// The generation of the rows in which it was, or in which it checked in.
    seen_in: u64,
}

impl KnownReplicas {
    /// Whether a record of this replica can be admitted, by the least that each takes.
    pub(super) fn may_admit(&self, instance: &str) -> bool {
        let known = self.lock();
        known.by_name.contains_key(instance) || known.bytes + REPLICA_BYTES <= FLEET_BYTES
    }

    /// Admits the record of a check-in, or of a row of the store, that takes this many bytes. `false` when
    /// it exceeds the bound: the replica is answered and not listed.
    pub(super) fn admit(&self, instance: &str, bytes: usize) -> bool {
        // So that a replica which is known can always report in short.
        let bytes = bytes.max(REPLICA_BYTES);
        let mut known = self.lock();
        let old = known.by_name.get(instance).map_or(0, |known| known.bytes);
        let total = known.bytes - old + bytes;
        if total > FLEET_BYTES {
            return false;
        }
        known.bytes = total;
        known.unlisted.remove(instance);
        let seen_in = known.read;
        match known.by_name.get_mut(instance) {
            Some(replica) => {
                replica.bytes = bytes;
                replica.seen_in = seen_in;
            }
            None => {
                let replica = KnownReplica {
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

    /// A check-in that was not admitted, of a replica that counts as live until then.
    pub(super) fn refuse(&self, instance: &str, live_until: Instant) {
        static LINES: LogRate = LogRate::new();
        if let Some(left_out) = LINES.due() {
            warn!(
                instance,
                "the list of replicas is full ({MAX_REPLICAS} of 4 KiB): replica {instance} is answered, and \
                 neither listed nor waited for. See who checks in, and let replicas follow a subscriber{left_out}"
            );
        }
        let mut known = self.lock();
        let now = Instant::now();
        if known.unlisted.len() >= MAX_REPLICAS {
            known.unlisted.retain(|_name, until| *until >= now);
        }
        if known.unlisted.len() < MAX_REPLICAS || known.unlisted.contains_key(instance) {
            known.unlisted.insert(instance.to_owned(), live_until);
        }
    }

    /// Whether the last check-in of the replica was not admitted.
    pub(super) fn is_unlisted(&self, instance: &str) -> bool {
        self.lock().unlisted.contains_key(instance)
    }

    /// Live replicas that are answered and not listed.
    pub(super) fn unlisted(&self, now: Instant) -> usize {
        let known = self.lock();
        known
            .unlisted
            .values()
            .filter(|until| **until >= now)
            .count()
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
    pub(super) fn own(&self, instance: &str, caller: &str, until: Instant, now: Instant) -> bool {
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
        known.begin_read();
        assert!(known.admit("known-0", 1_000));
        known.end_read(["known-1"].into_iter());
        let is_known = |name| known.lock().by_name.contains_key(name);
        assert!(!is_known("aaa-0"), "silent names are forgotten");
        assert!(is_known("known-1") && is_known("known-0"));
        assert!(
            known.admit("known-2", FLEET_BYTES / 2),
            "their bytes are free"
        );
    }

    #[test]
    fn a_name_is_its_callers_own_while_the_replica_is_live() {
        let known = KnownReplicas::default();
        let begun = Instant::now();
        let at = |second| begun + Duration::from_secs(second);
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

    #[test]
    fn a_replica_that_is_not_listed_counts_while_it_is_live() {
        let known = KnownReplicas::default();
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        known.refuse("new", later);
        known.refuse("new", later);
        known.refuse("other", now);
        assert_eq!((known.unlisted(now), known.unlisted(later)), (2, 1));
        assert!(known.is_unlisted("new") && !known.is_unlisted("listed"));
        assert!(known.admit("new", 1), "there is a place again");
        assert!(!known.is_unlisted("new"));
    }
}
