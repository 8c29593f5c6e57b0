//! Reading all documents of some collections from one snapshot, chunk by chunk.
//!
//! A task of its own reads rows ahead: while one chunk is converted to documents and sent, the
//! database is at the next. It is at most [`CHUNKS_AHEAD`] chunks ahead, and ends with the cursor.

use std::collections::BTreeSet;

use anyhow::Context;
use contract::CollectionName;
use mongodb::{
    ClientSession,
    bson::{RawDocumentBuf, doc},
};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};

use crate::store::{
    Chunk, DocumentCursor,
    document_cursor::{CHUNK_BYTES, Rows},
    mongo::{CALL_TIMEOUT, Mongo, TIMED_OUT},
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
        let rows = DocumentRows::new(self.clone(), session, collections);
        Ok(DocumentCursor {
            epoch,
            heads,
            rows: Rows::Mongo(Box::new(rows)),
        })
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
    fn new(store: Mongo, session: ClientSession, collections: &BTreeSet<CollectionName>) -> Self {
        let (sender, rows) = mpsc::channel(CHUNKS_AHEAD);
        let source = store.clone();
        let collections = collections.clone();
        let read = async move {
            let result = source.read_rows(session, collections, &sender).await;
            // If the receiver was dropped, nobody waits for the end.
            drop(sender.send(result.map(|()| None)).await);
        };
        let mut reader = JoinSet::new();
        reader.spawn_on(read, &store.runtime);
        Self {
            store,
            rows,
            _reader: reader,
        }
    }

    pub(in crate::store) async fn next(&mut self) -> anyhow::Result<Option<Chunk>> {
        // No time limit here: the task that reads has one for each call to the database.
        while let Some((collection, rows)) =
            self.rows.recv().await.context("rows are missing")??
        {
            let mut documents = Vec::with_capacity(rows.len());
            for row in &rows {
                // The session is with the task that reads. A record of the log never changes, so
                // it need not be read in the session.
                documents.extend(self.store.document_of_row(None, &collection, row).await?);
            }
            // Empty if no publisher has written any of the rows.
            if !documents.is_empty() {
                return Ok(Some(Chunk {
                    collection,
                    documents,
                }));
            }
        }
        Ok(None)
    }
}
