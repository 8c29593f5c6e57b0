//! Rows of replicas in the embedded store.
//!
//! Rows are not worth an fsync of their own. [`Embedded::forget_replicas`], which runs in
//! intervals, makes them durable and lets redb reuse the pages of replaced rows.

use chrono::{DateTime, Utc};
use redb::{ReadableDatabase, ReadableTable, ReadableTableMetadata};

use crate::store::{
    embedded::{Embedded, tables::REPLICAS},
    replicas::{MAX_BYTES, MAX_REPLICAS, ReplicaRow},
};

impl Embedded {
    pub(in crate::store) async fn put_replicas(&self, rows: Vec<ReplicaRow>) -> anyhow::Result<()> {
        self.call(move |database| {
            let mut transaction = database.begin_write()?;
            transaction.set_durability(redb::Durability::None)?;
            let mut table = transaction.open_table(REPLICAS)?;
            for row in &rows {
                let json = serde_json::to_vec(row)?;
                let name = row.record.check_in.instance.as_str();
                table.insert(name, (row.record.seen.timestamp_millis(), json.as_slice()))?;
            }
            drop(table);
            Ok(transaction.commit()?)
        })
        .await
    }

    pub(in crate::store) async fn replicas(&self) -> anyhow::Result<Vec<ReplicaRow>> {
        self.call(move |database| {
            let table = database.begin_read()?.open_table(REPLICAS)?;
            let mut rows = Vec::new();
            let mut bytes = 0;
            for row in table.iter()?.take(MAX_REPLICAS) {
                let (_name, row) = row?;
                let (_seen, json) = row.value();
                bytes += json.len();
                // The list is held in memory and sent whole, so its size is bounded.
                if bytes > MAX_BYTES {
                    break;
                }
                rows.push(serde_json::from_slice(json)?);
            }
            Ok(rows)
        })
        .await
    }

    pub(in crate::store) async fn forget_replicas(
        &self,
        before: DateTime<Utc>,
    ) -> anyhow::Result<()> {
        self.call(move |database| {
            // Without replicas there is nothing to forget, and no reason to make a writer wait for
            // an fsync.
            if database.begin_read()?.open_table(REPLICAS)?.is_empty()? {
                return Ok(());
            }
            let transaction = database.begin_write()?;
            let mut table = transaction.open_table(REPLICAS)?;
            let mut seen: Vec<i64> = table
                .iter()?
                .map(|row| row.map(|(_name, row)| row.value().0))
                .collect::<Result<_, _>>()?;
            seen.sort_unstable_by(|one, other| other.cmp(one));
            // The newest row above the limit, and every row that is not newer, is removed.
            let over_limit = seen.get(MAX_REPLICAS).map_or(i64::MIN, |oldest| oldest + 1);
            let before = before.timestamp_millis().max(over_limit);
            table.retain(|_name, (seen, _row)| seen >= before)?;
            drop(table);
            Ok(transaction.commit()?)
        })
        .await
    }
}
