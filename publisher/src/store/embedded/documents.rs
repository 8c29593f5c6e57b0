//! Reading heads and documents.
//!
//! A list is one snapshot, read piece by piece: see [`open_lists`](super::open_lists). Each document
//! is verified, and the cursor compares all of them together with the head of the snapshot.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
};

use contract::{CollectionName, Document, DocumentId, Head};

use crate::store::{
    Chunk, DocumentCursor,
    document_cursor::{CHUNK_BYTES, Rows},
    embedded::{Embedded, open_lists::OpenList},
};

impl Embedded {
    pub(in crate::store) async fn written_collections(
        &self,
    ) -> anyhow::Result<BTreeSet<CollectionName>> {
        self.read(|_store, transaction| {
            let mut heads = transaction.prepare_cached("SELECT collection, head FROM heads")?;
            let heads = heads.query_map([], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
            })?;
            let mut written = BTreeSet::new();
            for head in heads {
                let (name, head) = head?;
                // What a damaged head was of is not known.
                let blank = serde_json::from_str(&head).is_ok_and(|head: Head| head.revision == 0);
                if !blank {
                    written.insert(name.parse()?);
                }
            }
            Ok(written)
        })
        .await
    }

    pub(in crate::store) async fn heads(
        &self,
        collections: &BTreeSet<CollectionName>,
    ) -> anyhow::Result<Vec<Head>> {
        let collections = collections.clone();
        self.read(move |store, transaction| {
            let (_epoch, heads) = store.heads_of(transaction, &collections)?;
            Ok(heads)
        })
        .await
    }

    pub(in crate::store) async fn document(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
    ) -> anyhow::Result<Option<Document>> {
        let collection = collection.clone();
        let id = id.clone();
        self.read(move |store, transaction| store.row(transaction, &collection, &id))
            .await
    }

    pub(in crate::store) async fn documents(
        &self,
        collections: &BTreeSet<CollectionName>,
    ) -> anyhow::Result<DocumentCursor> {
        let collections = collections.clone();
        // Before the heads are read: every commit that they lack leaves its images for this list.
        let list = self.0.lists.open(collections.clone());
        let (epoch, heads) = self
            .read(move |store, transaction| store.heads_of(transaction, &collections))
            .await?;
        list.begin(&heads);
        let rows = DocumentRows {
            store: self.clone(),
            list,
            remaining: heads.iter().cloned().collect(),
            after: None,
        };
        Ok(DocumentCursor::new(epoch, heads, Rows::Embedded(rows)))
    }
}

/// The documents of one snapshot, chunk by chunk.
pub(in crate::store) struct DocumentRows {
    store: Embedded,
    list: OpenList,
    /// The collection of the first is being read.
    remaining: VecDeque<Head>,
    /// The last id that was read of it.
    after: Option<DocumentId>,
}

impl fmt::Debug for DocumentRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DocumentRows")
            .field("remaining", &self.remaining)
            .finish_non_exhaustive()
    }
}

impl DocumentRows {
    pub(in crate::store) async fn next(&mut self) -> anyhow::Result<Option<Chunk>> {
        while let Some(head) = self.remaining.front().cloned() {
            let collection = head.collection.clone();
            let after = self.after.clone();
            let piece = self
                .store
                .read(move |store, transaction| {
                    store.piece(transaction, &collection, after.as_ref(), CHUNK_BYTES)
                })
                .await?;
            let last = piece.last.clone();
            let damaged = piece.damaged.clone();
            let documents = self.list.at_snapshot(&head, self.after.as_ref(), piece)?;
            if last.is_none() {
                self.remaining.pop_front();
            }
            self.after = last;
            if !documents.is_empty() || damaged.is_some() {
                return Ok(Some(Chunk {
                    collection: head.collection,
                    documents,
                    damaged,
                }));
            }
        }
        Ok(None)
    }

    /// All documents were read: whether they add up to the heads.
    pub(in crate::store) fn note(&self, heads: &[Head], checked: &anyhow::Result<()>) {
        match checked {
            Ok(()) => self.store.0.damage.add_up(heads),
            Err(error) => self.store.note(error),
        }
    }
}
