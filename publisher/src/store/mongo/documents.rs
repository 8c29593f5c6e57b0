//! Reading all documents of some collections from one snapshot, chunk by chunk.
//!
//! A task of its own reads rows ahead: while one chunk is converted to documents and sent, the
//! database is at the next. It is at most [`CHUNKS_AHEAD`] chunks ahead, and ends with the cursor.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use contract::{CollectionName, Document, Head, Revision};
use mongodb::{
    ClientSession,
    bson::{RawDocument, RawDocumentBuf, doc},
};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};

use crate::store::{
    Chunk, DocumentCursor,
    damage::{DamagedPart, Outcome},
    document_cursor::{CHUNK_BYTES, Rows},
    integrity::{Damage, DamagedDocument},
    mongo::{CALL_TIMEOUT, Mongo, TIMED_OUT, rows},
};

/// Chunks that may wait to be sent: approximately one batch, so that there is something to send
/// while the next batch is read.
const CHUNKS_AHEAD: usize = 16;
/// Rows that the database sends at once. By default it collects 16 MiB, and other calls wait
/// meanwhile.
const BATCH_ROWS: u32 = 1_000;

/// Rows of one collection, or `None` after the last row of all. A channel that closes without
/// `None` means that rows are missing.
type RowsRead = anyhow::Result<Option<(CollectionName, Vec<RawDocumentBuf>)>>;

/// The documents of the snapshot session in which their heads were read.
#[derive(Debug)]
pub(in crate::store) struct DocumentRows {
    store: Mongo,
    rows: mpsc::Receiver<RowsRead>,
    /// The collections, with the revisions of their heads in the snapshot.
    revisions: BTreeMap<CollectionName, Revision>,
    /// Dropping this ends the task that reads, and its session.
    _reader: JoinSet<()>,
}

impl Mongo {
    pub(in crate::store) async fn documents(
        &self,
        collections: &BTreeSet<CollectionName>,
    ) -> anyhow::Result<DocumentCursor> {
        let mut session = self.snapshot_session().await?;
        let (epoch, heads) = self
            .epoch_and_heads(&mut session, collections)
            .await
            .context("reading heads")?;
        let revisions = heads
            .iter()
            .map(|head| (head.collection.clone(), head.revision))
            .collect();
        let rows = DocumentRows::new(self.clone(), session, revisions);
        Ok(DocumentCursor::new(
            epoch,
            heads,
            Rows::Mongo(Box::new(rows)),
        ))
    }

    /// Sends the rows of the collections, until the receiver is dropped.
    async fn read_rows(
        &self,
        mut session: ClientSession,
        collections: BTreeSet<CollectionName>,
        to: &mpsc::Sender<RowsRead>,
    ) -> anyhow::Result<()> {
        for collection in collections {
            let table = Self::raw(self.table_at_snapshot(collection.as_str()));
            let open = table
                .find(doc! {})
                .sort(doc! { "_id": 1 })
                .batch_size(BATCH_ROWS)
                .session(&mut session);
            let mut cursor = timeout(CALL_TIMEOUT, open).await.context(TIMED_OUT)??;
            let mut rows = Vec::new();
            let mut bytes = 0;
            while timeout(CALL_TIMEOUT, cursor.advance(&mut session))
                .await
                .context(TIMED_OUT)??
            {
                bytes += cursor.current().as_bytes().len();
                rows.push(cursor.current().to_owned());
                if bytes >= CHUNK_BYTES {
                    bytes = 0;
                    let full = std::mem::take(&mut rows);
                    // The cursor was dropped: the client has closed its connection.
                    if to.send(Ok(Some((collection.clone(), full)))).await.is_err() {
                        return Ok(());
                    }
                }
            }
            if !rows.is_empty() && to.send(Ok(Some((collection, rows)))).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }
}

impl DocumentRows {
    fn new(
        store: Mongo,
        session: ClientSession,
        revisions: BTreeMap<CollectionName, Revision>,
    ) -> Self {
        let (sender, rows) = mpsc::channel(CHUNKS_AHEAD);
        let source = store.clone();
        let collections = revisions.keys().cloned().collect();
        let read = async move {
            let result = source.read_rows(session, collections, &sender).await;
            // If the receiver was dropped, no task waits for the end.
            drop(sender.send(result.map(|()| None)).await);
        };
        let mut reader = JoinSet::new();
        reader.spawn_on(read, &store.runtime);
        Self {
            store,
            rows,
            revisions,
            _reader: reader,
        }
    }

    pub(in crate::store) async fn next(&mut self) -> anyhow::Result<Option<Chunk>> {
        // No time limit here: the task that reads has one for each call to the database.
        let Some((collection, rows)) = self.rows.recv().await.context("rows are missing")?? else {
            return Ok(None);
        };
        let up_to = self.revisions.get(&collection).copied().unwrap_or(0);
        let mut chunk = Chunk {
            documents: Vec::with_capacity(rows.len()),
            damaged: None,
            collection,
        };
        for row in &rows {
            let document = self.store.document_in_list(&chunk.collection, row, up_to);
            match document.await {
                Ok(document) => chunk.documents.extend(document),
                // Whether it is a document at all follows from the head, when all rows were read.
                Err(error) => {
                    let damaged = error.downcast::<DamagedDocument>()?;
                    chunk.damaged.get_or_insert(damaged);
                }
            }
        }
        Ok(Some(chunk))
    }

    /// All documents were read: whether they add up to the heads.
    pub(in crate::store) fn note(&self, heads: &[Head], checked: &anyhow::Result<()>) {
        let damage = &self.store.damage;
        match checked {
            Ok(()) => damage.add_up(heads),
            Err(error) => {
                if let Some(mismatch) = error.root_cause().downcast_ref() {
                    damage.report_sum(mismatch);
                }
            }
        }
    }
}

impl Mongo {
    /// The document of a row of a list.
    async fn document_in_list(
        &self,
        collection: &CollectionName,
        row: &RawDocument,
        up_to: Revision,
    ) -> anyhow::Result<Option<Document>> {
        let Ok(id) = rows::id(row) else {
            self.report_stray(collection, row);
            return Ok(None);
        };
        // The session is with the task that reads. A record of the log never changes, so it need
        // not be read in the session.
        self.document_of_row(None, collection, &id, Some(row), up_to)
            .await
    }

    fn report_stray(&self, collection: &CollectionName, row: &RawDocument) {
        let key = row.get("_id").ok().flatten();
        // The key may be of any type and length.
        let key: String = format!("{key:?}").chars().take(100).collect();
        self.damage.report(
            collection,
            DamagedPart::Row(key),
            Outcome::Ignored,
            format_args!("a row is ignored: {}", Damage::Stray),
        );
    }
}
