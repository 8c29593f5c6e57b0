//! Which newest part of the change log is whole: every revision is there, and every record fits its
//! checksum. Only there the newest record that is found of a document is proven to be its newest.
//!
//! A record is read once for this, and only where a damaged row needs it. Nothing here looks for the
//! record of a document.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use contract::{CollectionName, Revision};
use rusqlite::{Transaction, params};

use crate::store::embedded::rows;

/// For each collection the first and the last revision of that part; the first is not in it.
#[derive(Default)]
pub(super) struct WholeLog(Mutex<BTreeMap<CollectionName, (Revision, Revision)>>);

impl WholeLog {
    /// Whether the log is whole after a revision, up to the newest one.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub(super) fn is_whole(
        &self,
        transaction: &Transaction<'_>,
        collection: &CollectionName,
        after: Revision,
        newest: Revision,
    ) -> anyhow::Result<bool> {
        let known = self.lock().get(collection).copied();
        // A snapshot may be older than what is known.
        let (mut from, mut to) = known
            .filter(|(from, _to)| *from <= newest)
            .unwrap_or((newest, newest));
        if to < newest {
            let reached = reach(transaction, collection, newest, to)?;
            if reached > to {
                from = reached;
            }
            to = newest;
        }
        // What was read is kept, so that the next call does not read it again to find the same gap.
        if after < from {
            from = reach(transaction, collection, from, after)?;
        }
        self.lock().insert(collection.clone(), (from, to));
        Ok(from <= after && after <= newest)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<CollectionName, (Revision, Revision)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The revision after which the log is whole up to `newest`; not before `end`.
fn reach(
    transaction: &Transaction<'_>,
    collection: &CollectionName,
    newest: Revision,
    end: Revision,
) -> anyhow::Result<Revision> {
    let mut statement = transaction.prepare_cached(
        "SELECT revision, crc, record FROM changes
         WHERE collection = ?1 AND revision <= ?2 AND revision > ?3 ORDER BY revision DESC",
    )?;
    let mut rows = statement.query(params![collection.as_str(), newest, end])?;
    let mut whole = newest;
    while let Some(row) = rows.next()? {
        let Ok((revision, _text)) = rows::record_text(collection, row) else {
            break;
        };
        if revision != whole {
            break;
        }
        whole -= 1;
    }
    Ok(whole)
}
