//! Single cases: loads, epochs that ended, and collections without revisions.

use contract::{
    CanonicalJson, Change, Crc, Digest, Document, DocumentId, Epoch, Head, Operation, Replaced,
    Revision, fleet::SettledPoint, snapshot,
};

use super::{
    model::{Model, id, name, value},
    world::{World, machine},
};
use crate::{
    CollectionState, Decision, InstallError, InstallKind, Installed, Machine, ReceivedChange,
    Snapshot, VisibleChange, collection::MAX_LEAD,
};

const A: u8 = 1;

fn three_documents() -> Model {
    let mut model = Model::new();
    (0..3).for_each(|document| model.commit(0, document, false));
    model
}

fn attempt(machine: &mut Machine, model: &Model, epoch: Epoch) -> Result<Installed, InstallError> {
    let generation = machine.begin_load();
    let snapshot = Model {
        epoch,
        ..model.clone()
    }
    .snapshot(model.newest(), machine);
    machine.install(generation, snapshot)
}

#[test]
fn changes_before_the_first_load_are_not_lost() {
    let mut model = three_documents();
    let mut machine = machine(A);
    let generation = machine.begin_load();
    let snapshot = model.snapshot(model.newest(), &machine);
    model.commit(0, 1, true);
    assert_eq!(machine.apply(model.change(0, 4)), Decision::Early);
    machine.install(generation, snapshot).expect("installed");
    assert!(machine.root().get(name(0), id(1)).is_none());
    assert_eq!(
        machine
            .root()
            .collection(name(0))
            .map(|held| held.watermark()),
        Some(4)
    );
}

#[test]
fn another_store_or_an_older_epoch_never_replaces_good_data() {
    let model = three_documents();
    let mut machine = World::loaded(A, model.clone()).machine;
    let (ours, newer) = (
        model.epoch,
        Epoch {
            counter: 2,
            ..model.epoch
        },
    );
    let foreign = Epoch {
        lineage: 8,
        counter: 9,
    };
    assert_eq!(
        attempt(&mut machine, &model, foreign),
        Err(InstallError::OtherStore(foreign))
    );
    assert_eq!(
        attempt(&mut machine, &Model::new(), foreign),
        Err(InstallError::OtherStore(foreign))
    );
    assert_eq!(
        machine.root().collection(name(0)).map(|held| held.count()),
        Some(3)
    );
    assert_eq!(
        attempt(&mut machine, &model, newer),
        Ok(Installed {
            how: InstallKind::Replaced,
            resets: 0
        })
    );
    assert_eq!(
        attempt(&mut machine, &model, ours),
        Err(InstallError::OlderEpoch(ours))
    );
    let event = ReceivedChange {
        revision: 4,
        ..model.change(0, 1).clone()
    };
    assert_eq!(machine.apply(&event), Decision::OtherEpoch);
}

/// The counter of the new lineage has no relation to the old one.
#[test]
fn a_lineage_that_replaces_the_held_one_is_followed_and_no_other() {
    let mut model = three_documents();
    let mut machine = World::loaded(A, model.clone()).machine;
    let ours = model.epoch;
    let [other, renewed] = [8, 9].map(|lineage| Epoch {
        lineage,
        counter: 1,
    });
    model.replaces = Replaced::default().after(other, renewed);
    assert_eq!(
        attempt(&mut machine, &model, renewed),
        Err(InstallError::OtherStore(renewed)),
        "it replaces another lineage"
    );
    model.replaces = Replaced::default().after(ours, renewed);
    let installed = attempt(&mut machine, &model, renewed).expect("followed");
    assert_eq!(installed.how, InstallKind::Replaced);
    assert_eq!(machine.root().epoch(), Some(renewed));
    assert!(machine.root().replaces().includes(ours));
    model.replaces = Replaced::default();
    assert_eq!(
        attempt(&mut machine, &model, ours),
        Err(InstallError::OtherStore(ours)),
        "the replaced lineage does not come back"
    );
}

#[test]
fn a_declared_newer_epoch_may_be_empty() {
    let model = three_documents();
    let mut machine = World::loaded(A, model.clone()).machine;
    let newer = Epoch {
        counter: 2,
        ..model.epoch
    };
    assert_eq!(
        attempt(&mut machine, &Model::new(), newer),
        Ok(Installed {
            how: InstallKind::Replaced,
            resets: 0
        })
    );
    let held = machine.root().collection(name(0)).expect("followed");
    let empty = SettledPoint {
        revision: 0,
        digest: Digest::default(),
    };
    assert_eq!(
        (held.count(), held.known(), held.last_settled()),
        (0, 0, Some(empty))
    );
}

#[test]
fn an_incomplete_snapshot_is_refused() {
    let model = three_documents();
    let machine = machine(A);
    let head = |count, digest| Head {
        revision: 3,
        count,
        digest,
        ..Head::empty(name(0).clone(), model.epoch)
    };
    let start = |head| {
        Snapshot::begin(snapshot::SnapshotStart {
            epoch: model.epoch,
            heads: vec![head],
        })
    };
    let right = model.state(0, 3).digest;
    let cut = start(head(3, right));
    assert!(
        cut.complete(
            &snapshot::SnapshotEnd {
                end: true,
                count: 3
            },
            machine.root()
        )
        .is_err()
    );
    let wrong_sum = start(head(0, right));
    assert!(
        wrong_sum
            .complete(
                &snapshot::SnapshotEnd {
                    end: true,
                    count: 0
                },
                machine.root()
            )
            .is_err()
    );
    let nothing = Snapshot::begin(snapshot::SnapshotStart {
        epoch: model.epoch,
        heads: vec![],
    });
    assert!(
        nothing
            .complete(
                &snapshot::SnapshotEnd {
                    end: true,
                    count: 0
                },
                machine.root()
            )
            .is_err()
    );
    let mut damaged = start(head(3, right));
    let item = snapshot::SnapshotItem {
        collection: name(0).clone(),
        crc: Crc(1),
        document: Document::new(id(0).clone(), 1, value(0, 1, 1)),
    };
    assert!(damaged.item(item, machine.root()).is_err());
}

#[test]
fn a_diverged_collection_is_reset_by_the_next_load_at_its_watermark() {
    let mut world = World::loaded(A, three_documents());
    world.model().commit(0, 0, false);
    world.model().commit(0, 1, false);
    let (at, newest) = ([3, 0, 0], world.model().change(0, 5).clone());
    assert_eq!(world.deliver(&newest), Decision::Applied);
    // Simulates a fault that no rule explains: one document is missing, and another has a value
    // that was never committed.
    let held = world
        .machine
        .root
        .collections
        .get_mut(name(0))
        .expect("followed");
    held.remove(id(2));
    held.put(contract::Document::new(id(0).clone(), 1, value(0, 1, 9)));
    let load = |world: &mut World, at: [Revision; 3]| {
        let generation = world.machine.begin_load();
        let snapshot = world.models[0].snapshot(at, &world.machine);
        world.machine.install(generation, snapshot)
    };
    let reset = |resets| {
        Ok(Installed {
            how: InstallKind::CaughtUp,
            resets,
        })
    };
    assert_eq!(
        load(&mut world, at),
        reset(0),
        "W suffices, so nothing is touched without a reason"
    );
    world.machine.mark_diverged(name(0));
    assert_eq!(
        load(&mut world, [2, 0, 0]),
        reset(0),
        "a snapshot from before W would go back"
    );
    assert!(
        world
            .machine
            .root()
            .collection(name(0))
            .is_some_and(|held| held.diverged())
    );
    assert_eq!(load(&mut world, at), reset(1));
    let held = world.machine.root().collection(name(0)).expect("followed");
    assert!(!held.diverged() && held.last_settled().is_none());
    // Revision 5 stays, and together with revision 4 the state is correct; the world compares it
    // with the model.
    let missing = world.models[0].change(0, 4).clone();
    world.machine.apply(&missing);
    let held = world.machine.root().collection(name(0)).expect("followed");
    assert_eq!(held.last_settled(), Some(world.models[0].settled(0, 5)));
}

#[test]
fn a_reset_is_not_delayed_by_new_changes() {
    let mut world = World::loaded(A, three_documents());
    let held = world
        .machine
        .root
        .collections
        .get_mut(name(0))
        .expect("followed");
    held.put(contract::Document::new(id(0).clone(), 1, value(0, 1, 9)));
    world.machine.mark_diverged(name(0));
    let generation = world.machine.begin_load();
    let snapshot = world.models[0].snapshot([3, 0, 0], &world.machine);
    world.models[0].commit(0, 1, true);
    let deletion = world.models[0].change(0, 4).clone();
    assert_eq!(world.machine.apply(&deletion), Decision::Applied);
    let installed = world.machine.install(generation, snapshot);
    assert_eq!(
        installed,
        Ok(Installed {
            how: InstallKind::CaughtUp,
            resets: 1
        })
    );
    let held = world.machine.root().collection(name(0)).expect("followed");
    assert_eq!(
        (held.watermark(), held.last_settled()),
        (4, Some(world.models[0].settled(0, 4)))
    );
}

/// An event may be wrong about its change set; the record of the change log corrects it.
#[test]
fn a_record_replaces_a_staged_event() {
    let mut world = World::loaded(A, three_documents());
    world.models[0].commit(0, 1, false);
    world.models[0].commit(0, 2, false);
    let [first, record] = [4, 5].map(|revision| world.models[0].change(0, revision).clone());
    let wrong = ReceivedChange {
        last_set: 4,
        ..record.clone()
    };
    assert_eq!(world.machine.apply(&wrong), Decision::Staged);
    assert_eq!(world.machine.apply(&record), Decision::Duplicate);
    assert_eq!(world.machine.apply_record(&record), Decision::Applied);
    assert_eq!(world.machine.apply_record(&first), Decision::Applied);
    assert!(
        world
            .machine
            .root()
            .collection(name(0))
            .is_some_and(|held| held.settled() && held.watermark() == 5)
    );
}

/// A committed burst beyond the bound: the head of a publisher, or the feed, confirms it.
#[test]
fn a_far_change_is_applied_after_a_publisher_confirmed_it() {
    let mut world = World::loaded(A, three_documents());
    let far = ReceivedChange {
        revision: 3 + MAX_LEAD + 1,
        ..world.models[0].change(0, 3).clone()
    };
    let before = world.machine.root().clone();
    assert_eq!(world.machine.apply(&far), Decision::Unconfirmed);
    assert_eq!(world.held(0).map(CollectionState::known), Some(3));
    assert!(
        world
            .machine
            .take_visible()
            .iter()
            .all(|visible| !matches!(visible, VisibleChange::Change(change) if **change == far))
    );
    let nearest = ReceivedChange {
        revision: far.revision - 1,
        ..far.clone()
    };
    assert_eq!(world.machine.decide(&nearest), Decision::Applied);
    let head = contract::Head {
        revision: far.revision,
        ..contract::Head::empty(name(0).clone(), far.epoch)
    };
    assert!(world.machine.compare(&[head]), "the feed brings the rest");
    assert_eq!(world.machine.apply(&far), Decision::Applied);

    // A record of the feed needs no head.
    let mut machine = Machine::new(&[name(0).clone()].into());
    machine.root = before;
    assert_eq!(machine.apply_record(&far), Decision::Applied);
}

/// The publisher found that what is held was never committed: the load goes back.
#[test]
fn a_refuted_collection_is_replaced_by_an_older_snapshot() {
    let mut world = World::loaded(A, three_documents());
    let forged = ReceivedChange {
        revision: 4,
        ..world.models[0].change(0, 3).clone()
    };
    assert_eq!(world.machine.apply(&forged), Decision::Applied);
    world.machine.mark_refuted(name(0), 3);
    let generation = world.machine.begin_load();
    let older = world.models[0].snapshot([2, 0, 0], &world.machine);
    world.machine.install(generation, older).expect("installed");
    let held = world.held(0).expect("followed");
    assert_eq!(
        held.watermark(),
        4,
        "older than the publisher: nothing is replaced"
    );
    let generation = world.machine.begin_load();
    let snapshot = world.models[0].snapshot([3, 0, 0], &world.machine);
    let installed = world.machine.install(generation, snapshot);
    assert_eq!(installed.map(|installed| installed.resets), Ok(1));
    let held = world.held(0).expect("followed");
    assert_eq!(
        (held.watermark(), held.known(), held.last_settled()),
        (3, 3, Some(world.models[0].settled(0, 3)))
    );
    assert!(held.refuted().is_none() && !held.diverged());
}

#[test]
fn the_proof_of_the_highest_revision_is_kept() {
    let proof = |number: u32| Some(format!("{number:040x}").parse().expect("a proof"));
    let mut world = World::loaded(A, three_documents());
    world.models[0].commit(0, 1, false);
    world.models[0].commit(0, 2, false);
    let change = |world: &World, revision| ReceivedChange {
        proof: proof(revision as u32),
        ..world.models[0].change(0, revision).clone()
    };
    let [first, second] = [4, 5].map(|revision| change(&world, revision));
    let proven = |world: &World| world.held(0).and_then(CollectionState::proven);
    assert_eq!(proven(&world), None);
    // It came without its value, and still shows that its revision was committed.
    let valueless = ReceivedChange {
        config: None,
        ..second.clone()
    };
    assert_eq!(world.machine.apply(&valueless), Decision::NeedsValue);
    assert_eq!(proven(&world), proof(5).map(|proof| (5, proof)));
    world.machine.apply(&first);
    assert_eq!(proven(&world), proof(5).map(|proof| (5, proof)));
    // The proof of a head is that of the store.
    let mut head = world.models[0].heads([5, 0, 0]).remove(0);
    head.proof = proof(6);
    world.machine.compare(&[head]);
    assert_eq!(proven(&world), proof(6).map(|proof| (5, proof)));

    let mut image = Vec::new();
    let root = world.machine.root();
    root.write_image(&crate::image::ImageMeta::default(), &mut image)
        .expect("written");
    let image = crate::Image::read(&image[..]).expect("intact");
    let restored = image.root().collection(name(0)).expect("held");
    assert_eq!(restored.proven(), proof(6).map(|proof| (5, proof)));
}

#[test]
fn buffers_of_a_diverged_collection_are_not_used_again() {
    let mut machine = World::loaded(A, three_documents()).machine;
    let buffer = |machine: &Machine| {
        machine
            .root()
            .get(name(0), id(0))
            .expect("held")
            .json()
            .as_ptr()
    };
    let before = buffer(&machine);
    let model = three_documents();
    machine.mark_diverged(name(0));
    assert!(
        attempt(&mut machine, &model, model.epoch).is_ok_and(|installed| installed.resets == 1)
    );
    assert_ne!(before, buffer(&machine));
}

#[test]
fn a_record_of_the_feed_equals_its_event() {
    let config = value(0, 1, 1);
    let record = Change {
        collection: name(0).clone(),
        op: Operation::Create,
        id: id(0).clone(),
        revision: 1,
        epoch: Model::new().epoch,
        last_set: 0,
        config_data: Some(config.clone()),
        crc: Some(config.crc()),
        change_set: Some(contract::ChangeSet {
            id: "elsewhere".to_owned(),
            parts: Vec::new(),
        }),
        time: Default::default(),
        count: 1,
        digest: Digest::default(),
        proof: None,
        context: contract::Context::default(),
    };
    let event = contract::EventData::new(&record, usize::MAX);
    for change in [
        ReceivedChange::from_event(&event).expect("revisioned"),
        ReceivedChange::from_change(record.clone()),
    ] {
        assert_eq!((change.config.as_ref(), change.last_set), (Some(config), 0));
        assert!(
            change.change_set.is_none(),
            "a set that does not name the change could never be complete"
        );
    }
    assert!(
        ReceivedChange::from_change(Change {
            crc: Some(Crc(1)),
            ..record
        })
        .config
        .is_none()
    );
}

#[test]
fn unversioned_collections_follow_the_requirements() {
    let parse = |json: &str| CanonicalJson::parse(json.as_bytes()).expect("json");
    let mut machine = machine(A);
    let id: DocumentId = "a".parse().expect("id");
    machine.replace_unversioned(name(0), vec![("b".parse().expect("id"), parse("{}"))]);
    assert!(machine.root().loaded());
    assert!(machine.add_unversioned(name(0), id.clone(), &parse("[]")));
    assert!(
        !machine
            .root()
            .collection(name(0))
            .is_some_and(|held| held.settled()),
        "there is nothing to compare it with"
    );
    assert!(machine.remove_unversioned(name(0), &id));
    assert!(
        !machine.remove_unversioned(name(0), &id),
        "deleting what is not there is told, so that a load follows"
    );
    let mut versioned = World::loaded(A, three_documents()).machine;
    assert!(
        !versioned.add_unversioned(name(0), id, &parse("[]")),
        "a versioned collection never takes an unversioned value"
    );
}
