//! The rules of writes: which changes a group of commands makes of the documents that exist.
//!
//! This is the pure core of the publisher. It lies below the store: a store reads a [`WorkingSet`]
//! inside a transaction, calls [`Rules::evaluate`], and writes the [`Decisions`]. So every rule of
//! the API is tested without a store, and both stores obey the same rules.
//!
//! Each command sees the effects of the commands before it in the group and gets a result of its
//! own: a refused command does not affect its neighbours. A change set is one command, see
//! [`ChangeSetCommand`].
//!
//! Nothing here reads or writes a store or a file, knows HTTP or logs.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use contract::{Change, Document, Expected, Operation, Written};

mod ahead;
pub mod change_set;
pub mod command;
pub mod error;
pub mod references;
pub mod schemas;
mod sealing;
mod secret;
mod value;
mod working_set;

pub use ahead::Checked;
pub use change_set::ChangeSetCommand;
pub use command::{Action, Command, Origin, Write};
pub use error::WriteError;
use references::ReferenceCheck;
use schemas::Schemas;
pub use sealing::{NewValue, Sealing};
pub use secret::{StoreIdentity, StoreSecret};
pub use value::IN_TRANSACTION_BYTES;
pub use working_set::{DocumentKey, WorkingSet};

/// Limit for the new values of one group, in bytes as they are stored. A store writes a group in
/// one transaction, and a small patch of a large document is a large change.
const GROUP_STORED_BYTES: usize = 4 << 20;

/// The effect of an accepted write on its document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteOutcome {
    /// The operation that happened; `None` when the document already had the value, so nothing
    /// changed and there is no change record.
    pub operation: Option<Operation>,
    /// The document after the write.
    pub written: Written,
}

/// The answer to one command: the outcome of each of its writes, in order, or the reason why none
/// of them happened.
pub type WriteResult = Result<Vec<WriteOutcome>, WriteError>;

/// What one transaction of the store has to write.
#[derive(Debug)]
pub struct Decisions {
    /// One result per command, in the order of the group. Commands at the end that did not fit into
    /// the transaction have none; they must be evaluated again, in a later group.
    pub results: Vec<WriteResult>,
    /// The changes of all accepted commands, in the order of the commands and of their writes.
    /// Within a collection the revisions are contiguous.
    pub changes: Vec<Change>,
    /// Heads and documents after the changes.
    pub after: WorkingSet,
    /// Documents that the changes do not touch and that must not be deleted at the same time,
    /// because references to them were added.
    pub referred: BTreeSet<DocumentKey>,
}

/// The constraints on every document.
#[derive(Debug)]
pub struct Rules {
    /// Schemas by collection.
    pub schemas: Schemas,
    /// Largest document, in bytes of canonical JSON.
    pub document_limit: usize,
    /// What secret values are sealed with.
    pub secrets: Sealing,
}

impl Rules {
    /// Evaluates a group of commands in order, each with `now` as the time of its changes. It stops
    /// early when the new values are enough for one transaction; the first command always fits. It
    /// also stops before a command for which `working_set` lacks facts: see [`Self::wanted`].
    pub fn evaluate(
        &self,
        working_set: WorkingSet,
        group: &[Command],
        now: DateTime<Utc>,
    ) -> Decisions {
        let mut references = ReferenceCheck::new(self.schemas.all(), group);
        let mut decisions = self.evaluate_with(working_set, group, now, &mut references);
        decisions.referred = references.referred(&decisions.changes);
        decisions
    }

    fn evaluate_with(
        &self,
        working_set: WorkingSet,
        group: &[Command],
        now: DateTime<Utc>,
        references: &mut ReferenceCheck,
    ) -> Decisions {
        let mut after = working_set;
        let mut changes = Vec::new();
        let mut results = Vec::with_capacity(group.len());
        let mut stored_bytes = 0;
        for command in group {
            if stored_bytes >= GROUP_STORED_BYTES || references.is_full() {
                break;
            }
            let changes_before = changes.len();
            let result = match command {
                Command::Single(write) => self
                    .single(&mut after, write, now, &mut changes, references)
                    .map(|outcome| vec![outcome]),
                Command::ChangeSet(set) => {
                    self.change_set(&mut after, set, now, &mut changes, references)
                }
            };
            if references.lacks_facts() {
                break;
            }
            results.push(result);
            stored_bytes += changes[changes_before..]
                .iter()
                .filter_map(|change| change.config_data.as_ref())
                .map(value::stored_size)
                .sum::<usize>();
        }
        Decisions {
            results,
            changes,
            after,
            referred: BTreeSet::new(),
        }
    }

    /// Decides a command of one write.
    fn single(
        &self,
        working_set: &mut WorkingSet,
        write: &Write,
        now: DateTime<Utc>,
        changes: &mut Vec<Change>,
        references: &mut ReferenceCheck,
    ) -> Result<WriteOutcome, WriteError> {
        if !references.concerns(write) {
            return self.write(working_set, write, now, changes);
        }
        let writes = std::slice::from_ref(write);
        let mut trial = working_set.copy_for(writes);
        let mut own_changes = Vec::new();
        let outcome = self.write(&mut trial, write, now, &mut own_changes)?;
        references.check(working_set, &trial, writes, false)?;
        working_set.adopt(trial, writes);
        changes.append(&mut own_changes);
        Ok(outcome)
    }

    /// Decides one write. If it is accepted, its change is applied to the working set and appended
    /// to `changes`.
    fn write(
        &self,
        working_set: &mut WorkingSet,
        write: &Write,
        now: DateTime<Utc>,
        changes: &mut Vec<Change>,
    ) -> Result<WriteOutcome, WriteError> {
        let stored = working_set.documents.get(&write.key());
        check_expected(&write.expected, stored)?;
        let head = working_set.heads.get(&write.collection);
        let revision = head.map_or(0, |head| head.revision) + 1;
        let new_value = self.next_value(write, stored, revision)?;
        let operation = match (stored, &new_value) {
            // The document has this value already. A retry of a client must not make a revision.
            (Some(stored), Some(value)) if stored.config_data() == value.as_str().as_bytes() => {
                return Ok(WriteOutcome {
                    operation: None,
                    written: Written {
                        id: write.id.clone(),
                        revision: stored.revision(),
                        crc: Some(stored.crc()),
                        changed: false,
                        applied: None,
                    },
                });
            }
            (Some(_), Some(_)) => Operation::Update,
            (None, Some(_)) => Operation::Create,
            (_, None) => Operation::Delete,
        };
        let change = working_set.apply(write, operation, new_value, now)?;
        let outcome = WriteOutcome {
            operation: Some(operation),
            written: Written {
                id: change.id.clone(),
                revision: change.revision,
                crc: change.crc,
                changed: true,
                applied: None,
            },
        };
        changes.push(change);
        Ok(outcome)
    }
}

/// Compares the expected state of a document with the stored one (RFC 9110 section 13.1).
fn check_expected(expected: &Expected, stored: Option<&Document>) -> Result<(), WriteError> {
    if expected.holds(stored.map(|stored| (stored.revision(), stored.crc()))) {
        Ok(())
    } else {
        Err(WriteError::ConditionFailed {
            stored: stored.cloned(),
        })
    }
}

#[cfg(test)]
mod tests;
