//! Any history against a plain model: a list of committed changes and the map they add up to.

use std::collections::{BTreeMap, BTreeSet};

use contract::{CanonicalJson, CollectionName, Digest, DocumentId, Epoch, Head, Operation, Revision, snapshot};
use proptest::prelude::*;

use crate::{Decision, Hint, How, Installed, Machine, NotInstalled, Snapshot};

const EPOCH: Epoch = Epoch { lineage: 7, counter: 1 };

/// What a publisher would hold: its log, and its documents at any revision.
#[derive(Debug, Clone, Default)]
struct Model {
    log: Vec<Hint>,
}

type Documents = BTreeMap<DocumentId, (Revision, CanonicalJson)>;

fn name() -> CollectionName {
    "Skills".parse().expect("a name")
}

fn value(number: Revision) -> CanonicalJson {
    CanonicalJson::parse(format!(r#"{{"value":{number}}}"#).as_bytes()).expect("json")
}

impl Model {
    /// Commits a change of document `n`: a deletion if it lives and `delete` is wished, else a new value.
    fn commit(&mut self, n: u8, delete: bool) {
        let id: DocumentId = format!("doc-{n}").parse().expect("an id");
        let lives = self.at(self.revision()).contains_key(&id);
        let revision = self.revision() + 1;
        let (op, config) = match (lives, delete) {
            (true, true) => (Operation::Delete, None),
            (true, false) => (Operation::Update, Some(value(revision))),
            (false, _) => (Operation::Create, Some(value(revision))),
        };
        self.log.push(Hint {
            collection: name(),
            id,
            epoch: EPOCH,
            revision,
            op,
            config,
            last_set: 0,
            change_set: None,
        });
    }

    fn revision(&self) -> Revision {
        self.log.len() as Revision
    }

    fn at(&self, revision: Revision) -> Documents {
        let mut documents = Documents::new();
        for change in &self.log[..revision as usize] {
            match &change.config {
                Some(config) => documents.insert(change.id.clone(), (change.revision, config.clone())),
                None => documents.remove(&change.id),
            };
        }
        documents
    }

    fn snapshot(&self, at: Revision, epoch: Epoch, machine: &Machine) -> Snapshot {
        let documents = self.at(at);
        let digest =
            documents.iter().fold(Digest::default(), |sum, (id, (rev, config))| sum.with(id, *rev, config.crc()));
        let count = documents.len() as u64;
        let head = Head { revision: at, count, digest, ..Head::empty(name(), epoch) };
        let mut builder = Snapshot::begin(snapshot::Start { epoch, heads: vec![head] });
        for (id, (revision, config)) in documents {
            let item = snapshot::Item { collection: name(), id, revision, crc: config.crc(), config_data: config };
            builder.item(item, machine.root()).expect("an announced, intact item");
        }
        builder.complete(&snapshot::End { end: true, count }, machine.root()).expect("complete")
    }
}

fn machine() -> Machine {
    Machine::new(&BTreeSet::from([name()]))
}

fn held(machine: &Machine) -> Documents {
    let collection = machine.root().collection(&name()).expect("followed");
    let config = |json: &[u8]| CanonicalJson::parse(json).expect("canonical");
    collection.documents().map(|d| (d.id().clone(), (d.revision(), config(&d.config_data())))).collect()
}

fn digest_of(documents: &Documents) -> Digest {
    documents.iter().fold(Digest::default(), |sum, (id, (revision, config))| sum.with(id, *revision, config.crc()))
}

/// What happens to a replica, step by step. Numbers are taken modulo what there is.
#[derive(Debug, Clone)]
enum Step {
    Commit {
        document: u8,
        delete: bool,
    },
    /// An event arrives: any committed change, in any order, any number of times.
    Deliver {
        change: usize,
        without_value: bool,
    },
    /// A load begins; its snapshot is of this moment.
    BeginLoad,
    /// The answer to the newest load arrives, or is lost.
    EndLoad {
        lost: bool,
    },
    /// The answer to a load that was overtaken arrives.
    LateAnswer,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..5u8, prop::bool::weighted(0.3)).prop_map(|(document, delete)| Step::Commit { document, delete }),
        8 => (any::<usize>(), prop::bool::weighted(0.1)).prop_map(|(change, without_value)| Step::Deliver { change, without_value }),
        1 => Just(Step::BeginLoad),
        2 => prop::bool::weighted(0.2).prop_map(|lost| Step::EndLoad { lost }),
        1 => Just(Step::LateAnswer),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn any_history_converges(steps in steps()) {
        let (mut model, mut machine) = (Model::default(), machine());
        let mut newest = BTreeMap::<DocumentId, Revision>::new();
        let mut load = None;
        let mut overtaken = None;
        for step in steps {
            match step {
                Step::Commit { document, delete } => model.commit(document, delete),
                Step::Deliver { change, without_value } if !model.log.is_empty() => {
                    let mut hint = model.log[change % model.log.len()].clone();
                    if without_value {
                        hint.config = None;
                    }
                    let decided = machine.decide(&hint);
                    prop_assert_eq!(machine.apply(&hint), decided);
                    if matches!(decided, Decision::Applied | Decision::Superseded) {
                        prop_assert_eq!(machine.decide(&hint), Decision::Duplicate);
                    }
                }
                Step::Deliver { .. } => {}
                Step::BeginLoad => {
                    overtaken = load.take().or(overtaken);
                    let generation = machine.begin_load();
                    load = Some((generation, model.revision()));
                }
                Step::EndLoad { lost } => if let Some((generation, at)) = load.take() {
                    if lost {
                        machine.abandon_load(generation);
                    } else {
                        let snapshot = model.snapshot(at, EPOCH, &machine);
                        prop_assert!(machine.install(generation, snapshot).is_ok());
                    }
                },
                Step::LateAnswer => if let Some((generation, at)) = overtaken.take() {
                    let snapshot = model.snapshot(at, EPOCH, &machine);
                    prop_assert_eq!(machine.install(generation, snapshot), Err(NotInstalled::Voided));
                },
            }
            let collection = machine.root().collection(&name()).expect("followed");
            let documents = held(&machine);
            prop_assert_eq!(collection.digest(), digest_of(&documents));
            for (id, (revision, config)) in &documents {
                // NoRollback, and every value is one that was committed at that revision.
                let before = newest.insert(id.clone(), *revision).unwrap_or(0);
                prop_assert!(*revision >= before, "{} went back from {} to {}", id, before, revision);
                prop_assert_eq!(Some(config), model.log[*revision as usize - 1].config.as_ref());
                // NoResurrection: below the watermark nothing is held that a committed change had taken away or replaced.
                let overtaken = model.log.iter().any(|c| &c.id == id && c.revision > *revision && c.revision <= collection.watermark());
                prop_assert!(!overtaken, "{} at {} is older than the watermark {}", id, revision, collection.watermark());
            }
            if collection.loaded() && collection.settled() {
                prop_assert_eq!(documents, model.at(collection.watermark()));
            }
        }
        let generation = machine.begin_load();
        let snapshot = model.snapshot(model.revision(), EPOCH, &machine);
        prop_assert!(machine.install(generation, snapshot).is_ok());
        prop_assert_eq!(held(&machine), model.at(model.revision()));
        let collection = machine.root().collection(&name()).expect("followed");
        prop_assert_eq!((collection.watermark(), collection.settled()), (model.revision(), true));
    }
}

fn loaded(model: &Model) -> Machine {
    let mut machine = machine();
    let generation = machine.begin_load();
    let snapshot = model.snapshot(model.revision(), EPOCH, &machine);
    assert_eq!(machine.install(generation, snapshot), Ok(Installed { how: How::Replaced, resets: 0 }));
    machine
}

fn three_documents() -> Model {
    let mut model = Model::default();
    (1..=3).for_each(|n| model.commit(n, false));
    model
}

#[test]
fn what_comes_before_the_first_load_is_not_lost() {
    let mut model = three_documents();
    let mut machine = machine();
    let generation = machine.begin_load();
    let snapshot = model.snapshot(3, EPOCH, &machine);
    model.commit(1, true);
    assert_eq!(machine.apply(&model.log[3]), Decision::Early);
    machine.install(generation, snapshot).expect("installed");
    assert_eq!(held(&machine), model.at(4));
}

#[test]
fn a_blank_store_or_an_older_history_never_replaces_good_data() {
    let model = three_documents();
    let mut machine = loaded(&model);
    let newer = Epoch { counter: 2, ..EPOCH };
    let attempt = |machine: &mut Machine, model: &Model, epoch| {
        let generation = machine.begin_load();
        let snapshot = model.snapshot(model.revision(), epoch, machine);
        machine.install(generation, snapshot)
    };
    let stranger = Epoch { lineage: 8, counter: 9 };
    assert_eq!(attempt(&mut machine, &model, stranger), Err(NotInstalled::OtherStore(stranger)));

    assert_eq!(held(&machine), model.at(3));
    assert_eq!(attempt(&mut machine, &model, newer), Ok(Installed { how: How::Replaced, resets: 0 }));
    assert_eq!(attempt(&mut machine, &model, EPOCH), Err(NotInstalled::OlderEpoch(EPOCH)));
    let event = Hint { revision: 4, ..model.log[0].clone() };
    assert_eq!(machine.apply(&event), Decision::OtherEpoch);
}

#[test]
fn an_incomplete_snapshot_is_refused() {
    let model = three_documents();
    let machine = machine();
    let head = |count, digest| Head { revision: 3, count, digest, ..Head::empty(name(), EPOCH) };
    let start = |head| Snapshot::begin(snapshot::Start { epoch: EPOCH, heads: vec![head] });
    let right = digest_of(&model.at(3));
    let cut = start(head(3, right));
    assert!(cut.complete(&snapshot::End { end: true, count: 3 }, machine.root()).is_err());
    let wrong_sum = start(head(0, right));
    assert!(wrong_sum.complete(&snapshot::End { end: true, count: 0 }, machine.root()).is_err());
    let nothing = Snapshot::begin(snapshot::Start { epoch: EPOCH, heads: vec![] });
    assert!(nothing.complete(&snapshot::End { end: true, count: 0 }, machine.root()).is_err());
    let mut damaged = start(head(3, right));
    let item = snapshot::Item {
        collection: name(),
        id: "a".parse().expect("id"),
        revision: 1,
        crc: contract::Crc(1),
        config_data: value(1),
    };
    assert!(damaged.item(item, machine.root()).is_err());
}

#[test]
fn a_pinned_root_never_changes() {
    let mut model = three_documents();
    let mut machine = loaded(&model);
    let pinned = machine.root().clone();
    model.commit(1, true);
    assert_eq!(machine.apply(&model.log[3]), Decision::Applied);
    let id = &model.log[0].id;
    assert!(pinned.get(&name(), id).is_some() && machine.root().get(&name(), id).is_none());
}

#[test]
fn unversioned_collections_follow_the_source_document() {
    let mut machine = machine();
    let id: DocumentId = "a".parse().expect("id");
    machine.replace_unversioned(&name(), vec![("b".parse().expect("id"), value(1))]);
    assert!(machine.root().loaded());
    assert!(machine.add_unversioned(&name(), id.clone(), &value(2)));
    assert!(machine.remove_unversioned(&name(), &id));
    assert!(!machine.remove_unversioned(&name(), &id), "deleting what is not there is told, so that a load follows");
    let mut versioned = loaded(&three_documents());
    assert!(
        !versioned.add_unversioned(&name(), id, &value(2)),
        "a versioned collection never takes an unversioned value"
    );
}
