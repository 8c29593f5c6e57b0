//! The write record by moment: what the store of an era had at a revision of a collection.
//!
//! Between a dump and its restore there is no line of revisions, and a write without a certain outcome may be
//! in a moment or not.

use super::{
    super::super::{
        observations::{DocumentTable, SeenValue},
        record::{DocumentKey, Millis, Restore, WrittenDocument},
    },
    AckedWrite, Order, WriteIndex, revision_of,
};

impl<'a> WriteIndex<'a> {
    /// The acknowledged writes of a document that the store of an era has, in no order. Revisions
    /// alone order them: a restored database goes on after the revision of its dump, and what was
    /// acknowledged between the two is not among them.
    pub fn kept(&self, key: DocumentKey, era: usize) -> impl Iterator<Item = AckedWrite> {
        let all = self.by_order[key.slot()].iter().copied();
        all.filter(move |acked| acked.order.0 <= era)
    }

    /// The number of restores before a time; none when a restore was under way between the two times.
    pub fn era_between(&self, sent: Millis, got: Millis) -> Option<usize> {
        let restores = &self.record.restores;
        let disturbed = |restore: &Restore| restore.dumped <= got && sent <= restore.restored;
        if restores.iter().any(disturbed) {
            return None;
        }
        Some(restores.iter().filter(|it| it.restored <= sent).count())
    }

    /// The document that an acknowledged write of this collection changed at a revision.
    pub fn document_at(&self, collection: u8, era: usize, revision: u64) -> Option<DocumentKey> {
        let mut keys = DocumentKey::all().filter(|key| key.collection == collection);
        keys.find(|key| self.kept(*key, era).any(|acked| acked.order.1 == revision))
    }

    /// When the request of a write was sent, and when its outcome was known.
    pub fn times(&self, acked: &AckedWrite) -> Option<(Millis, Millis)> {
        let write = self.write(acked.token)?;
        Some((write.started, write.ended?))
    }

    /// Token of the value that an acknowledged write gave a document, when it is known.
    pub fn token_of(&self, key: DocumentKey, acked: &AckedWrite) -> Option<u64> {
        let write = self.write(acked.token)?;
        if !write.is_rollback {
            return Some(acked.token);
        }
        write
            .members
            .iter()
            .find(|member| member.key == key)?
            .restored
    }

    /// What is wrong with a document in a view of exactly one moment (an era and a revision of its
    /// collection), if anything.
    pub fn differs_from(
        &self,
        (era, revision): Order,
        key: DocumentKey,
        seen: Option<SeenValue>,
        at: Millis,
    ) -> Option<String> {
        let newest = self.newest_at((era, revision), key);
        let Some(seen) = seen else {
            return self.is_missing(key, newest, at);
        };
        if seen.revision > revision {
            return Some(format!("{key} shows {seen:?}, which is later"));
        }
        let explained = self.unexplained(key, seen, at);
        explained.or_else(|| self.spoilt(key, seen)).or_else(|| {
            let acked = newest?;
            let order = acked.order.1;
            let is_older = if acked.deletes {
                seen.revision <= order
            } else {
                seen.revision < order
            };
            is_older.then(|| {
                let what = if acked.deletes { "deletion" } else { "write" };
                format!("{key} shows {seen:?}, and the {what} at {order} was acknowledged")
            })
        })
    }

    /// As [`Self::differs_from`], of a value whose revision is not shown.
    pub fn value_differs_from(
        &self,
        moment: Order,
        key: DocumentKey,
        token: Option<u64>,
        at: Millis,
    ) -> Option<String> {
        let newest = self.newest_at(moment, key);
        let Some(token) = token else {
            return self.is_missing(key, newest, at);
        };
        let own = self.write(token).and_then(|write| revision_of(write, key));
        let revision = own.unwrap_or_default();
        if let Some(what) = self.unexplained(key, SeenValue { revision, token }, at) {
            return Some(what);
        }
        let acked = newest?;
        let is_newest = !acked.deletes
            && self
                .token_of(key, &acked)
                .is_none_or(|newest| newest == token);
        (!is_newest && !self.may_have_given(key, token, at))
            .then(|| format!("{key} shows {token}, and {acked:?} was acknowledged"))
    }

    /// The newest acknowledged write of a document in the store of a moment.
    fn newest_at(&self, (era, revision): Order, key: DocumentKey) -> Option<AckedWrite> {
        let kept = self.kept(key, era);
        kept.filter(|acked| acked.order.1 <= revision)
            .max_by_key(|acked| acked.order.1)
    }

    /// Says that a document is missing whose newest write is this one.
    fn is_missing(
        &self,
        key: DocumentKey,
        newest: Option<AckedWrite>,
        at: Millis,
    ) -> Option<String> {
        let acked = newest.filter(|acked| !acked.deletes)?;
        let deleted = self.may_be_deleted(key, acked.order, None, at);
        (!deleted).then(|| {
            format!(
                "{key} is missing, but {} was acknowledged at {:?}",
                acked.token, acked.order
            )
        })
    }

    /// Whether a request without a certain outcome or revision may have given a document the value of
    /// a token by `at`.
    fn may_have_given(&self, key: DocumentKey, token: u64, at: Millis) -> bool {
        self.requests[key.slot()].iter().any(|(request, member)| {
            let Some(write) = self.write(*request) else {
                return false;
            };
            let is_certain = self.is_certain(write) && member.revision.is_some();
            let gives = if write.is_rollback {
                member.restored.is_none_or(|restored| restored == token)
            } else {
                *request == token
            };
            write.started <= at && !is_certain && gives
        })
    }

    /// A member of an acknowledged set that is missing in a view of it, of those that the view shows.
    pub fn missing_of_set(
        &self,
        token: u64,
        held: &DocumentTable,
        at: Millis,
        is_shown: impl Fn(DocumentKey) -> bool,
    ) -> Option<&'a WrittenDocument> {
        let ((era, _), members) = self.set(token)?;
        members.iter().find(|member| {
            let acked = AckedWrite {
                order: (era, member.revision.unwrap_or_default()),
                token,
                deletes: member.deletes,
            };
            let held = held[member.key.slot()];
            is_shown(member.key) && !self.satisfies(member.key, held, &acked, at)
        })
    }

    /// An acknowledged set of an era of which these revisions of all collections have a part only.
    pub fn divided_set(&self, era: usize, revisions: &[u64]) -> Option<u64> {
        let tokens = 0..self.record.writes.len() as u64;
        tokens.into_iter().find(|token| {
            let Some(((own, _), members)) = self.set(*token) else {
                return false;
            };
            let is_there = |member: &&WrittenDocument| {
                let revision = revisions[usize::from(member.key.collection)];
                member.revision.is_some_and(|own| own <= revision)
            };
            let there = members.iter().filter(is_there).count();
            own == era && there > 0 && there < members.len()
        })
    }
}
