//! Reading all documents of some collections from one snapshot, chunk by chunk.
//!
//! A task of its own reads ahead: while one batch is converted to documents and sent, the database is
//! at the next. It begins with the first row that is asked for, is at most [`BATCHES_AHEAD`] batches
//! ahead, and ends with the cursor. A row is read where the driver has received it, so nothing is
//! copied before it is converted.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    vec,
};

use anyhow::Context;
use contract::{CollectionName, Document, Head, Revision};
use futures_util::StreamExt;
use mongodb::{
    ClientSession,
    bson::{RawDocument, doc},
    raw_batch_cursor::RawBatch,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};

use crate::store::{
    Chunk, DocumentCursor,
    damage::{DamagedPart, Outcome},
    document_cursor::{CHUNK_BYTES, Rows},
    integrity::{Damage, DamagedDocument},
    mongo::{CALL_TIMEOUT, Mongo, TIMED_OUT, rows},
};

/// Batches that may wait to be converted, so that there is something to convert while the next batch
/// is read.
const BATCHES_AHEAD: usize = 1;
/// Rows that the database sends at once: 256 KiB of rows of 1 KiB, and 4 MiB of rows of 16 KiB, of
/// which a slow reader holds two. The database bounds a batch at 16 MiB; the driver has no bound in
/// bytes, and none that changes from batch to batch.
const BATCH_ROWS: u32 = 250;

/// Rows of one collection, or `None` after the last row of all. A channel that closes without
/// `None` means that rows are missing.
type BatchRead = anyhow::Result<Option<Batch>>;

/// The rows of one collection that the database sent at once, as they were received.
#[derive(Debug)]
struct Batch {
    collection: CollectionName,
    reply: RawBatch,
    /// Where each row that was not taken yet is in the reply.
    rows: vec::IntoIter<Range<usize>>,
}

impl Batch {
    fn new(collection: CollectionName, reply: RawBatch) -> anyhow::Result<Self> {
        let start = reply.as_raw_document().as_bytes().as_ptr().addr();
        let mut rows = Vec::new();
        for row in reply.doc_slices()? {
            let row = row?.as_document().context("a row is not a document")?;
            let from = row.as_bytes().as_ptr().addr() - start;
            rows.push(from..from + row.as_bytes().len());
        }
        Ok(Self {
            collection,
            rows: rows.into_iter(),
            reply,
        })
    }

    /// The next row.
    fn next(&mut self) -> anyhow::Result<Option<&RawDocument>> {
        let Some(row) = self.rows.next() else {
            return Ok(None);
        };
        let reply = self.reply.as_raw_document().as_bytes();
        let row = reply.get(row).context("a row is outside of its batch")?;
        Ok(Some(RawDocument::from_bytes(row)?))
    }
}

/// The documents of the snapshot session in which their heads were read.
#[derive(Debug)]
pub(in crate::store) struct DocumentRows {
    store: Mongo,
    batches: mpsc::Receiver<BatchRead>,
    /// Lets the task that reads begin. `None` when it has.
    begin: Option<oneshot::Sender<()>>,
    /// What is being converted.
    batch: Option<Batch>,
    /// Where a row is converted.
    buffer: Vec<u8>,
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
        to: &mpsc::Sender<BatchRead>,
    ) -> anyhow::Result<()> {
        for collection in collections {
            let table = Self::raw(self.table_at_snapshot(collection.as_str()));
            let open = table
                .find(doc! {})
                .sort(doc! { "_id": 1 })
                .batch_size(BATCH_ROWS)
                .session(&mut session)
                .batch();
            let mut cursor = timeout(CALL_TIMEOUT, open).await.context(TIMED_OUT)??;
            let mut replies = cursor.stream(&mut session);
            loop {
                // Before the database is asked: no third batch is held.
                let Ok(slot) = to.reserve().await else {
                    // The cursor was dropped: the client has closed its connection.
                    return Ok(());
                };
                let reply = timeout(CALL_TIMEOUT, replies.next());
                let Some(reply) = reply.await.context(TIMED_OUT)? else {
                    break;
                };
                slot.send(Ok(Some(Batch::new(collection.clone(), reply?)?)));
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
        let (sender, batches) = mpsc::channel(BATCHES_AHEAD);
        let (begin, begun) = oneshot::channel();
        let source = store.clone();
        let collections = revisions.keys().cloned().collect();
        let read = async move {
            if begun.await.is_err() {
                // Only the heads were needed.
                return;
            }
            let result = source.read_rows(session, collections, &sender).await;
            // If the receiver was dropped, no task waits for the end.
            drop(sender.send(result.map(|()| None)).await);
        };
        let mut reader = JoinSet::new();
        reader.spawn_on(read, &store.runtime);
        Self {
            store,
            batches,
            begin: Some(begin),
            batch: None,
            buffer: Vec::new(),
            revisions,
            _reader: reader,
        }
    }

    pub(in crate::store) async fn next(&mut self) -> anyhow::Result<Option<Chunk>> {
        if let Some(begin) = self.begin.take() {
            // A task that has ended leaves its channel closed, which is an error below.
            _ = begin.send(());
        }
        let batch = match &mut self.batch {
            Some(batch) if batch.rows.len() > 0 => batch,
            converted => {
                // No time limit here: the task that reads has one for each call to the database.
                let read = self.batches.recv().await.context("rows are missing")??;
                let Some(read) = read else { return Ok(None) };
                converted.insert(read)
            }
        };
        let collection = batch.collection.clone();
        let up_to = self.revisions.get(&collection).copied().unwrap_or(0);
        let mut chunk = Chunk {
            documents: Vec::new(),
            damaged: None,
            collection,
        };
        // A list of whole rows does not ask the log for each.
        let doubtful = self.store.damage.has_damaged_rows(&chunk.collection);
        let mut bytes = 0;
        while bytes < CHUNK_BYTES
            && let Some(row) = batch.next()?
        {
            bytes += row.as_bytes().len();
            let read = match rows::document_in(&chunk.collection, row, &mut self.buffer) {
                Ok(document) if !doubtful => Ok(Some(document)),
                _damaged_or_doubtful => {
                    let store = &self.store;
                    store.document_in_list(&chunk.collection, row, up_to).await
                }
            };
            match read {
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
    /// The document of a row of a list that is not whole, or may be an earlier one.
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
