//! Collections that may lack a row: a document without a row is not proven to be absent there.
//!
//! Nothing here decides what is damaged; [`integrity`](crate::store::integrity) does.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use contract::CollectionName;

use crate::store::integrity::{DamagedDocument, SumMismatch};

/// Why each such collection may lack a row.
#[derive(Default)]
pub(super) struct Absence(Mutex<BTreeMap<CollectionName, Reason>>);

#[derive(Debug, Clone)]
enum Reason {
    /// The documents do not add up to the head.
    Sum(SumMismatch),
    /// A row cannot be read. It may have had another id.
    Row(DamagedDocument),
}

impl Absence {
    /// Finds out whether an error means that a collection may lack a row.
    pub(super) fn note(&self, error: &anyhow::Error) {
        let reason = error.chain().find_map(|error| {
            let sum = error.downcast_ref().cloned().map(Reason::Sum);
            sum.or_else(|| error.downcast_ref().cloned().map(Reason::Row))
        });
        if let Some(reason) = reason {
            let collection = match &reason {
                Reason::Sum(mismatch) => &mismatch.collection,
                Reason::Row(damaged) => &damaged.collection,
            };
            let collection = collection.clone();
            self.lock().entry(collection).or_insert(reason);
        }
    }

    /// All documents of a collection were read and add up to its head.
    pub(super) fn proven(&self, collection: &CollectionName) {
        self.lock().remove(collection);
    }

    /// # Errors
    /// When the collection may lack a row, and why.
    pub(super) fn check(&self, collection: &CollectionName) -> anyhow::Result<()> {
        match self.lock().get(collection).cloned() {
            None => Ok(()),
            Some(Reason::Sum(mismatch)) => Err(mismatch.into()),
            Some(Reason::Row(damaged)) => Err(damaged.into()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<CollectionName, Reason>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
