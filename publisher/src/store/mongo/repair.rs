//! Rows as they are stored, and the transactions that make a row or a head true again.

use anyhow::Context;
use contract::{CollectionName, DocumentId, Head, Revision};
use mongodb::{
    ClientSession,
    bson::{Bson, Document as Bdoc, RawDocumentBuf, doc},
};
use uuid::Uuid;

use crate::store::{
    integrity::Verdict,
    mongo::{HEADS, Mongo, call, is_code, rows, transaction::in_transaction},
    repair::{RowKey, StoredHead, StoredRow},
};

/// Rows that a repair moved aside, as they were.
const DAMAGED: &str = "_damaged";

impl Mongo {
    pub(in crate::store) async fn stored_rows(
        &self,
        collection: &CollectionName,
        after: Option<&RowKey>,
        limit: u32,
        bytes: usize,
    ) -> anyhow::Result<Vec<StoredRow>> {
        let table = Self::raw(self.table(collection.as_str()));
        let mut find = table
            .find(doc! {})
            .sort(doc! { "_id": 1 })
            .limit(i64::from(limit) + 1)
            .batch_size(limit + 1);
        let last = after.map(|key| RawDocumentBuf::from_bytes(key.bytes.clone()));
        let last = last.transpose()?;
        if let Some(after) = after.map(bson_key).transpose()? {
            // A filter with `$gt` would find keys of the same type only.
            find = find
                .min(doc! { "_id": after })
                .hint(mongodb::options::Hint::Keys(doc! { "_id": 1 }));
        }
        let read = async {
            let mut cursor = find.await?;
            let mut found = Vec::new();
            let mut read = 0;
            while read < bytes && cursor.advance().await? {
                let row = cursor.current().to_owned();
                // The bound of an index includes the row itself.
                if let Some(last) = &last
                    && row.get("_id")? == last.get("_id")?
                {
                    continue;
                }
                read += row.as_bytes().len();
                found.push(row);
            }
            Ok(found)
        };
        let mut stored = Vec::new();
        for row in call(read).await.context("reading rows")? {
            let key = key_of(&row)?;
            if stored.len() == limit as usize {
                break;
            }
            stored.push(StoredRow {
                key: row_key(key)?,
                id: rows::id(&row).ok(),
                document: rows::document(collection, &row),
            });
        }
        Ok(stored)
    }

    pub(in crate::store) async fn examine_row(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
    ) -> anyhow::Result<Verdict> {
        let table = Self::raw(self.table(collection.as_str()));
        let row = call(table.find_one(doc! { "_id": id.as_str() })).await?;
        self.verdict_of(None, collection, id, row).await
    }

    async fn verdict_of(
        &self,
        session: Option<&mut ClientSession>,
        collection: &CollectionName,
        id: &DocumentId,
        row: Option<RawDocumentBuf>,
    ) -> anyhow::Result<Verdict> {
        let revision = row.as_ref().and_then(|row| rows::revision(row).ok());
        let read = row.as_ref().map(|row| rows::document(collection, row));
        self.verdict(session, collection, id, read, revision, Revision::MAX)
            .await
    }

    pub(in crate::store) async fn restore_row(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
    ) -> anyhow::Result<Verdict> {
        in_transaction!(self, |session| {
            let this = doc! { "_id": id.as_str() };
            let row = Self::raw(self.table_at_snapshot(collection.as_str()))
                .find_one(this.clone())
                .session(&mut *session)
                .await?;
            let verdict = self
                .verdict_of(Some(&mut *session), collection, id, row)
                .await?;
            let table = self.table(collection.as_str());
            match &verdict {
                Verdict::FromLog(document, _damage) => {
                    let row = rows::document_row(collection, document)?;
                    table
                        .replace_one(this, row)
                        .upsert(true)
                        .session(session)
                        .await?;
                }
                Verdict::DeletedByLog(_damage) => {
                    table.delete_one(this).session(session).await?;
                }
                Verdict::Whole(_) | Verdict::Absent | Verdict::Unrecoverable(_) => {}
            }
            Ok(verdict)
        })
    }

    pub(in crate::store) async fn set_row_aside(
        &self,
        collection: &CollectionName,
        key: &RowKey,
    ) -> anyhow::Result<()> {
        // Older servers cannot create a collection within a transaction.
        if let Err(error) = call(self.database.create_collection(DAMAGED)).await {
            anyhow::ensure!(is_code(&error, mongo_json::server::NAMESPACE_EXISTS), error);
        }
        let this = doc! { "_id": { "$eq": bson_key(key)? } };
        in_transaction!(self, |session| {
            let row = self
                .table_at_snapshot(collection.as_str())
                .find_one(this.clone())
                .session(&mut *session)
                .await?;
            let Some(row) = row else { return Ok(()) };
            let aside = doc! {
                "_id": Uuid::now_v7().to_string(),
                "collection": collection.as_str(),
                "row": row,
            };
            self.table(DAMAGED)
                .insert_one(aside)
                .session(&mut *session)
                .await?;
            self.table(collection.as_str())
                .delete_one(this.clone())
                .session(session)
                .await?;
            Ok(())
        })
    }

    pub(in crate::store) async fn stored_head(
        &self,
        collection: &CollectionName,
    ) -> anyhow::Result<StoredHead> {
        let identity = self.identity().await?;
        let row = call(
            self.table(HEADS)
                .find_one(doc! { "_id": collection.as_str() }),
        )
        .await?;
        Ok(row.map(|row| rows::head(&row, collection, &identity)))
    }

    pub(in crate::store) async fn replace_head(
        &self,
        read: &StoredHead,
        head: &Head,
    ) -> anyhow::Result<bool> {
        let this = doc! { "_id": head.collection.as_str() };
        let row = rows::whole_head_row(head)?;
        in_transaction!(self, |session| {
            let identity = self.identity_in(session).await?;
            let stored: Option<Bdoc> = self
                .table_at_snapshot(HEADS)
                .find_one(this.clone())
                .session(&mut *session)
                .await?;
            let stored: StoredHead =
                stored.map(|row| rows::head(&row, &head.collection, &identity));
            if stored != *read {
                return Ok(false);
            }
            let mut update = doc! { "$set": row.clone() };
            if head.proof.is_none() {
                update.insert("$unset", doc! { "proof": "" });
            }
            self.table(HEADS)
                .update_one(this.clone(), update)
                .upsert(true)
                .session(session)
                .await?;
            Ok(true)
        })
    }
}

fn key_of(row: &RawDocumentBuf) -> anyhow::Result<Bson> {
    let key = row.get("_id")?.context("a row without _id")?;
    Ok(Bson::try_from(key)?)
}

fn row_key(key: Bson) -> anyhow::Result<RowKey> {
    let shown = match &key {
        Bson::String(id) => id.chars().take(100).collect(),
        other => other.to_string().chars().take(100).collect(),
    };
    Ok(RowKey {
        bytes: doc! { "_id": key }.to_vec()?,
        shown,
    })
}

fn bson_key(key: &RowKey) -> anyhow::Result<Bson> {
    let mut key = Bdoc::from_reader(key.bytes.as_slice())?;
    key.remove("_id").context("a key without _id")
}
