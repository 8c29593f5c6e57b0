//! What proves the answer about one document of a past state. Pure.
//!
//! A list of a state is compared with its count and digest. One document is not, so the rows around it
//! have to agree with the answer: the row of now, if the document was not changed since, else the
//! change that came next. Its record and the one before it have the digests after both changes, which
//! differ by exactly what the change replaced.

use contract::{Change, Crc, Digest, Document, DocumentId, Operation, Revision};

use crate::store::past::ValueRecord;

/// The rows that say what a document was at a revision.
#[derive(Debug, Default)]
pub(in crate::store) struct Evidence {
    /// The newest record at or before the revision.
    pub(in crate::store) found: Option<ValueRecord>,
    /// The first change of the document after it.
    pub(in crate::store) next: Option<NextChange>,
    /// Whether every change after the revision has its record in the log.
    pub(in crate::store) is_followed: bool,
}

/// A change, and the digest of the state before it; `None` where no row has that.
#[derive(Debug)]
pub(in crate::store) struct NextChange {
    pub(in crate::store) change: Change,
    pub(in crate::store) before: Option<Digest>,
}

/// Whether rows agree with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// They do.
    Proven,
    /// They say neither. The state as a whole has to add up.
    Open,
    /// One of them says something else.
    Contradicted,
}

impl Evidence {
    /// Whether the document was what was found, at `revision`. `now` is the document of now, read
    /// before the rest; `None` where its row is damaged.
    pub(super) fn proof(&self, revision: Revision, now: Option<Option<&Document>>) -> Proof {
        let found = self.found.as_ref();
        let then = found.and_then(ValueRecord::document);
        let is_then = |document: &&Document| document.revision() <= revision;
        if let Some(unchanged) = now.flatten().filter(is_then) {
            return match then.as_ref() == Some(unchanged) {
                true => Proof::Proven,
                false => Proof::Contradicted,
            };
        }
        // Pinned: changes that came next may be trimmed.
        if !self.is_followed {
            // A record is what it was; without one there may be one that is gone.
            return if found.is_some() {
                Proof::Proven
            } else {
                Proof::Open
            };
        }
        let Some(next) = &self.next else {
            return match now {
                // It was never changed since.
                Some(None) if then.is_none() => Proof::Proven,
                // Its deletion, or the change that made it what it is, has no record.
                Some(_changed) => Proof::Contradicted,
                None if then.is_some() => Proof::Proven,
                None => Proof::Open,
            };
        };
        let existed = next.change.op != Operation::Create;
        match existed == then.is_some() {
            false => Proof::Contradicted,
            true if next.replaced(found) == Some(true) || !existed => Proof::Proven,
            true => Proof::Open,
        }
    }
}

impl NextChange {
    /// Whether the change replaced exactly what a record has: by the digests before and after it.
    /// `None` where the digest before it is not known.
    pub(super) fn replaced(&self, record: Option<&ValueRecord>) -> Option<bool> {
        let Change { id, digest, .. } = &self.change;
        let without = match self.change.crc {
            Some(crc) => digest.without(id, self.change.revision, crc),
            None => *digest,
        };
        let replaced = record.and_then(|record| {
            let value = record.config_data.as_ref()?;
            Some((record.revision, value.crc()))
        });
        Some(self.before? == with(without, id, replaced))
    }
}

fn with(digest: Digest, id: &DocumentId, document: Option<(Revision, Crc)>) -> Digest {
    match document {
        Some((revision, crc)) => digest.with(id, revision, crc),
        None => digest,
    }
}
