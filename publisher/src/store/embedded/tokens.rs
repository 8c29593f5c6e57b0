//! Records of bearer tokens in the embedded store. Each is one row.

use chrono::{DateTime, Utc};
use contract::{
    audit::Entry,
    token::{TokenId, TokenRecord},
};
use rusqlite::{OptionalExtension, Transaction, params};

use crate::store::{
    embedded::{
        Embedded,
        connections::{Durability, End},
    },
    integrity::text_checksum,
    tokens::{StoredToken, TokenError, admit},
};

const TABLE: &str = "
CREATE TABLE IF NOT EXISTS tokens (
  id TEXT NOT NULL, crc INTEGER NOT NULL, record TEXT NOT NULL,
  PRIMARY KEY (id)) WITHOUT ROWID;
";

/// Makes the table where it is missing: in a new file, and in one of an earlier version.
pub(super) fn create_table(transaction: &Transaction<'_>) -> anyhow::Result<()> {
    Ok(transaction.execute_batch(TABLE)?)
}

impl Embedded {
    pub(in crate::store) async fn create_token(
        &self,
        record: TokenRecord,
        entry: Entry,
    ) -> Result<(), TokenError> {
        let created = self.write(Durability::Synced, move |store, transaction| {
            let ended = match admit(&read(transaction)?, &record) {
                Ok(ended) => ended,
                Err(refused) => return Ok(End::RollBack(Err(refused))),
            };
            for id in ended {
                transaction.execute("DELETE FROM tokens WHERE id = ?1", [id])?;
            }
            put(transaction, &record)?;
            store.audit(transaction, || vec![entry])?;
            Ok(End::Commit(Ok(())))
        });
        created.await.map_err(anyhow::Error::from)?
    }

    pub(in crate::store) async fn tokens(&self) -> anyhow::Result<Vec<StoredToken>> {
        self.read(|_store, transaction| read(transaction)).await
    }

    pub(in crate::store) async fn revoke_token(
        &self,
        id: &TokenId,
        time: DateTime<Utc>,
        entry: Entry,
    ) -> anyhow::Result<bool> {
        let id = id.clone();
        let revoked = self.write(Durability::Synced, move |store, transaction| {
            let sql = "SELECT id, crc, record FROM tokens WHERE id = ?1";
            let row = transaction
                .query_row(sql, [id.as_str()], |row| Ok(stored(row)))
                .optional()?;
            match row.map(|row| row.record) {
                None => return Ok(End::RollBack(false)),
                // The token of a damaged row is refused already; it is removed with its row.
                Some(None) => {
                    transaction.execute("DELETE FROM tokens WHERE id = ?1", [id.as_str()])?;
                }
                Some(Some(mut record)) => {
                    record.revoked_at.get_or_insert(time);
                    put(transaction, &record)?;
                }
            }
            store.audit(transaction, || vec![entry])?;
            Ok(End::Commit(true))
        });
        Ok(revoked.await?)
    }
}

fn put(transaction: &Transaction<'_>, record: &TokenRecord) -> anyhow::Result<()> {
    let text = serde_json::to_string(record)?;
    transaction.execute(
        "INSERT INTO tokens (id, crc, record) VALUES (?1, ?2, ?3)
         ON CONFLICT (id) DO UPDATE SET crc = excluded.crc, record = excluded.record",
        params![record.id.as_str(), text_checksum("token", &text).0, text],
    )?;
    Ok(())
}

fn read(transaction: &Transaction<'_>) -> anyhow::Result<Vec<StoredToken>> {
    let mut statement = transaction.prepare_cached("SELECT id, crc, record FROM tokens")?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(stored(row));
    }
    Ok(found)
}

/// Of another type than a publisher writes, it is damaged.
fn stored(row: &rusqlite::Row<'_>) -> StoredToken {
    let text: String = row.get(2).unwrap_or_default();
    let crc = text_checksum("token", &text).0;
    let is_whole = row.get(1).is_ok_and(|stored: u32| stored == crc);
    StoredToken::new(row.get(0).unwrap_or_default(), &text, is_whole)
}
