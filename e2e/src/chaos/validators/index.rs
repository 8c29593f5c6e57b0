//! The write record by document: the acknowledged writes, their order, and what may explain an
//! absence.
//!
//! Revisions start again after a restored database, so writes are ordered first by the number of
//! restores before them. The outcome of a write between dump and restore is unknown.

mod moments;

use super::{
    super::{
        observations::SeenValue,
        record::{DocumentKey, Millis, Outcome, SLOTS, Write, WriteRecord, WrittenDocument},
    },
    word,
};

/// The position of a write in the history of its collection: number of restores before it, then its
/// revision.
pub type Order = (usize, u64);

/// An acknowledged write of one document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AckedWrite {
    /// Its position.
    pub order: Order,
    /// The token of its request.
    pub token: u64,
    /// Whether it deleted the document.
    pub deletes: bool,
}

/// The revision of a request at a document, when it is known.
fn revision_of(write: &Write, key: DocumentKey) -> Option<u64> {
    let mut members = write.members.iter();
    members.find(|member| member.key == key)?.revision
}

/// The write record, indexed for queries. It never changes.
#[derive(Debug)]
pub struct WriteIndex<'a> {
    /// The record that was indexed.
    pub record: &'a WriteRecord,
    /// All requests for a document, oldest first.
    requests: Vec<Vec<(u64, WrittenDocument)>>,
    /// The acknowledged writes, by position.
    by_order: Vec<Vec<AckedWrite>>,
    /// The acknowledged writes by time: the time of the answer, and the newest write until then.
    by_time: Vec<Vec<(Millis, AckedWrite)>>,
}

impl<'a> WriteIndex<'a> {
    /// Indexes the record.
    pub fn new(record: &'a WriteRecord) -> Self {
        let empty = || vec![Vec::new(); SLOTS];
        let mut index = Self {
            record,
            requests: empty(),
            by_order: vec![Vec::new(); SLOTS],
            by_time: vec![Vec::new(); SLOTS],
        };
        for (token, write) in record.writes.iter().enumerate() {
            let token = token as u64;
            for member in write
                .members
                .iter()
                .filter(|_| write.outcome != Outcome::Refused)
            {
                let slot = member.key.slot();
                index.requests[slot].push((token, *member));
                if let (true, Some(revision), Some(ended)) =
                    (index.is_certain(write), member.revision, write.ended)
                {
                    let acked = AckedWrite {
                        order: (index.era(write), revision),
                        token,
                        deletes: member.deletes,
                    };
                    index.by_order[slot].push(acked);
                    index.by_time[slot].push((ended, acked));
                }
            }
        }
        for slot in 0..SLOTS {
            index.by_order[slot].sort_unstable_by_key(|acked| acked.order);
            let by_time = &mut index.by_time[slot];
            by_time.sort_unstable_by_key(|(ended, _)| *ended);
            for at in 1..by_time.len() {
                if by_time[at].1.order < by_time[at - 1].1.order {
                    by_time[at].1 = by_time[at - 1].1;
                }
            }
        }
        index
    }

    /// Whether the write was acknowledged, and not between a dump and its restore.
    fn is_certain(&self, write: &Write) -> bool {
        let ended = write.ended.unwrap_or(Millis::MAX);
        let lost = |restore: &super::super::record::Restore| {
            write.started < restore.restored && ended > restore.dumped
        };
        write.outcome == Outcome::Acked && !self.record.restores.iter().any(lost)
    }

    fn era(&self, write: &Write) -> usize {
        self.record
            .restores
            .iter()
            .filter(|restore| restore.restored <= write.started)
            .count()
    }

    fn write(&self, token: u64) -> Option<&'a Write> {
        self.record.writes.get(usize::try_from(token).ok()?)
    }

    /// The position of a value that was seen.
    pub fn order(&self, seen: SeenValue, key: DocumentKey) -> Order {
        let own = self.write(seen.token);
        let revision = own.and_then(|write| revision_of(write, key));
        let acked = || self.rollback(key, Millis::MAX, |member| gives(member, seen));
        let unknown = || {
            let any = self.rollback(key, Millis::MAX, |member| member.revision.is_none());
            any.filter(|_| revision.is_some())
        };
        let write = match revision {
            Some(revision) if revision == seen.revision => own,
            _ => acked().or_else(unknown).or(own),
        };
        (write.map_or(0, |write| self.era(write)), seen.revision)
    }

    /// The newest rollback begun by a time, of the requests for a document that fit.
    fn rollback(
        &self,
        key: DocumentKey,
        by: Millis,
        fits: impl Fn(&WrittenDocument) -> bool,
    ) -> Option<&'a Write> {
        let mut requests = self.requests[key.slot()].iter().rev();
        requests.find_map(|(token, member)| {
            let write = self.write(*token);
            let write = write.filter(|write| write.is_rollback && write.started <= by)?;
            fits(member).then_some(write)
        })
    }

    /// The number of restores before a history, when it is known.
    pub fn era_of(&self, epoch: &str) -> Option<usize> {
        self.record
            .epochs
            .iter()
            .find(|(known, _)| known == epoch)
            .map(|(_, era)| *era)
    }

    /// What is wrong with an epoch that was not seen before: another epoch was seen after the same
    /// number of restores.
    pub fn false_epoch(&self, epoch: &str) -> Option<String> {
        if self.era_of(epoch).is_some() {
            return None;
        }
        let restores = self.record.restores.len();
        let (before, _) = self
            .record
            .epochs
            .iter()
            .find(|(_, era)| *era == restores)?;
        Some(format!(
            "epoch {epoch} was declared after {before} without a restore ({restores} restores until now)"
        ))
    }

    /// Whether a history had ended by then: the database was restored, and the replica does not
    /// know it yet. Such a replica may show the new history in part, and cannot obtain the rest.
    pub fn has_ended(&self, epoch: &str, at: Millis) -> bool {
        let counter = epoch
            .rsplit_once('-')
            .and_then(|(_lineage, counter)| counter.parse().ok())
            .unwrap_or(0);
        self.record
            .restores
            .iter()
            .any(|restore| restore.restored <= at && counter <= restore.ended)
    }

    /// The newest acknowledged write of a document.
    pub fn newest(&self, key: DocumentKey) -> Option<AckedWrite> {
        self.by_order[key.slot()].last().copied()
    }

    /// The newest acknowledged write of a document up to a position.
    pub fn newest_up_to(&self, key: DocumentKey, order: Order) -> Option<AckedWrite> {
        self.up_to(key, order).last().copied()
    }

    /// The acknowledged writes of a document up to a position, in order.
    fn up_to(&self, key: DocumentKey, order: Order) -> &[AckedWrite] {
        let all = &self.by_order[key.slot()];
        &all[..all.partition_point(|acked| acked.order <= order)]
    }

    /// The newest write of a document that was acknowledged before a time.
    pub fn newest_before(&self, key: DocumentKey, time: Millis) -> Option<AckedWrite> {
        let all = &self.by_time[key.slot()];
        all[..all.partition_point(|(ended, _)| *ended < time)]
            .last()
            .map(|(_, acked)| *acked)
    }

    /// Whether the state of a document at `at` contains a write: the write itself or a later one.
    pub fn satisfies(
        &self,
        key: DocumentKey,
        held: Option<SeenValue>,
        acked: &AckedWrite,
        at: Millis,
    ) -> bool {
        match held {
            Some(seen) if acked.deletes => self.order(seen, key) > acked.order,
            Some(seen) => self.order(seen, key) >= acked.order,
            None => acked.deletes || self.may_be_deleted(key, acked.order, None, at),
        }
    }

    /// Whether a deletion after a position (and before another) may have happened by `at`.
    pub fn may_be_deleted(
        &self,
        key: DocumentKey,
        after: Order,
        before: Option<Order>,
        at: Millis,
    ) -> bool {
        self.deletions(key, after, before, at).next().is_some()
    }

    /// The requests that may have deleted a document after a position (and before another) by `at`.
    pub fn deletions(
        &self,
        key: DocumentKey,
        after: Order,
        before: Option<Order>,
        at: Millis,
    ) -> impl Iterator<Item = u64> {
        self.requests[key.slot()]
            .iter()
            .filter_map(move |(token, member)| {
                let write = self.write(*token)?;
                let fits = |revision| {
                    let order = (self.era(write), revision);
                    order > after && before.is_none_or(|before| order < before)
                };
                let certain = member.revision.filter(|_| self.is_certain(write));
                (member.deletes && write.started <= at && certain.is_none_or(fits))
                    .then_some(*token)
            })
    }

    /// Says that a value is in a row that was changed by other means than a publisher.
    pub fn spoilt(&self, key: DocumentKey, seen: SeenValue) -> Option<String> {
        let mut rows = self.record.spoilt.iter();
        let row = rows.find(|row| row.key == key && row.wrong == Some(seen))?;
        Some(format!(
            "{key} shows {seen:?}, which was put into its row at {} ms ({})",
            row.at, row.what
        ))
    }

    /// The reason why a value cannot have been visible at `at`, if there is one.
    pub fn unexplained(&self, key: DocumentKey, seen: SeenValue, at: Millis) -> Option<String> {
        let Some(write) = self.write(seen.token) else {
            return Some(format!("{key} shows {seen:?}, which was never written"));
        };
        let Some(member) = write
            .members
            .iter()
            .find(|member| member.key == key && !member.deletes)
        else {
            return Some(format!(
                "{key} shows {seen:?}, which was written to {:?}",
                write.members
            ));
        };
        if write.outcome == Outcome::Refused {
            return Some(format!(
                "{key} shows {seen:?}, which was refused with {}",
                write.status
            ));
        }
        if write.started > at {
            return Some(format!(
                "{key} shows {seen:?} before it was written at {}",
                write.started
            ));
        }
        let other = member
            .revision
            .filter(|revision| *revision != seen.revision)?;
        // A rollback gives an earlier value another revision.
        let fits = |member: &WrittenDocument| member.revision.is_none() || gives(member, seen);
        if self.rollback(key, at, fits).is_some() {
            return None;
        }
        Some(format!(
            "{key} shows {seen:?}, which was acknowledged at revision {other}"
        ))
    }

    /// The members of an acknowledged set, by its token. `None` when the request is no set, or is
    /// not certain.
    pub fn set(&self, token: u64) -> Option<(Order, &'a [WrittenDocument])> {
        let write = self
            .write(token)
            .filter(|write| write.members.len() > 1 && self.is_certain(write))?;
        Some(((self.era(write), 0), &write.members))
    }

    /// The newest acknowledged set of a document up to a position.
    pub fn newest_set(&self, key: DocumentKey, order: Order) -> Option<u64> {
        let newest_first = self.up_to(key, order).iter().rev();
        newest_first
            .map(|acked| acked.token)
            .find(|token| self.set(*token).is_some())
    }

    /// The newest requests for a document around a time, one line each, for a report.
    pub fn history(&self, key: DocumentKey, at: Millis) -> Vec<String> {
        let requests = &self.requests[key.slot()];
        let started = |token: u64| self.write(token).map_or(0, |write| write.started);
        let end = requests.partition_point(|(token, _)| started(*token) <= at + 1_000);
        let line = |(token, member): &(u64, WrittenDocument)| {
            let write = self.write(*token)?;
            let what = write.what;
            let writer = write.writer;
            let outcome = word(write.outcome);
            let verb = if member.deletes { " deletes" } else { "" };
            let started = write.started;
            let ended = write.ended.unwrap_or_default();
            let revision = member
                .revision
                .map_or_else(|| "?".to_owned(), |revision| revision.to_string());
            Some(format!(
                "token {token}: {what}{verb} by writer {writer}, {started}..{ended} ms, {outcome} {}, revision {revision}",
                write.status
            ))
        };
        requests[end.saturating_sub(12)..end]
            .iter()
            .filter_map(line)
            .collect()
    }
}

/// Whether the answer to a rollback says that it gave the document this value at this revision.
fn gives(member: &WrittenDocument, seen: SeenValue) -> bool {
    member.revision == Some(seen.revision)
        && !member.deletes
        && member.restored.is_none_or(|token| token == seen.token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_rollback_without_an_answer_hides_no_earlier_one() {
        let key = DocumentKey {
            collection: 0,
            number: 1,
        };
        let mut record = WriteRecord::default();
        let put = record.begin("put", 0, 10, [(key, false)]);
        record.end(put, 11, 200, Outcome::Acked, &[5]);
        for started in [20, 40] {
            let rollback = record.begin_rollback("roll back", 0, started, [key]);
            record.end(rollback, started + 1, 0, Outcome::Unknown, &[]);
        }
        let index = WriteIndex::new(&record);
        let again = SeenValue {
            revision: 7,
            token: put,
        };
        assert!(index.unexplained(key, again, 19).is_some());
        assert_eq!(index.unexplained(key, again, 30), None);
        assert_eq!(index.unexplained(key, again, 50), None);
    }
}
