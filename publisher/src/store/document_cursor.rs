//! All documents of some collections from one snapshot of the store, read chunk by chunk.
//!
//! A cursor never holds all documents in memory. It adds up what it gives and compares the sums with
//! the heads before it ends, so that an answer is complete or fails: a row that cannot be read
//! matters only if the head stands for it.

use std::collections::{BTreeMap, VecDeque};

use contract::{CollectionName, Document, Epoch, Head};

use crate::store::{
    embedded,
    integrity::{DamagedDocument, DocumentSum},
    mongo,
    past::PastRows,
};

/// Approximate number of bytes of documents in a [`Chunk`]. One document more may be included.
pub(super) const CHUNK_BYTES: usize = 64 * 1024;

/// All documents of some collections as of one snapshot, with the heads of the same snapshot.
#[derive(Debug)]
pub struct DocumentCursor {
    /// The epoch of the store in the snapshot.
    pub epoch: Epoch,
    /// The heads in the snapshot, in the order in which the collections are read.
    pub heads: Vec<Head>,
    rows: Rows,
    /// What was read ahead.
    ahead: VecDeque<Chunk>,
    ended: bool,
    sums: BTreeMap<CollectionName, DocumentSum>,
    /// The first row of each collection that could not be read.
    damaged: BTreeMap<CollectionName, DamagedDocument>,
}

/// Where the documents of a [`DocumentCursor`] come from.
#[derive(Debug)]
pub(super) enum Rows {
    Embedded(embedded::DocumentRows),
    /// Boxed because it is much larger than the other variants.
    Mongo(Box<mongo::DocumentRows>),
    /// A state of the past.
    Past(Box<PastRows>),
}

/// Some documents of one collection, ordered by id.
#[derive(Debug)]
pub struct Chunk {
    /// The collection of all of them.
    pub collection: CollectionName,
    /// The documents.
    pub documents: Vec<Document>,
    /// The first row among them that could not be read, if there is one.
    pub damaged: Option<DamagedDocument>,
}

/// Chunks that [`DocumentCursor::begin`] reads ahead.
const CHUNKS_BEFORE_ANSWER: usize = 2;

impl DocumentCursor {
    /// A cursor that has read nothing yet.
    pub(super) fn new(epoch: Epoch, heads: Vec<Head>, rows: Rows) -> Self {
        Self {
            epoch,
            heads,
            rows,
            ahead: VecDeque::new(),
            ended: false,
            sums: BTreeMap::new(),
            damaged: BTreeMap::new(),
        }
    }

    /// Reads the first chunks, so that an answer which cannot be right fails before it begins. A
    /// collection of less than a chunk is read and checked as a whole.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn begin(&mut self) -> anyhow::Result<()> {
        for _ahead in 0..CHUNKS_BEFORE_ANSWER {
            match self.read().await? {
                Some(chunk) => self.ahead.push_back(chunk),
                None => break,
            }
        }
        Ok(())
    }

    /// The next documents, ordered by collection and id; `None` after the last, when all documents
    /// add up to the heads.
    ///
    /// # Errors
    /// When the store fails, or the documents are not those of a head: a
    /// [`DamagedDocument`] or a
    /// [`SumMismatch`](super::integrity::SumMismatch). The cursor must not be used any more:
    /// documents would be missing.
    pub async fn next(&mut self) -> anyhow::Result<Option<Chunk>> {
        match self.ahead.pop_front() {
            Some(chunk) => Ok(Some(chunk)),
            None => self.read().await,
        }
    }

    async fn read(&mut self) -> anyhow::Result<Option<Chunk>> {
        while !self.ended {
            let chunk = match &mut self.rows {
                Rows::Embedded(rows) => rows.next().await?,
                Rows::Mongo(rows) => rows.next().await?,
                Rows::Past(rows) => rows.next().await?,
            };
            let Some(mut chunk) = chunk else {
                let checked = self.check();
                match &self.rows {
                    Rows::Embedded(rows) => rows.note(&self.heads, &checked),
                    Rows::Mongo(rows) => rows.note(&self.heads, &checked),
                    // The rows of today have no part in it.
                    Rows::Past(_) => {}
                }
                checked?;
                self.ended = true;
                break;
            };
            let sum = self.sums.entry(chunk.collection.clone()).or_default();
            for document in &chunk.documents {
                sum.add(document);
            }
            if let Some(damaged) = chunk.damaged.take() {
                self.damaged
                    .entry(chunk.collection.clone())
                    .or_insert(damaged);
            }
            if !chunk.documents.is_empty() {
                return Ok(Some(chunk));
            }
        }
        Ok(None)
    }

    /// Compares what was read with the heads. A row that could not be read is no document if the
    /// others add up without it.
    fn check(&self) -> anyhow::Result<()> {
        for head in &self.heads {
            let sum = self.sums.get(&head.collection).copied().unwrap_or_default();
            if let Err(mismatch) = sum.check(head) {
                return Err(match self.damaged.get(&head.collection) {
                    Some(damaged) => damaged.clone().into(),
                    None => mismatch.into(),
                });
            }
        }
        Ok(())
    }
}
