//! Rows of replicas in the embedded store.
//!
//! Rows are not worth a sync of their own: the next group makes them durable.

use chrono::{DateTime, Utc};
use rusqlite::{OptionalExtension, params};

use crate::store::{
    embedded::{
        Embedded,
        connections::{Durability, End},
    },
    replicas::{MAX_BYTES, MAX_REPLICAS, ReplicaRow},
};

impl Embedded {
    pub(in crate::store) async fn put_replicas(&self, rows: Vec<ReplicaRow>) -> anyhow::Result<()> {
        let written = self.write(Durability::Later, move |_store, transaction| {
            let mut statement = transaction.prepare_cached(
                "INSERT INTO replicas (name, seen, record) VALUES (?1, ?2, ?3)
                 ON CONFLICT (name) DO UPDATE SET seen = excluded.seen, record = excluded.record
                 WHERE excluded.seen >= replicas.seen",
            )?;
            for row in &rows {
                statement.execute(params![
                    row.record.check_in.instance.as_str(),
                    row.record.seen.timestamp_millis(),
                    serde_json::to_string(row)?,
                ])?;
            }
            Ok(End::Commit(()))
        });
        Ok(written.await?)
    }

    pub(in crate::store) async fn replicas(&self) -> anyhow::Result<Vec<ReplicaRow>> {
        self.read(move |_store, transaction| {
            let mut statement =
                transaction.prepare_cached("SELECT record FROM replicas ORDER BY name LIMIT ?1")?;
            let mut found = statement.query([MAX_REPLICAS])?;
            let mut rows = Vec::new();
            let mut bytes = 0;
            while let Some(row) = found.next()? {
                let text = row.get_ref(0)?.as_bytes()?;
                bytes += text.len();
                // The list is held in memory and sent whole, so its size is bounded.
                if bytes > MAX_BYTES {
                    break;
                }
                // A damaged row is written again by the next check-in.
                rows.extend(serde_json::from_slice::<ReplicaRow>(text));
            }
            Ok(rows)
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
