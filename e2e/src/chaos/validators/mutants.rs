//! Replicas that break one promise each, to prove that the validators find every fault.
//!
//! A model without processes: a publisher that always commits, and a replica that gets its events
//! late, twice, out of order or never, and catches up from the log at each check-in. Every state of
//! the replica is validated.

use std::collections::{BTreeMap, BTreeSet};

use contract::status::ReplicaState;

use super::{
    super::{
        observations::{DocumentTable, Observation, ProcessRun, SeenValue, ServedView},
        record::{DocumentKey, Millis, Outcome, Probe, ProbeAnswer, SLOTS, SpoiltRow},
    },
    Findings, Promise, ReplicaValidator, WriteIndex, durable, epoch_explained,
    model::{Change, Model, Store, held},
    spoilt_row,
};
use crate::testbed::SCHEMA_FREE;

pub(super) const COLLECTIONS: usize = SCHEMA_FREE.len();
/// Between two steps of the world.
const STEP: Millis = 10;
const CHECK_IN: Millis = 2_000;
const STALE: Millis = 5_500;
/// The history before a restore and the one after it.
const EPOCHS: [&str; 2] = ["e-1", "e-2"];
/// When a dump is taken, when it is put back, and when replicas notice; in steps.
const RESTORE: [u64; 3] = [900, 1_000, 1_030];

/// The fault of a mutant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutation {
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
    /// Receives nothing any more and still reports `current`.
    AlwaysCurrent,
    /// Stops receiving and reports it, indefinitely.
    GivesUp,
    /// Diverges, and continues after the repair as if nothing had happened.
    Diverges,
}

/// The rules of a real replica in short form, except for its fault.
struct MutantReplica {
    fault: Mutation,
    documents: BTreeMap<DocumentKey, SeenValue>,
    deleted: BTreeMap<DocumentKey, u64>,
    seen: [BTreeSet<u64>; COLLECTIONS],
    watermarks: [u64; COLLECTIONS],
    epoch: &'static str,
    confirmed: Millis,
    events: u64,
    resets: u64,
}

impl MutantReplica {
    fn new(fault: Mutation) -> Self {
        let documents = BTreeMap::new();
        let deleted = BTreeMap::new();
        let seen = Default::default();
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
    fn load(&mut self, store: &Store, now: Millis) {
        (self.documents, self.watermarks, self.epoch) =
            (store.documents.clone(), store.revisions, EPOCHS[1]);
        self.deleted.clear();
        self.seen = store.revisions.map(|last| (1..=last).collect());
        self.confirmed = now;
    }

    /// An event: sets wait until the log brings them whole, everything else is applied at once.
    fn event(&mut self, change: &Change) {
        self.events += 1;
        match self.fault {
            Mutation::GivesUp | Mutation::AlwaysCurrent => {}
            Mutation::Forgets if self.events.is_multiple_of(3) => self.note(change),
            Mutation::OneByOne => self.apply(change),
            _ if change.in_set => {}
            _ if self.behind_a_set(change) => {}
            _ => self.apply(change),
        }
    }

    /// What is missing before a change may be a set: then the change waits for the log as well.
    fn behind_a_set(&self, change: &Change) -> bool {
        self.fault == Mutation::Nothing
            && change.revision > self.watermarks[usize::from(change.key.collection)] + 1
    }

    /// The log from the watermarks on, in its order; a set is a matter of one moment.
    fn check_in(&mut self, log: &[Change], now: Millis) {
        if matches!(self.fault, Mutation::GivesUp | Mutation::AlwaysCurrent) {
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
            .filter(|_| self.fault != Mutation::NoTombstones);
        if held.max(tombstone) > Some(change.revision) && self.fault != Mutation::Unordered {
            return;
        }
        if change.deletes {
            self.documents.remove(&change.key);
            self.deleted.insert(change.key, change.revision);
        } else {
            self.documents.insert(
                change.key,
                SeenValue {
                    revision: change.revision,
                    token: change.token,
                },
            );
        }
    }

    fn state(&self, now: Millis) -> ReplicaState {
        let fresh = now <= self.confirmed + CHECK_IN * 5 / 2;
        if fresh || self.fault == Mutation::AlwaysCurrent {
            ReplicaState::Current
        } else {
            ReplicaState::Stale
        }
    }
}

/// Observes a mutant after every step.
struct Observer {
    seen: Vec<Observation>,
    last: Box<DocumentTable>,
}

impl Observer {
    fn observe(&mut self, mutant: &MutantReplica, now: Millis) {
        let held = held(&mutant.documents);
        let all = DocumentKey::all().map(|key| (key, held[key.slot()]));
        let changed = all
            .filter(|(key, now)| self.last[key.slot()] != *now)
            .collect();
        self.last = held;
        self.seen.push(Observation::ServedView(ServedView {
            sent: now,
            got: now,
            last_sent: now,
            life: ProcessRun {
                boot: "b".to_owned(),
                start: 1,
                resets: mutant.resets,
            },
            epoch: mutant.epoch.to_owned(),
            state: mutant.state(now),
            heads: mutant.watermarks,
            changed,
        }));
    }
}

/// Runs a mutant in the model and validates what it showed.
fn live(fault: Mutation, seed: u64, restored: bool) -> Findings {
    let mut model = Model::new(seed);
    let mut mutant = MutantReplica::new(fault);
    let mut observer = Observer {
        seen: Vec::new(),
        last: Box::new([None; SLOTS]),
    };
    let mut late: Vec<(Millis, Change)> = Vec::new();
    let mut dump = None;
    model.record.epochs.push((EPOCHS[0].to_owned(), 0));
    if fault == Mutation::ServesUnloaded {
        observer.observe(&mutant, 0);
    }
    for change in &model.store.log {
        mutant.apply(change);
    }
    for step in 1..2_000 {
        model.now = step * STEP;
        let away = restored && (RESTORE[1]..RESTORE[2]).contains(&step);
        if restored && step == RESTORE[0] {
            dump = Some((model.now, model.store.clone()));
        } else if let Some((dumped, store)) = dump.take_if(|_| step == RESTORE[1]) {
            model.restore(dumped, store);
            late.clear();
        } else if restored && step == RESTORE[2] {
            mutant.load(&model.store, model.now);
            late.clear();
            model.record.epochs.push((EPOCHS[1].to_owned(), 1));
        } else if model.random.below(3) == 0 {
            for change in model.any_write() {
                // Late, twice, or never.
                for _copy in 0..model.random.below(3) {
                    late.push((model.now + model.random.below(600), change.clone()));
                }
            }
        }
        for (_, change) in late.extract_if(.., |(due, _)| !away && *due <= model.now) {
            mutant.event(&change);
            observer.observe(&mutant, model.now);
        }
        if model.now.is_multiple_of(CHECK_IN) && !away {
            mutant.check_in(&model.store.log, model.now);
        }
        if fault == Mutation::BelievesEmpty && step == 1_000 {
            mutant.documents.retain(|key, _| key.collection != 1);
        }
        mutant.resets += u64::from(fault == Mutation::Diverges && step == 1_000);
        observer.observe(&mutant, model.now);
    }
    mutant.check_in(&model.store.log, model.now);
    observer.observe(&mutant, model.now);

    let index = WriteIndex::new(&model.record);
    let (mut findings, mut validate) =
        (Findings::default(), ReplicaValidator::new("mutant", STALE));
    for observation in &observer.seen {
        validate.validate(&index, observation, &mut findings);
    }
    durable(
        &index,
        &held(&model.store.documents),
        model.now,
        &mut findings,
    );
    let differs = mutant.documents != model.store.documents;
    let differs = differs.then(|| super::FailedCheck {
        at: model.now,
        what: "it differs".into(),
        key: None,
    });
    findings.check(Promise::Converges, differs, "mutant", &index);
    findings
}

#[test]
fn a_correct_replica_passes() {
    for seed in 0..6 {
        let findings = live(Mutation::Nothing, seed, seed % 2 == 1);
        assert!(
            findings.violations.is_empty(),
            "seed {seed}: {:#?}",
            findings.violations.first()
        );
        for promise in Promise::ALL
            .into_iter()
            .filter(|promise| *promise < Promise::Leak)
        {
            assert!(
                findings
                    .checks
                    .get(&promise)
                    .is_some_and(|checks| *checks > 0),
                "{promise:?} was never checked"
            );
        }
    }
}

#[test]
fn every_broken_replica_is_detected() {
    for (fault, promises) in [
        (
            Mutation::Unordered,
            &[Promise::NoRollback, Promise::NoResurrection][..],
        ),
        (Mutation::NoTombstones, &[Promise::NoResurrection]),
        (Mutation::Forgets, &[Promise::NoLostAck, Promise::Converges]),
        (Mutation::OneByOne, &[Promise::AtomicSet]),
        (Mutation::BelievesEmpty, &[Promise::NeverEmpty]),
        (Mutation::ServesUnloaded, &[Promise::NeverEmpty]),
        (Mutation::AlwaysCurrent, &[Promise::NoSilentStale]),
        (Mutation::GivesUp, &[Promise::Converges]),
        (Mutation::Diverges, &[Promise::Explained]),
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
fn a_lost_write_is_detected() {
    let mut model = Model::new(1);
    let lost = DocumentKey {
        collection: 0,
        number: 3,
    };
    let before = model.store.documents[&lost];
    model.write(&[(lost, false)], Outcome::Acked);
    let mut held = held(&model.store.documents);
    let validated = |held: &DocumentTable| {
        let mut findings = Findings::default();
        durable(&WriteIndex::new(&model.record), held, 0, &mut findings);
        findings.broken()
    };
    assert_eq!(validated(&held), []);
    held[lost.slot()] = Some(before);
    assert_eq!(validated(&held), [Promise::NoLostAck]);
    held[lost.slot()] = None;
    assert_eq!(validated(&held), [Promise::NoLostAck]);
    held[lost.slot()] = Some(SeenValue {
        revision: 99,
        token: before.token,
    });
    assert_eq!(validated(&held), [Promise::Explained]);
}

/// After a dump was put back, what was acknowledged in between may be gone, and nothing else.
#[test]
fn a_restore_exempts_the_lost_writes() {
    let mut model = Model::new(1);
    let taken = DocumentKey {
        collection: 0,
        number: 3,
    };
    let safe = DocumentKey {
        collection: 0,
        number: 4,
    };
    model.now = 100;
    let dump = model.store.clone();
    model.now = 200;
    model.write(&[(taken, false)], Outcome::Acked);
    model.now = 300;
    model.restore(100, dump);
    model.now = 400;
    model.write(&[(safe, false)], Outcome::Acked);
    let mut held = held(&model.store.documents);
    let validated = |held: &DocumentTable| {
        let mut findings = Findings::default();
        durable(&WriteIndex::new(&model.record), held, 500, &mut findings);
        findings.broken()
    };
    assert_eq!(validated(&held), []);
    held[taken.slot()] = None;
    assert_eq!(
        validated(&held),
        [Promise::NoLostAck],
        "what the dump holds must be there"
    );
}

/// A publisher that believes a forged report.
#[test]
fn an_epoch_without_a_restore_is_detected() {
    let mut model = Model::new(1);
    let validated = |model: &Model, epoch: &str| {
        let mut findings = Findings::default();
        epoch_explained(&WriteIndex::new(&model.record), epoch, 0, &mut findings);
        findings.broken()
    };
    assert_eq!(validated(&model, EPOCHS[0]), [], "the first one");
    model.record.epochs.push((EPOCHS[0].to_owned(), 0));
    assert_eq!(validated(&model, EPOCHS[0]), []);
    assert_eq!(validated(&model, EPOCHS[1]), [Promise::NoFalseEpoch]);
    let dump = model.store.clone();
    model.restore(0, dump);
    assert_eq!(validated(&model, EPOCHS[1]), [], "there was a restore");
}

/// A publisher that shows a row as it is stored, or leaves it out, instead of what was committed.
#[test]
fn a_spoilt_row_that_is_shown_is_detected() {
    let mut model = Model::new(1);
    let key = DocumentKey {
        collection: 0,
        number: 3,
    };
    model.write(&[(key, false)], Outcome::Acked);
    let stored = model.store.documents[&key];
    let wrong = SeenValue {
        revision: stored.revision + 1_000,
        ..stored
    };
    model.record.spoilt.push(SpoiltRow {
        key,
        at: model.now,
        what: "Revision".to_owned(),
        wrong: Some(wrong),
    });
    let later = model.now + 1_000;
    let probed = |answer: ProbeAnswer| {
        let (sent, got, path) = (later, later, "/".to_owned());
        let probe = Probe {
            key,
            sent,
            got,
            path,
            answer,
        };
        let mut findings = Findings::default();
        spoilt_row(&WriteIndex::new(&model.record), &probe, &mut findings);
        findings.broken()
    };
    let value = ProbeAnswer::Value;
    assert_eq!(probed(value(Some(stored))), [], "from the log");
    assert_eq!(probed(ProbeAnswer::Named), [], "by name");
    for answer in [
        value(Some(wrong)),
        value(None),
        ProbeAnswer::Other("500".to_owned()),
    ] {
        assert_eq!(probed(answer), [Promise::NoSpoiltValue]);
    }
    let mut held = held(&model.store.documents);
    held[key.slot()] = Some(wrong);
    let mut findings = Findings::default();
    durable(&WriteIndex::new(&model.record), &held, later, &mut findings);
    assert!(findings.broken().contains(&Promise::NoSpoiltValue));
}
