//! A publisher of numbers for [`super::doubles`]: it commits, forgets to answer now and then, and
//! can be put back to a dump.
//!
//! No process, no time of its own.

use std::collections::BTreeMap;

use super::{
    super::{
        journal::{Journal, Key, Ms, Outcome, Restore, SLOTS},
        observe::{Held, Seen},
        random::Random,
    },
    doubles::COLLECTIONS,
};

/// One change of the log.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) key: Key,
    pub(super) revision: u64,
    pub(super) token: u64,
    pub(super) deletes: bool,
    /// It changed together with others.
    pub(super) in_set: bool,
}

/// What a publisher holds.
#[derive(Debug, Clone, Default)]
pub(super) struct Store {
    pub(super) log: Vec<Change>,
    pub(super) revisions: [u64; COLLECTIONS],
    pub(super) there: BTreeMap<Key, Seen>,
}

/// What is written.
pub(super) struct World {
    pub(super) random: Random,
    pub(super) journal: Journal,
    pub(super) store: Store,
    pub(super) now: Ms,
}

impl World {
    /// Eight documents per collection.
    pub(super) fn new(seed: u64) -> Self {
        let mut world = Self {
            random: Random::new(seed),
            journal: Journal::default(),
            store: Store::default(),
            now: 0,
        };
        for key in Key::all().filter(|key| key.number < 8) {
            world.write(&[(key, false)], Outcome::Acked);
        }
        world
    }

    /// Writes, and says so, or not.
    pub(super) fn write(&mut self, members: &[(Key, bool)], outcome: Outcome) -> Vec<Change> {
        let token = self
            .journal
            .begin("put", 0, self.now, members.iter().copied());
        let mut changes = Vec::new();
        for (key, deletes) in members {
            let revision = &mut self.store.revisions[usize::from(key.collection)];
            *revision += 1;
            let (revision, deletes, in_set) = (*revision, *deletes, members.len() > 1);
            changes.push(Change {
                key: *key,
                revision,
                token,
                deletes,
                in_set,
            });
            match deletes {
                true => self.store.there.remove(key),
                false => self.store.there.insert(*key, Seen { revision, token }),
            };
        }
        let revisions: Vec<_> = changes.iter().map(|change| change.revision).collect();
        let told = if outcome == Outcome::Acked {
            &revisions[..]
        } else {
            &[]
        };
        self.journal.end(token, self.now, 200, outcome, told);
        self.store.log.extend(changes.iter().cloned());
        changes
    }

    /// A put, a deletion or a set of both; one in ten is never answered.
    pub(super) fn any_write(&mut self) -> Vec<Change> {
        let key = |random: &mut Random| Key {
            collection: random.below(3) as u8,
            number: random.below(8) as u8,
        };
        let [one, other] = [key(&mut self.random), key(&mut self.random)];
        let outcome = if self.random.below(10) == 0 {
            Outcome::Unknown
        } else {
            Outcome::Acked
        };
        let may_go = |key: Key| !key.is_anchor() && self.store.there.contains_key(&key);
        match self.random.below(10) {
            0..2 if one != other => self.write(&[(one, false), (other, false)], outcome),
            2..4 if one != other && may_go(other) => {
                self.write(&[(one, false), (other, true)], outcome)
            }
            4..7 if may_go(one) => self.write(&[(one, true)], outcome),
            _ => self.write(&[(one, false)], outcome),
        }
    }

    /// Puts a dump back.
    pub(super) fn restore(&mut self, dumped: Ms, store: Store) {
        self.store = store;
        self.journal.restores.push(Restore {
            dumped,
            restored: self.now,
            ended: 1,
        });
    }
}

/// Documents as the judge wants them.
pub(super) fn held(documents: &BTreeMap<Key, Seen>) -> Box<Held> {
    let mut held: Box<Held> = Box::new([None; SLOTS]);
    documents
        .iter()
        .for_each(|(key, seen)| held[key.slot()] = Some(*seen));
    held
}
