//! Rows of replicas in the embedded store.
//!
//! Rows are not worth a sync of their own: the next group makes them durable.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use rusqlite::{OptionalExtension, params};

use crate::store::{
    embedded::{
        Embedded,
        connections::{Durability, End},
    },
    replicas::{MAX_REPLICAS, READ_BYTES, ReplicaRow, StoredReplica},
};

impl Embedded {
    pub(in crate::store) async fn put_replicas(
        &self,
        rows: Vec<Arc<ReplicaRow>>,
    ) -> anyhow::Result<()> {
        let written = self.write(Durability::Later, move |_store, transaction| {
            let mut statement = transaction.prepare_cached(
                "INSERT INTO replicas (name, seen, record) VALUES (?1, ?2, ?3)
                 ON CONFLICT (name) DO UPDATE SET seen = excluded.seen, record = excluded.record",
            )?;
            // One process has the file, so what it writes is the newest, also if its clock stepped back.
            for row in &rows {
                statement.execute(params![
                    row.record.check_in.instance.as_str(),
                    row.record.seen.timestamp_millis(),
                    serde_json::to_string(&**row)?,
                ])?;
            }
            Ok(End::Commit(()))
        });
        Ok(written.await?)
    }

    pub(in crate::store) async fn replicas<T: Send + 'static>(
        &self,
        mut reader: T,
        each: fn(&mut T, StoredReplica<'_>),
    ) -> anyhow::Result<T> {
        self.read(move |_store, transaction| {
            let mut statement = transaction
                .prepare_cached("SELECT name, seen, record FROM replicas ORDER BY name LIMIT ?1")?;
            let mut found = statement.query([MAX_REPLICAS])?;
            let mut bytes = 0;
            while bytes < READ_BYTES
                && let Some(row) = found.next()?
            {
                // A value of another type is one of a damaged row: the reader passes it over.
                let text = row.get_ref(2)?.as_bytes().unwrap_or_default();
                bytes += text.len();
                let seen = row.get_ref(1)?.as_i64().ok();
                let row = StoredReplica {
                    name: row.get_ref(0)?.as_str().unwrap_or("?"),
                    seen: seen.and_then(DateTime::from_timestamp_millis),
                    text,
                };
                each(&mut reader, row);
            }
            Ok(reader)
        })
        .await
    }

    pub(in crate::store) async fn forget_replicas(
        &self,
        before: DateTime<Utc>,
    ) -> anyhow::Result<()> {
        let forgotten = self.write(Durability::Later, move |_store, transaction| {
            // The newest row above the limit, and every row that is not newer, is removed.
            let over_limit: Option<i64> = transaction
                .prepare_cached("SELECT seen FROM replicas ORDER BY seen DESC LIMIT 1 OFFSET ?1")?
                .query_row([MAX_REPLICAS], |row| row.get(0))
                .optional()?;
            let over_limit = over_limit.map_or(i64::MIN, |newest| newest.saturating_add(1));
            let before = before.timestamp_millis().max(over_limit);
            let removed = transaction
                .prepare_cached("DELETE FROM replicas WHERE seen < ?1")?
                .execute([before])?;
            Ok(match removed {
                0 => End::RollBack(()),
                _ => End::Commit(()),
            })
        });
        Ok(forgotten.await?)
    }
}
