//! Reading all documents of some collections from one moment, piece by piece.
//!
//! Rows are fetched ahead by a task of their own, which ends with the cursor: while one piece is
//! turned into documents and sent, the database is at the next. It is never more than a few pieces
//! ahead.

use std::collections::BTreeSet;

use anyhow::Context;
use contract::CollectionName;
use mongodb::{
    ClientSession,
    bson::{RawDocumentBuf, doc},
};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};

use crate::store::{
    PIECE_BYTES, Piece,
    mongo::{CALL, LATE, Mongo},
};

/// Pieces that may wait to be sent: about as much as a batch, so that there is something to send
/// while the next one comes.
const AHEAD: usize = 16;
/// Rows that the database sends at once. Left to itself it gathers 16 MiB, and everybody else waits
/// meanwhile.
const BATCH: u32 = 1_000;

/// Rows of one collection; nothing after the last. Without that word something is missing.
type Fetched = anyhow::Result<Option<(CollectionName, Vec<RawDocumentBuf>)>>;

/// Streams documents in the snapshot session that read their heads.
#[derive(Debug)]
pub(in crate::store) struct Cursor {
    store: Mongo,
    rows: mpsc::Receiver<Fetched>,
    /// Ended when this is dropped, and its session with it.
    _fetching: JoinSet<()>,
}

impl Cursor {
    pub(super) fn new(
        store: Mongo,
        session: ClientSession,
        collections: &BTreeSet<CollectionName>,
    ) -> Self {
        let (sender, rows) = mpsc::channel(AHEAD);
        let (mut fetching, runtime) = (JoinSet::new(), store.runtime.clone());
        let (fetcher, collections) = (store.clone(), collections.clone());
        let fetch = async move {
            let fetched = fetcher.fetch(session, collections, &sender).await;
            // Whoever is not there any more needs no end.
            drop(sender.send(fetched.map(|()| None)).await);
        };
        fetching.spawn_on(fetch, &runtime);
        Self {
            store,
            rows,
            _fetching: fetching,
        }
    }

    pub(in crate::store) async fn next(&mut self) -> anyhow::Result<Option<Piece>> {
        // A fetcher that finds no room has nobody to be late for; one that waits for the database
        // says so itself.
        while let Some((collection, rows)) =
            self.rows.recv().await.context("rows are missing")??
        {
            let mut documents = Vec::with_capacity(rows.len());
            for row in &rows {
                // A record of the log never changes, so it need not be read in the session.
                documents.extend(self.store.held(None, &collection, row).await?);
            }
            if !documents.is_empty() {
                return Ok(Some(Piece {
                    collection,
                    documents,
                }));
            }
        }
        Ok(None)
    }
}

impl Mongo {
    async fn fetch(
        &self,
        mut session: ClientSession,
        collections: BTreeSet<CollectionName>,
        to: &mpsc::Sender<Fetched>,
    ) -> anyhow::Result<()> {
        for collection in collections {
            let table = Self::raw(self.table_at_snapshot(collection.as_str()));
            let open = table
                .find(doc! {})
                .sort(doc! { "_id": 1 })
                .batch_size(BATCH)
                .session(&mut session);
            let mut cursor = timeout(CALL, open).await.context(LATE)??;
            let (mut rows, mut bytes) = (Vec::new(), 0);
            while timeout(CALL, cursor.advance(&mut session))
                .await
                .context(LATE)??
            {
                bytes += cursor.current().as_bytes().len();
                rows.push(cursor.current().to_owned());
                if bytes >= PIECE_BYTES {
                    bytes = 0;
                    if to
                        .send(Ok(Some((collection.clone(), std::mem::take(&mut rows)))))
                        .await
                        .is_err()
                    {
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
