//! Folding a change set: all of its writes happen, or none does.
//!
//! It is tried on a copy of the ground, which is thrown away when a member is refused. What makes a
//! set one to its readers is put into its changes here: the revisions that belong together, and the
//! last set before it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use contract::{Change, ChangeSet, CollectionName, SetPart, set::MAX_BYTES};

use crate::{
    api::error::ApiError,
    decide::{Rules, WorkingSet, Write, WriteResult},
};

/// Writes that happen together. No document is in it twice: the door sees to that.
#[derive(Debug, Clone)]
pub struct Set {
    /// Its id.
    pub id: String,
    /// Its writes, in order.
    pub members: Vec<Write>,
}

impl Rules {
    pub(super) fn set(
        &self,
        ground: &mut WorkingSet,
        set: &Set,
        now: DateTime<Utc>,
        changes: &mut Vec<Change>,
    ) -> WriteResult {
        let mut part = ground.part(set);
        let (mut made, mut done, mut bytes) =
            (Vec::new(), Vec::with_capacity(set.members.len()), 0);
        for (index, write) in set.members.iter().enumerate() {
            let before = made.len();
            let member = self.one(&mut part, write, now, &mut made);
            done.push(member.map_err(|error| error.under("/configData").of_member(index))?);
            // A small patch of a large document is a large change, and replicas have to hold the
            // whole set at once.
            let values = made[before..]
                .iter()
                .filter_map(|change| change.config_data.as_ref());
            bytes += values.map(|config| config.as_str().len()).sum::<usize>();
            if bytes > MAX_BYTES {
                return Err(ApiError::set_too_large(index));
            }
        }
        // A set of one is a change like any other.
        if made.len() > 1 {
            bind(&set.id, &mut made, &mut part);
        }
        ground.take(part, set);
        changes.append(&mut made);
        Ok(done)
    }
}

/// Says in every change what it belongs to, and in every head which set was the last.
fn bind(id: &str, made: &mut [Change], part: &mut WorkingSet) {
    let mut parts = BTreeMap::<CollectionName, SetPart>::new();
    for Change {
        collection,
        revision,
        ..
    } in made.iter()
    {
        let (collection, first, last) = (collection.clone(), *revision, *revision);
        let so_far = parts.entry(collection.clone()).or_insert(SetPart {
            collection,
            first,
            last,
        });
        so_far.last = last;
    }
    for (collection, of_it) in &parts {
        if let Some(head) = part.heads.get_mut(collection) {
            head.last_set = of_it.last;
        }
    }
    let set = ChangeSet {
        id: id.to_owned(),
        parts: parts.into_values().collect(),
    };
    for change in made {
        change.change_set = Some(set.clone());
    }
}
