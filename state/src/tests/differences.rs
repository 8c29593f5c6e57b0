//! A reader that looks from time to time and applies the differences has the documents of the
//! newest root.

use std::collections::BTreeMap;

use contract::{CollectionName, Document, DocumentId};

use super::{
    model::{Model, Request, id, name},
    world::World,
};
use crate::Root;

/// A consumer that receives differences only.
#[derive(Default)]
pub(crate) struct Follower {
    root: Root,
    copy: BTreeMap<(CollectionName, DocumentId), Document>,
}

impl Follower {
    pub(crate) fn look(&mut self, newest: &Root) {
        for difference in newest.changes_since(&self.root) {
            let key = (difference.collection.clone(), difference.id.clone());
            assert_eq!(self.copy.get(&key), difference.before, "what it last had");
            assert_ne!(difference.before, difference.now, "nothing changed");
            match difference.now {
                Some(document) => self.copy.insert(key, document.clone()),
                None => self.copy.remove(&key),
            };
        }
        let all = newest
            .collections()
            .flat_map(|(name, held)| held.documents().map(move |document| (name, document)));
        let all =
            all.map(|(name, document)| ((name.clone(), document.id().clone()), document.clone()));
        assert_eq!(self.copy, all.collect::<BTreeMap<_, _>>());
        self.root = newest.clone();
    }
}

fn operation(collection: usize, document: usize, delete: bool) -> Request {
    Request {
        collection,
        document,
        delete,
    }
}

fn set_of(world: &World, collection: usize, document: usize) -> Option<&str> {
    world
        .machine
        .root()
        .set_of(name(collection), id(document))
        .map(|set| set.id.as_str())
}

#[test]
fn the_set_of_a_document_is_the_one_that_gave_its_value() {
    let mut model = Model::new();
    model.commit(0, 1, false);
    let mut world = World::new(3);
    world.models = vec![model];
    world.load_newest();
    let generation = world.machine.root().generation();
    world.model().commit_set(&[
        operation(0, 0, false),
        operation(0, 1, true),
        operation(1, 0, false),
    ]);
    world.delta(8);
    assert_eq!(
        [(0, 0), (0, 1), (1, 0)].map(|(c, d)| set_of(&world, c, d)),
        [Some("set-0"); 3],
        "also what it took"
    );
    world.model().commit(0, 0, false);
    world.model().commit(0, 1, false);
    world.delta(8);
    assert_eq!(
        [(0, 0), (0, 1), (1, 0)].map(|(c, d)| set_of(&world, c, d)),
        [None, None, Some("set-0")]
    );
    world.model().commit(0, 1, true);
    world.delta(8);
    assert_eq!(set_of(&world, 0, 1), None, "another change took it away");
    assert_eq!(
        world.machine.root().generation(),
        generation,
        "nothing counts anew"
    );
}

#[test]
fn the_last_256_sets_are_remembered() {
    let mut world = World::loaded(3, Model::new());
    world
        .model()
        .commit_set(&[operation(0, 3, false), operation(1, 3, false)]);
    for _set in 0..127 {
        world
            .model()
            .commit_set(&[operation(0, 0, false), operation(0, 1, false)]);
    }
    for _set in 0..128 {
        world
            .model()
            .commit_set(&[operation(1, 0, false), operation(1, 1, false)]);
    }
    world.delta(8);
    assert_eq!(
        (set_of(&world, 0, 3), set_of(&world, 0, 0)),
        (Some("set-0"), Some("set-127"))
    );
    world
        .model()
        .commit_set(&[operation(1, 0, true), operation(1, 1, false)]);
    world.delta(8);
    assert_eq!(
        (set_of(&world, 0, 3), set_of(&world, 1, 0)),
        (None, Some("set-256"))
    );
}
