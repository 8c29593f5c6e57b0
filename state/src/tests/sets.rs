//! Single cases of change sets.

use contract::Revision;

use super::{
    model::{Model, Request, id, name},
    world::World,
};
use crate::{Decision, InstallError};

const A: u8 = 1;
const A_AND_B: u8 = 3;

fn operation(collection: usize, document: usize) -> Request {
    Request {
        collection,
        document,
        delete: false,
    }
}

/// A world that has received nothing yet of a history with one set over A and B (and C), and a
/// later change of each.
fn one_set(followed: u8) -> World {
    let mut world = World::loaded(followed, Model::new());
    world.model().commit_set(&[
        operation(0, 0),
        operation(0, 1),
        operation(1, 0),
        operation(2, 0),
    ]);
    world.model().commit(0, 0, false);
    world.model().commit(1, 1, false);
    world
}

fn deliver(world: &mut World, collection: usize, revision: Revision) -> Decision {
    let change = world.model().change(collection, revision).clone();
    world.deliver(&change)
}

fn visible_revision(world: &World, collection: usize, document: usize) -> Option<Revision> {
    world
        .machine
        .root()
        .get(name(collection), id(document))
        .map(|document| document.revision())
}

#[test]
fn a_set_becomes_visible_in_one_step_and_waiting_changes_follow() {
    let mut world = one_set(A_AND_B);
    assert_eq!(
        deliver(&mut world, 0, 3),
        Decision::Staged,
        "it comes after a set that is not visible"
    );
    assert_eq!(deliver(&mut world, 1, 2), Decision::Staged);
    assert_eq!(deliver(&mut world, 0, 2), Decision::Staged);
    assert_eq!(deliver(&mut world, 1, 1), Decision::Staged);
    assert_eq!(
        (
            visible_revision(&world, 0, 1),
            visible_revision(&world, 1, 0),
            world.held(0).map(|held| held.staged())
        ),
        (None, None, Some(2))
    );
    assert_eq!(
        deliver(&mut world, 0, 1),
        Decision::Applied,
        "the last missing piece"
    );
    assert_eq!(
        (
            visible_revision(&world, 0, 0),
            visible_revision(&world, 0, 1),
            visible_revision(&world, 1, 0)
        ),
        (Some(3), Some(2), Some(1))
    );
    assert!(
        world
            .held(0)
            .is_some_and(|held| held.settled() && held.watermark() == 3)
    );
    assert!(
        world
            .held(1)
            .is_some_and(|held| held.settled() && held.watermark() == 2)
    );
}

#[test]
fn a_set_does_not_wait_for_collections_that_are_not_followed() {
    let mut world = one_set(A);
    assert_eq!(deliver(&mut world, 0, 2), Decision::Staged);
    assert_eq!(deliver(&mut world, 1, 1), Decision::NotFollowed);
    assert_eq!(deliver(&mut world, 0, 1), Decision::Applied);
    assert_eq!(world.held(0).map(|held| held.watermark()), Some(2));
}

#[test]
fn a_set_makes_the_revisions_of_all_its_parts_known() {
    let mut world = one_set(A_AND_B);
    let mut lost = world.model().change(0, 1).clone();
    lost.config = None;
    assert_eq!(world.deliver(&lost), Decision::NeedsValue);
    let gaps: Vec<_> = world.machine.root().gaps().into_values().collect();
    assert_eq!(gaps, [0, 0]);
    assert_eq!(
        [0, 1].map(|c| world.held(c).map(|held| held.known())),
        [Some(2), Some(1)]
    );
}

#[test]
fn a_snapshot_with_a_set_releases_the_changes_that_waited_for_it() {
    let mut world = one_set(A_AND_B);
    assert_eq!(deliver(&mut world, 0, 3), Decision::Staged);
    assert_eq!(deliver(&mut world, 0, 1), Decision::Staged);
    let generation = world.machine.begin_load();
    world.install(generation, 0, [2, 1, 1]);
    world.check();
    assert_eq!(
        (
            visible_revision(&world, 0, 0),
            visible_revision(&world, 0, 1),
            visible_revision(&world, 1, 0)
        ),
        (Some(3), Some(2), Some(1))
    );
    assert!(world.held(0).is_some_and(|held| held.settled()));
}

#[test]
fn a_set_waits_for_the_set_before_it_in_each_collection() {
    let mut world = World::loaded(A_AND_B, Model::new());
    world
        .model()
        .commit_set(&[operation(0, 0), operation(0, 1)]);
    world
        .model()
        .commit_set(&[operation(0, 0), operation(1, 0)]);
    assert_eq!(deliver(&mut world, 0, 3), Decision::Staged);
    assert_eq!(
        deliver(&mut world, 1, 1),
        Decision::Staged,
        "all of it is here, but in A a set before it is not visible"
    );
    assert_eq!(deliver(&mut world, 0, 2), Decision::Staged);
    assert_eq!(deliver(&mut world, 0, 1), Decision::Applied);
    assert_eq!(
        (
            visible_revision(&world, 0, 0),
            visible_revision(&world, 0, 1),
            visible_revision(&world, 1, 0)
        ),
        (Some(3), Some(2), Some(1))
    );
}

/// An image from a process that did not follow B has a set whose part in B was never loaded.
#[test]
fn a_snapshot_from_before_an_image_never_tears_a_set() {
    let mut world = one_set(A);
    assert_eq!(
        (deliver(&mut world, 0, 1), deliver(&mut world, 0, 2)),
        (Decision::Staged, Decision::Applied)
    );
    world.step(super::world::Step::Restart { followed: A_AND_B });
    assert_eq!(deliver(&mut world, 1, 1), Decision::Early);
    let generation = world.machine.begin_load();
    let old = world.models[0].snapshot([0, 0, 0], &world.machine);
    assert_eq!(
        world.machine.install(generation, old),
        Err(InstallError::Behind(name(0).clone()))
    );
    assert_eq!(visible_revision(&world, 0, 0), Some(1), "nothing changed");
    let generation = world.machine.begin_load();
    world.install(generation, 0, [2, 1, 1]);
    world.check();
    assert_eq!(
        (
            visible_revision(&world, 0, 0),
            visible_revision(&world, 1, 0)
        ),
        (Some(1), Some(1))
    );
}
