//! Publishers that answer the past wrongly in one way each, to prove that the validator finds it.

use std::collections::BTreeMap;

use super::{
    super::{
        super::record::{NamedState, Outcome, Restore},
        Findings,
        model::{Change, Model},
    },
    *,
};

/// How a publisher answers wrongly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutation {
    Nothing,
    /// Answers the state before the last change of the moment.
    OneTooEarly,
    /// Answers the present, whatever was asked for.
    Present,
    /// Leaves deletions out.
    KeepsDeleted,
    /// Leaves rollbacks out.
    ForgetsRollbacks,
    /// Leaves every fifth change of a history out.
    Holes,
    /// Shows the changes of another document.
    OtherDocument,
    /// Says that the named snapshot is not kept.
    LosesSnapshots,
}

struct Publisher {
    model: Model,
    mutation: Mutation,
    /// Tokens of rollbacks by collection and revision.
    rollbacks: Vec<(u8, u64)>,
    /// Revisions of the named snapshot.
    named: [u64; super::super::mutants::COLLECTIONS],
}

impl Publisher {
    /// With a history of writes, rollbacks, a restored dump and a named snapshot.
    fn new(mutation: Mutation, seed: u64) -> Self {
        let mut publisher = Self {
            model: Model::new(seed),
            mutation,
            rollbacks: Vec::new(),
            named: Default::default(),
        };
        let mut dump = None;
        for step in 1..600_u64 {
            publisher.model.now = step * 10;
            match step {
                300 => dump = Some((publisher.model.now, publisher.model.store.clone())),
                330 => {
                    if let Some((dumped, store)) = dump.take() {
                        publisher.rollbacks.retain(|(collection, revision)| {
                            *revision <= store.revisions[usize::from(*collection)]
                        });
                        publisher.model.restore(dumped, store);
                    }
                }
                // One that was named before may be lost.
                400 => publisher.name(),
                _ if step.is_multiple_of(9) => publisher.roll_back((step % 3) as u8),
                _ => drop(publisher.model.any_write()),
            }
        }
        publisher.model.now += 1_000;
        publisher
    }

    fn name(&mut self) {
        self.named = self.model.store.revisions;
        self.model.record.snapshots.push(NamedState {
            name: "n".to_owned(),
            started: self.model.now,
            ended: self.model.now,
            deleting: None,
        });
        self.model.now += 1;
    }

    fn roll_back(&mut self, collection: u8) {
        let newest = self.model.store.revisions[usize::from(collection)];
        let to = newest - self.model.random.below(12).min(newest - 8);
        let then = self.documents(collection, to);
        let outcome = if self.model.random.below(4) == 0 {
            Outcome::Unknown
        } else {
            Outcome::Acked
        };
        for change in self.model.roll_back(collection, &then, outcome) {
            self.rollbacks.push((collection, change.revision));
        }
    }

    fn is_rollback(&self, change: &Change) -> bool {
        self.rollbacks
            .contains(&(change.key.collection, change.revision))
    }

    /// The true documents of a collection at a revision.
    fn documents(&self, collection: u8, revision: u64) -> BTreeMap<DocumentKey, SeenValue> {
        self.folded(collection, revision, |_| true)
    }

    fn folded(
        &self,
        collection: u8,
        revision: u64,
        counts: impl Fn(&Change) -> bool,
    ) -> BTreeMap<DocumentKey, SeenValue> {
        let mut documents = BTreeMap::new();
        let log = self.model.store.log.iter();
        let of = |change: &&Change| {
            change.key.collection == collection && change.revision <= revision && counts(change)
        };
        for change in log.filter(of) {
            if change.deletes {
                documents.remove(&change.key);
            } else {
                let seen = SeenValue {
                    revision: change.revision,
                    token: change.token,
                };
                documents.insert(change.key, seen);
            }
        }
        documents
    }

    /// Its answers to every revision of a collection, the named snapshot, and all histories.
    fn answers(&self, collection: u8) -> Vec<PastReading> {
        let newest = self.model.store.revisions[usize::from(collection)];
        let named = self.named[usize::from(collection)];
        let snapshot = Moment::Snapshot("n".to_owned());
        let mut moments: Vec<_> = (8..=newest)
            .map(|revision| (Moment::Revision(revision), revision))
            .collect();
        moments.push((snapshot, named));
        let states = moments.into_iter().map(|(moment, revision)| {
            let answer = if self.mutation == Mutation::LosesSnapshots
                && matches!(moment, Moment::Snapshot(_))
            {
                PastAnswer::NotKept { newest }
            } else {
                self.state(collection, revision, newest)
            };
            self.reading(collection, None, moment, answer)
        });
        let keys = DocumentKey::all().filter(|key| key.collection == collection && key.number < 8);
        let histories = keys.map(|key| {
            let answer = PastAnswer::History(self.history(key));
            self.reading(collection, Some(key), Moment::History, answer)
        });
        states.chain(histories).collect()
    }

    fn state(&self, collection: u8, revision: u64, newest: u64) -> PastAnswer {
        let documents = match self.mutation {
            Mutation::OneTooEarly => self.documents(collection, revision - 1),
            Mutation::Present => self.documents(collection, newest),
            Mutation::KeepsDeleted => self.folded(collection, revision, |change| !change.deletes),
            Mutation::ForgetsRollbacks => {
                self.folded(collection, revision, |change| !self.is_rollback(change))
            }
            _ => self.documents(collection, revision),
        };
        PastAnswer::State {
            revision,
            count: Some(documents.len() as u64),
            held: documents.into_iter().collect(),
        }
    }

    fn history(&self, key: DocumentKey) -> Vec<PastChange> {
        let key = match self.mutation {
            Mutation::OtherDocument => DocumentKey {
                number: (key.number + 1) % 8,
                ..key
            },
            _ => key,
        };
        let log = self.model.store.log.iter().rev();
        let of_document = log.filter(|change| change.key == key);
        let leaves_out = |number: usize| self.mutation == Mutation::Holes && number % 5 == 2;
        of_document
            .enumerate()
            .filter(|(number, _)| !leaves_out(*number))
            .map(|(_, change)| PastChange {
                revision: change.revision,
                deletes: change.deletes,
                token: (!change.deletes).then_some(change.token),
            })
            .collect()
    }

    fn reading(
        &self,
        collection: u8,
        document: Option<DocumentKey>,
        moment: Moment,
        answer: PastAnswer,
    ) -> PastReading {
        PastReading {
            path: "/".to_owned(),
            sent: self.model.now,
            got: self.model.now,
            collection,
            document,
            moment,
            answer,
        }
    }

    fn findings(&self) -> Findings {
        let index = WriteIndex::new(&self.model.record);
        let mut findings = Findings::default();
        for collection in 0..super::super::mutants::COLLECTIONS as u8 {
            for reading in self.answers(collection) {
                past(&index, &reading, true, &mut findings);
            }
        }
        findings
    }
}

#[test]
fn exact_answers_pass() {
    for seed in 0..8 {
        let findings = Publisher::new(Mutation::Nothing, seed).findings();
        assert!(
            findings.violations.is_empty(),
            "seed {seed}: {:#?}",
            findings.violations.first()
        );
        assert!(findings.checks[&Promise::ExactPast] > 300);
    }
}

#[test]
fn every_wrong_answer_is_detected() {
    for mutation in [
        Mutation::OneTooEarly,
        Mutation::Present,
        Mutation::KeepsDeleted,
        Mutation::ForgetsRollbacks,
        Mutation::Holes,
        Mutation::OtherDocument,
        Mutation::LosesSnapshots,
    ] {
        let broken = Publisher::new(mutation, 1).findings().broken();
        assert_eq!(broken, [Promise::ExactPast], "{mutation:?}");
    }
}

#[test]
fn a_moment_of_another_time_is_detected() {
    let publisher = Publisher::new(Mutation::Nothing, 1);
    let index = WriteIndex::new(&publisher.model.record);
    let newest = publisher.model.store.revisions[0];
    let broken = |moment: Moment, revision: u64| {
        let answer = publisher.state(0, revision, newest);
        let reading = publisher.reading(0, None, moment, answer);
        let mut findings = Findings::default();
        past(&index, &reading, true, &mut findings);
        !findings.violations.is_empty()
    };
    let snapshot = || Moment::Snapshot("n".to_owned());
    assert!(!broken(snapshot(), publisher.named[0]));
    assert!(broken(snapshot(), publisher.named[0] - 5));
    assert!(broken(snapshot(), publisher.named[0] + 15));
    // All clocks are true within half a second, so only what is far away is wrong.
    let now = publisher.model.now;
    assert!(!broken(Moment::Time(now), newest));
    assert!(broken(Moment::Time(now), newest - 20));
    assert!(broken(Moment::Time(now - 2_500), newest));
}

#[test]
fn a_refusal_of_what_retention_keeps_is_detected() {
    let mut publisher = Publisher::new(Mutation::Nothing, 1);
    // What a restored dump lacks, no store has.
    publisher.model.record.restores.clear();
    let index = WriteIndex::new(&publisher.model.record);
    let broken = |asked: u64, newest: u64| {
        let answer = PastAnswer::NotKept { newest };
        let reading = publisher.reading(0, None, Moment::Revision(asked), answer);
        let mut findings = Findings::default();
        past(&index, &reading, true, &mut findings);
        !findings.violations.is_empty()
    };
    let newest = 19 + KEPT_CHANGES;
    assert!(broken(20, newest));
    assert!(!broken(19, newest), "retention may remove what it needs");
}

#[test]
fn a_named_snapshot_may_be_given_up_once_its_deletion_was_sent_or_a_dump_was_put_back() {
    let mut publisher = Publisher::new(Mutation::Nothing, 1);
    let now = publisher.model.now;
    let named = publisher.model.record.snapshots[0].started;
    for (deleting, restored, is_broken) in [
        (None, None, true),
        (Some(now + 1), None, true),
        (Some(now), None, false),
        (None, Some(named), true),
        (None, Some(named + 1), false),
    ] {
        publisher.model.record.snapshots[0].deleting = deleting;
        let restore = |restored| Restore {
            dumped: restored,
            restored,
            ended: 1,
        };
        publisher.model.record.restores = restored.map(restore).into_iter().collect();
        let index = WriteIndex::new(&publisher.model.record);
        let answer = PastAnswer::NotKept { newest: 1 };
        let moment = Moment::Snapshot("n".to_owned());
        let reading = publisher.reading(0, None, moment, answer);
        let mut findings = Findings::default();
        past(&index, &reading, true, &mut findings);
        let is_found = !findings.violations.is_empty();
        assert_eq!(is_found, is_broken, "{deleting:?} {restored:?}");
    }
}
