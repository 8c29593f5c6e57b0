//! Staging is bounded, and catch-up by delta still progresses.

use contract::{CanonicalJson, Revision};
use proptest::{prelude::*, test_runner::Config};

use super::{
    model::{Model, Request, name},
    world::machine,
};
use crate::{
    Decision, Machine, ReceivedChange,
    staging::{MAX_BYTES, MAX_CHANGES},
};

/// A history with more changes after a set than staging can take: first a set over A and B, then
/// many changes of A, with another set in the middle of them.
fn long_history(changes: usize) -> Model {
    let operation = |collection, document| Request {
        collection,
        document,
        delete: false,
    };
    let mut model = Model::new();
    model.commit_set(&[operation(0, 0), operation(0, 1), operation(1, 0)]);
    (0..changes / 2).for_each(|n| model.commit(0, n % 4, n % 7 == 6));
    model.commit_set(&[operation(0, 0), operation(1, 1)]);
    (0..changes / 2).for_each(|n| model.commit(0, n % 4, n % 7 == 6));
    model
}

fn loaded(model: &Model) -> Machine {
    let mut machine = machine(3);
    let generation = machine.begin_load();
    let snapshot = model.snapshot([0; 3], &machine);
    machine.install(generation, snapshot).expect("installed");
    // Events far beyond the snapshot are only admitted when a publisher has confirmed them.
    machine.compare(&model.heads(model.newest()));
    machine
}

fn bytes_staged(machine: &Machine) -> usize {
    let held = machine.root().collection(name(0)).expect("followed");
    (1..=held.known())
        .filter_map(|revision| held.staged.get(revision))
        .map(ReceivedChange::size)
        .sum()
}

/// One pass of a delta from the watermarks, in the order of the feed.
fn delta(machine: &mut Machine, model: &Model) {
    for (name, from) in machine.root().gaps() {
        let log = model.logs.iter().find(|log| {
            log.changes
                .first()
                .is_some_and(|change| change.collection == name)
        });
        for change in &log.expect("a log with changes").changes[from as usize..] {
            machine.apply(change);
        }
    }
}

/// Deltas until nothing is missing. Each must move a watermark.
fn catch_up(machine: &mut Machine, model: &Model) -> usize {
    let marks = |machine: &Machine| -> Revision {
        machine
            .root()
            .collections()
            .map(|(_name, held)| held.watermark())
            .sum()
    };
    machine.compare(&model.heads(model.newest()));
    let mut passes = 0;
    while !machine.root().gaps().is_empty() {
        let before = marks(machine);
        delta(machine, model);
        assert!(marks(machine) > before, "a delta brought nothing");
        passes += 1;
    }
    for (collection, newest) in model.newest().into_iter().take(2).enumerate() {
        let held = machine
            .root()
            .collection(name(collection))
            .expect("followed");
        assert!(held.settled());
        assert_eq!(held.last_settled(), Some(model.settled(collection, newest)));
    }
    passes
}

#[test]
fn the_lowest_revisions_stay_and_the_highest_are_removed() {
    let model = long_history(2 * MAX_CHANGES);
    let mut machine = loaded(&model);
    // The part of the first set in B is lost, so all changes of A have to wait.
    for revision in 3..3 + MAX_CHANGES as Revision {
        assert_eq!(machine.apply(model.change(0, revision)), Decision::Staged);
    }
    let next = model.change(0, 3 + MAX_CHANGES as Revision);
    assert_eq!(machine.apply(next), Decision::NoCapacity);
    assert_eq!(
        machine.decide(next),
        Decision::NoCapacity,
        "it does not count as seen"
    );
    assert_eq!(machine.apply(model.change(0, 1)), Decision::Staged);
    let highest = model.change(0, 2 + MAX_CHANGES as Revision);
    assert_eq!(
        machine.decide(highest),
        Decision::NoCapacity,
        "it had to go"
    );
    let held = machine.root().collection(name(0)).expect("followed");
    assert_eq!(
        (held.staged(), held.known()),
        (MAX_CHANGES, model.revision(0))
    );
    assert_eq!(catch_up(&mut machine, &model), 2);
}

#[test]
fn large_values_count_by_bytes() {
    let mut model = long_history(60);
    let large =
        CanonicalJson::parse(format!("{{\"value\":\"{}\"}}", "x".repeat(1 << 20)).as_bytes())
            .expect("json");
    let mut machine = loaded(&model);
    for change in &mut model.logs[0].changes {
        change.config = change.config.as_ref().map(|_config| large.clone());
        assert_ne!(machine.apply(change), Decision::Applied);
        assert!(bytes_staged(&machine) <= MAX_BYTES);
    }
    let held = machine.root().collection(name(0)).expect("followed");
    // Deletions have no value bytes, so there is capacity for the ones among the dropped values.
    assert!(held.staged() < 30 && (1..10).all(|revision| held.staged.get(revision).is_some()));
    for _pass in 0..8 {
        delta(&mut machine, &model);
    }
    let held = machine.root().collection(name(0)).expect("followed");
    assert_eq!(held.watermark(), model.revision(0));
    assert!(held.settled());
}

proptest! {
    #![proptest_config(Config { cases: 24, failure_persistence: None, ..Config::default() })]
    #[test]
    fn a_delta_catches_up_whatever_arrived_before_it(
        changes in 4_000..9_000usize,
        order in prop::collection::vec(any::<prop::sample::Index>(), 1..9_000),
    ) {
        let model = long_history(changes);
        let mut machine = loaded(&model);
        for at in order {
            let change = &model.logs[0].changes[at.index(model.logs[0].changes.len())];
            let decided = machine.decide(change);
            prop_assert_eq!(machine.apply(change), decided);
            let held = machine.root().collection(name(0)).expect("followed");
            prop_assert!(held.staged() <= MAX_CHANGES);
            prop_assert_eq!(held.covered(change.revision), decided != Decision::NoCapacity);
        }
        prop_assert!(catch_up(&mut machine, &model) <= 4);
    }
}
