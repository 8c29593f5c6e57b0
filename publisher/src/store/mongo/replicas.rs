//! Rows of replicas in MongoDB.
//!
//! Rows are written and read without waiting for a majority: they are a view, which check-ins renew.

use std::sync::Arc;

use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use mongodb::bson::{self, Document as Bdoc, doc};
use tokio::time::timeout;

use crate::store::{
    mongo::{CALL_TIMEOUT, Mongo, TIMED_OUT, call},
    replicas::{MAX_REPLICAS, READ_BYTES, ReplicaRow, StoredReplica},
};

/// One row per replica: `_id` is its name, `seen` the time of its last check-in, `replica` the row
/// as JSON.
pub(super) const REPLICAS: &str = "_replicas";

/// Rows in one command, at most.
const COMMAND_ROWS: usize = 1_000;
/// Bytes of rows in one command, approximately: well below the 16 MiB that a command may have.
const COMMAND_BYTES: usize = 8 << 20;

impl Mongo {
    pub(in crate::store) async fn put_replicas(
        &self,
        rows: &[Arc<ReplicaRow>],
    ) -> anyhow::Result<()> {
        let mut updates = Vec::new();
        let mut bytes = 0;
        let now = bson::DateTime::now();
        for row in rows {
            let json = serde_json::to_string(&**row)?;
            bytes += json.len();
            let name = row.record.check_in.instance.as_str();
            let seen = bson::DateTime::from_millis(row.record.seen.timestamp_millis());
            let row = doc! { "_id": name, "seen": seen, "replica": json };
            // Another publisher may have received a later check-in of it. What comes from the future
            // does not: its clock is ahead, or this one stepped back. `$literal`, because a value that
            // begins with `$` would be taken for an expression.
            let is_newer =
                doc! { "$and": [{ "$gt": ["$seen", seen] }, { "$lte": ["$seen", now] }] };
            let newest = doc! { "$cond": [is_newer, "$$ROOT", { "$literal": &row }] };
            updates.push(
                doc! { "q": { "_id": name }, "u": [{ "$replaceWith": newest }], "upsert": true },
            );
            if updates.len() >= COMMAND_ROWS || bytes >= COMMAND_BYTES {
                self.update_replicas(std::mem::take(&mut updates)).await?;
                bytes = 0;
            }
        }
        self.update_replicas(updates).await
    }

    async fn update_replicas(&self, updates: Vec<Bdoc>) -> anyhow::Result<()> {
        if updates.is_empty() {
            return Ok(());
        }
        // Unordered, so that one refused row does not keep the others from being written.
        let command = doc! {
            "update": REPLICAS,
            "updates": updates,
            "ordered": false,
            "writeConcern": { "w": 1 },
        };
        let answer = call(self.database.run_command(command)).await?;
        match answer.get("writeErrors") {
            Some(errors) => bail!("MongoDB refused rows of replicas: {errors}"),
            None => Ok(()),
        }
    }

    pub(in crate::store) async fn replicas<T>(
        &self,
        mut reader: T,
        each: fn(&mut T, StoredReplica<'_>),
    ) -> anyhow::Result<T> {
        let read = async {
            let limit = i64::try_from(MAX_REPLICAS)?;
            let mut found = self
                .table_not_durable(REPLICAS)
                .find(doc! {})
                .sort(doc! { "seen": -1 })
                .limit(limit)
                .await?;
            let mut bytes = 0;
            while bytes < READ_BYTES && found.advance().await? {
                let row = found.current();
                bytes += row.as_bytes().len();
                // A value that is absent or of another type is one of a damaged row: the reader passes
                // it over.
                let seen = row.get_datetime("seen").ok();
                let row = StoredReplica {
                    name: row.get_str("_id").unwrap_or("?"),
                    seen: seen
                        .and_then(|seen| DateTime::from_timestamp_millis(seen.timestamp_millis())),
                    text: row.get_str("replica").unwrap_or_default().as_bytes(),
                };
                each(&mut reader, row);
            }
            Ok(reader)
        };
        timeout(CALL_TIMEOUT, read).await.context(TIMED_OUT)?
    }

    pub(in crate::store) async fn forget_replicas(
        &self,
        before: DateTime<Utc>,
    ) -> anyhow::Result<()> {
        let table = self.table_not_durable(REPLICAS);
        let before = bson::DateTime::from_millis(before.timestamp_millis());
        call(table.delete_many(doc! { "seen": { "$lt": before } })).await?;
        // The number of rows is bounded too: replicas may restart with new names faster than old
        // rows are forgotten.
        let first_over_limit = table
            .find_one(doc! {})
            .sort(doc! { "seen": -1 })
            .skip(u64::try_from(MAX_REPLICAS)?);
        if let Some(row) = call(first_over_limit).await? {
            let seen = row.get_datetime("seen")?;
            call(table.delete_many(doc! { "seen": { "$lte": seen } })).await?;
        }
        Ok(())
    }
}
