//! The answers about the past: what a publisher says of a moment is what was committed then.
//!
//! The store keeps one line of revisions. What was acknowledged at or before the revision of an
//! answer is in it, and nothing later is. A write without a certain outcome may be in it.

use super::{
    super::{
        cluster::KEPT_CHANGES,
        observations::SeenValue,
        past::{Moment, PastAnswer, PastChange, PastReading},
        record::{DocumentKey, Millis},
    },
    FailedCheck, Findings, Promise, WriteIndex,
    index::AckedWrite,
};

/// How far the clocks of publishers and the time of a request may differ.
const CLOCKS: Millis = 500;

/// Checks an answer. `true_clocks`: no wall clock was shifted, so times mean something.
pub fn past(
    index: &WriteIndex<'_>,
    reading: &PastReading,
    true_clocks: bool,
    findings: &mut Findings,
) {
    if reading.answer == PastAnswer::None {
        return;
    }
    // While a dump is put back there is no line of revisions.
    let Some(era) = index.era_between(reading.sent, reading.got) else {
        return;
    };
    let check = Check {
        index,
        reading,
        true_clocks,
    };
    let broken = check.broken(era);
    let broken = broken.map(|(key, what)| FailedCheck {
        at: reading.got,
        what: format!("{what} ({})", reading.path),
        key,
    });
    findings.check(Promise::ExactPast, broken, "publisher", index);
}

type Broken = (Option<DocumentKey>, String);

struct Check<'a, 'i> {
    index: &'a WriteIndex<'i>,
    reading: &'a PastReading,
    true_clocks: bool,
}

impl Check<'_, '_> {
    fn broken(&self, era: usize) -> Option<Broken> {
        match &self.reading.answer {
            PastAnswer::None => None,
            PastAnswer::Wrong(what) => Some((None, what.clone())),
            PastAnswer::NotKept { newest } => self.not_kept(era, *newest),
            PastAnswer::History(changes) => self.history(era, changes),
            PastAnswer::State {
                revision,
                count,
                held,
            } => self
                .wrong_revision(era, *revision)
                .or_else(|| self.state(era, *revision, held))
                .or_else(|| {
                    let whole = self.reading.document.is_none();
                    let counted = count.filter(|count| whole && *count != held.len() as u64)?;
                    let what = format!("{} documents instead of {counted}", held.len());
                    Some((None, what))
                }),
        }
    }

    /// Retention keeps what a named snapshot needs, and the states of the newest changes. It is not
    /// judged by the beginning of the log: a store refuses a state before it says so in its head. A
    /// spoilt row may be what an answer needs, and what a dump lacks, no store has.
    fn not_kept(&self, era: usize, newest: u64) -> Option<Broken> {
        if !self.index.record.spoilt.is_empty() {
            return None;
        }
        match &self.reading.moment {
            Moment::Snapshot(name) if self.is_deleted(name) || self.was_put_back(name) => None,
            Moment::Snapshot(name) => Some((None, format!("the snapshot {name} is not kept"))),
            Moment::Revision(asked) if era == 0 && asked + KEPT_CHANGES > newest => Some((
                None,
                format!("revision {asked} is not kept, and {newest} is the newest"),
            )),
            _ => None,
        }
    }

    /// Whether the deletion of a named snapshot was sent before the answer arrived: its state may be
    /// given up between its name was found and its documents were read.
    fn is_deleted(&self, name: &str) -> bool {
        let mut snapshots = self.index.record.snapshots.iter();
        let deleting = snapshots
            .find(|snapshot| snapshot.name == name)
            .and_then(|snapshot| snapshot.deleting);
        deleting.is_some_and(|deleting| deleting <= self.reading.got)
    }

    /// Whether a dump was put back after the snapshot was named: table after table, so retention may
    /// have run when the log was there and the name was not.
    fn was_put_back(&self, name: &str) -> bool {
        let record = self.index.record;
        let mut snapshots = record.snapshots.iter();
        let named = snapshots.find(|snapshot| snapshot.name == name);
        named.is_some_and(|snapshot| {
            let mut restored = record.restores.iter().map(|restore| restore.restored);
            restored.any(|at| snapshot.started < at && at <= self.reading.got)
        })
    }

    /// Whether another moment was answered than was asked for.
    fn wrong_revision(&self, era: usize, revision: u64) -> Option<Broken> {
        let (from, to) = match &self.reading.moment {
            Moment::Revision(asked) => {
                let what = format!("revision {revision} instead of {asked}");
                return (revision != *asked).then_some((None, what));
            }
            Moment::Time(time) if self.true_clocks => {
                (time.saturating_sub(CLOCKS), time.saturating_add(CLOCKS))
            }
            Moment::Snapshot(name) => {
                let mut snapshots = self.index.record.snapshots.iter();
                let snapshot = snapshots.find(|snapshot| snapshot.name == *name)?;
                (snapshot.started, snapshot.ended)
            }
            Moment::Time(_) | Moment::History => return None,
        };
        // What was while a dump was put back, no record says.
        self.index.era_between(from, to)?;
        let keys = DocumentKey::all().filter(|key| key.collection == self.reading.collection);
        for key in keys {
            for acked in self.index.kept(key, era) {
                let Some((started, ended)) = self.index.times(&acked) else {
                    continue;
                };
                let order = acked.order.1;
                let is_missing = ended < from && order > revision;
                let is_early = started > to && order <= revision;
                if is_missing || is_early {
                    let what = format!(
                        "revision {revision} is not of that moment: {key} was written at {order} \
                         between {started} and {ended} ms"
                    );
                    return Some((Some(key), what));
                }
            }
        }
        None
    }

    /// Whether the documents are not those of a revision.
    fn state(
        &self,
        era: usize,
        revision: u64,
        held: &[(DocumentKey, SeenValue)],
    ) -> Option<Broken> {
        let keys = DocumentKey::all().filter(|key| match self.reading.document {
            Some(document) => *key == document,
            None => key.collection == self.reading.collection,
        });
        for key in keys {
            let seen = held.iter().find(|(held, _)| *held == key);
            let seen = seen.map(|(_, seen)| *seen);
            let moment = (era, revision);
            if let Some(what) = self.index.differs_from(moment, key, seen, self.reading.got) {
                return Some((Some(key), format!("{what}, at revision {revision}")));
            }
        }
        None
    }

    /// Whether a page of history leaves a change out, or has one that is another one.
    fn history(&self, era: usize, changes: &[PastChange]) -> Option<Broken> {
        let key = self.reading.document?;
        let wrong = |what: String| Some((Some(key), what));
        let unordered = changes
            .windows(2)
            .any(|pair| pair[0].revision <= pair[1].revision);
        if unordered {
            return wrong(format!("the history of {key} is not in order: {changes:?}"));
        }
        for change in changes {
            let other = self
                .index
                .document_at(key.collection, era, change.revision)
                .filter(|other| *other != key);
            if let Some(other) = other {
                return wrong(format!("{change:?} of {key} was a change of {other}"));
            }
        }
        let (Some(newest), Some(oldest)) = (changes.first(), changes.last()) else {
            return None;
        };
        for acked in self.index.kept(key, era) {
            let order = acked.order.1;
            let was_before = self
                .index
                .times(&acked)
                .is_some_and(|(_started, ended)| ended < self.reading.sent);
            if order < oldest.revision || (order > newest.revision && !was_before) {
                continue;
            }
            let Some(change) = changes.iter().find(|change| change.revision == order) else {
                return wrong(format!("the history of {key} lacks its change at {order}"));
            };
            if let Some(what) = self.other_change(key, &acked, change) {
                return wrong(what);
            }
        }
        None
    }

    fn other_change(
        &self,
        key: DocumentKey,
        acked: &AckedWrite,
        change: &PastChange,
    ) -> Option<String> {
        if change.deletes != acked.deletes {
            return Some(format!("{change:?} of {key} was acknowledged as {acked:?}"));
        }
        let written = self.index.token_of(key, acked).filter(|_| !acked.deletes)?;
        let shown = change.token?;
        (shown != written).then(|| format!("{change:?} of {key} wrote {written}"))
    }
}

#[cfg(test)]
mod tests;
