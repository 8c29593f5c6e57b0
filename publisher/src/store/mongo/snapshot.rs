//! Reading epoch, heads and single documents.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use contract::{CollectionName, Document, DocumentId, Epoch, Head, Revision};
use futures_util::TryStreamExt;
use mongodb::{
    ClientSession,
    bson::{Document as Bdoc, doc},
};
use tokio::time::timeout;

use crate::store::{
    StoreIdentity,
    mongo::{CALL_TIMEOUT, HEADS, META, Mongo, STORE, TIMED_OUT, call, rows, verify::HeadRow},
};

const META_IS_EMPTY: &str =
    "_meta is empty: was the database dropped while this publisher was running?";
const HEADS_ARE_MISSING: &str =
    "_heads lacks a collection: was the database dropped while this publisher was running?";

/// After this time `_meta` is read also where the heads prove what it has: it may be gone.
const IDENTITY_HOLDS: Duration = Duration::from_secs(1);

/// The database lacks what it had when this publisher opened it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct StoreGone(pub(super) &'static str);

impl Mongo {
    pub(in crate::store) async fn heads(
        &self,
        collections: &BTreeSet<CollectionName>,
    ) -> anyhow::Result<Vec<Head>> {
        // Taken before the read: what is committed during the read need not be visible to it.
        let known = self.committed_heads.positions();
        let mut session = self.snapshot_session().await?;
        let (_epoch, heads) = self
            .epoch_and_heads(&mut session, collections)
            .await
            .context("reading heads")?;
        // Heads of a restored database are reported and not recorded: the known ones stay what
        // the next read is compared with.
        if !self.committed_heads.regressed(&known, &heads) {
            self.committed_heads.record(&heads);
        }
        Ok(heads)
    }

    pub(in crate::store) async fn written_collections(
        &self,
    ) -> anyhow::Result<BTreeSet<CollectionName>> {
        let rows = call(self.table(HEADS).find(doc! { "revision": { "$gt": 0 } })).await?;
        let rows: Vec<_> = call(rows.try_collect::<Vec<_>>()).await?;
        // A row of another type is none of ours.
        let names = rows.iter().filter_map(|row| row.get_str("_id").ok());
        Ok(names.filter_map(|name| name.parse().ok()).collect())
    }

    pub(in crate::store) async fn document(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
    ) -> anyhow::Result<Option<Document>> {
        let table = Self::raw(self.table(collection.as_str()));
        let row = call(table.find_one(doc! { "_id": id.as_str() }))
            .await
            .context("reading a document")?;
        // Also without a row: by the log a row that is gone differs from a document that never was.
        let document = self
            .document_of_row(None, collection, id, row.as_deref(), Revision::MAX)
            .await?;
        if document.is_none() {
            // Absent only where its collection is there: a dropped database has no document either.
            self.heads(&BTreeSet::from([collection.clone()])).await?;
        }
        Ok(document)
    }

    /// Epoch and heads, read in the session within the usual time limit.
    pub(super) async fn epoch_and_heads(
        &self,
        session: &mut ClientSession,
        collections: &BTreeSet<CollectionName>,
    ) -> anyhow::Result<(Epoch, Vec<Head>)> {
        let read = async {
            let identity = self.identity_in(session).await?;
            let heads = self
                .heads_in(session, &identity, collections.iter())
                .await?;
            anyhow::Ok((identity.epoch, heads))
        };
        timeout(CALL_TIMEOUT, read).await.context(TIMED_OUT)?
    }

    pub(in crate::store) async fn identity(&self) -> anyhow::Result<StoreIdentity> {
        let meta = call(self.table(META).find_one(doc! { "_id": STORE }))
            .await
            .context("reading _meta")?;
        if meta.is_none() {
            self.known_identity.store(None);
        }
        rows::identity(&meta.ok_or(StoreGone(META_IS_EMPTY))?)
    }

    /// Epoch and secret, read in a snapshot session or a transaction.
    pub(super) async fn identity_in(
        &self,
        session: &mut ClientSession,
    ) -> anyhow::Result<StoreIdentity> {
        let meta = self
            .table_at_snapshot(META)
            .find_one(doc! { "_id": STORE })
            .session(session)
            .await?;
        // What is gone is no longer known, so that writes are refused from now on.
        self.known_identity.store(None);
        let identity = rows::identity(&meta.ok_or(StoreGone(META_IS_EMPTY))?)?;
        self.known_identity
            .store(Some(Arc::new((Instant::now(), identity.clone()))));
        Ok(identity)
    }

    /// Heads, read in a snapshot session or a transaction, ordered by collection.
    pub(super) async fn heads_in(
        &self,
        session: &mut ClientSession,
        identity: &StoreIdentity,
        collections: impl Iterator<Item = &CollectionName>,
    ) -> anyhow::Result<Vec<Head>> {
        let stored = self.stored_heads(session, collections).await?;
        let rows = self.head_rows(session, identity, stored).await?;
        Ok(rows.into_iter().map(|row| row.head).collect())
    }

    /// Epoch and secret, and what a write needs to know of heads, read in a transaction.
    pub(super) async fn identity_and_head_rows_in(
        &self,
        session: &mut ClientSession,
        collections: impl Iterator<Item = &CollectionName>,
    ) -> anyhow::Result<(StoreIdentity, Vec<HeadRow>)> {
        let stored = self.stored_heads(session, collections).await?;
        let known = self.known_identity.load_full();
        let known = known.filter(|known| {
            let (read_at, identity) = &**known;
            let mut heads = stored.iter();
            read_at.elapsed() < IDENTITY_HOLDS
                && heads.all(|(name, row)| rows::is_head_of(row, name, identity))
        });
        // A declaration of an epoch proves all heads in it. So heads that have their proofs by the
        // known identity show that it is the one in `_meta`, and save the call that reads it.
        let identity = match known {
            Some(known) if !stored.is_empty() => known.1.clone(),
            _unproven => self.identity_in(session).await?,
        };
        let rows = self.head_rows(session, &identity, stored).await?;
        Ok((identity, rows))
    }

    /// The rows of the heads of some collections, ordered by collection.
    async fn stored_heads<'a>(
        &self,
        session: &mut ClientSession,
        collections: impl Iterator<Item = &'a CollectionName>,
    ) -> anyhow::Result<Vec<(&'a CollectionName, Bdoc)>> {
        let names: BTreeMap<_, _> = collections.map(|name| (name.as_str(), name)).collect();
        let keys: Vec<_> = names.keys().copied().collect();
        let mut found = self
            .table_at_snapshot(HEADS)
            .find(doc! { "_id": { "$in": keys } })
            .sort(doc! { "_id": 1 })
            .session(&mut *session)
            .await?;
        let mut stored = Vec::with_capacity(names.len());
        while let Some(row) = found.next(&mut *session).await.transpose()? {
            let name = row.get_str("_id").ok().and_then(|name| names.get(name));
            let name = name.context("MongoDB answered a head that was not asked for")?;
            stored.push((*name, row));
        }
        // An absent head must not pass for an empty collection: heads exist from the start.
        ensure!(stored.len() == names.len(), StoreGone(HEADS_ARE_MISSING));
        Ok(stored)
    }

    async fn head_rows(
        &self,
        session: &mut ClientSession,
        identity: &StoreIdentity,
        stored: Vec<(&CollectionName, Bdoc)>,
    ) -> anyhow::Result<Vec<HeadRow>> {
        let mut heads = Vec::with_capacity(stored.len());
        for (name, row) in stored {
            heads.push(self.head_of_row(session, name, identity, &row).await?);
        }
        Ok(heads)
    }
}
