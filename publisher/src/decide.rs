//! Folding: what a group of writes makes of the documents it finds. Pure, so every rule of the API
//! is tested without a store.
//!
//! Each entry sees what the ones before it in the group did, and gets a verdict of its own: a
//! refused one takes nothing away from its neighbours. A set counts as one entry, see [`set`]. No
//! I/O happens here and nothing is decided anywhere else.

use chrono::{DateTime, Utc};
use contract::{
    CanonicalJson, Change, CollectionName, Context, Crc, Document, DocumentId, Operation, Revision,
};
use serde_json::Value;

use crate::{api::error::ApiError, decide::schemas::Schemas};

pub mod change_set;
pub mod schemas;
mod value;
mod working_set;

pub use change_set::Set;
pub use working_set::{DocumentKey, WorkingSet};

/// What waits for its group as one, and is decided as one.
#[derive(Debug, Clone)]
pub enum Entry {
    /// A write of one document.
    One(Write),
    /// A change set: all of its writes or none.
    Set(Set),
}

impl Entry {
    /// Its writes, in order.
    pub fn writes(&self) -> &[Write] {
        match self {
            Self::One(write) => std::slice::from_ref(write),
            Self::Set(set) => &set.members,
        }
    }
}

/// One write.
#[derive(Debug, Clone)]
pub struct Write {
    /// The collection.
    pub collection: CollectionName,
    /// The document.
    pub id: DocumentId,
    /// What to do with it.
    pub action: Action,
    /// What must hold of it first.
    pub condition: Condition,
    /// What its request says of itself.
    pub context: Context,
}

/// What a write does.
#[derive(Debug, Clone)]
pub enum Action {
    /// A new document; 409 when it exists.
    Create(CanonicalJson),
    /// A new value: the stored `metadata` member is merged with the given one, the rest is replaced
    /// (requirement A18).
    Put(CanonicalJson),
    /// A merge patch (RFC 7396).
    Patch(Value),
    /// The document goes.
    Delete,
}

/// What must hold of a document for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Whatever is there.
    Any,
    /// `If-None-Match: *`: nothing is there.
    Absent,
    /// `If-Match: *`: something is there.
    Present,
    /// `If-Match: "<revision>"` or `"<revision>-<crc>"`.
    At(Revision, Option<Crc>),
}

/// What a write came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// What changed; `None` when the document already had that value.
    pub op: Option<Operation>,
    /// The document.
    pub id: DocumentId,
    /// Its revision; of a deletion, the revision that deleted it.
    pub revision: Revision,
    /// Checksum of its value; absent after a deletion.
    pub crc: Option<Crc>,
}

/// The answer to one entry: what each of its writes came to, in order, or why none of them
/// happened.
pub type WriteResult = Result<Vec<Done>, ApiError>;

/// What a transaction writes.
#[derive(Debug)]
pub struct Decisions {
    /// One verdict per entry, in order; none for those at the end that no longer fit.
    pub verdicts: Vec<WriteResult>,
    /// The changes, by collection contiguous and in order.
    pub changes: Vec<Change>,
    /// The ground after them.
    pub after: WorkingSet,
}

/// What a group makes, in bytes as they are stored: a small patch of a large document is a large
/// change.
const FOLDED_BYTES: usize = 4 << 20;

/// What every document must obey.
#[derive(Debug)]
pub struct Rules {
    /// Schemas by collection.
    pub schemas: Schemas,
    /// Largest document, in bytes of canonical JSON.
    pub document_limit: usize,
}

impl Rules {
    /// Folds a group, in order, until what it makes would be too much for one transaction. The
    /// first entry always fits.
    pub fn evaluate(&self, ground: WorkingSet, group: &[Entry], now: DateTime<Utc>) -> Decisions {
        let (mut after, mut changes, mut verdicts, mut bytes) = (ground, Vec::new(), Vec::new(), 0);
        for entry in group {
            if bytes >= FOLDED_BYTES {
                break;
            }
            let before = changes.len();
            verdicts.push(match entry {
                Entry::One(write) => self
                    .one(&mut after, write, now, &mut changes)
                    .map(|done| vec![done]),
                Entry::Set(set) => self.set(&mut after, set, now, &mut changes),
            });
            let made = changes[before..]
                .iter()
                .filter_map(|change: &Change| change.config_data.as_ref());
            bytes += made.map(value::stored_size).sum::<usize>();
        }
        Decisions {
            verdicts,
            changes,
            after,
        }
    }

    fn one(
        &self,
        ground: &mut WorkingSet,
        write: &Write,
        now: DateTime<Utc>,
        changes: &mut Vec<Change>,
    ) -> Result<Done, ApiError> {
        let place = (write.collection.clone(), write.id.clone());
        let held = ground.documents.get(&place);
        check_condition(write, held)?;
        let config = self.next_value(write, held)?;
        if let (Some(held), Some(config)) = (held, &config)
            && held.config_data() == config.as_str()
        {
            return Ok(Done {
                op: None,
                id: write.id.clone(),
                revision: held.revision(),
                crc: Some(held.crc()),
            });
        }
        let op = match (held, &config) {
            (_, None) => Operation::Delete,
            (None, Some(_)) => Operation::Create,
            (Some(_), Some(_)) => Operation::Update,
        };
        let change = ground.advance(write, op, config, now)?;
        let done = Done {
            op: Some(op),
            id: change.id.clone(),
            revision: change.revision,
            crc: change.crc,
        };
        changes.push(change);
        Ok(done)
    }
}

fn check_condition(write: &Write, held: Option<&Document>) -> Result<(), ApiError> {
    let holds = match write.condition {
        Condition::Any => true,
        Condition::Absent => held.is_none(),
        Condition::Present => held.is_some(),
        Condition::At(revision, crc) => held.is_some_and(|held| {
            held.revision() == revision && crc.is_none_or(|crc| crc == held.crc())
        }),
    };
    if holds {
        Ok(())
    } else {
        Err(ApiError::condition_failed(held))
    }
}

#[cfg(test)]
mod tests;
