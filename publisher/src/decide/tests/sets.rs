//! The rules of a set: all or nothing, one entry among others, and what its changes say of it.

use contract::{ChangeSet, SetPart};

use super::*;

const ID: &str = "0198-set";

fn other() -> CollectionName {
    "Other".parse().expect("a name")
}

fn two_collections() -> WorkingSet {
    let mut ground = ground();
    ground.heads.insert(other(), Head::empty(other(), EPOCH));
    ground
}

fn set(members: impl IntoIterator<Item = Write>) -> Entry {
    Entry::Set(Set {
        id: ID.to_owned(),
        members: members.into_iter().collect(),
    })
}

fn creating(document: &str) -> Write {
    write_one(document, Action::Create(config(json!({}))), Condition::Any)
}

fn putting(document: &str, value: Value) -> Write {
    write_one(document, Action::Put(config(value)), Condition::Any)
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

/// Collection, revision, last set, and whether it is of a set.
fn marks(folded: &Decisions) -> Vec<(&str, Revision, Revision, bool)> {
    let mark = |change: &Change| {
        (
            change.revision,
            change.last_set,
            change.change_set.is_some(),
        )
    };
    folded
        .changes
        .iter()
        .map(|change| {
            let (revision, last_set, of_set) = mark(change);
            (
                if change.collection == name() {
                    "mine"
                } else {
                    "other"
                },
                revision,
                last_set,
                of_set,
            )
        })
        .collect()
}

#[test]
fn members_say_what_belongs_together_and_which_set_came_before() {
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
            write_one("a", Action::Delete, Condition::At(2, None)),
        ]),
        create("after", json!({})),
    ];
    let folded = rules().evaluate(two_collections(), &group, Utc::now());
    assert_eq!(statuses(&folded), [200; 5]);
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
    assert_eq!(marks(&folded), expected);
    let parts = vec![part(name(), 2, 3), part(other(), 1, 2)];
    let of_first = ChangeSet {
        id: ID.to_owned(),
        parts,
    };
    for index in 1..5 {
        assert_eq!(folded.changes[index].change_set.as_ref(), Some(&of_first));
    }
    let of_second = folded.changes[6]
        .change_set
        .as_ref()
        .map(|set| set.parts.clone());
    assert_eq!(of_second, Some(vec![part(name(), 5, 6)]));
    assert_eq!(
        (
            folded.after.heads[&name()].last_set,
            folded.after.heads[&other()].last_set
        ),
        (6, 2)
    );
    let revisions = |verdict: &WriteResult| {
        verdict
            .iter()
            .flatten()
            .map(|done| done.revision)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        revisions(&folded.verdicts[1]),
        [2, 1, 3, 2],
        "in the order of the request"
    );
}

#[test]
fn a_refused_member_takes_all_of_its_set_with_it_and_nothing_else() {
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
    let folded = rules().evaluate(two_collections(), &group, Utc::now());
    assert_eq!(statuses(&folded), [200, 404, 200]);
    let problem = &folded.verdicts[1].as_ref().expect_err("refused").problem;
    assert_eq!(
        (problem.index, problem.kind.as_str()),
        (Some(2), "urn:confcast:problem:no-data"),
        "the first of two"
    );
    assert_eq!(
        marks(&folded),
        [("mine", 1, 0, false), ("mine", 2, 0, false)]
    );
    assert_eq!(folded.after.heads[&other()], Head::empty(other(), EPOCH));
    assert_eq!(folded.after.documents.len(), 1);
}

#[test]
fn a_pointer_of_a_member_leads_into_the_body() {
    let group = [
        set([creating("a"), putting("b", json!({}))]),
        set([creating("a"), {
            write_one(
                "b",
                Action::Create(config(json!({"id": "c"}))),
                Condition::Any,
            )
        }]),
    ];
    let folded = rules().evaluate(ground(), &group, Utc::now());
    let pointer = |at: usize| {
        folded.verdicts[at]
            .as_ref()
            .expect_err("refused")
            .problem
            .pointer
            .clone()
    };
    assert_eq!(
        (pointer(0), pointer(1).as_deref()),
        (None, Some("/changes/1/configData/id"))
    );
}

#[test]
fn one_effective_change_makes_no_set() {
    let same = json!({"n": 1});
    let group = [
        create("a", same.clone()),
        set([putting("a", same.clone()), creating("b")]),
        set([putting("a", same.clone())]),
        set([creating("c")]),
    ];
    let folded = rules().evaluate(ground(), &group, Utc::now());
    assert_eq!(
        marks(&folded),
        [
            ("mine", 1, 0, false),
            ("mine", 2, 0, false),
            ("mine", 3, 0, false)
        ]
    );
    let unchanged = &folded.verdicts[2].as_ref().expect("well")[0];
    assert_eq!(
        (unchanged.op, unchanged.revision),
        (None, 1),
        "at its present revision"
    );
    assert_eq!(folded.after.heads[&name()].last_set, 0);
}

#[test]
fn an_expected_revision_is_one_of_the_state_before_the_set() {
    let conditions = [
        (Condition::Any, 200),
        (Condition::At(1, None), 200),
        (Condition::At(2, None), 412),
        (Condition::Absent, 412),
    ];
    for (condition, status) in conditions {
        let group = [
            create("a", json!({})),
            set([
                creating("b"),
                write_one("a", Action::Patch(json!({"n": 1})), condition),
            ]),
        ];
        let folded = rules().evaluate(ground(), &group, Utc::now());
        assert_eq!(statuses(&folded), [200, status], "{condition:?}");
    }
    let create_only = write_one("new", Action::Put(config(json!({}))), Condition::Absent);
    assert_eq!(
        statuses(&rules().evaluate(ground(), &[set([create_only])], Utc::now())),
        [200]
    );
}

#[test]
fn a_set_that_grows_beyond_its_limit_by_its_patches_is_refused() {
    let rules = Rules {
        schemas: Schemas::default(),
        document_limit: 4 << 20,
    };
    let large = json!({ "x": "x".repeat(1 << 20) });
    let documents: Vec<_> = (0..5).map(|n| n.to_string()).collect();
    let mut after = ground();
    for document in &documents {
        after = rules
            .evaluate(after, &[create(document, large.clone())], Utc::now())
            .after;
    }
    let patches = documents
        .iter()
        .map(|id| write_one(id, Action::Patch(json!({"n": 1})), Condition::Any));
    let folded = rules.evaluate(after, &[set(patches)], Utc::now());
    let problem = &folded.verdicts[0].as_ref().expect_err("too large").problem;
    assert_eq!(
        (problem.status, problem.index, folded.changes.len()),
        (413, Some(3), 0)
    );
}

#[test]
fn a_group_ends_before_a_set_and_never_within() {
    let rules = Rules {
        schemas: Schemas::default(),
        document_limit: 4 << 20,
    };
    // Two bytes of text each, and seventeen more when stored.
    let numbers = json!({ "n": vec![1; 100_000] });
    let large = |id: &str| write_one(id, Action::Create(config(numbers.clone())), Condition::Any);
    let group = [
        set([large("a"), large("b"), large("c"), large("d")]),
        create("e", json!({})),
    ];
    let folded = rules.evaluate(ground(), &group, Utc::now());
    assert_eq!(
        (folded.verdicts.len(), folded.changes.len()),
        (1, 4),
        "the first entry always fits, whole"
    );
}
