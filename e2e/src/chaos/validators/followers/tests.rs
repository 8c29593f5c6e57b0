//! Followers that break a promise in one way each, to prove that the validator finds it.

use std::collections::BTreeMap;

use super::{
    super::{
        super::record::Outcome,
        model::{Change, Model},
        mutants::COLLECTIONS,
    },
    *,
};

const EPOCH: &str = "e-1";
const COLLECTION: u8 = 0;
/// Documents that the model begins with, in all collections.
const BEGINNING: usize = 8 * COLLECTIONS;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutation {
    Nothing,
    /// A change is left out from time to time.
    Loses,
    /// Deletions are left out.
    KeepsDeleted,
    /// A change is told again after later ones.
    TellsAgain,
    /// A deleted document is told with the value before.
    Resurrects,
    /// A value is told of another document.
    OtherDocument,
    /// Members of a set are told one by one.
    OneByOne,
}

/// How a stream tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Every change alone, in order.
    Component,
    /// Sets together.
    Configuration,
}

fn history(seed: u64) -> Model {
    let mut model = Model::new(seed);
    model.record.epochs.push((EPOCH.to_owned(), 0));
    for step in 1..400 {
        model.now = step * 10;
        model.any_write();
    }
    model.now += 1_000;
    model
}

fn item(change: &Change) -> StreamItem {
    StreamItem {
        key: change.key,
        revision: Some(change.revision),
        token: (!change.deletes).then_some(change.token),
    }
}

/// The messages of one stream: the documents of the beginning, then changes.
fn stream(model: &Model, way: Way, mutation: Mutation) -> Vec<StreamMessage> {
    let is_followed = |change: &&Change| change.key.collection == COLLECTION;
    let (beginning, later) = model.store.log.split_at(BEGINNING);
    let mut messages = Vec::new();
    let mut tell = |kind, items| {
        messages.push(StreamMessage {
            at: model.now,
            stream: 1,
            epoch: EPOCH.to_owned(),
            kind,
            items,
        });
    };
    let documents: Vec<_> = beginning.iter().filter(is_followed).map(item).collect();
    match way {
        Way::Component => {
            for document in documents {
                tell(MessageKind::State, vec![document]);
            }
        }
        Way::Configuration => tell(MessageKind::All, documents),
    }
    let mut groups: Vec<Vec<&Change>> = Vec::new();
    for change in later.iter().filter(is_followed) {
        let of_set =
            |last: &&mut Vec<&Change>| last.iter().all(|it| it.in_set && it.token == change.token);
        let is_together = way == Way::Configuration && mutation != Mutation::OneByOne;
        match groups.last_mut().filter(|_| is_together).filter(of_set) {
            Some(group) => group.push(change),
            None => groups.push(vec![change]),
        }
    }
    let mut values: BTreeMap<DocumentKey, StreamItem> = BTreeMap::new();
    for (number, group) in groups.iter().enumerate() {
        if mutation == Mutation::Loses && number % 7 == 3 {
            continue;
        }
        let mut items: Vec<_> = group.iter().map(|change| item(change)).collect();
        for item in &mut items {
            let before = values.insert(item.key, *item);
            match mutation {
                Mutation::Resurrects if item.token.is_none() => {
                    *item = before.unwrap_or(*item);
                }
                Mutation::OtherDocument if number % 5 == 4 => {
                    item.key.number = (item.key.number + 1) % 8;
                }
                _ => {}
            }
        }
        if mutation == Mutation::KeepsDeleted {
            items.retain(|item| item.token.is_some());
        }
        let kind = match (way, group.last()) {
            (Way::Component, Some(change)) => MessageKind::Change(change.revision),
            _ => MessageKind::Together,
        };
        if !items.is_empty() {
            tell(kind, items);
        }
        if mutation == Mutation::TellsAgain
            && number % 10 == 9
            && let Some(old) = group.first().and_then(|change| {
                let mut log = later.iter().filter(is_followed);
                log.rfind(|old| old.key == change.key && old.revision < change.revision)
            })
        {
            tell(MessageKind::Together, vec![item(old)]);
        }
    }
    messages
}

fn broken(model: &Model, observed: impl IntoIterator<Item = Followed>) -> Findings {
    let index = WriteIndex::new(&model.record);
    let mut findings = Findings::default();
    let mut validator = FollowerValidator::new("mutant");
    for followed in observed {
        validator.validate(&index, &followed, &mut findings);
    }
    findings
}

fn streamed(model: &Model, way: Way, mutation: Mutation) -> Findings {
    broken(
        model,
        stream(model, way, mutation)
            .into_iter()
            .map(Followed::Message),
    )
}

#[test]
fn a_correct_stream_passes() {
    for seed in 0..8 {
        let model = history(seed);
        for (way, promise) in [
            (Way::Component, Promise::EveryChange),
            (Way::Configuration, Promise::AtomicSet),
        ] {
            let findings = streamed(&model, way, Mutation::Nothing);
            let first = findings.violations.first();
            assert!(first.is_none(), "seed {seed}, {way:?}: {first:#?}");
            assert!(findings.checks[&promise] > 50, "{promise:?}");
        }
    }
}

#[test]
fn every_broken_stream_is_detected() {
    let model = history(1);
    let component = [
        (Mutation::Loses, Promise::EveryChange),
        (Mutation::KeepsDeleted, Promise::EveryChange),
        (Mutation::TellsAgain, Promise::NoRollback),
        (Mutation::Resurrects, Promise::EveryChange),
        (Mutation::OtherDocument, Promise::Explained),
    ];
    let configuration = [
        (Mutation::OneByOne, Promise::AtomicSet),
        (Mutation::TellsAgain, Promise::NoRollback),
        (Mutation::TellsAgain, Promise::NoResurrection),
        (Mutation::OtherDocument, Promise::Explained),
    ];
    for (way, mutations) in [
        (Way::Component, &component[..]),
        (Way::Configuration, &configuration),
    ] {
        for (mutation, promise) in mutations {
            let broken = streamed(&model, way, *mutation).broken();
            assert!(
                broken.contains(promise),
                "{way:?} {mutation:?} broke only {broken:?}"
            );
        }
    }
}

/// Another stream, and another epoch, may begin below what was told before.
#[test]
fn an_order_is_that_of_one_stream_and_epoch() {
    let model = history(1);
    let told = stream(&model, Way::Configuration, Mutation::Nothing);
    let again = |stream: u64, epoch: &str| {
        let second = told.iter().take(3).map(|message| StreamMessage {
            stream,
            epoch: epoch.to_owned(),
            ..message.clone()
        });
        let both = told.iter().cloned().chain(second);
        broken(&model, both.map(Followed::Message)).broken()
    };
    assert_eq!(again(2, EPOCH), []);
    assert_eq!(again(1, "e-2"), []);
    assert!(again(1, EPOCH).contains(&Promise::NoRollback));
}

/// The folder after this number of changes; those of collection 1 after another number.
fn folder(model: &Model, changes: usize, changes_of_one: usize) -> FolderView {
    let mut revisions = [0; SCHEMA_FREE.len()];
    let mut documents = BTreeMap::new();
    for (number, change) in model.store.log.iter().enumerate() {
        if number < changes {
            revisions[usize::from(change.key.collection)] = change.revision;
        }
        let end = match change.key.collection {
            1 => changes_of_one,
            _ => changes,
        };
        if number >= end {
            continue;
        }
        match change.deletes {
            true => documents.remove(&change.key),
            false => documents.insert(change.key, change.token),
        };
    }
    FolderView {
        at: model.now,
        epoch: EPOCH.to_owned(),
        revisions,
        tokens: documents.into_iter().collect(),
    }
}

/// Numbers of changes after which no set is divided.
fn whole(model: &Model) -> Vec<usize> {
    let log = &model.store.log;
    let is_whole = |end: &usize| {
        log.get(*end)
            .is_none_or(|next| !next.in_set || next.token != log[end - 1].token)
    };
    (BEGINNING..=log.len()).filter(is_whole).collect()
}

#[test]
fn folders_of_one_moment_pass() {
    for seed in 0..8 {
        let model = history(seed);
        let folders = whole(&model).into_iter().step_by(3);
        let folders = folders.map(|end| Followed::Folder(folder(&model, end, end)));
        let findings = broken(&model, folders);
        let first = findings.violations.first();
        assert!(first.is_none(), "seed {seed}: {first:#?}");
        assert!(findings.checks[&Promise::OneMoment] > 50);
    }
}

#[test]
fn a_folder_of_two_moments_is_detected() {
    let model = history(1);
    let ends = whole(&model);
    let (mut mixed, mut detected) = (0, 0);
    for end in ends.iter().step_by(10).skip(3) {
        for other in [*end - 12, *end + 12] {
            let view = folder(&model, *end, other.min(model.store.log.len()));
            if view == folder(&model, *end, *end) {
                continue;
            }
            let broken = broken(&model, [Followed::Folder(view)]).broken();
            assert!(
                broken.iter().all(|promise| *promise == Promise::OneMoment),
                "{end} and {other}: {broken:?}"
            );
            mixed += 1;
            detected += broken.len();
        }
    }
    // Four changes are missing or too many. Writes without an answer may explain all of them.
    let is_most = detected * 5 > mixed * 4;
    assert!(mixed > 20 && is_most, "{detected} of {mixed}");
}

#[test]
fn a_folder_with_a_part_of_a_set_and_an_older_folder_are_detected() {
    let model = history(1);
    let log = &model.store.log;
    let divided = (BEGINNING + 1..log.len()).find(|end| {
        let [last, next] = [&log[end - 1], &log[*end]];
        let write = &model.record.writes[next.token as usize];
        last.token == next.token && write.outcome == Outcome::Acked
    });
    let end = divided.expect("a set");
    let view = Followed::Folder(folder(&model, end, end));
    assert_eq!(broken(&model, [view]).broken(), [Promise::AtomicSet]);
    let ends = whole(&model);
    let folders = [ends[40], ends[30]].map(|end| Followed::Folder(folder(&model, end, end)));
    assert_eq!(broken(&model, folders).broken(), [Promise::NoRollback]);
    let wrong = Followed::Wrong {
        at: 0,
        what: "a file of somebody".to_owned(),
    };
    assert_eq!(broken(&model, [wrong]).broken(), [Promise::NeverEmpty]);
}
