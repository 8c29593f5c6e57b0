//! The checks of one replica's stream of observations, in the order in which they were made.
//!
//! The validator remembers the newest values that the current process run has shown. NoRollback and
//! NoResurrection compare with them.

use contract::status::ReplicaState;

use super::{
    super::{
        observations::{DocumentTable, Observation, ProcessRun, SeenValue, ServedView},
        record::{DocumentKey, Millis, SLOTS},
    },
    FailedCheck, Findings, Promise, WriteIndex,
};

/// How long after a restore of the database a replica may still be found to have diverged.
const RESTORE_WINDOW: Millis = 60_000;

/// The newest value of a document that a process run has shown.
#[derive(Debug, Clone, Copy)]
struct Floor {
    seen: SeenValue,
    /// When the document was seen to be deleted.
    gone: Option<Millis>,
}

/// The validator of one replica.
#[derive(Debug)]
pub struct ReplicaValidator {
    name: String,
    /// The age that a missing write may have while the replica is `current`.
    staleness: Millis,
    held: Box<DocumentTable>,
    /// The process run and the history to which the floors belong.
    scope: Option<(ProcessRun, String)>,
    floors: [Option<Floor>; SLOTS],
    heads: [u64; crate::testbed::SCHEMA_FREE.len()],
}

impl ReplicaValidator {
    /// Creates a validator. A replica that is `current` lacks no write older than `staleness`.
    pub fn new(name: impl Into<String>, staleness: Millis) -> Self {
        let held = Box::new([None; SLOTS]);
        let floors = [None; SLOTS];
        Self {
            name: name.into(),
            staleness,
            held,
            scope: None,
            floors,
            heads: Default::default(),
        }
    }

    /// Checks the next observation.
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
            .run(),
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

/// The checks of one observation.
struct Check<'a, 'i> {
    replica: &'a mut ReplicaValidator,
    index: &'a WriteIndex<'i>,
    findings: &'a mut Findings,
    reading: &'a ServedView,
}

impl Check<'_, '_> {
    fn run(mut self) {
        let scope = Some((self.reading.life.clone(), self.reading.epoch.clone()));
        let is_first = self.replica.scope != scope;
        if is_first {
            self.check_resets();
            (self.replica.scope, self.replica.floors) = (scope, [None; SLOTS]);
            self.replica.heads = Default::default();
        }
        for (key, seen) in &self.reading.changed {
            self.replica.held[key.slot()] = *seen;
            if let Some(seen) = *seen {
                self.check_explained(*key, seen);
            }
        }
        self.check_watermarks();
        let changed: Vec<_> = if is_first {
            DocumentKey::all().collect()
        } else {
            self.reading.changed.iter().map(|(key, _)| *key).collect()
        };
        let ended = self.index.has_ended(&self.reading.epoch, self.reading.got);
        for key in changed.iter().filter(|_key| !ended) {
            self.check_sets(*key);
        }
        for key in &changed {
            match self.replica.held[key.slot()] {
                Some(seen) => self.check_order(*key, seen, ended),
                None => self.check_absence(*key, ended),
            }
        }
        for key in DocumentKey::all().filter(|key| key.is_anchor()) {
            let what = || {
                format!(
                    "{key}, which is never deleted, is missing: {:?}",
                    self.reading.heads
                )
            };
            let broken = self.replica.held[key.slot()].is_none().then(what);
            self.check(Promise::NeverEmpty, key, broken);
        }
        if !ended {
            self.check_completeness();
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

    /// Only a restored database makes a replica diverge. Any other reset would hide a fault of
    /// ours.
    fn check_resets(&mut self) {
        let got = self.reading.got;
        let life = &self.reading.life;
        let before = self.replica.scope.as_ref().map(|(before, _epoch)| before);
        if before.is_none_or(|before| before.boot != life.boot || before.resets == life.resets) {
            return;
        }
        let restored = |restore: &super::super::record::Restore| {
            restore.restored <= got && got - restore.restored < RESTORE_WINDOW
        };
        let broken = (!self.index.record.restores.iter().any(restored)).then(|| FailedCheck {
            at: got,
            what: format!("a collection was reset ({life:?}) and no database was restored"),
            key: None,
        });
        self.findings
            .check(Promise::Explained, broken, &self.replica.name, self.index);
    }

    fn check_explained(&mut self, key: DocumentKey, seen: SeenValue) {
        let broken = self.index.unexplained(key, seen, self.reading.got);
        self.check(Promise::Explained, key, broken);
        let broken = self.index.spoilt(key, seen);
        self.check(Promise::NoSpoiltValue, key, broken);
    }

    /// A watermark never goes back.
    fn check_watermarks(&mut self) {
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

    /// A value may only follow an older one. After a deletion, only a value that was written after
    /// the deletion may follow.
    ///
    /// In a history that has ended, a value may follow a deletion of the next history, because both
    /// are mixed there.
    fn check_order(&mut self, key: DocumentKey, seen: SeenValue, ended: bool) {
        let floor = self.replica.floors[key.slot()].replace(Floor { seen, gone: None });
        let Some(floor) = floor else { return };
        if let Some(gone) = floor.gone.filter(|_gone| !ended) {
            let [before, now] = [floor.seen, seen].map(|seen| self.index.order(seen, key));
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

    /// A document disappears only by a deletion.
    fn check_absence(&mut self, key: DocumentKey, ended: bool) {
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
            .may_be_deleted(key, self.index.order(seen, key), None, got);
        let what = || format!("{key} is gone without a deletion; it had {seen:?}");
        if !ended {
            self.check(Promise::NeverEmpty, key, (!fine).then(what));
        }
    }

    /// When one member of a set is visible, or a later value of that document, all members are.
    fn check_sets(&mut self, key: DocumentKey) {
        let got = self.reading.got;
        let token = match (
            self.replica.held[key.slot()],
            self.replica.floors[key.slot()],
        ) {
            (Some(seen), _) => self.index.newest_set(key, self.index.order(seen, key)),
            // Deleted since the last observation, and only one request can have done it.
            (None, Some(floor)) if floor.gone.is_none() => {
                let mut by =
                    self.index
                        .deletions(key, self.index.order(floor.seen, key), None, got);
                by.next().filter(|_| by.next().is_none())
            }
            (None, _) => None,
        };
        let Some(token) = token.filter(|token| self.index.set(*token).is_some()) else {
            return;
        };
        let held = &self.replica.held;
        let missing = self.index.missing_of_set(token, held, got, |_key| true);
        let what = |missing: &super::super::record::WrittenDocument| {
            let held = self.replica.held[missing.key.slot()];
            format!(
                "{key} shows set {token}, but {} is {held:?} and should be at {:?}",
                missing.key, missing.revision
            )
        };
        let broken = missing.map(what);
        self.check(Promise::AtomicSet, key, broken);
    }

    /// Everything that the watermark covers is visible. When the replica is `current`, so is every
    /// write that was acknowledged long enough ago.
    fn check_completeness(&mut self) {
        let got = self.reading.got;
        let state = self.reading.state;
        let era = self.index.era_of(&self.reading.epoch);
        let horizon = self
            .reading
            .last_sent
            .saturating_sub(self.replica.staleness);
        for key in DocumentKey::all() {
            let held = self.replica.held[key.slot()];
            let is_missing =
                |acked: &super::index::AckedWrite| !self.index.satisfies(key, held, acked, got);
            let watermark = self.reading.heads[usize::from(key.collection)];
            let covered = era.and_then(|era| self.index.newest_up_to(key, (era, watermark)));
            let lost = covered.filter(is_missing).map(|acked| {
                format!(
                    "{key} is {held:?} at watermark {watermark}, but {} was acknowledged as {:?}",
                    acked.token, acked.order
                )
            });
            let old = self
                .index
                .newest_before(key, horizon)
                .filter(|acked| state == ReplicaState::Current && is_missing(acked));
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
