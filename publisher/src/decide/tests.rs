//! The rules of a group: the order of its commands, their independence, and the arithmetic of
//! heads. No store is needed.

use std::collections::{BTreeMap, HashMap};

use contract::{
    CanonicalJson, CollectionName, Context, Digest, DocumentId, Epoch, Head, ProblemKind, Revision,
};
use proptest::prelude::*;
use serde_json::{Value, json};

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
        secrets: Default::default(),
    }
}

fn empty_store() -> WorkingSet {
    let heads = BTreeMap::from([(name(), Head::empty(name(), EPOCH))]);
    WorkingSet {
        epoch: EPOCH,
        secret: StoreSecret::from_bytes(&[7; 32]).expect("32 bytes"),
        heads,
        documents: HashMap::new(),
        facts: crate::decide::references::Facts::default(),
    }
}

fn config(value: Value) -> CanonicalJson {
    CanonicalJson::parse(value.to_string().as_bytes()).expect("json")
}

fn write_one(document: &str, action: Action, expected: Expected) -> Write {
    Write {
        collection: name(),
        id: id(document),
        action,
        expected,
        context: Context::default(),
        checked: None,
        origin: crate::decide::Origin::default(),
    }
}

fn write(document: &str, action: Action, expected: Expected) -> Command {
    Command::Single(write_one(document, action, expected))
}

fn create(document: &str, value: Value) -> Command {
    write(document, Action::Create(config(value)), Expected::Any)
}

fn put(document: &str, value: Value) -> Command {
    write(document, Action::Put(config(value)), Expected::Any)
}

/// The problem of each command that was refused; `None` for each that was accepted.
fn problems(decisions: &Decisions) -> Vec<Option<ProblemKind>> {
    decisions
        .results
        .iter()
        .map(|result| result.as_ref().err().map(WriteError::kind))
        .collect()
}

#[test]
fn each_write_sees_the_effects_of_the_writes_before_it() {
    let group = [
        put("a", json!({})),
        create("a", json!({"n": 1})),
        create("a", json!({"n": 2})),
        put("a", json!({"n": 3})),
        write(
            "a",
            Action::Put(config(json!({"n": 4}))),
            Expected::revision(1),
        ),
        write(
            "a",
            Action::Patch(config(json!({"m": 5}))),
            Expected::revision(2),
        ),
        write("a", Action::Delete, Expected::Any),
        write("a", Action::Delete, Expected::Any),
        write("a", Action::Put(config(json!({"n": 6}))), Expected::Absent),
    ];
    let decisions = rules().evaluate(empty_store(), &group, Utc::now());
    assert_eq!(
        problems(&decisions),
        [
            Some(ProblemKind::NoData),
            None,
            Some(ProblemKind::Exists),
            None,
            Some(ProblemKind::ConditionFailed),
            None,
            None,
            Some(ProblemKind::NoData),
            None
        ]
    );
    let made: Vec<_> = decisions
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
    let stored = &decisions.after.documents[&(name(), id("a"))];
    assert_eq!(
        (stored.revision(), stored.config_data()),
        (5, br#"{"n":6}"#.as_slice())
    );
}

#[test]
fn a_write_of_the_present_value_makes_no_change() {
    let group = [
        create("a", json!({"x": 1, "y": [1.0]})),
        put("a", json!({"y": [1], "x": 1})),
        put("a", json!({"x": 2})),
    ];
    let decisions = rules().evaluate(empty_store(), &group, Utc::now());
    assert_eq!(decisions.changes.len(), 2);
    let unchanged = decisions.results[1].as_ref().expect("accepted");
    assert_eq!(
        (unchanged[0].operation, unchanged[0].written.revision),
        (None, 1)
    );
}

#[test]
fn a_merged_document_is_checked_as_a_whole() {
    let long = "x".repeat(600);
    let group = [
        create("a", json!({"metadata": {"one": long}})),
        put("a", json!({"metadata": {"two": long}})),
        write(
            "a",
            Action::Patch(config(json!({"id": "b"}))),
            Expected::Any,
        ),
        write("a", Action::Patch(config(json!("text"))), Expected::Any),
        put("a", json!({"metadata": null})),
    ];
    let decisions = rules().evaluate(empty_store(), &group, Utc::now());
    assert_eq!(
        problems(&decisions),
        [
            None,
            Some(ProblemKind::TooLarge),
            Some(ProblemKind::BadBody),
            Some(ProblemKind::BadBody),
            None
        ]
    );
    assert_eq!(decisions.changes.len(), 2);
}

#[derive(Debug, Clone)]
enum Request {
    Create(u8, u8),
    Put(u8, u8),
    Delete(u8),
}

fn requests() -> impl Strategy<Value = Vec<Request>> {
    let request = prop_oneof![
        (0..4u8, 0..3u8).prop_map(|(d, n)| Request::Create(d, n)),
        (0..4u8, 0..3u8).prop_map(|(d, n)| Request::Put(d, n)),
        (0..4u8).prop_map(Request::Delete),
    ];
    prop::collection::vec(request, 0..40)
}

proptest! {
    /// A history gives the same changes however it is divided into groups, and head, log and
    /// documents always agree.
    #[test]
    fn the_division_into_groups_does_not_matter(requests in requests(), cut in 1..10usize) {
        let writes: Vec<_> = requests.iter().map(|request| match request {
            Request::Create(d, n) => create(&d.to_string(), json!({ "n": n })),
            Request::Put(d, n) => put(&d.to_string(), json!({ "n": n })),
            Request::Delete(d) => write(&d.to_string(), Action::Delete, Expected::Any),
        }).collect();
        let now = Utc::now();
        let whole = rules().evaluate(empty_store(), &writes, now);
        let mut after = empty_store();
        let mut changes = Vec::new();
        for group in writes.chunks(cut) {
            let decisions = rules().evaluate(after, group, now);
            after = decisions.after;
            changes.extend(decisions.changes);
        }
        prop_assert_eq!(&whole.changes, &changes);
        prop_assert!(changes.iter().zip(1..).all(|(change, revision)| change.revision == revision), "no gaps");
        let head = &after.heads[&name()];
        let digest = after.documents.values().fold(Digest::default(), |sum, document| sum.with(document.id(), document.revision(), document.crc()));
        prop_assert_eq!((head.revision, head.count, head.digest), (changes.len() as u64, after.documents.len() as u64, digest));
        if let Some(last) = changes.last() {
            prop_assert_eq!((last.count, last.digest), (head.count, head.digest));
        }
    }
}

mod references;
mod secrets;
mod sets;
