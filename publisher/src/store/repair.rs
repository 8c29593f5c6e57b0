//! The calls of a repair: rows as they are stored, and the few writes that make them true.
//!
//! Each write is one transaction that proves by itself what it writes. What has to be repaired is
//! decided by `crate::repair`.

use contract::{CollectionName, Document, DocumentId, Head};

use crate::store::{
    Store,
    integrity::{Damage, Verdict},
};

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

/// The backend cannot do this.
#[derive(Debug, thiserror::Error)]
#[error("this store cannot be repaired yet")]
pub struct NotSupportedError;

impl Store {
    /// The rows of a collection after a key, in the order of keys, at most `limit`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn stored_rows(
        &self,
        collection: &CollectionName,
        after: Option<&RowKey>,
        limit: u32,
    ) -> anyhow::Result<Vec<StoredRow>> {
        match self {
            Self::Embedded(_) => Err(NotSupportedError.into()),
            Self::Mongo(store) => store.opened()?.stored_rows(collection, after, limit).await,
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
            Self::Embedded(_) => Err(NotSupportedError.into()),
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
            Self::Embedded(_) => Err(NotSupportedError.into()),
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
            Self::Embedded(_) => Err(NotSupportedError.into()),
            Self::Mongo(store) => store.opened()?.set_row_aside(collection, key).await,
        }
    }

    /// The head of a collection as it is stored; the change log is not asked.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn stored_head(&self, collection: &CollectionName) -> anyhow::Result<StoredHead> {
        match self {
            Self::Embedded(_) => Err(NotSupportedError.into()),
            Self::Mongo(store) => store.opened()?.stored_head(collection).await,
        }
    }

    /// Replaces a head that is still stored as it was read. `false` if it is not.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn replace_head(&self, read: &StoredHead, head: &Head) -> anyhow::Result<bool> {
        match self {
            Self::Embedded(_) => Err(NotSupportedError.into()),
            Self::Mongo(store) => store.opened()?.replace_head(read, head).await,
        }
    }
}
