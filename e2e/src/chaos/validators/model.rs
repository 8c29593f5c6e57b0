//! A model of a publisher for [`super::mutants`]: it commits, sometimes gives no answer, and can be
//! restored from a dump.
//!
//! It has no process and no clock of its own.

use std::collections::BTreeMap;

use super::{
    super::{
        observations::{DocumentTable, SeenValue},
        random::Random,
        record::{DocumentKey, Millis, Outcome, Restore, SLOTS, WriteRecord},
    },
    mutants::COLLECTIONS,
};

/// One change of the log.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) key: DocumentKey,
    pub(super) revision: u64,
    pub(super) token: u64,
    pub(super) deletes: bool,
    /// Whether it changed together with others, in a set.
    pub(super) in_set: bool,
}

/// The state of a publisher.
#[derive(Debug, Clone, Default)]
pub(super) struct Store {
    pub(super) log: Vec<Change>,
    pub(super) revisions: [u64; COLLECTIONS],
    pub(super) documents: BTreeMap<DocumentKey, SeenValue>,
}

/// The record of its writes.
pub(super) struct Model {
    pub(super) random: Random,
    pub(super) record: WriteRecord,
    pub(super) store: Store,
    pub(super) now: Millis,
}

impl Model {
    /// Eight documents per collection.
    pub(super) fn new(seed: u64) -> Self {
        let mut model = Self {
            random: Random::new(seed),
            record: WriteRecord::default(),
            store: Store::default(),
            now: 0,
        };
        for key in DocumentKey::all().filter(|key| key.number < 8) {
            model.write(&[(key, false)], Outcome::Acked);
        }
        model
    }

    /// Commits a write, and answers it or not.
    pub(super) fn write(
        &mut self,
        members: &[(DocumentKey, bool)],
        outcome: Outcome,
    ) -> Vec<Change> {
        let token = self
            .record
            .begin("put", 0, self.now, members.iter().copied());
        let mut changes = Vec::new();
        for (key, deletes) in members {
            let revision = &mut self.store.revisions[usize::from(key.collection)];
            *revision += 1;
            let revision = *revision;
            let deletes = *deletes;
            let in_set = members.len() > 1;
            changes.push(Change {
                key: *key,
                revision,
                token,
                deletes,
                in_set,
            });
            match deletes {
                true => self.store.documents.remove(key),
                false => self
                    .store
                    .documents
                    .insert(*key, SeenValue { revision, token }),
            };
        }
        let revisions: Vec<_> = changes.iter().map(|change| change.revision).collect();
        let confirmed = if outcome == Outcome::Acked {
            &revisions[..]
        } else {
            &[]
        };
        self.record.end(token, self.now, 200, outcome, confirmed);
        self.store.log.extend(changes.iter().cloned());
        changes
    }

    /// Gives all documents of a collection the values back that they had then, as one set, and
    /// answers it or not.
    pub(super) fn roll_back(
        &mut self,
        collection: u8,
        then: &BTreeMap<DocumentKey, SeenValue>,
        outcome: Outcome,
    ) -> Vec<Change> {
        let keys: Vec<_> = DocumentKey::all()
            .filter(|key| key.collection == collection && key.number < 8)
            .collect();
        let token = self
            .record
            .begin_rollback("roll back", 0, self.now, keys.iter().copied());
        let mut changes = Vec::new();
        let mut answered = Vec::new();
        for key in keys {
            let now = self.store.documents.get(&key).map(|seen| seen.token);
            let before = then.get(&key).copied();
            if now == before.map(|seen| seen.token) {
                continue;
            }
            let revision = &mut self.store.revisions[usize::from(collection)];
            *revision += 1;
            let revision = *revision;
            answered.push((key, revision, before.map(|seen| seen.revision)));
            match before {
                Some(SeenValue { token, .. }) => self
                    .store
                    .documents
                    .insert(key, SeenValue { revision, token }),
                None => self.store.documents.remove(&key),
            };
            changes.push(Change {
                key,
                revision,
                token: before.map_or(token, |seen| seen.token),
                deletes: before.is_none(),
                in_set: true,
            });
        }
        self.record.end(token, self.now, 200, outcome, &[]);
        if outcome == Outcome::Acked {
            self.record.rolled_back(token, &answered);
        }
        self.store.log.extend(changes.iter().cloned());
        changes
    }

    /// Writes a put, a deletion or a set of both. One in ten has no answer.
    pub(super) fn any_write(&mut self) -> Vec<Change> {
        let key = |random: &mut Random| DocumentKey {
            collection: random.below(3) as u8,
            number: random.below(8) as u8,
        };
        let [one, other] = [key(&mut self.random), key(&mut self.random)];
        let outcome = if self.random.below(10) == 0 {
            Outcome::Unknown
        } else {
            Outcome::Acked
        };
        let may_delete =
            |key: DocumentKey| !key.is_anchor() && self.store.documents.contains_key(&key);
        match self.random.below(10) {
            0..2 if one != other => self.write(&[(one, false), (other, false)], outcome),
            2..4 if one != other && may_delete(other) => {
                self.write(&[(one, false), (other, true)], outcome)
            }
            4..7 if may_delete(one) => self.write(&[(one, true)], outcome),
            _ => self.write(&[(one, false)], outcome),
        }
    }

    /// Restores a dump.
    pub(super) fn restore(&mut self, dumped: Millis, store: Store) {
        self.store = store;
        self.record.restores.push(Restore {
            dumped,
            restored: self.now,
            ended: 1,
        });
    }
}

/// Documents in the form that the validator reads.
pub(super) fn held(documents: &BTreeMap<DocumentKey, SeenValue>) -> Box<DocumentTable> {
    let mut held: Box<DocumentTable> = Box::new([None; SLOTS]);
    documents
        .iter()
        .for_each(|(key, seen)| held[key.slot()] = Some(*seen));
    held
}
