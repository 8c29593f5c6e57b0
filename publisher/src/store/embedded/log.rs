//! The change log: reading it, and recording what was published.

use std::ops::Range;

use chrono::{DateTime, Utc};
use contract::{CollectionName, Revision, fleet::MAX_BACKLOG};
use rusqlite::params;

use crate::store::{
    LogRows, PendingPage,
    embedded::{
        Embedded,
        connections::{Durability, End},
        rows, tables,
    },
    integrity::{Damage, DamagedRecord},
    log_record::LogRecord,
};

impl Embedded {
    pub(in crate::store) async fn records<T: LogRecord + Send + 'static>(
        &self,
        collection: &CollectionName,
        since: Revision,
        limit: usize,
        bytes: usize,
    ) -> anyhow::Result<Vec<T>> {
        let collection = collection.clone();
        self.read(move |store, transaction| {
            let head = store.head(transaction, &collection, &tables::identity(transaction)?)?;
            let mut statement = transaction.prepare_cached(
                "SELECT revision, crc, record FROM changes
                 WHERE collection = ?1 AND revision > ?2 ORDER BY revision",
            )?;
            let since = since.min(i64::MAX.unsigned_abs());
            let mut rows = statement.query(params![collection.as_str(), since])?;
            let mut records = Vec::new();
            let mut read = 0;
            // A record that is gone differs from the end of the log.
            let mut expected = (since + 1).max(head.oldest);
            while records.len() < limit && (records.is_empty() || read < bytes) {
                let record = match rows.next()? {
                    Some(row) => {
                        read += row.get_ref(2)?.as_str().map_or(0, str::len);
                        rows::record::<T>(&collection, row)
                    }
                    None if expected > head.revision => break,
                    None => Err(missing(&collection, expected)),
                };
                let record = record.and_then(|record| match record.key().1 == expected {
                    true => Ok(record),
                    false => Err(missing(&collection, expected)),
                });
                // The page ends before it: a page has no gap, and a reader that finds nothing loads.
                let record = match record {
                    Ok(record) => record,
                    Err(damaged) => {
                        store.0.damage.report_record(&damaged);
                        break;
                    }
                };
                // The bytes are checked after the first one, so that a large change is returned too.
                expected += 1;
                records.push(record);
            }
            Ok(records)
        })
        .await
    }

    pub(in crate::store) async fn pending(
        &self,
        collection: &CollectionName,
        since: Revision,
        recent: Range<DateTime<Utc>>,
        limit: usize,
    ) -> anyhow::Result<PendingPage> {
        let collection = collection.clone();
        let recent = recent.start.timestamp_millis()..recent.end.timestamp_millis();
        self.read(move |_store, transaction| {
            let mut statement = transaction.prepare_cached(
                "SELECT pending.revision, crc, record, time FROM pending
                 LEFT JOIN changes USING (collection, revision)
                 WHERE collection = ?1 AND pending.revision > ?2
                 AND NOT (time >= ?3 AND time < ?4) ORDER BY pending.revision LIMIT ?5",
            )?;
            // The publisher that committed a recent one is probably publishing it now.
            let since = since.min(i64::MAX.unsigned_abs());
            let arguments = params![collection.as_str(), since, recent.start, recent.end, limit];
            let mut rows = statement.query(arguments)?;
            let mut read = LogRows::default();
            while let Some(row) = rows.next()? {
                read.add(rows::record(&collection, row));
            }
            Ok(PendingPage::new(read, since, limit))
        })
        .await
    }

    /// The number of pending changes of these collections, and the time of the oldest of them.
    pub(in crate::store) async fn backlog(
        &self,
        collections: Vec<CollectionName>,
    ) -> anyhow::Result<(u64, Option<DateTime<Utc>>)> {
        self.read(move |_store, transaction| {
            let mut statement = transaction.prepare_cached(
                "SELECT count(*), min(time) FROM
                 (SELECT time FROM pending WHERE collection = ?1 LIMIT ?2)",
            )?;
            let (mut pending, mut oldest) = (0, None::<i64>);
            for collection in &collections {
                let arguments = params![collection.as_str(), MAX_BACKLOG - pending];
                let (more, time) = statement.query_row(arguments, |row| {
                    Ok((row.get::<_, u64>(0)?, row.get::<_, Option<i64>>(1)?))
                })?;
                pending += more;
                oldest = oldest.into_iter().chain(time).min();
            }
            Ok((pending, oldest.and_then(DateTime::from_timestamp_millis)))
        })
        .await
    }

    /// Not worth a sync of its own: the next group makes it durable. If it is lost, an event is only
    /// published twice.
    pub(in crate::store) async fn mark_published(
        &self,
        published: &[(CollectionName, Revision)],
    ) -> anyhow::Result<()> {
        let published = published.to_vec();
        let marked = self.write(Durability::Later, move |_store, transaction| {
            let mut statement = transaction
                .prepare_cached("DELETE FROM pending WHERE collection = ?1 AND revision = ?2")?;
            for (collection, revision) in &published {
                statement.execute(params![collection.as_str(), revision])?;
            }
            Ok(End::Commit(()))
        });
        Ok(marked.await?)
    }
}

fn missing(collection: &CollectionName, revision: Revision) -> DamagedRecord {
    DamagedRecord {
        collection: collection.clone(),
        revision,
        damage: Damage::Missing,
    }
}
