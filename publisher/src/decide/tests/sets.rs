//! The rules of a change set: all writes or none, independence of its neighbours, and the marks in
//! its changes.

use contract::{ChangeSet, SetPart};

use super::*;

const ID: &str = "0198-set";

fn other() -> CollectionName {
    "Other".parse().expect("a name")
}

fn two_collections() -> WorkingSet {
    let mut working_set = empty_store();
    working_set
        .heads
        .insert(other(), Head::empty(other(), EPOCH));
    working_set
}

fn set(writes: impl IntoIterator<Item = Write>) -> Command {
    Command::ChangeSet(ChangeSetCommand {
        id: ID.to_owned(),
        writes: writes.into_iter().collect(),
        ..ChangeSetCommand::default()
    })
}

fn creating(document: &str) -> Write {
    write_one(document, Action::Create(config(json!({}))), Expected::Any)
}

fn putting(document: &str, value: Value) -> Write {
    write_one(document, Action::Put(config(value)), Expected::Any)
}

fn elsewhere(write: Write) -> Write {
    Write {
        collection: other(),
        ..write
    }
}

fn part(collection: CollectionName, first: Revision, last: Revision) -> SetPart {
    SetPart {
        collection,
        first,
        last,
    }
}

/// Collection, revision, last set, and whether the change belongs to a set.
fn marks(decisions: &Decisions) -> Vec<(&str, Revision, Revision, bool)> {
    decisions
        .changes
        .iter()
        .map(|change| {
            let collection = if change.collection == name() {
                "mine"
            } else {
                "other"
            };
            let in_set = change.change_set.is_some();
            (collection, change.revision, change.last_set, in_set)
        })
        .collect()
}

fn refused(decisions: &Decisions, command: usize) -> &WriteError {
    decisions.results[command]
        .as_ref()
        .expect_err("the command is refused")
}

#[test]
fn changes_of_a_set_name_its_parts_and_every_change_names_the_last_set() {
    let group = [
        create("before", json!({})),
        set([
            creating("a"),
            elsewhere(creating("x")),
            creating("b"),
            elsewhere(creating("y")),
        ]),
        create("between", json!({})),
        set([
            creating("c"),
            write_one("a", Action::Delete, Expected::revision(2)),
        ]),
        create("after", json!({})),
    ];
    let decisions = rules().evaluate(two_collections(), &group, Utc::now());
    assert_eq!(problems(&decisions), [None; 5]);
    let expected = [
        ("mine", 1, 0, false),
        ("mine", 2, 0, true),
        ("other", 1, 0, true),
        ("mine", 3, 0, true),
        ("other", 2, 0, true),
        ("mine", 4, 3, false),
        ("mine", 5, 3, true),
        ("mine", 6, 3, true),
        ("mine", 7, 6, false),
    ];
    assert_eq!(marks(&decisions), expected);
    let parts = vec![part(name(), 2, 3), part(other(), 1, 2)];
    let of_first = ChangeSet {
        id: ID.to_owned(),
        parts,
    };
    for index in 1..5 {
        assert_eq!(
            decisions.changes[index].change_set.as_ref(),
            Some(&of_first)
        );
    }
    let of_second = decisions.changes[6]
        .change_set
        .as_ref()
        .map(|set| set.parts.clone());
    assert_eq!(of_second, Some(vec![part(name(), 5, 6)]));
    assert_eq!(
        (
            decisions.after.heads[&name()].last_set,
            decisions.after.heads[&other()].last_set
        ),
        (6, 2)
    );
    let revisions: Vec<_> = decisions.results[1]
        .iter()
        .flatten()
        .map(|outcome| outcome.written.revision)
        .collect();
    assert_eq!(revisions, [2, 1, 3, 2], "in the order of the request");
}

#[test]
fn a_refused_write_refuses_its_whole_set_and_nothing_else() {
    let group = [
        create("a", json!({"n": 1})),
        set([
            putting("a", json!({"n": 2})),
            elsewhere(creating("x")),
            putting("absent", json!({})),
            creating("a"),
        ]),
        put("a", json!({"n": 3})),
    ];
    let decisions = rules().evaluate(two_collections(), &group, Utc::now());
    assert_eq!(
        problems(&decisions),
        [None, Some(ProblemKind::NoData), None]
    );
    assert_eq!(
        refused(&decisions, 1).index(),
        Some(2),
        "the first of two errors"
    );
    assert_eq!(
        marks(&decisions),
        [("mine", 1, 0, false), ("mine", 2, 0, false)]
    );
    assert_eq!(decisions.after.heads[&other()], Head::empty(other(), EPOCH));
    assert_eq!(decisions.after.documents.len(), 1);
}

#[test]
fn the_pointer_of_a_refused_write_begins_at_the_body_of_the_set() {
    let group = [
        set([creating("a"), putting("b", json!({}))]),
        set([creating("a"), {
            write_one(
                "b",
                Action::Create(config(json!({"id": "c"}))),
                Expected::Any,
            )
        }]),
    ];
    let decisions = rules().evaluate(empty_store(), &group, Utc::now());
    assert_eq!(refused(&decisions, 0).pointer(), None);
    assert_eq!(
        refused(&decisions, 1).pointer().as_deref(),
        Some("/changes/1/configData/id")
    );
}

#[test]
fn a_set_with_one_effective_change_has_no_marks() {
    let same = json!({"n": 1});
    let group = [
        create("a", same.clone()),
        set([putting("a", same.clone()), creating("b")]),
        set([putting("a", same.clone())]),
        set([creating("c")]),
    ];
    let decisions = rules().evaluate(empty_store(), &group, Utc::now());
    assert_eq!(
        marks(&decisions),
        [
            ("mine", 1, 0, false),
            ("mine", 2, 0, false),
            ("mine", 3, 0, false)
        ]
    );
    let unchanged = &decisions.results[2].as_ref().expect("accepted")[0];
    assert_eq!(
        (unchanged.operation, unchanged.written.revision),
        (None, 1),
        "at its present revision"
    );
    assert_eq!(decisions.after.heads[&name()].last_set, 0);
}

#[test]
fn an_expected_revision_is_compared_with_the_state_before_the_set() {
    let conditions = [
        (Expected::Any, None),
        (Expected::revision(1), None),
        (Expected::revision(2), Some(ProblemKind::ConditionFailed)),
        (Expected::Absent, Some(ProblemKind::ConditionFailed)),
    ];
    for (condition, problem) in conditions {
        let group = [
            create("a", json!({})),
            set([
                creating("b"),
                write_one(
                    "a",
                    Action::Patch(config(json!({"n": 1}))),
                    condition.clone(),
                ),
            ]),
        ];
        let decisions = rules().evaluate(empty_store(), &group, Utc::now());
        assert_eq!(problems(&decisions), [None, problem], "{condition:?}");
    }
    let create_only = write_one("new", Action::Put(config(json!({}))), Expected::Absent);
    let decisions = rules().evaluate(empty_store(), &[set([create_only])], Utc::now());
    assert_eq!(problems(&decisions), [None]);
}

#[test]
fn a_set_whose_patched_values_exceed_the_limit_is_refused() {
    let rules = Rules {
        schemas: Schemas::default(),
        document_limit: 4 << 20,
        secrets: Default::default(),
    };
    let large = json!({ "x": "x".repeat(1 << 20) });
    let documents: Vec<_> = (0..5).map(|n| n.to_string()).collect();
    let mut after = empty_store();
    for document in &documents {
        after = rules
            .evaluate(after, &[create(document, large.clone())], Utc::now())
            .after;
    }
    let patch = |id: &String| write_one(id, Action::Patch(config(json!({"n": 1}))), Expected::Any);
    let patches = documents.iter().map(|id| {
        let mut write = patch(id);
        let stored = after.documents.get(&write.key());
        write.checked = rules.check_ahead(&write, stored).expect("valid");
        write
    });
    let patches: Vec<_> = patches.collect();
    let decisions = rules.evaluate(after, &[set(patches)], Utc::now());
    assert_eq!(
        *refused(&decisions, 0),
        WriteError::SetTooLarge { index: 3 }
    );
    assert_eq!(decisions.changes.len(), 0);
}

#[test]
fn a_group_never_ends_within_a_set() {
    let rules = Rules {
        schemas: Schemas::default(),
        document_limit: 4 << 20,
        secrets: Default::default(),
    };
    // Two bytes of text each, and seventeen more when stored.
    let numbers = json!({ "n": vec![1; 100_000] });
    let large = |id: &str| write_one(id, Action::Create(config(numbers.clone())), Expected::Any);
    let group = [
        set([large("a"), large("b"), large("c"), large("d")]),
        create("e", json!({})),
    ];
    let decisions = rules.evaluate(empty_store(), &group, Utc::now());
    assert_eq!(
        (decisions.results.len(), decisions.changes.len()),
        (1, 4),
        "the first command always fits, as a whole"
    );
}

#[test]
fn a_set_happens_only_while_its_collections_are_at_the_expected_revisions() {
    let expecting = |document: &str, revision| {
        let set = ChangeSetCommand {
            id: ID.to_owned(),
            writes: vec![creating(document)],
            expected_heads: [(name(), revision)].into(),
        };
        Command::ChangeSet(set)
    };
    // Each command sees the one before it in its group.
    let group = [
        expecting("a", 0),
        expecting("b", 0),
        expecting("b", 1),
        expecting("c", 9),
    ];
    let decisions = rules().evaluate(two_collections(), &group, Utc::now());
    let failed = Some(ProblemKind::ConditionFailed);
    assert_eq!(problems(&decisions), [None, failed, None, failed]);
    assert_eq!(decisions.changes.len(), 2);
}
