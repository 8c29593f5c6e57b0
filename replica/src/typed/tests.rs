//! The values of typed readers, compared with a simple model of the rules, over arbitrary histories
//! that are seen at arbitrary moments.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use contract::{
    CanonicalJson, ChangeSet, CollectionName, DocumentId, Epoch, Head, Operation, Revision,
    SetPart,
    snapshot::{SnapshotEnd, SnapshotStart},
};
use futures_util::FutureExt;
use proptest::{prelude::*, test_runner::Config};
use serde::Deserialize;
use serde_json::json;
use state::{Decision, Machine, ReceivedChange, Root, Snapshot};

use super::{Projection, TypedDecoder, TypedValue};

const EPOCH: Epoch = Epoch {
    lineage: 7,
    counter: 1,
};

#[derive(Debug, PartialEq, Deserialize)]
struct Flag {
    #[serde(default)]
    limits: BTreeMap<String, Vec<u64>>,
}

fn name(text: &str) -> CollectionName {
    text.parse().expect("a name")
}

fn id(document: usize) -> DocumentId {
    format!("doc-{document}").parse().expect("an id")
}

fn decoders() -> Arc<[TypedDecoder]> {
    vec![
        TypedDecoder::of::<Flag>(name("A")),
        TypedDecoder::of::<Flag>(name("B")),
    ]
    .into()
}

fn projected(before: &Projection, root: &Root) -> Projection {
    before
        .next_after(root, &Default::default())
        .now_or_never()
        .expect("little to read")
}

/// The newest change of a document.
#[derive(Clone, Default)]
struct Touch {
    /// The number in its value, or none when it does not fit; outside, none when it is gone.
    value: Option<Option<u64>>,
    set: Option<usize>,
}

/// Machine, log and model at once: collections A and B, four documents each.
struct World {
    machine: Machine,
    newest: BTreeMap<(usize, usize), Touch>,
    revisions: [Revision; 2],
    last_set: [Revision; 2],
    sets: usize,
}

/// One operation: collection, document, and the number that its value shall have.
type Edit = (usize, usize, Option<Option<u64>>);

impl World {
    fn new() -> Self {
        let mut machine = Machine::new(&[name("A"), name("B")].into());
        let load = machine.begin_load();
        let heads = ["A", "B"]
            .map(|text| Head::empty(name(text), EPOCH))
            .to_vec();
        let builder = Snapshot::begin(SnapshotStart {
            epoch: EPOCH,
            heads,
        });
        let empty = builder
            .complete(
                &SnapshotEnd {
                    end: true,
                    count: 0,
                },
                machine.root(),
            )
            .expect("complete");
        machine.install(load, empty).expect("installed");
        Self {
            machine,
            newest: BTreeMap::new(),
            revisions: [0; 2],
            last_set: [0; 2],
            sets: 0,
        }
    }

    fn commit(&mut self, mut edits: Vec<Edit>) {
        edits.sort();
        edits.dedup_by_key(|(collection, document, _value)| (*collection, *document));
        let part = |collection: usize| {
            let members = edits.iter().filter(|edit| edit.0 == collection).count() as Revision;
            let first = self.revisions[collection] + 1;
            let part = SetPart {
                collection: name(["A", "B"][collection]),
                first,
                last: first + members - 1,
            };
            (members > 0).then_some(part)
        };
        let parts: Vec<SetPart> = [0, 1].into_iter().filter_map(part).collect();
        let set = (edits.len() > 1).then(|| {
            Arc::new(ChangeSet {
                id: self.sets.to_string(),
                parts,
            })
        });
        let last_set = self.last_set;
        for (collection, document, value) in edits {
            self.revisions[collection] += 1;
            let json = match value.flatten() {
                Some(number) => json!({"limits": {"a/b": [number]}}),
                None => json!({"limits": {"a/b": [1, "many"]}}),
            };
            let config =
                value.map(|_some| CanonicalJson::parse(json.to_string().as_bytes()).expect("json"));
            let change = ReceivedChange {
                collection: name(["A", "B"][collection]),
                id: id(document),
                epoch: EPOCH,
                revision: self.revisions[collection],
                op: if config.is_some() {
                    Operation::Update
                } else {
                    Operation::Delete
                },
                config,
                last_set: last_set[collection],
                change_set: set.clone(),
                proof: None,
                origin: Default::default(),
            };
            let decision = self.machine.apply(&change);
            assert!(
                matches!(decision, Decision::Applied | Decision::Staged),
                "{decision:?}"
            );
            if set.is_some() {
                self.last_set[collection] = self.revisions[collection];
            }
            let touch = Touch {
                value,
                set: set.as_ref().map(|_set| self.sets),
            };
            self.newest.insert((collection, document), touch);
        }
        self.sets += 1;
    }

    /// The rules as a model: the values that are shown next.
    fn model(&self, shown: &mut BTreeMap<(usize, usize), u64>) {
        let refused = self
            .newest
            .values()
            .filter(|touch| touch.value == Some(None));
        let suspended: BTreeSet<usize> = refused.filter_map(|touch| touch.set).collect();
        for (key, touch) in &self.newest {
            match touch.value {
                _ if touch.set.is_some_and(|set| suspended.contains(&set)) => {}
                Some(None) => {}
                Some(Some(number)) => _ = shown.insert(*key, number),
                None => _ = shown.remove(key),
            }
        }
    }
}

/// The values of a projection.
fn shown(projection: &Projection) -> BTreeMap<(usize, usize), u64> {
    let mut all = BTreeMap::new();
    for collection in 0..2 {
        for document in 0..4 {
            let held = projection.get(collection, id(document).as_str());
            if let Some(flag) = held.and_then(|held| held.as_ref::<Flag>()) {
                all.insert((collection, document), flag.limits["a/b"][0]);
            }
        }
        assert_eq!(
            projection.len(collection),
            all.keys().filter(|key| key.0 == collection).count()
        );
    }
    all
}

fn edit() -> impl Strategy<Value = Edit> {
    let value = prop_oneof![1 => Just(None), 1 => Just(Some(None)), 3 => (0..1000u64).prop_map(|n| Some(Some(n)))];
    (0..2usize, 0..4usize, value)
}

proptest! {
    #![proptest_config(Config { cases: 3_000, failure_persistence: None, ..Config::default() })]
    #[test]
    fn a_projection_follows_the_rules(steps in prop::collection::vec((prop::collection::vec(edit(), 1..4), any::<bool>()), 1..24)) {
        let mut world = World::new();
        let (mut projection, mut model) = (projected(&Projection::new(decoders(), Arc::default()), world.machine.root()), BTreeMap::new());
        let mut notified = BTreeMap::new();
        for (edits, looks) in steps {
            world.commit(edits);
            if !looks {
                continue;
            }
            let next = projected(&projection, world.machine.root());
            world.model(&mut model);
            prop_assert_eq!(&shown(&next), &model);
            // A handler that is notified of the differences holds the same values.
            for decoder in 0..2 {
                for (id, before, now) in next.changes_since(&projection, decoder) {
                    let number = |value: TypedValue| value.as_ref::<Flag>().map(|flag| flag.limits["a/b"][0]);
                    let key = (decoder, id.as_str()["doc-".len()..].parse().expect("a number"));
                    prop_assert_eq!(notified.get(&key).copied(), before.and_then(number));
                    match now.and_then(number) {
                        Some(number) => notified.insert(key, number),
                        None => notified.remove(&key),
                    };
                }
            }
            prop_assert_eq!(&notified, &model);
            projection = next;
            let refused = world.newest.values().filter(|touch| touch.value == Some(None)).count();
            let refusals = [name("A"), name("B")].map(|name| projection.refusals(&name).count());
            prop_assert_eq!(refusals[0] + refusals[1], refused);
        }
        // When everything fits again, nothing is held back.
        for collection in 0..2 {
            (0..4).for_each(|document| world.commit(vec![(collection, document, Some(Some(1)))]));
        }
        prop_assert_eq!(shown(&projected(&projection, world.machine.root())).into_values().collect::<Vec<_>>(), vec![1; 8]);
    }
}

#[test]
fn a_refusal_has_a_pointer_and_an_error() {
    let mut world = World::new();
    world.commit(vec![(0, 1, Some(None))]);
    let projection = projected(
        &Projection::new(decoders(), Arc::default()),
        world.machine.root(),
    );
    let refusals: Vec<_> = projection.refusals(&name("A")).collect();
    let [refusal] = refusals[..] else {
        panic!("{refusals:?}")
    };
    assert_eq!(
        (
            refusal.id.as_str(),
            refusal.revision,
            refusal.pointer.as_str()
        ),
        ("doc-1", 1, "/limits/a~1b/1")
    );
    assert!(
        refusal
            .error
            .starts_with("invalid type: string \"many\", expected u64"),
        "{}",
        refusal.error
    );
    assert_eq!(
        projection
            .refused_since(&Projection::new(decoders(), Arc::default()))
            .len(),
        1
    );
    assert_eq!(
        projection.refused_since(&projection).len(),
        0,
        "a refusal is reported once"
    );
}

#[test]
fn a_refusal_says_that_the_last_good_value_stays_only_when_there_was_one() {
    let mut world = World::new();
    let start = Projection::new(decoders(), Arc::default());
    world.commit(vec![(0, 1, Some(None))]);
    let refused = projected(&start, world.machine.root());
    let consequence = |projection: &Projection, before: &Projection| {
        let new = projection.refused_since(before);
        super::Consequence(new[0].earlier).to_string()
    };
    assert_eq!(
        consequence(&refused, &start),
        "the document has no value, because it never had one that fits"
    );
    assert!(!refused.was_whole());
    world.commit(vec![(0, 1, Some(Some(2)))]);
    let good = projected(&refused, world.machine.root());
    assert!(good.was_whole());
    world.commit(vec![(0, 1, Some(None))]);
    let refused = projected(&good, world.machine.root());
    assert_eq!(
        consequence(&refused, &good),
        "the last good value stays (revision 2)"
    );
    assert!(refused.partial().is_empty());
}

#[test]
fn a_member_that_is_held_back_and_never_had_a_value_makes_its_collection_partial() {
    let mut world = World::new();
    world.commit(vec![(0, 0, Some(None)), (1, 0, Some(Some(1)))]);
    let projection = projected(
        &Projection::new(decoders(), Arc::default()),
        world.machine.root(),
    );
    assert_eq!(projection.partial(), BTreeSet::from([name("A"), name("B")]));
    let refused: Vec<_> = projection.refused_without_value().collect();
    assert_eq!(refused.len(), 1, "only one is refused: {refused:?}");
    // A deletion that is held back takes nothing from a document that had a value.
    world.commit(vec![(0, 0, Some(Some(1)))]);
    let projection = projected(&projection, world.machine.root());
    world.commit(vec![(0, 0, None), (1, 0, Some(None))]);
    let projection = projected(&projection, world.machine.root());
    assert!(projection.partial().is_empty());
}

#[test]
fn a_set_with_a_refused_member_is_held_back_until_the_member_fits() {
    let mut world = World::new();
    for document in 0..3 {
        world.commit(vec![(0, document, Some(Some(0)))]);
    }
    let projection = projected(
        &Projection::new(decoders(), Arc::default()),
        world.machine.root(),
    );
    world.commit(vec![
        (0, 0, Some(Some(1))),
        (0, 1, None),
        (0, 2, Some(None)),
        (1, 0, Some(Some(1))),
    ]);
    let projection = projected(&projection, world.machine.root());
    assert_eq!(
        shown(&projection),
        BTreeMap::from([((0, 0), 0), ((0, 1), 0), ((0, 2), 0)])
    );
    world.commit(vec![(0, 2, Some(Some(2)))]);
    let projection = projected(&projection, world.machine.root());
    assert_eq!(
        shown(&projection),
        BTreeMap::from([((0, 0), 1), ((0, 2), 2), ((1, 0), 1)])
    );
}

#[test]
fn a_type_that_panics_refuses_the_value() {
    #[derive(Debug)]
    struct Panics;
    impl<'de> Deserialize<'de> for Panics {
        fn deserialize<D: serde::Deserializer<'de>>(_from: D) -> Result<Self, D::Error> {
            panic!("never")
        }
    }
    let mut world = World::new();
    world.commit(vec![(0, 1, Some(Some(1)))]);
    let projection = projected(
        &Projection::new(
            vec![TypedDecoder::of::<Panics>(name("A"))].into(),
            Arc::default(),
        ),
        world.machine.root(),
    );
    assert_eq!(
        projection
            .refusals(&name("A"))
            .next()
            .map(|refusal| refusal.error.as_str()),
        Some("reading it panicked")
    );
}
