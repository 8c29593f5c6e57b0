//! Reading epoch, heads and single documents.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use contract::{CollectionName, Document, DocumentId, Epoch, Head};
use mongodb::{
    ClientSession,
    bson::{RawDocument, doc},
};
use tokio::time::timeout;
use tracing::warn;

use crate::store::{
    StoreIdentity,
    mongo::{CALL_TIMEOUT, CHANGES, HEADS, META, Mongo, STORE, TIMED_OUT, call, rows},
};

const META_IS_EMPTY: &str =
    "_meta is empty: was the database dropped while this publisher was running?";

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

    pub(in crate::store) async fn document(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
    ) -> anyhow::Result<Option<Document>> {
        let table = Self::raw(self.table(collection.as_str()));
        match call(table.find_one(doc! { "_id": id.as_str() }))
            .await
            .context("reading a document")?
        {
            Some(row) => self.document_of_row(None, collection, &row).await,
            None => Ok(None),
        }
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
        rows::identity(&meta.context(META_IS_EMPTY)?)
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
            .await?
            .context(META_IS_EMPTY)?;
        rows::identity(&meta)
    }

    /// Heads, read in a snapshot session or a transaction, ordered by collection.
    pub(super) async fn heads_in(
        &self,
        session: &mut ClientSession,
        identity: &StoreIdentity,
        collections: impl Iterator<Item = &CollectionName>,
    ) -> anyhow::Result<Vec<Head>> {
        let names: Vec<_> = collections.map(CollectionName::as_str).collect();
        let mut found = self
            .table_at_snapshot(HEADS)
            .find(doc! { "_id": { "$in": &names } })
            .sort(doc! { "_id": 1 })
            .session(&mut *session)
            .await?;
        let mut heads = Vec::new();
        while let Some(row) = found.next(session).await.transpose()? {
            heads.push(rows::head(&row, identity)?);
        }
        // An absent head must not pass for an empty collection: heads exist from the start.
        ensure!(
            heads.len() == names.len(),
            "_heads lacks a collection: was the database dropped while this publisher was running?"
        );
        Ok(heads)
    }

    /// The document of a row; `None` if no publisher has written the row.
    ///
    /// If the row was edited by other means, the document is taken from the change log, because the
    /// log has the value that was written.
    pub(super) async fn document_of_row(
        &self,
        session: Option<&mut ClientSession>,
        collection: &CollectionName,
        row: &RawDocument,
    ) -> anyhow::Result<Option<Document>> {
        let damage = match rows::document(row) {
            Ok(document) => return Ok(Some(document)),
            // The row was edited by other means, or no publisher has written it.
            Err(damage) => damage,
        };
        let Ok((id, revision)) = rows::id_and_revision(row) else {
            warn!(
                %collection,
                "a row of the store is ignored because no publisher has written it: {damage:#}"
            );
            return Ok(None);
        };
        warn!(
            %collection, %id, revision,
            "a document is read from the change log because its row was changed by other means: \
             {damage:#}"
        );
        let filter = doc! {
            "collection": collection.as_str(),
            "revision": i64::try_from(revision)?,
            // The revision may have been edited too, and then belong to another document.
            "id": id.as_str(),
        };
        let record = match session {
            // Within a transaction every read has to be part of it.
            Some(session) => {
                Self::raw(self.table_at_snapshot(CHANGES))
                    .find_one(filter)
                    .session(session)
                    .await?
            }
            None => call(Self::raw(self.table(CHANGES)).find_one(filter)).await?,
        };
        let record = record.with_context(|| {
            format!(
                "the change log no longer contains revision {revision} of {collection}, from which \
                 {id} could be read: restore the value that belongs to the crc of the row (replicas \
                 still have it)"
            )
        });
        let change = rows::change(&record.context(damage)?)?;
        let config = change
            .config_data
            .context("the change log contains a deletion at the revision of the row")?;
        Ok(Some(Document::new(id, revision, &config)))
    }
}
