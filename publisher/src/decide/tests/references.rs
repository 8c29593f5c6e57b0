//! The rule about references: what is refused, which pointers a refusal has, and a model.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use contract::references::{DanglingReference, Referrer};

use super::*;
use crate::decide::{
    references::{Facts, references_of},
    schemas::{Schema, SchemaMap},
};

type Documents = BTreeMap<DocumentKey, Value>;

fn collection(text: &str) -> CollectionName {
    text.parse().expect("a name")
}

fn key(text: &str) -> DocumentKey {
    let (of, id) = text.split_once('/').expect("a key");
    (collection(of), id.parse().expect("an id"))
}

/// `Channel` refers to `Skill` and to itself; `Skill` to nothing.
fn referring() -> Rules {
    let schema = json!({"properties": {
        "skills": {"type": "array", "items": {"x-ref": "Skill"}},
        "next": {"x-ref": "Channel"},
    }});
    let channel = collection("Channel");
    let schema = Schema::new(&channel, schema.to_string().into(), None).expect("a schema");
    let schemas = SchemaMap::from([(channel, Arc::new(schema))]);
    Rules {
        schemas: Schemas::new(schemas),
        document_limit: 1_000_000,
        secrets: Default::default(),
    }
}

/// A store in memory, which holds whatever it is given.
struct Memory {
    rules: Rules,
    state: WorkingSet,
}

impl Memory {
    fn new(documents: &Documents) -> Self {
        let mut state = empty_store();
        state.heads = ["Channel", "Skill"]
            .map(|name| (collection(name), Head::empty(collection(name), EPOCH)))
            .into();
        for (key, value) in documents {
            let document = Document::new(key.1.clone(), 1, &config(value.clone()));
            let head = state.heads.get_mut(&key.0).expect("a head");
            head.revision += 1;
            head.count += 1;
            head.digest = head.digest.with(document.id(), 1, document.crc());
            state.documents.insert(key.clone(), document);
        }
        Self {
            rules: referring(),
            state,
        }
    }

    /// Evaluates a group as a store does: with its own documents, and the facts that it wants.
    fn evaluate(&mut self, group: &[Command]) -> Decisions {
        let now = Utc::now();
        let keys: BTreeSet<_> = group
            .iter()
            .flat_map(Command::writes)
            .map(Write::key)
            .collect();
        let mut before = self.state.clone();
        before.documents.retain(|key, _| keys.contains(key));
        let wanted = self.rules.wanted(&before, group, now);
        let all = &self.state.documents;
        let existing = wanted.documents.iter().filter(|key| all.contains_key(*key));
        let mut facts = Facts {
            existing: existing.cloned().collect(),
            ..Facts::default()
        };
        for (by, target, pointer) in references(&self.rules, all) {
            if wanted.referred.contains_key(&target) {
                facts.referrers.entry(target).or_default().push(Referrer {
                    collection: by.0,
                    id: by.1,
                    pointer,
                });
            }
        }
        facts.searched = wanted.referred.keys().cloned().collect();
        facts.wanted = wanted;
        before.facts = facts;
        let decisions = self.rules.evaluate(before, group, now);
        self.state.heads.extend(decisions.after.heads.clone());
        for key in keys {
            match decisions.after.documents.get(&key) {
                Some(document) => _ = self.state.documents.insert(key, document.clone()),
                None => _ = self.state.documents.remove(&key),
            }
        }
        decisions
    }
}

/// Each reference: from, to and pointer.
fn references(
    rules: &Rules,
    documents: &HashMap<DocumentKey, Document>,
) -> Vec<(DocumentKey, DocumentKey, String)> {
    let schemas = rules.schemas.all();
    let mut found = Vec::new();
    for (key, document) in documents {
        let of = references_of(&schemas, &key.0, document.config_data()).expect("JSON");
        let of = of
            .into_iter()
            .filter_map(|reference| Some((key.clone(), reference.key()?, reference.pointer)));
        found.extend(of);
    }
    found
}

fn on(key: &DocumentKey, action: Action) -> Write {
    Write::new(key.clone(), action, Expected::Any, Context::default())
}

fn creates(text: &str, value: Value) -> Write {
    on(&key(text), Action::Create(config(value)))
}

fn replaces(text: &str, value: Value) -> Write {
    on(&key(text), Action::Replace(config(value)))
}

fn deletes(text: &str) -> Write {
    on(&key(text), Action::Delete)
}

fn set<const N: usize>(writes: [Write; N]) -> Command {
    Command::ChangeSet(ChangeSetCommand {
        id: "set".to_owned(),
        writes: writes.into(),
        ..ChangeSetCommand::default()
    })
}

/// Each reference of a refusal in one text, after the pointer of the problem.
fn refusal(decisions: &Decisions, at: usize) -> Vec<String> {
    let error = decisions.results[at].as_ref().expect_err("refused");
    assert_eq!(error.kind(), ProblemKind::DanglingReference, "{error}");
    let lines = error.references().iter().map(|found| {
        let DanglingReference {
            referrer,
            refers_to,
            index,
        } = found;
        let of = format!(
            "{}/{}{}",
            referrer.collection, referrer.id, referrer.pointer
        );
        let index = index.map(|index| format!(" by {index}"));
        let to = format!("{}/{}", refers_to.collection, refers_to.id);
        format!("{of} to {to}{}", index.unwrap_or_default())
    });
    let pointer = error.pointer().unwrap_or_else(|| "none".to_owned());
    std::iter::once(pointer).chain(lines).collect()
}

#[test]
fn a_reference_needs_its_document_and_a_document_in_use_stays() {
    let mut store = Memory::new(&Documents::new());
    let decisions = store.evaluate(&[
        Command::Single(creates(
            "Channel/a",
            json!({"skills": ["x", "no id!", "x"]}),
        )),
        Command::Single(creates("Skill/x", json!({}))),
        Command::Single(creates("Channel/a", json!({"skills": ["x"], "next": "a"}))),
        Command::Single(deletes("Skill/x")),
        Command::Single(replaces("Channel/a", json!({"skills": []}))),
        Command::Single(deletes("Skill/x")),
    ]);
    assert_eq!(
        refusal(&decisions, 0),
        [
            "/skills/0",
            "Channel/a/skills/0 to Skill/x",
            "Channel/a/skills/1 to Skill/no id!"
        ]
    );
    assert_eq!(
        refusal(&decisions, 3),
        ["none", "Channel/a/skills/0 to Skill/x"]
    );
    let accepted: Vec<_> = decisions.results.iter().map(Result::is_ok).collect();
    assert_eq!(accepted, [false, true, true, false, true, true]);
    assert_eq!(
        decisions.referred,
        BTreeSet::new(),
        "the group wrote the skill itself"
    );
    let text = decisions.results[3]
        .as_ref()
        .expect_err("refused")
        .to_string();
    assert_eq!(
        text,
        "Channel/a refers at /skills/0 to Skill/x, which would not exist"
    );
}

#[test]
fn a_set_is_judged_by_the_state_that_it_leaves() {
    let mut store = Memory::new(&Documents::from([(key("Skill/y"), json!({}))]));
    let decisions = store.evaluate(&[
        set([
            creates("Channel/a", json!({"skills": ["x"], "next": "b"})),
            creates("Channel/b", json!({"next": "a"})),
            creates("Skill/x", json!({})),
        ]),
        set([
            deletes("Skill/x"),
            creates("Channel/c", json!({"skills": ["y", "z"]})),
        ]),
        set([
            deletes("Skill/x"),
            replaces("Channel/a", json!({"next": "b"})),
        ]),
        set([deletes("Channel/b"), deletes("Channel/a")]),
        Command::Single(creates("Channel/d", json!({"skills": ["y"]}))),
    ]);
    let accepted: Vec<_> = decisions.results.iter().map(Result::is_ok).collect();
    assert_eq!(accepted, [true, false, true, true, true]);
    assert_eq!(
        refusal(&decisions, 1),
        [
            "/changes/0",
            "Channel/a/skills/0 to Skill/x by 0",
            "Channel/c/skills/1 to Skill/z by 1"
        ]
    );
    assert_eq!(
        decisions.referred,
        BTreeSet::from([key("Skill/y")]),
        "the only one that the group does not write"
    );
}

#[test]
fn a_reference_that_dangled_before_blocks_no_edit() {
    let mut store = Memory::new(&Documents::from([
        (key("Channel/a"), json!({"skills": ["gone"]})),
        (key("Channel/b"), json!({"skills": ["gone"]})),
    ]));
    let decisions = store.evaluate(&[
        Command::Single(replaces("Channel/a", json!({"skills": ["gone"], "n": 1}))),
        Command::Single(replaces("Channel/a", json!({"skills": ["other", "gone"]}))),
        Command::Single(replaces("Channel/a", json!({"skills": []}))),
        Command::Single(replaces("Channel/a", json!({"skills": ["gone"]}))),
        Command::Single(deletes("Channel/b")),
    ]);
    let accepted: Vec<_> = decisions.results.iter().map(Result::is_ok).collect();
    assert_eq!(accepted, [true, false, true, false, true]);
}

#[test]
fn a_refusal_and_its_facts_are_bounded() {
    let ids = |count: usize| (0..count).map(|n| format!("s{n}")).collect::<Vec<_>>();
    let mut store = Memory::new(&Documents::new());
    let many = store.evaluate(&[Command::Single(creates(
        "Channel/a",
        json!({"skills": ids(500)}),
    ))]);
    let error = many.results[0].as_ref().expect_err("refused");
    assert_eq!(error.references().len(), 20);
    assert!(error.to_string().ends_with("; and more"), "{error}");
    let too_many = creates("Channel/a", json!({"skills": ids(1_001)}));
    let too_many = store.evaluate(&[Command::Single(too_many)]);
    assert_eq!(problems(&too_many), [Some(ProblemKind::Schema)]);
    let sets: [Write; 11] = std::array::from_fn(|channel| {
        let skills = ids(1_000).into_iter().map(|id| format!("{channel}.{id}"));
        let skills: Vec<_> = skills.collect();
        creates(&format!("Channel/{channel}"), json!({"skills": skills}))
    });
    let of_set = store.evaluate(&[set(sets)]);
    assert_eq!(problems(&of_set), [Some(ProblemKind::SetTooLarge)]);
}

/// A write of the model: the document, and its new value or none.
type ModelWrite = (DocumentKey, Option<Value>);

fn model_writes() -> impl Strategy<Value = Vec<ModelWrite>> {
    let skill = ("[a-d]", any::<bool>()).prop_map(|(id, deletes)| {
        let value = (!deletes).then(|| json!({}));
        (key(&format!("Skill/{id}")), value)
    });
    let skills = prop::collection::vec("[a-e]", 0..3);
    let channel = ("[a-c]", skills, prop::option::of("[a-d]"), 0..4u8);
    let channel = channel.prop_map(|(id, skills, next, deletes)| {
        let value = (deletes > 0).then(|| json!({"skills": skills, "next": next}));
        (key(&format!("Channel/{id}")), value)
    });
    prop::collection::vec(prop_oneof![skill, channel], 1..5).prop_map(|writes| {
        // A set has a document at most once.
        let writes: BTreeMap<_, _> = writes.into_iter().collect();
        writes.into_iter().collect()
    })
}

/// The references of the model that have no document.
fn dangling(documents: &Documents) -> BTreeSet<(DocumentKey, DocumentKey)> {
    let mut found = BTreeSet::new();
    for (by, value) in documents {
        let skills = value["skills"].as_array().into_iter().flatten();
        let skills = skills.map(|skill| ("Skill", skill));
        for (of, id) in skills.chain([("Channel", &value["next"])]) {
            let target = id.as_str().map(|id| key(&format!("{of}/{id}")));
            found.extend(target.map(|target| (by.clone(), target)));
        }
    }
    found.retain(|(_by, target)| !documents.contains_key(target));
    found
}

proptest! {
    /// A command is refused if and only if it leaves a reference without its document that had one,
    /// or was not there, before.
    #[test]
    fn refusals_are_those_of_a_model(
        first in model_writes(),
        commands in prop::collection::vec((model_writes(), any::<bool>()), 1..20),
        group_size in 1..6usize,
    ) {
        // It may have dangling references, as of a time before the schema.
        let mut model: Documents = first
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)))
            .collect();
        let mut store = Memory::new(&model);
        let mut expected = Vec::new();
        let mut all = Vec::new();
        for (mut writes, in_set) in commands {
            if !in_set {
                writes.truncate(1);
            }
            let mut after = model.clone();
            let mut absent = false;
            let made: Vec<_> = writes.iter().map(|(key, value)| {
                let exists = model.contains_key(key);
                match value {
                    Some(value) => {
                        after.insert(key.clone(), value.clone());
                        let config = config(value.clone());
                        on(key, if exists { Action::Replace(config) } else { Action::Create(config) })
                    }
                    None => {
                        absent |= !exists;
                        after.remove(key);
                        on(key, Action::Delete)
                    }
                }
            }).collect();
            let refused = absent || !dangling(&after).is_subset(&dangling(&model));
            if !refused {
                model = after;
            }
            expected.push(!refused);
            all.push(if in_set {
                Command::ChangeSet(ChangeSetCommand {
                    id: "set".to_owned(),
                    writes: made,
                    ..ChangeSetCommand::default()
                })
            } else {
                Command::Single(made[0].clone())
            });
        }
        let mut accepted = Vec::new();
        while accepted.len() < all.len() {
            let end = all.len().min(accepted.len() + group_size);
            let decisions = store.evaluate(&all[accepted.len()..end]);
            prop_assert!(!decisions.results.is_empty(), "a group decides at least its first command");
            accepted.extend(decisions.results.iter().map(Result::is_ok));
        }
        prop_assert_eq!(accepted, expected);
        let stored: Vec<_> = store.state.documents.keys().cloned().collect::<BTreeSet<_>>().into_iter().collect();
        let modelled: Vec<_> = model.keys().cloned().collect();
        prop_assert_eq!(stored, modelled);
    }
}
