//! The rules of a group, without a store: order, neighbours, and the arithmetic of heads.

use std::collections::{BTreeMap, HashMap};

use contract::{Digest, Epoch, Head};
use proptest::prelude::*;
use serde_json::json;

use super::*;

const EPOCH: Epoch = Epoch {
    lineage: 7,
    counter: 1,
};

fn name() -> CollectionName {
    "FreeForm".parse().expect("a name")
}

fn id(text: &str) -> DocumentId {
    text.parse().expect("an id")
}

fn rules() -> Rules {
    Rules {
        schemas: Schemas::default(),
        document_limit: 1_000,
    }
}

fn ground() -> WorkingSet {
    let heads = BTreeMap::from([(name(), Head::empty(name(), EPOCH))]);
    WorkingSet {
        epoch: EPOCH,
        heads,
        documents: HashMap::new(),
    }
}

fn config(value: Value) -> CanonicalJson {
    CanonicalJson::parse(value.to_string().as_bytes()).expect("json")
}

fn write_one(document: &str, action: Action, condition: Condition) -> Write {
    Write {
        collection: name(),
        id: id(document),
        action,
        condition,
        context: Context::default(),
    }
}

fn write(document: &str, action: Action, condition: Condition) -> Entry {
    Entry::One(write_one(document, action, condition))
}

fn create(document: &str, value: Value) -> Entry {
    write(document, Action::Create(config(value)), Condition::Any)
}

fn put(document: &str, value: Value) -> Entry {
    write(document, Action::Put(config(value)), Condition::Any)
}

/// Status of each verdict: 200 for all that went well.
fn statuses(folded: &Decisions) -> Vec<u16> {
    folded
        .verdicts
        .iter()
        .map(|verdict| {
            verdict
                .as_ref()
                .map_or_else(|error| error.problem.status, |_done| 200)
        })
        .collect()
}

#[test]
fn each_write_sees_the_ones_before_it() {
    let group = [
        put("a", json!({})),
        create("a", json!({"n": 1})),
        create("a", json!({"n": 2})),
        put("a", json!({"n": 3})),
        write(
            "a",
            Action::Put(config(json!({"n": 4}))),
            Condition::At(1, None),
        ),
        write("a", Action::Patch(json!({"m": 5})), Condition::At(2, None)),
        write("a", Action::Delete, Condition::Any),
        write("a", Action::Delete, Condition::Any),
        write("a", Action::Put(config(json!({"n": 6}))), Condition::Absent),
    ];
    let folded = rules().evaluate(ground(), &group, Utc::now());
    assert_eq!(
        statuses(&folded),
        [404, 200, 409, 200, 412, 200, 200, 404, 200]
    );
    let made: Vec<_> = folded
        .changes
        .iter()
        .map(|change| (change.revision, change.op))
        .collect();
    use Operation::{Create, Delete, Update};
    assert_eq!(
        made,
        [
            (1, Create),
            (2, Update),
            (3, Update),
            (4, Delete),
            (5, Create)
        ]
    );
    let held = &folded.after.documents[&(name(), id("a"))];
    assert_eq!(
        (held.revision(), held.config_data().as_ref()),
        (5, br#"{"n":6}"#.as_slice())
    );
}

#[test]
fn what_changes_nothing_makes_no_change() {
    let group = [
        create("a", json!({"x": 1, "y": [1.0]})),
        put("a", json!({"y": [1], "x": 1})),
        put("a", json!({"x": 2})),
    ];
    let folded = rules().evaluate(ground(), &group, Utc::now());
    assert_eq!(folded.changes.len(), 2);
    let unchanged = folded.verdicts[1].as_ref().expect("well");
    assert_eq!((unchanged[0].op, unchanged[0].revision), (None, 1));
}

#[test]
fn a_merged_document_is_checked_as_a_whole() {
    let long = "x".repeat(600);
    let group = [
        create("a", json!({"metadata": {"one": long}})),
        put("a", json!({"metadata": {"two": long}})),
        write("a", Action::Patch(json!({"id": "b"})), Condition::Any),
        write("a", Action::Patch(json!("text")), Condition::Any),
        put("a", json!({"metadata": null})),
    ];
    let folded = rules().evaluate(ground(), &group, Utc::now());
    assert_eq!(statuses(&folded), [200, 413, 400, 400, 200]);
    assert_eq!(folded.changes.len(), 2);
}

#[derive(Debug, Clone)]
enum Wish {
    Create(u8, u8),
    Put(u8, u8),
    Delete(u8),
}

fn wishes() -> impl Strategy<Value = Vec<Wish>> {
    let wish = prop_oneof![
        (0..4u8, 0..3u8).prop_map(|(d, n)| Wish::Create(d, n)),
        (0..4u8, 0..3u8).prop_map(|(d, n)| Wish::Put(d, n)),
        (0..4u8).prop_map(Wish::Delete),
    ];
    prop::collection::vec(wish, 0..40)
}

proptest! {
    /// However a history is cut into groups, it comes out the same; and head, log and documents always agree.
    #[test]
    fn groups_do_not_show(wishes in wishes(), cut in 1..10usize) {
        let writes: Vec<_> = wishes.iter().map(|wish| match wish {
            Wish::Create(d, n) => create(&d.to_string(), json!({ "n": n })),
            Wish::Put(d, n) => put(&d.to_string(), json!({ "n": n })),
            Wish::Delete(d) => write(&d.to_string(), Action::Delete, Condition::Any),
        }).collect();
        let now = Utc::now();
        let whole = rules().evaluate(ground(), &writes, now);
        let (mut after, mut changes) = (ground(), Vec::new());
        for group in writes.chunks(cut) {
            let folded = rules().evaluate(after, group, now);
            after = folded.after;
            changes.extend(folded.changes);
        }
        prop_assert_eq!(&whole.changes, &changes);
        prop_assert!(changes.iter().zip(1..).all(|(change, revision)| change.revision == revision), "no gaps");
        let head = &after.heads[&name()];
        let digest = after.documents.values().fold(Digest::default(), |sum, held| sum.with(held.id(), held.revision(), held.crc()));
        prop_assert_eq!((head.revision, head.count, head.digest), (changes.len() as u64, after.documents.len() as u64, digest));
        if let Some(last) = changes.last() {
            prop_assert_eq!((last.count, last.digest), (head.count, head.digest));
        }
    }
}

mod sets;
