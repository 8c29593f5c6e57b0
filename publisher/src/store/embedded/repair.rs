//! Rows as they are stored, and the transactions that make a row or a head true again.

use contract::{CollectionName, DocumentId, Head};
use rusqlite::{OptionalExtension, Row, Transaction, params, types::ValueRef};

use crate::store::{
    embedded::{
        Embedded,
        connections::{Durability, End},
        rows, tables,
    },
    integrity::{SumMismatch, Verdict},
    repair::{RowKey, StoredHead, StoredRow},
};

/// Where a repair moves rows that are no documents, as they were.
const DAMAGED: &str = "CREATE TABLE IF NOT EXISTS damaged (
    collection TEXT NOT NULL, id NOT NULL, revision, crc, value)";

impl Embedded {
    pub(in crate::store) async fn stored_rows(
        &self,
        collection: &CollectionName,
        after: Option<&RowKey>,
        limit: u32,
        bytes: usize,
    ) -> anyhow::Result<Vec<StoredRow>> {
        let (name, after) = (collection.clone(), after.cloned());
        self.read(move |_store, transaction| {
            let (from, key) = match &after {
                None => ("id >= CAST(?2 AS TEXT)", &[][..]),
                Some(key) if is_text(key) => ("id > CAST(?2 AS TEXT)", value(key)),
                Some(key) => ("id > ?2", value(key)),
            };
            let mut statement = transaction.prepare_cached(&format!(
                "SELECT id, revision, crc, value FROM documents
                 WHERE collection = ?1 AND {from} ORDER BY id LIMIT ?3"
            ))?;
            let mut found = statement.query(params![name.as_str(), key, limit])?;
            let mut stored = Vec::new();
            let mut read = 0;
            while read < bytes
                && let Some(row) = found.next()?
            {
                read += rows::bytes(row)?;
                let (id, document) = rows::document(&name, row);
                stored.push(StoredRow {
                    key: row_key(row)?,
                    id: id.parse().ok(),
                    document,
                });
            }
            Ok(stored)
        })
        .await
    }

    pub(in crate::store) async fn examine_row(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
    ) -> anyhow::Result<Verdict> {
        let (name, id) = (collection.clone(), id.clone());
        self.read(move |store, transaction| store.stored_verdict(transaction, &name, &id))
            .await
    }

    fn stored_verdict(
        &self,
        transaction: &Transaction<'_>,
        collection: &CollectionName,
        id: &DocumentId,
    ) -> anyhow::Result<Verdict> {
        let row = transaction
            .prepare_cached(
                "SELECT id, revision, crc, value FROM documents WHERE collection = ?1 AND id = ?2",
            )?
            .query_row([collection.as_str(), id.as_str()], |row| {
                Ok((rows::document(collection, row).1, rows::revision(row)))
            })
            .optional()?;
        let (row, revision) = row.map_or((None, None), |(row, revision)| (Some(row), revision));
        self.verdict(transaction, collection, id, row, revision)
    }

    pub(in crate::store) async fn restore_row(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
    ) -> anyhow::Result<Verdict> {
        let (name, id) = (collection.clone(), id.clone());
        let restored = self.write(Durability::Synced, move |store, transaction| {
            let verdict = store.stored_verdict(transaction, &name, &id)?;
            match &verdict {
                Verdict::FromLog(document, _damage) => {
                    let value = document.config_data();
                    let value = std::str::from_utf8(value)?;
                    rows::put_document(transaction, &name, &id, document.revision(), value)?;
                }
                Verdict::DeletedByLog(_damage) => rows::remove_document(transaction, &name, &id)?,
                Verdict::Whole(_) | Verdict::Absent | Verdict::Unrecoverable(_) => {
                    return Ok(End::RollBack(verdict));
                }
            }
            Ok(End::Commit(verdict))
        });
        Ok(restored.await?)
    }

    pub(in crate::store) async fn set_row_aside(
        &self,
        collection: &CollectionName,
        key: &RowKey,
    ) -> anyhow::Result<()> {
        let (name, key) = (collection.clone(), key.clone());
        let moved = self.write(Durability::Synced, move |_store, transaction| {
            transaction.execute_batch(DAMAGED)?;
            let this = if is_text(&key) {
                "collection = ?1 AND id = CAST(?2 AS TEXT)"
            } else {
                "collection = ?1 AND id = ?2"
            };
            for statement in [
                format!(
                    "INSERT INTO damaged
                     SELECT collection, id, revision, crc, value FROM documents WHERE {this}"
                ),
                format!("DELETE FROM documents WHERE {this}"),
            ] {
                transaction.execute(&statement, params![name.as_str(), value(&key)])?;
            }
            Ok(End::Commit(()))
        });
        Ok(moved.await?)
    }

    pub(in crate::store) async fn stored_head(
        &self,
        collection: &CollectionName,
    ) -> anyhow::Result<StoredHead> {
        let name = collection.clone();
        self.read(move |_store, transaction| head_of(transaction, &name))
            .await
    }

    pub(in crate::store) async fn replace_head(
        &self,
        read: &StoredHead,
        head: &Head,
    ) -> anyhow::Result<bool> {
        let (read, head) = (read.clone(), head.clone());
        let replaced = self.write(Durability::Synced, move |_store, transaction| {
            if head_of(transaction, &head.collection)? != read {
                return Ok(End::RollBack(false));
            }
            tables::put_head(transaction, &head)?;
            Ok(End::Commit(true))
        });
        Ok(replaced.await?)
    }

    /// A pass over all rows of a collection ended: whether it may lack a row.
    pub(in crate::store) fn note_sum(
        &self,
        collection: &CollectionName,
        sum: Result<(), SumMismatch>,
    ) {
        match sum {
            Ok(()) => self.0.absence.proven(collection),
            Err(mismatch) => self.note(&mismatch.into()),
        }
    }

    /// Reads a collection after a repair: if it adds up, a document without a row is absent again.
    pub(in crate::store) async fn check_absence(
        &self,
        collection: &CollectionName,
    ) -> anyhow::Result<()> {
        let name = collection.clone();
        self.read(move |store, transaction| store.check_collection(transaction, &name))
            .await
    }
}

fn head_of(
    transaction: &Transaction<'_>,
    collection: &CollectionName,
) -> anyhow::Result<StoredHead> {
    let identity = tables::identity(transaction)?;
    let head = tables::head(transaction, collection, &identity)?;
    Ok(Some(head.map_err(|damaged| damaged.damage)))
}

/// The key of a row. The column takes texts and, by other means, blobs.
fn row_key(row: &Row<'_>) -> anyhow::Result<RowKey> {
    let (text, value) = match row.get_ref(0)? {
        ValueRef::Text(value) => (true, value),
        ValueRef::Blob(value) => (false, value),
        _null_or_number => (false, &[][..]),
    };
    let mut bytes = vec![u8::from(text)];
    bytes.extend_from_slice(value);
    Ok(RowKey {
        bytes,
        shown: String::from_utf8_lossy(value).chars().take(100).collect(),
    })
}

fn is_text(key: &RowKey) -> bool {
    key.bytes.first() == Some(&1)
}

fn value(key: &RowKey) -> &[u8] {
    key.bytes.get(1..).unwrap_or_default()
}
