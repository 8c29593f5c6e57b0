//! Replicas that break one promise each, and the judge that must catch every one: a check that
//! cannot fail is a defect.
//!
//! A world of numbers, no processes: a publisher that always commits, a replica that gets its
//! events late, twice, in the wrong order or never, and heals from the log at each check-in. What
//! it shows after each step goes before the judge.

use std::collections::{BTreeMap, BTreeSet};

use contract::status::ReplicaState;

use super::{
    super::{
        journal::{Key, Ms, Outcome, SLOTS},
        observe::{Held, Life, Observation, Reading, Seen},
    },
    Index, Promise, Replica, Verdict, durable,
    world::{Change, Store, World, held},
};
use crate::stage::SCHEMA_FREE;

pub(super) const COLLECTIONS: usize = SCHEMA_FREE.len();
/// Between two steps of the world.
const STEP: Ms = 10;
const CHECK_IN: Ms = 2_000;
const STALE: Ms = 5_500;
/// The history before a restore and the one after it.
const EPOCHS: [&str; 2] = ["e-1", "e-2"];
/// When a dump is taken, when it is put back, and when replicas notice; in steps.
const RESTORE: [u64; 3] = [900, 1_000, 1_030];

/// What a replica does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Nothing,
    /// Applies events without comparing revisions.
    Unordered,
    /// Forgets what it deleted, so that a late event brings it back.
    NoTombstones,
    /// Loses every third event and counts it as seen.
    Forgets,
    /// Applies the members of a set one by one.
    OneByOne,
    /// Takes an empty answer for the truth.
    BelievesEmpty,
    /// Serves before it has loaded.
    ServesUnloaded,
    /// Hears nothing any more and still says `current`.
    AlwaysCurrent,
    /// Stops listening and admits it, for ever.
    GivesUp,
    /// Diverges, is mended, and would go on as if nothing had been.
    Diverges,
}

/// A replica: the rules of a real one, as short as they can be, but for its fault.
struct Double {
    fault: Fault,
    documents: BTreeMap<Key, Seen>,
    deleted: BTreeMap<Key, u64>,
    seen: [BTreeSet<u64>; COLLECTIONS],
    watermarks: [u64; COLLECTIONS],
    epoch: &'static str,
    confirmed: Ms,
    events: u64,
    resets: u64,
}

impl Double {
    fn new(fault: Fault) -> Self {
        let (documents, deleted, seen) = (BTreeMap::new(), BTreeMap::new(), Default::default());
        Self {
            fault,
            documents,
            deleted,
            seen,
            watermarks: [0; COLLECTIONS],
            epoch: EPOCHS[0],
            confirmed: 0,
            events: 0,
            resets: 0,
        }
    }

    /// Takes another history as it is.
    fn load(&mut self, store: &Store, now: Ms) {
        (self.documents, self.watermarks, self.epoch) =
            (store.there.clone(), store.revisions, EPOCHS[1]);
        self.deleted.clear();
        self.seen = store.revisions.map(|last| (1..=last).collect());
        self.confirmed = now;
    }

    /// An event: sets wait until the log brings them whole, everything else is applied at once.
    fn event(&mut self, change: &Change) {
        self.events += 1;
        match self.fault {
            Fault::GivesUp | Fault::AlwaysCurrent => {}
            Fault::Forgets if self.events.is_multiple_of(3) => self.note(change),
            Fault::OneByOne => self.apply(change),
            _ if change.in_set => {}
            _ if self.behind_a_set(change) => {}
            _ => self.apply(change),
        }
    }

    /// What is missing before a change may be a set: then the change waits for the log as well.
    fn behind_a_set(&self, change: &Change) -> bool {
        self.fault == Fault::Nothing
            && change.revision > self.watermarks[usize::from(change.key.collection)] + 1
    }

    /// The log from the watermarks on, in its order; a set is a matter of one moment.
    fn check_in(&mut self, log: &[Change], now: Ms) {
        if matches!(self.fault, Fault::GivesUp | Fault::AlwaysCurrent) {
            return;
        }
        for change in log {
            if !self.seen[usize::from(change.key.collection)].contains(&change.revision) {
                self.apply(change);
            }
        }
        self.confirmed = now;
    }

    fn note(&mut self, change: &Change) {
        let place = usize::from(change.key.collection);
        self.seen[place].insert(change.revision);
        while self.seen[place].contains(&(self.watermarks[place] + 1)) {
            self.watermarks[place] += 1;
        }
    }

    fn apply(&mut self, change: &Change) {
        self.note(change);
        let held = self.documents.get(&change.key).map(|seen| seen.revision);
        let tombstone = self
            .deleted
            .get(&change.key)
            .copied()
            .filter(|_| self.fault != Fault::NoTombstones);
        if held.max(tombstone) > Some(change.revision) && self.fault != Fault::Unordered {
            return;
        }
        if change.deletes {
            self.documents.remove(&change.key);
            self.deleted.insert(change.key, change.revision);
        } else {
            self.documents.insert(
                change.key,
                Seen {
                    revision: change.revision,
                    token: change.token,
                },
            );
        }
    }

    fn state(&self, now: Ms) -> ReplicaState {
        let fresh = now <= self.confirmed + CHECK_IN * 5 / 2;
        if fresh || self.fault == Fault::AlwaysCurrent {
            ReplicaState::Current
        } else {
            ReplicaState::Stale
        }
    }
}

/// Looks at a double whenever something happened.
struct Looks {
    seen: Vec<Observation>,
    last: Box<Held>,
}

impl Looks {
    fn look(&mut self, double: &Double, now: Ms) {
        let held = held(&double.documents);
        let all = Key::all().map(|key| (key, held[key.slot()]));
        let changed = all
            .filter(|(key, now)| self.last[key.slot()] != *now)
            .collect();
        self.last = held;
        self.seen.push(Observation::Reading(Reading {
            sent: now,
            got: now,
            last_sent: now,
            life: Life {
                boot: "b".to_owned(),
                start: 1,
                resets: double.resets,
            },
            epoch: double.epoch.to_owned(),
            state: double.state(now),
            heads: double.watermarks,
            changed,
        }));
    }
}

/// A replica's life in the world, and what the judge says of it.
fn live(fault: Fault, seed: u64, restored: bool) -> Verdict {
    let (mut world, mut double) = (World::new(seed), Double::new(fault));
    let mut looks = Looks {
        seen: Vec::new(),
        last: Box::new([None; SLOTS]),
    };
    let (mut late, mut dump): (Vec<(Ms, Change)>, _) = (Vec::new(), None);
    world.journal.epochs.push((EPOCHS[0].to_owned(), 0));
    if fault == Fault::ServesUnloaded {
        looks.look(&double, 0);
    }
    for change in &world.store.log {
        double.apply(change);
    }
    for step in 1..2_000 {
        world.now = step * STEP;
        let away = restored && (RESTORE[1]..RESTORE[2]).contains(&step);
        if restored && step == RESTORE[0] {
            dump = Some((world.now, world.store.clone()));
        } else if let Some((dumped, store)) = dump.take_if(|_| step == RESTORE[1]) {
            world.restore(dumped, store);
            late.clear();
        } else if restored && step == RESTORE[2] {
            double.load(&world.store, world.now);
            late.clear();
            world.journal.epochs.push((EPOCHS[1].to_owned(), 1));
        } else if world.random.below(3) == 0 {
            for change in world.any_write() {
                // Late, twice, or never.
                for _copy in 0..world.random.below(3) {
                    late.push((world.now + world.random.below(600), change.clone()));
                }
            }
        }
        for (_, change) in late.extract_if(.., |(due, _)| !away && *due <= world.now) {
            double.event(&change);
            looks.look(&double, world.now);
        }
        if world.now.is_multiple_of(CHECK_IN) && !away {
            double.check_in(&world.store.log, world.now);
        }
        if fault == Fault::BelievesEmpty && step == 1_000 {
            double.documents.retain(|key, _| key.collection != 1);
        }
        double.resets += u64::from(fault == Fault::Diverges && step == 1_000);
        looks.look(&double, world.now);
    }
    double.check_in(&world.store.log, world.now);
    looks.look(&double, world.now);

    let index = Index::new(&world.journal);
    let (mut verdict, mut judge) = (Verdict::default(), Replica::new("double", STALE));
    for observation in &looks.seen {
        judge.judge(&index, observation, &mut verdict);
    }
    durable(&index, &held(&world.store.there), world.now, &mut verdict);
    let differs = double.documents != world.store.there;
    let differs = differs.then(|| super::Broken {
        at: world.now,
        what: "it differs".into(),
        key: None,
    });
    verdict.check(Promise::Converges, differs, "double", &index);
    verdict
}

#[test]
fn a_good_replica_passes() {
    for seed in 0..6 {
        let verdict = live(Fault::Nothing, seed, seed % 2 == 1);
        assert!(
            verdict.violations.is_empty(),
            "seed {seed}: {:#?}",
            verdict.violations.first()
        );
        for promise in Promise::ALL
            .into_iter()
            .filter(|promise| *promise < Promise::Leak)
        {
            assert!(
                verdict
                    .checks
                    .get(&promise)
                    .is_some_and(|checks| *checks > 0),
                "{promise:?} was never checked"
            );
        }
    }
}

#[test]
fn every_broken_replica_is_caught() {
    for (fault, promises) in [
        (
            Fault::Unordered,
            &[Promise::NoRollback, Promise::NoResurrection][..],
        ),
        (Fault::NoTombstones, &[Promise::NoResurrection]),
        (Fault::Forgets, &[Promise::NoLostAck, Promise::Converges]),
        (Fault::OneByOne, &[Promise::AtomicSet]),
        (Fault::BelievesEmpty, &[Promise::NeverEmpty]),
        (Fault::ServesUnloaded, &[Promise::NeverEmpty]),
        (Fault::AlwaysCurrent, &[Promise::NoSilentStale]),
        (Fault::GivesUp, &[Promise::Converges]),
        (Fault::Diverges, &[Promise::Explained]),
    ] {
        let broken = live(fault, 1, false).broken();
        assert!(
            promises.iter().all(|promise| broken.contains(promise)),
            "{fault:?} broke only {broken:?}"
        );
    }
}

/// A publisher that says 2xx and forgets.
#[test]
fn a_lost_write_is_missed() {
    let mut world = World::new(1);
    let lost = Key {
        collection: 0,
        number: 3,
    };
    let before = world.store.there[&lost];
    world.write(&[(lost, false)], Outcome::Acked);
    let mut held = held(&world.store.there);
    let judged = |held: &Held| {
        let mut verdict = Verdict::default();
        durable(&Index::new(&world.journal), held, 0, &mut verdict);
        verdict.broken()
    };
    assert_eq!(judged(&held), []);
    held[lost.slot()] = Some(before);
    assert_eq!(judged(&held), [Promise::NoLostAck]);
    held[lost.slot()] = None;
    assert_eq!(judged(&held), [Promise::NoLostAck]);
    held[lost.slot()] = Some(Seen {
        revision: 99,
        token: before.token,
    });
    assert_eq!(judged(&held), [Promise::Explained]);
}

/// After a dump was put back, what was acknowledged in between may be gone, and nothing else.
#[test]
fn a_restore_exempts_what_it_took() {
    let mut world = World::new(1);
    let (taken, safe) = (
        Key {
            collection: 0,
            number: 3,
        },
        Key {
            collection: 0,
            number: 4,
        },
    );
    world.now = 100;
    let dump = world.store.clone();
    world.now = 200;
    world.write(&[(taken, false)], Outcome::Acked);
    world.now = 300;
    world.restore(100, dump);
    world.now = 400;
    world.write(&[(safe, false)], Outcome::Acked);
    let mut held = held(&world.store.there);
    let judged = |held: &Held| {
        let mut verdict = Verdict::default();
        durable(&Index::new(&world.journal), held, 500, &mut verdict);
        verdict.broken()
    };
    assert_eq!(judged(&held), []);
    held[taken.slot()] = None;
    assert_eq!(
        judged(&held),
        [Promise::NoLostAck],
        "what the dump holds must be there"
    );
}
