//! Reading all documents of some collections from one moment, piece by piece.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use contract::{CollectionName, Document, DocumentId};
use redb::{ReadTransaction, ReadableDatabase};

use crate::{
    store,
    store::{
        PIECE_BYTES, Piece, Reading,
        embedded::{DOCUMENTS, Embedded, META, document, epoch, heads},
    },
};

impl Embedded {
    pub(in crate::store) async fn read(
        &self,
        collections: &BTreeSet<CollectionName>,
    ) -> anyhow::Result<Reading> {
        let (store, collections) = (self.clone(), collections.clone());
        self.call(move |database| {
            let transaction = database.begin_read()?;
            let heads = heads(&transaction, &collections)?;
            let epoch = epoch(&transaction.open_table(META)?)?;
            let left = collections.into_iter().collect();
            let cursor = Cursor {
                store,
                transaction: Arc::new(transaction),
                left,
                after: None,
            };
            Ok(Reading {
                epoch,
                heads,
                cursor: store::Cursor::Embedded(cursor),
            })
        })
        .await
    }
}

/// Reads documents piece by piece from one read transaction, which redb keeps as it was for as long
/// as it is held.
pub(in crate::store) struct Cursor {
    store: Embedded,
    transaction: Arc<ReadTransaction>,
    left: VecDeque<CollectionName>,
    after: Option<DocumentId>,
}

impl std::fmt::Debug for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cursor")
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

impl Cursor {
    pub(in crate::store) async fn next(&mut self) -> anyhow::Result<Option<Piece>> {
        while let Some(collection) = self.left.front().cloned() {
            let (transaction, name, after) = (
                self.transaction.clone(),
                collection.clone(),
                self.after.take(),
            );
            let documents = self
                .store
                .call(move |_database| piece(&transaction, &name, after.as_ref()))
                .await?;
            match documents.last() {
                Some(last) => {
                    self.after = Some(last.id().clone());
                    return Ok(Some(Piece {
                        collection,
                        documents,
                    }));
                }
                None => self.left.pop_front(),
            };
        }
        Ok(None)
    }
}

fn piece(
    transaction: &ReadTransaction,
    collection: &CollectionName,
    after: Option<&DocumentId>,
) -> anyhow::Result<Vec<Document>> {
    use std::ops::Bound::{Excluded, Included, Unbounded};
    let documents = transaction.open_table(DOCUMENTS)?;
    let name = collection.as_str();
    // No id is empty, so the empty id stands before the first.
    let from = after.map_or(Included((name, "")), |id| Excluded((name, id.as_str())));
    let (mut found, mut bytes) = (Vec::new(), 0);
    for row in documents.range::<(&str, &str)>((from, Unbounded))? {
        let (place, held) = row?;
        let (of, id) = place.value();
        if of != name || bytes >= PIECE_BYTES {
            break;
        }
        let document = document(id.parse()?, held.value());
        bytes += document.json().len();
        found.push(document);
    }
    Ok(found)
}
