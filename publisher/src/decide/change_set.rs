//! The rules of a change set: all of its writes happen, or none.
//!
//! A set is evaluated on a copy of the working set, which is dropped when one of its writes is
//! refused. The marks that let a replica apply the set in one step are put into its changes here:
//! the revisions that belong together, and the last set before each change.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use contract::{Change, ChangeSet, CollectionName, Revision, SetPart, set::MAX_BYTES};

use crate::decide::{
    Rules, WorkingSet, Write, WriteError, WriteResult, references::ReferenceCheck,
};

/// Writes that happen together. No document is in it twice: the check of the request ensures it.
#[derive(Debug, Clone, Default)]
pub struct ChangeSetCommand {
    /// Id of the set.
    pub id: String,
    /// The writes, in order.
    pub writes: Vec<Write>,
    /// The revisions that collections of the writes must have, where any is required.
    pub expected_heads: BTreeMap<CollectionName, Revision>,
}

impl Rules {
    /// Decides a change set. If it is accepted, its changes are applied to the working set and
    /// appended to `changes`; the error of a refused write names its position in the set.
    pub(super) fn change_set(
        &self,
        working_set: &mut WorkingSet,
        set: &ChangeSetCommand,
        now: DateTime<Utc>,
        changes: &mut Vec<Change>,
        references: &mut ReferenceCheck,
    ) -> WriteResult {
        for (collection, expected) in &set.expected_heads {
            let head = working_set.heads.get(collection);
            if let Some(head) = head.filter(|head| head.revision != *expected) {
                return Err(WriteError::HeadMoved {
                    collection: collection.clone(),
                    revision: head.revision,
                    expected: *expected,
                });
            }
        }
        let mut trial = working_set.copy_for(&set.writes);
        let mut set_changes = Vec::new();
        let mut outcomes = Vec::with_capacity(set.writes.len());
        let mut value_bytes = 0;
        for (index, write) in set.writes.iter().enumerate() {
            let changes_before = set_changes.len();
            let outcome = self
                .write(&mut trial, write, now, &mut set_changes)
                .map_err(|error| error.under("/configData").in_change_set(index))?;
            outcomes.push(outcome);
            // The request was checked against this limit, but a small patch of a large document is
            // a large change, and a replica has to buffer the whole set.
            value_bytes += set_changes[changes_before..]
                .iter()
                .filter_map(|change| change.config_data.as_ref())
                .map(|value| value.as_str().len())
                .sum::<usize>();
            if value_bytes > MAX_BYTES {
                return Err(WriteError::SetTooLarge { index });
            }
        }
        if set.writes.iter().any(|write| references.concerns(write)) {
            references.check(working_set, &trial, &set.writes, true)?;
        }
        // A set with a single effective change needs no marks: it is a change like any other.
        if set_changes.len() > 1 {
            mark(&set.id, &mut set_changes, &mut trial);
        }
        working_set.adopt(trial, &set.writes);
        changes.append(&mut set_changes);
        Ok(outcomes)
    }
}

/// Puts the parts of the set into each of its changes, and the end of the set into each head.
fn mark(id: &str, changes: &mut [Change], working_set: &mut WorkingSet) {
    let mut parts = BTreeMap::<CollectionName, SetPart>::new();
    for change in changes.iter() {
        // Revisions rise within a collection, so the first one stays and the last one moves.
        parts
            .entry(change.collection.clone())
            .or_insert_with(|| SetPart {
                collection: change.collection.clone(),
                first: change.revision,
                last: change.revision,
            })
            .last = change.revision;
    }
    for (collection, part) in &parts {
        if let Some(head) = working_set.heads.get_mut(collection) {
            head.last_set = part.last;
        }
    }
    let set = ChangeSet {
        id: id.to_owned(),
        parts: parts.into_values().collect(),
    };
    for change in changes {
        change.change_set = Some(set.clone());
    }
}
