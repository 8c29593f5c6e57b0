//! Any history of a map against a `BTreeMap`, with clones that must stay as they are.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::*;

#[derive(Debug, Clone, PartialEq)]
struct Numbered {
    id: DocumentId,
    number: u32,
}

impl HasId for Numbered {
    fn id(&self) -> &DocumentId {
        &self.id
    }
}

type Model = BTreeMap<DocumentId, Numbered>;

/// What a history does.
#[derive(Debug, Clone)]
enum Step {
    Insert(u16),
    Remove(u16),
    /// All entries are put into a map of their own.
    Rebuild,
    /// The map is compared with the last clone, and with what that was.
    Compare,
}

fn numbered(id: u16, number: u32) -> Numbered {
    let id = format!("document-{id}").parse().expect("an id");
    Numbered { id, number }
}

fn assert_same(map: &IdMap<Numbered>, model: &Model) {
    let mut all: Vec<_> = map.iter().collect();
    all.sort_unstable_by_key(|entry| &entry.id);
    assert_eq!(all, model.values().collect::<Vec<_>>());
    assert_eq!((map.len(), map.is_empty()), (model.len(), model.is_empty()));
    for (id, entry) in model {
        assert_eq!(map.get(id.as_str()), Some(entry));
    }
    assert_eq!(map.get("not there"), None);
}

fn assert_differs(
    (old, old_model): (&IdMap<Numbered>, &Model),
    (map, model): (&IdMap<Numbered>, &Model),
) {
    let mut differences = old.differences(map);
    differences.sort_unstable_by_key(|(before, now)| now.or(*before).map(HasId::id));
    let ids: std::collections::BTreeSet<_> = old_model.keys().chain(model.keys()).collect();
    let expected = ids.into_iter().map(|id| (old_model.get(id), model.get(id)));
    let expected: Vec<_> = expected.filter(|(before, now)| before != now).collect();
    assert_eq!(differences, expected);
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        60 => (0..800_u16).prop_map(Step::Insert),
        15 => (0..800_u16).prop_map(Step::Remove),
        1 => Just(Step::Rebuild),
        1 => Just(Step::Compare),
    ]
}

proptest! {
    #[test]
    fn a_map_is_what_a_model_is_and_a_clone_stays(steps in vec(step(), 0..1_500)) {
        let (mut map, mut model) = (IdMap::default(), Model::new());
        let mut kept = (map.clone(), model.clone());
        for (number, step) in (0..).zip(steps) {
            match step {
                Step::Insert(id) => {
                    let entry = numbered(id, number);
                    let old = model.insert(entry.id.clone(), entry.clone());
                    assert_eq!(map.insert(entry), old);
                }
                Step::Remove(id) => {
                    let Numbered { id, .. } = numbered(id, number);
                    assert_eq!(map.remove(id.as_str()), model.remove(&id));
                }
                Step::Rebuild => map = model.values().cloned().collect(),
                Step::Compare => {
                    assert_same(&map, &model);
                    assert_same(&kept.0, &kept.1);
                    assert_differs((&kept.0, &kept.1), (&map, &model));
                    assert_differs((&map, &model), (&kept.0, &kept.1));
                    kept = (map.clone(), model.clone());
                }
            }
        }
        assert_same(&map, &model);
        assert_differs((&kept.0, &kept.1), (&map, &model));
    }
}

#[test]
fn a_change_copies_little_and_the_rest_is_shared() {
    let mut map: IdMap<_> = (0..20_000).map(|id| numbered(id, 0)).collect();
    let old = map.clone();
    map.insert(numbered(7, 1));
    let (mut before, mut now) = (Vec::new(), Vec::new());
    unshared(Some(&old.root), Some(&map.root), &mut before, &mut now);
    assert!(now.len() < 8 * LEAF, "{} entries were copied", now.len());
}

#[test]
fn leaves_stay_small_however_a_map_has_grown() {
    let mut grown = IdMap::default();
    (0..20_000).for_each(|id| _ = grown.insert(numbered(id, 0)));
    let built: IdMap<_> = (0..20_000).map(|id| numbered(id, 0)).collect();
    for map in [grown, built] {
        let largest = (0..map.leaves).map(|index| map.leaf(index).len()).max();
        assert!(largest < Some(8 * LEAF), "{largest:?} entries in a leaf");
        assert_eq!(map.leaves, 20_000 / LEAF);
    }
}
