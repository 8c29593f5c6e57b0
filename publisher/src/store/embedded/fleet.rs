//! Rows of replicas, and the epoch, in the embedded store.
//!
//! Rows are not worth an fsync of their own; the round that forgets makes them durable, and gives
//! their pages back.

use anyhow::anyhow;
use chrono::{DateTime, Utc};
use contract::Epoch;
use redb::{ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};

use crate::store::{
    embedded::{Embedded, META, epoch},
    fleet::{MOST_BYTES, MOST_MEMBERS, Row},
};

/// When it was seen, in milliseconds, and its row as JSON, by name.
pub(super) const REPLICAS: TableDefinition<'_, &str, (i64, &[u8])> =
    TableDefinition::new("replicas");

impl Embedded {
    pub(in crate::store) async fn put_members(&self, rows: Vec<Row>) -> anyhow::Result<()> {
        self.call(move |database| {
            let mut transaction = database.begin_write()?;
            transaction.set_durability(redb::Durability::None)?;
            let mut table = transaction.open_table(REPLICAS)?;
            for row @ Row { member, .. } in &rows {
                let row = serde_json::to_vec(row)?;
                let name = member.check_in.instance.as_str();
                table.insert(name, (member.seen.timestamp_millis(), row.as_slice()))?;
            }
            drop(table);
            Ok(transaction.commit()?)
        })
        .await
    }

    pub(in crate::store) async fn members(&self) -> anyhow::Result<Vec<Row>> {
        self.call(move |database| {
            let table = database.begin_read()?.open_table(REPLICAS)?;
            let (mut found, mut bytes) = (Vec::new(), 0);
            for row in table.iter()?.take(MOST_MEMBERS) {
                let (_name, row) = row?;
                let (_seen, row) = row.value();
                bytes += row.len();
                if bytes > MOST_BYTES {
                    break;
                }
                found.push(serde_json::from_slice(row)?);
            }
            Ok(found)
        })
        .await
    }

    pub(in crate::store) async fn forget_members(
        &self,
        before: DateTime<Utc>,
    ) -> anyhow::Result<()> {
        self.call(move |database| {
            // Without replicas there is nothing to forget, and no reason to hold up a writer for an
            // fsync.
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
            let beyond = seen.get(MOST_MEMBERS).map_or(i64::MIN, |oldest| oldest + 1);
            let before = before.timestamp_millis().max(beyond);
            table.retain(|_name, (seen, _row)| seen >= before)?;
            drop(table);
            Ok(transaction.commit()?)
        })
        .await
    }

    pub(in crate::store) async fn declare(&self, from: Epoch, to: Epoch) -> anyhow::Result<bool> {
        let this = self.clone();
        self.call(move |database| {
            let transaction = database.begin_write()?;
            let mut meta = transaction.open_table(META)?;
            if epoch(&meta)? != from {
                return Ok(false);
            }
            meta.insert("lineage", u64::from(to.lineage))?;
            meta.insert("counter", to.counter)?;
            drop(meta);
            transaction
                .commit()
                .map_err(|error| anyhow!(this.break_down(error.into())))?;
            Ok(true)
        })
        .await
    }
}
