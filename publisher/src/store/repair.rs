//! The calls of a repair: rows as they are stored, and the few writes that make them true.
//!
//! Each write is one transaction that proves by itself what it writes. What has to be repaired is
//! decided by `crate::repair`.

use contract::{CollectionName, Document, DocumentId, Head};

use crate::store::{
    Store,
    integrity::{Damage, DamagedPast, SumMismatch, Verdict, is_damage},
    past::ValueRecord,
};

/// Damaged base records that one reading names.
pub(super) const MAX_BASES: usize = 1_000;

/// The key of a stored row, of any type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowKey {
    /// As the backend reads it.
    pub(super) bytes: Vec<u8>,
    /// For people, at most 100 characters.
    pub(super) shown: String,
}

impl std::fmt::Display for RowKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown)
    }
}

/// A row of a document as it is stored.
#[derive(Debug)]
pub struct StoredRow {
    /// Its key.
    pub key: RowKey,
    /// The id, if the key is one.
    pub id: Option<DocumentId>,
    /// What it holds; the change log was not asked.
    pub document: Result<Document, Damage>,
}

/// A head as it is stored; `None` if it is gone.
pub type StoredHead = Option<Result<Head, Damage>>;

impl Store {
    /// The rows of a collection after a key, in the order of keys: at most `limit`, and none after the
    /// one with which they reach `bytes`; at least one if there is one.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn stored_rows(
        &self,
        collection: &CollectionName,
        after: Option<&RowKey>,
        limit: u32,
        bytes: usize,
    ) -> anyhow::Result<Vec<StoredRow>> {
        match self {
            Self::Embedded(store) => store.stored_rows(collection, after, limit, bytes).await,
            Self::Mongo(store) => {
                let store = store.opened()?;
                store.stored_rows(collection, after, limit, bytes).await
            }
        }
    }

    /// What is true of a document, by its row and the change log.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn examine_row(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
    ) -> anyhow::Result<Verdict> {
        match self {
            Self::Embedded(store) => store.examine_row(collection, id).await,
            Self::Mongo(store) => store.opened()?.examine_row(collection, id).await,
        }
    }

    /// As [`Self::examine_row`], and makes the row what the change log says, in one transaction.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn restore_row(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
    ) -> anyhow::Result<Verdict> {
        match self {
            Self::Embedded(store) => store.restore_row(collection, id).await,
            Self::Mongo(store) => store.opened()?.restore_row(collection, id).await,
        }
    }

    /// Moves a row out of its collection, to `_damaged`.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn set_row_aside(
        &self,
        collection: &CollectionName,
        key: &RowKey,
    ) -> anyhow::Result<()> {
        match self {
            Self::Embedded(store) => store.set_row_aside(collection, key).await,
            Self::Mongo(store) => store.opened()?.set_row_aside(collection, key).await,
        }
    }

    /// The head of a collection as it is stored; the change log is not asked.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn stored_head(&self, collection: &CollectionName) -> anyhow::Result<StoredHead> {
        match self {
            Self::Embedded(store) => store.stored_head(collection).await,
            Self::Mongo(store) => store.opened()?.stored_head(collection).await,
        }
    }

    /// Replaces a head that is still stored as it was read. `false` if it is not.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn replace_head(&self, read: &StoredHead, head: &Head) -> anyhow::Result<bool> {
        match self {
            Self::Embedded(store) => store.replace_head(read, head).await,
            Self::Mongo(store) => store.opened()?.replace_head(read, head).await,
        }
    }

    /// What is wrong with the row that says what base records cover.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn damaged_coverage(
        &self,
        collection: &CollectionName,
    ) -> anyhow::Result<Option<DamagedPast>> {
        match self.past_view(collection).await {
            Ok(_view) => Ok(None),
            Err(error) => match error.root_cause().downcast_ref::<DamagedPast>() {
                Some(damaged) => Ok(Some(damaged.clone())),
                // Of the head, or another failure: the rest of a repair reports it.
                None if is_damage(&error) => Ok(None),
                None => Err(error),
            },
        }
    }

    /// Removes the row that says what base records cover: they are made again of what is there.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn discard_coverage(&self, collection: &CollectionName) -> anyhow::Result<()> {
        match self {
            Self::Embedded(store) => store.discard_coverage(collection).await,
            Self::Mongo(store) => store.opened()?.discard_coverage(collection).await,
        }
    }

    /// The base records of a collection that are not what a publisher wrote, the first 1,000 of them.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn damaged_bases(
        &self,
        collection: &CollectionName,
    ) -> anyhow::Result<Vec<DamagedPast>> {
        match self {
            Self::Embedded(store) => store.damaged_bases(collection).await,
            Self::Mongo(store) => store.opened()?.damaged_bases(collection).await,
        }
    }

    /// Makes the base record of a document and its revision again, if there is one.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn restore_base(
        &self,
        collection: &CollectionName,
        document: &Document,
    ) -> anyhow::Result<()> {
        let record = ValueRecord::of(collection, document)?;
        match self {
            Self::Embedded(store) => store.restore_base(record).await,
            Self::Mongo(store) => store.opened()?.restore_base(record).await,
        }
    }

    /// Checks a collection after a repair, so that a document without a row is absent again.
    ///
    /// # Errors
    /// When the collection is still damaged.
    pub async fn check_absence(&self, collection: &CollectionName) -> anyhow::Result<()> {
        match self {
            Self::Embedded(store) => store.check_absence(collection).await,
            // It looks at the log for every absent document.
            Self::Mongo(_) => Ok(()),
        }
    }

    /// Says what a pass over all rows of a collection showed. Until one adds up again, a document
    /// without a row is not taken for absent.
    pub fn note_sum(&self, collection: &CollectionName, sum: Result<(), SumMismatch>) {
        match self {
            Self::Embedded(store) => store.note_sum(collection, sum),
            // It looks at the log for every absent document.
            Self::Mongo(_) => {}
        }
    }
}
