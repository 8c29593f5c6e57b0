//! Reading heads and documents.
//!
//! A cursor reads from one read transaction, which sees the snapshot that it began with for as long
//! as it is held; writers are not blocked.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
    ops::Bound::{Excluded, Included, Unbounded},
    sync::Arc,
};

use contract::{CollectionName, Document, DocumentId, Head};
use redb::{ReadTransaction, ReadableDatabase};

use crate::store::{
    Chunk, DocumentCursor,
    document_cursor::{CHUNK_BYTES, Rows},
    embedded::{
        Embedded,
        tables::{DOCUMENTS, document, heads},
    },
};

impl Embedded {
    pub(in crate::store) async fn heads(
        &self,
        collections: &BTreeSet<CollectionName>,
    ) -> anyhow::Result<Vec<Head>> {
        let collections = collections.clone();
        self.call(move |database| {
            let (_epoch, heads) = heads(&database.begin_read()?, &collections)?;
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
        self.call(move |database| {
            let documents = database.begin_read()?.open_table(DOCUMENTS)?;
            let row = documents.get((collection.as_str(), id.as_str()))?;
            Ok(row.map(|row| document(id, row.value())))
        })
        .await
    }

    pub(in crate::store) async fn documents(
        &self,
        collections: &BTreeSet<CollectionName>,
    ) -> anyhow::Result<DocumentCursor> {
        let store = self.clone();
        let collections = collections.clone();
        self.call(move |database| {
            let transaction = database.begin_read()?;
            let (epoch, heads) = heads(&transaction, &collections)?;
            let rows = DocumentRows {
                store,
                transaction: Arc::new(transaction),
                remaining: collections.into_iter().collect(),
                after: None,
            };
            Ok(DocumentCursor::new(epoch, heads, Rows::Embedded(rows)))
        })
        .await
    }
}

/// The documents of one read transaction, chunk by chunk.
pub(in crate::store) struct DocumentRows {
    store: Embedded,
    transaction: Arc<ReadTransaction>,
    /// The first is being read.
    remaining: VecDeque<CollectionName>,
    /// The last document that was read of it.
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
        while let Some(collection) = self.remaining.front().cloned() {
            let transaction = self.transaction.clone();
            let name = collection.clone();
            let after = self.after.take();
            let documents = self
                .store
                .call(move |_database| read_chunk(&transaction, &name, after.as_ref()))
                .await?;
            match documents.last() {
                Some(last) => {
                    self.after = Some(last.id().clone());
                    return Ok(Some(Chunk {
                        collection,
                        documents,
                        damaged: None,
                    }));
                }
                // The collection has no more documents. `after` was taken, so the next one is read
                // from its start.
                None => self.remaining.pop_front(),
            };
        }
        Ok(None)
    }
}

/// The documents of a collection after an id, until they reach [`CHUNK_BYTES`].
fn read_chunk(
    transaction: &ReadTransaction,
    collection: &CollectionName,
    after: Option<&DocumentId>,
) -> anyhow::Result<Vec<Document>> {
    let table = transaction.open_table(DOCUMENTS)?;
    let name = collection.as_str();
    // No id is empty, so the empty id is before the first.
    let from = after.map_or(Included((name, "")), |id| Excluded((name, id.as_str())));
    let mut documents = Vec::new();
    let mut bytes = 0;
    for row in table.range::<(&str, &str)>((from, Unbounded))? {
        let (key, value) = row?;
        let (row_collection, id) = key.value();
        // The range has no upper end: the rows of the next collection follow.
        if row_collection != name || bytes >= CHUNK_BYTES {
            break;
        }
        let document = document(id.parse()?, value.value());
        bytes += document.json().len();
        documents.push(document);
    }
    Ok(documents)
}
