//! All documents of some collections from one snapshot of the store, read chunk by chunk.
//!
//! A cursor never holds all documents in memory.

use contract::{CollectionName, Document, Epoch, Head};

use crate::store::{embedded, mongo};

/// Approximate number of bytes of documents in a [`Chunk`]. One document more may be included.
pub(super) const CHUNK_BYTES: usize = 64 * 1024;

/// All documents of some collections as of one snapshot, with the heads of the same snapshot.
#[derive(Debug)]
pub struct DocumentCursor {
    /// The epoch of the store in the snapshot.
    pub epoch: Epoch,
    /// The heads in the snapshot, in the order in which the collections are read.
    pub heads: Vec<Head>,
    pub(super) rows: Rows,
}

/// Where the documents of a [`DocumentCursor`] come from.
#[derive(Debug)]
pub(super) enum Rows {
    Embedded(embedded::DocumentRows),
    /// Boxed because it is much larger than the other variant.
    Mongo(Box<mongo::DocumentRows>),
}

/// Some documents of one collection, ordered by id. Never empty.
#[derive(Debug)]
pub struct Chunk {
    /// The collection of all of them.
    pub collection: CollectionName,
    /// The documents.
    pub documents: Vec<Document>,
}

impl DocumentCursor {
    /// The next documents, ordered by collection and id; `None` after the last.
    ///
    /// # Errors
    /// When the store fails. The cursor must not be used any more: documents would be missing.
    pub async fn next(&mut self) -> anyhow::Result<Option<Chunk>> {
        match &mut self.rows {
            Rows::Embedded(rows) => rows.next().await,
            Rows::Mongo(rows) => rows.next().await,
        }
    }
}
