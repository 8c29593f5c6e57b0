//! Replicas that break one promise each, and the judge that must catch every one: a check that cannot fail is a defect.
//!
//! A world of numbers, no processes: a publisher that always commits, a replica that gets its events late, twice, in the
//! wrong order or never, and heals from the log at each check-in. What it shows after each step goes before the judge.

use std::collections::{BTreeMap, BTreeSet};

use contract::status::State;

use super::{
    super::{
        journal::{Journal, Key, Ms, Outcome, SLOTS},
        observe::{Held, Life, Observation, Reading, Seen},
        random::Random,
    },
    Index, Promise, Replica, Verdict, durable,
};
use crate::stage::SCHEMA_FREE;

const COLLECTIONS: usize = SCHEMA_FREE.len();
/// Between two steps of the world.
const STEP: Ms = 10;
const CHECK_IN: Ms = 2_000;
const STALE: Ms = 5_500;

/// One change of the log.
#[derive(Debug, Clone)]
struct Change {
    key: Key,
    revision: u64,
    token: u64,
    deletes: bool,
    /// All changes of its request, itself included.
    set: Vec<(Key, u64)>,
}

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
}

/// A replica: the rules of a real one, as short as they can be, but for its fault.
struct Double {
    fault: Fault,
    documents: BTreeMap<Key, Seen>,
    deleted: BTreeMap<Key, u64>,
    seen: [BTreeSet<u64>; COLLECTIONS],
    watermarks: [u64; COLLECTIONS],
    confirmed: Ms,
    events: u64,
}

impl Double {
    fn new(fault: Fault) -> Self {
        let (documents, deleted, seen) = (BTreeMap::new(), BTreeMap::new(), Default::default());
        Self { fault, documents, deleted, seen, watermarks: [0; COLLECTIONS], confirmed: 0, events: 0 }
    }

    /// An event: sets wait until the log brings them whole, everything else is applied at once.
    fn event(&mut self, change: &Change) {
        self.events += 1;
        match self.fault {
            Fault::GivesUp | Fault::AlwaysCurrent => {}
            Fault::Forgets if self.events.is_multiple_of(3) => self.note(change),
            Fault::OneByOne => self.apply(change),
            _ if change.set.len() > 1 => {}
            _ if self.behind_a_set(change) => {}
            _ => self.apply(change),
        }
    }

    /// What is missing before a change may be a set: then the change waits for the log as well.
    fn behind_a_set(&self, change: &Change) -> bool {
        self.fault == Fault::Nothing && change.revision > self.watermarks[usize::from(change.key.collection)] + 1
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
        let tombstone = self.deleted.get(&change.key).copied().filter(|_| self.fault != Fault::NoTombstones);
        if held.max(tombstone) > Some(change.revision) && self.fault != Fault::Unordered {
            return;
        }
        if change.deletes {
            self.documents.remove(&change.key);
            self.deleted.insert(change.key, change.revision);
        } else {
            self.documents.insert(change.key, Seen { revision: change.revision, token: change.token });
        }
    }

    fn state(&self, now: Ms) -> State {
        let fresh = now <= self.confirmed + CHECK_IN * 5 / 2;
        if fresh || self.fault == Fault::AlwaysCurrent { State::Current } else { State::Stale }
    }
}

/// The world: what is written, and what is on its way.
struct World {
    random: Random,
    journal: Journal,
    log: Vec<Change>,
    revisions: [u64; COLLECTIONS],
    there: BTreeMap<Key, Seen>,
    now: Ms,
}

impl World {
    fn new(seed: u64) -> Self {
        let random = Random::new(seed);
        let (journal, log, there) = (Journal::default(), Vec::new(), BTreeMap::new());
        let mut world = Self { random, journal, log, revisions: [0; COLLECTIONS], there, now: 0 };
        world.journal.epochs.push(("e".to_owned(), 0));
        for key in Key::all().filter(|key| key.number < 8) {
            world.write(&[(key, false)]);
        }
        world
    }

    fn write(&mut self, members: &[(Key, bool)]) -> Vec<Change> {
        let token = self.journal.begin("put", 0, self.now, members.iter().copied());
        let mut changes = Vec::new();
        for (key, deletes) in members {
            let revision = &mut self.revisions[usize::from(key.collection)];
            *revision += 1;
            changes.push(Change { key: *key, revision: *revision, token, deletes: *deletes, set: Vec::new() });
            match deletes {
                true => self.there.remove(key),
                false => self.there.insert(*key, Seen { revision: *revision, token }),
            };
        }
        let set: Vec<_> = changes.iter().map(|change| (change.key, change.revision)).collect();
        for change in &mut changes {
            change.set.clone_from(&set);
        }
        let revisions: Vec<_> = set.iter().map(|(_, revision)| *revision).collect();
        self.journal.end(token, self.now, 200, Outcome::Acked, &revisions);
        self.log.extend(changes.iter().cloned());
        changes
    }

    fn any_write(&mut self) -> Vec<Change> {
        let key = |random: &mut Random| Key { collection: random.below(3) as u8, number: random.below(8) as u8 };
        let one = key(&mut self.random);
        let other = key(&mut self.random);
        match self.random.below(10) {
            0..3 if one != other => self.write(&[(one, false), (other, false)]),
            3..6 if !one.is_anchor() && self.there.contains_key(&one) => self.write(&[(one, true)]),
            _ => self.write(&[(one, false)]),
        }
    }
}

/// A replica's life in the world, as it was seen.
fn live(fault: Fault, seed: u64) -> Verdict {
    let mut world = World::new(seed);
    let mut double = Double::new(fault);
    let mut seen = Vec::new();
    let mut last: Box<Held> = Box::new([None; SLOTS]);
    let mut late: Vec<(Ms, Change)> = Vec::new();
    let mut look = |double: &Double, now: Ms| {
        let mut held: Box<Held> = Box::new([None; SLOTS]);
        for (key, document) in &double.documents {
            held[key.slot()] = Some(*document);
        }
        let changed =
            Key::all().map(|key| (key, held[key.slot()])).filter(|(key, now)| last[key.slot()] != *now).collect();
        last = held;
        seen.push(Observation::Reading(Reading {
            sent: now,
            got: now,
            last_sent: now,
            life: Life { boot: "b".to_owned(), start: 1, resets: 0 },
            epoch: "e".to_owned(),
            state: double.state(now),
            heads: double.watermarks,
            changed,
        }));
    };
    if fault == Fault::ServesUnloaded {
        look(&double, 0);
    }
    double.confirmed = 0;
    for change in world.log.clone() {
        double.apply(&change);
    }
    look(&double, 0);
    for step in 1..2_000 {
        world.now = step * STEP;
        if world.random.below(3) == 0 {
            for change in world.any_write() {
                // Late, twice, or never.
                for _copy in 0..world.random.below(3) {
                    late.push((world.now + world.random.below(600), change.clone()));
                }
            }
        }
        let due: Vec<_> = late.extract_if(.., |(due, _)| *due <= world.now).collect();
        for (_, change) in due {
            double.event(&change);
            look(&double, world.now);
        }
        if world.now.is_multiple_of(CHECK_IN) {
            double.check_in(&world.log, world.now);
            look(&double, world.now);
        }
        if fault == Fault::BelievesEmpty && step == 1_000 {
            double.documents.retain(|key, _| key.collection != 1);
            look(&double, world.now);
        }
        look(&double, world.now);
    }
    double.check_in(&world.log, world.now);
    look(&double, world.now);
    let index = Index::new(&world.journal);
    let mut verdict = Verdict::default();
    let mut judge = Replica::new("double", STALE);
    for observation in &seen {
        judge.judge(&index, observation, &mut verdict);
    }
    let held = |documents: &BTreeMap<Key, Seen>| {
        let mut held: Box<Held> = Box::new([None; SLOTS]);
        documents.iter().for_each(|(key, seen)| held[key.slot()] = Some(*seen));
        held
    };
    durable(&index, &held(&world.there), world.now, &mut verdict);
    let differs = (double.documents != world.there).then(|| super::Broken {
        at: world.now,
        what: "it differs".into(),
        key: None,
    });
    verdict.check(Promise::Converges, differs, "double", &index);
    verdict
}

#[test]
fn a_good_replica_passes() {
    for seed in 0..5 {
        let verdict = live(Fault::Nothing, seed);
        assert!(verdict.violations.is_empty(), "{:#?}", verdict.violations.first());
        for promise in Promise::ALL.into_iter().filter(|promise| *promise != Promise::Leak) {
            assert!(verdict.checks.get(&promise).is_some_and(|checks| *checks > 0), "{promise:?} was never checked");
        }
    }
}

#[test]
fn every_broken_replica_is_caught() {
    for (fault, promises) in [
        (Fault::Unordered, &[Promise::NoRollback, Promise::NoResurrection][..]),
        (Fault::NoTombstones, &[Promise::NoResurrection]),
        (Fault::Forgets, &[Promise::NoLostAck, Promise::Converges]),
        (Fault::OneByOne, &[Promise::AtomicSet]),
        (Fault::BelievesEmpty, &[Promise::NeverEmpty]),
        (Fault::ServesUnloaded, &[Promise::NeverEmpty]),
        (Fault::AlwaysCurrent, &[Promise::NoSilentStale]),
        (Fault::GivesUp, &[Promise::Converges]),
    ] {
        let broken = live(fault, 1).broken();
        assert!(promises.iter().all(|promise| broken.contains(promise)), "{fault:?} broke only {broken:?}");
    }
}

/// A publisher that says 2xx and forgets.
#[test]
fn a_lost_write_is_missed() {
    let mut world = World::new(1);
    let lost = Key { collection: 0, number: 3 };
    let before = world.there[&lost];
    world.write(&[(lost, false)]);
    let mut held: Box<Held> = Box::new([None; SLOTS]);
    world.there.iter().for_each(|(key, seen)| held[key.slot()] = Some(*seen));
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
    held[lost.slot()] = Some(Seen { revision: 99, token: before.token });
    assert_eq!(judged(&held), [Promise::Explained]);
}

/// After a dump was put back, what was acknowledged in between may be gone, and nothing else.
#[test]
fn a_restore_exempts_what_it_took() {
    let mut world = World::new(1);
    let (taken, safe) = (Key { collection: 0, number: 3 }, Key { collection: 0, number: 4 });
    world.now = 100;
    let dump = (world.there.clone(), world.revisions);
    world.now = 200;
    world.write(&[(taken, false)]);
    world.now = 300;
    (world.there, world.revisions) = dump;
    world.journal.restores.push(super::super::journal::Restore { dumped: 100, restored: 300 });
    world.now = 400;
    world.write(&[(safe, false)]);
    let mut held: Box<Held> = Box::new([None; SLOTS]);
    world.there.iter().for_each(|(key, seen)| held[key.slot()] = Some(*seen));
    let judged = |held: &Held| {
        let mut verdict = Verdict::default();
        durable(&Index::new(&world.journal), held, 500, &mut verdict);
        verdict.broken()
    };
    assert_eq!(judged(&held), []);
    held[taken.slot()] = None;
    assert_eq!(judged(&held), [Promise::NoLostAck], "what the dump holds must be there");
}
