//! The checks of one replica's stream of readings, in the order in which they were seen.
//!
//! It remembers what the life it looks at has shown, which is what NoRollback and NoResurrection
//! are about.

use contract::status::ReplicaState;

use super::{
    super::{
        observations::{DocumentTable, Observation, ProcessRun, SeenValue, ServedView},
        record::{DocumentKey, Millis, SLOTS},
    },
    FailedCheck, Findings, Promise, WriteIndex,
};

/// How long after a database was put back a replica may still be found to have diverged.
const RESTORES_ECHO: Millis = 60_000;

/// The newest that a life has shown of a document.
#[derive(Debug, Clone, Copy)]
struct Floor {
    seen: SeenValue,
    /// When it was seen to be gone.
    gone: Option<Millis>,
}

/// The judge of one replica.
#[derive(Debug)]
pub struct ReplicaValidator {
    name: String,
    /// How old what a `current` replica lacks may be.
    staleness: Millis,
    held: Box<DocumentTable>,
    /// The life and the history that the floors are about.
    about: Option<(ProcessRun, String)>,
    floors: [Option<Floor>; SLOTS],
    heads: [u64; crate::testbed::SCHEMA_FREE.len()],
}

impl ReplicaValidator {
    /// Of a replica with this name; one that is `current` lacks nothing older than `staleness`.
    pub fn new(name: impl Into<String>, staleness: Millis) -> Self {
        let held = Box::new([None; SLOTS]);
        let floors = [None; SLOTS];
        Self {
            name: name.into(),
            staleness,
            held,
            about: None,
            floors,
            heads: Default::default(),
        }
    }

    /// Judges what was seen next.
    pub fn validate(
        &mut self,
        index: &WriteIndex<'_>,
        observation: &Observation,
        findings: &mut Findings,
    ) {
        match observation {
            Observation::ServedView(reading) => Check {
                replica: self,
                index,
                findings,
                reading,
            }
            .all(),
            Observation::Wrong { at, what } => {
                let broken = FailedCheck {
                    at: *at,
                    what: what.clone(),
                    key: None,
                };
                findings.check(Promise::NeverEmpty, Some(broken), &self.name, index);
            }
        }
    }
}

/// One reading before the judge.
struct Check<'a, 'i> {
    replica: &'a mut ReplicaValidator,
    index: &'a WriteIndex<'i>,
    findings: &'a mut Findings,
    reading: &'a ServedView,
}

impl Check<'_, '_> {
    fn all(mut self) {
        let about = Some((self.reading.life.clone(), self.reading.epoch.clone()));
        let anew = self.replica.about != about;
        if anew {
            self.resets();
            (self.replica.about, self.replica.floors) = (about, [None; SLOTS]);
            self.replica.heads = Default::default();
        }
        for (key, seen) in &self.reading.changed {
            self.replica.held[key.slot()] = *seen;
            if let Some(seen) = *seen {
                self.explained(*key, seen);
            }
        }
        self.watermarks();
        let changed: Vec<_> = if anew {
            DocumentKey::all().collect()
        } else {
            self.reading.changed.iter().map(|(key, _)| *key).collect()
        };
        let left = self.index.is_left(&self.reading.epoch, self.reading.got);
        for key in changed.iter().filter(|_key| !left) {
            self.sets(*key);
        }
        for key in &changed {
            match self.replica.held[key.slot()] {
                Some(seen) => self.forward(*key, seen, left),
                None => self.gone(*key, left),
            }
        }
        for key in DocumentKey::all().filter(|key| key.is_anchor()) {
            let what = || {
                format!(
                    "{key}, which is never deleted, is not there: {:?}",
                    self.reading.heads
                )
            };
            let broken = self.replica.held[key.slot()].is_none().then(what);
            self.check(Promise::NeverEmpty, key, broken);
        }
        if !left {
            self.nothing_lacks();
        }
    }

    fn check(&mut self, promise: Promise, key: DocumentKey, broken: Option<String>) {
        let broken = broken.map(|what| FailedCheck {
            at: self.reading.got,
            what,
            key: Some(key),
        });
        self.findings
            .check(promise, broken, &self.replica.name, self.index);
    }

    /// Only a database that was put back makes a replica diverge: any other reset would hide a
    /// fault of ours.
    fn resets(&mut self) {
        let got = self.reading.got;
        let life = &self.reading.life;
        let before = self.replica.about.as_ref().map(|(before, _epoch)| before);
        if before.is_none_or(|before| before.boot != life.boot || before.resets == life.resets) {
            return;
        }
        let restored = |restore: &super::super::record::Restore| {
            restore.restored <= got && got - restore.restored < RESTORES_ECHO
        };
        let broken = (!self.index.record.restores.iter().any(restored)).then(|| FailedCheck {
            at: got,
            what: format!("a collection was reset ({life:?}) and no database had been put back"),
            key: None,
        });
        self.findings
            .check(Promise::Explained, broken, &self.replica.name, self.index);
    }

    fn explained(&mut self, key: DocumentKey, seen: SeenValue) {
        let broken = self.index.unexplained(key, seen, self.reading.got);
        self.check(Promise::Explained, key, broken);
    }

    /// A watermark never goes back.
    fn watermarks(&mut self) {
        let before = self.replica.heads;
        let now = self.reading.heads;
        self.replica.heads = now;
        let back = before.iter().zip(now).any(|(before, now)| now < *before);
        let what = back.then(|| format!("the watermarks went from {before:?} to {now:?}"));
        let broken = what.map(|what| FailedCheck {
            at: self.reading.got,
            what,
            key: None,
        });
        self.findings
            .check(Promise::NoRollback, broken, &self.replica.name, self.index);
    }

    /// A value may only follow an older one; after it was seen deleted, only one that was written
    /// after that.
    ///
    /// In a history that was left it may follow a deletion that the next one made: both are mixed
    /// there.
    fn forward(&mut self, key: DocumentKey, seen: SeenValue, left: bool) {
        let floor = self.replica.floors[key.slot()].replace(Floor { seen, gone: None });
        let Some(floor) = floor else { return };
        if let Some(gone) = floor.gone.filter(|_gone| !left) {
            let [before, now] = [floor.seen, seen].map(|seen| self.index.order(seen));
            let fine = now > before && self.index.may_be_deleted(key, before, Some(now), gone);
            let what = || {
                format!(
                    "{key} shows {seen:?} after it was seen deleted at {gone} ms, where it had {:?}",
                    floor.seen
                )
            };
            self.check(Promise::NoResurrection, key, (!fine).then(what));
        }
        let older = seen.revision < floor.seen.revision && floor.gone.is_none();
        self.check(
            Promise::NoRollback,
            key,
            older.then(|| format!("{key} shows {seen:?} after {:?}", floor.seen)),
        );
    }

    /// What was there goes only by a deletion.
    fn gone(&mut self, key: DocumentKey, left: bool) {
        let got = self.reading.got;
        let Some(floor) = self.replica.floors[key.slot()]
            .as_mut()
            .filter(|floor| floor.gone.is_none())
        else {
            return;
        };
        floor.gone = Some(got);
        let seen = floor.seen;
        let fine = self
            .index
            .may_be_deleted(key, self.index.order(seen), None, got);
        let what = || format!("{key} is gone and nothing deleted it; it had {seen:?}");
        if !left {
            self.check(Promise::NeverEmpty, key, (!fine).then(what));
        }
    }

    /// When one member of a set is there, or something later in its place, all are.
    fn sets(&mut self, key: DocumentKey) {
        let got = self.reading.got;
        let token = match (
            self.replica.held[key.slot()],
            self.replica.floors[key.slot()],
        ) {
            (Some(seen), _) => self.index.newest_set(key, self.index.order(seen)),
            // Gone since the last reading, and only one request can have done it.
            (None, Some(floor)) if floor.gone.is_none() => {
                let mut by = self
                    .index
                    .deletions(key, self.index.order(floor.seen), None, got);
                by.next().filter(|_| by.next().is_none())
            }
            (None, _) => None,
        };
        let Some((token, (era, members))) =
            token.and_then(|token| Some((token, self.index.set(token)?)))
        else {
            return;
        };
        let lacking = members.iter().find(|member| {
            let order = (era.0, member.revision.unwrap_or_default());
            let acked = super::index::AckedWrite {
                order,
                token,
                deletes: member.deletes,
            };
            !self.index.satisfies(
                member.key,
                self.replica.held[member.key.slot()],
                &acked,
                got,
            )
        });
        let what = |lacking: &super::super::record::WrittenDocument| {
            let held = self.replica.held[lacking.key.slot()];
            format!(
                "{key} shows set {token}, but {} is {held:?} and should be at {:?}",
                lacking.key, lacking.revision
            )
        };
        let broken = lacking.map(what);
        self.check(Promise::AtomicSet, key, broken);
    }

    /// What the watermark covers is there, and, when the replica says `current`, what was
    /// acknowledged long enough ago.
    fn nothing_lacks(&mut self) {
        let got = self.reading.got;
        let state = self.reading.state;
        let era = self.index.era_of(&self.reading.epoch);
        let horizon = self
            .reading
            .last_sent
            .saturating_sub(self.replica.staleness);
        for key in DocumentKey::all() {
            let held = self.replica.held[key.slot()];
            let lacks =
                |acked: &super::index::AckedWrite| !self.index.satisfies(key, held, acked, got);
            let watermark = self.reading.heads[usize::from(key.collection)];
            let covered = era.and_then(|era| self.index.newest_up_to(key, (era, watermark)));
            let lost = covered.filter(lacks).map(|acked| {
                format!(
                    "{key} is {held:?} at watermark {watermark}, but {} was acknowledged as {:?}",
                    acked.token, acked.order
                )
            });
            let old = self
                .index
                .newest_before(key, horizon)
                .filter(|acked| state == ReplicaState::Current && lacks(acked));
            let stale = old.map(|acked| {
                format!(
                    "`current`, but {key} is {held:?} and {} was acknowledged before {horizon} ms",
                    acked.token
                )
            });
            self.check(Promise::NoLostAck, key, lost);
            if state == ReplicaState::Current {
                self.check(Promise::NoSilentStale, key, stale);
            }
        }
    }
}
