//! The change log: reading it, and recording what was published.

use std::{collections::BTreeMap, ops::Range};

use anyhow::Context;
use chrono::{DateTime, Utc};
use contract::{CollectionName, Revision, fleet::MAX_BACKLOG};
use mongodb::bson::{self, Document as Bdoc, doc};
use tokio::time::timeout;

use crate::store::{
    LogRows, PendingPage,
    log_record::LogRecord,
    mongo::{CALL_TIMEOUT, CHANGES, Mongo, TIMED_OUT, call, rows},
};

impl Mongo {
    pub(in crate::store) async fn records<T: LogRecord>(
        &self,
        collection: &CollectionName,
        since: Revision,
        limit: usize,
        bytes: usize,
    ) -> anyhow::Result<Vec<T>> {
        let filter = after(collection, since);
        let read = self
            .read_log(collection, filter, limit, bytes, Damaged::End)
            .await?;
        Ok(read.whole)
    }

    pub(in crate::store) async fn pending(
        &self,
        collection: &CollectionName,
        since: Revision,
        recent: Range<DateTime<Utc>>,
        limit: usize,
    ) -> anyhow::Result<PendingPage> {
        let start = bson::DateTime::from_millis(recent.start.timestamp_millis());
        let end = bson::DateTime::from_millis(recent.end.timestamp_millis());
        let mut filter = after(collection, since);
        filter.insert("pending", true);
        filter.insert(
            "$or",
            vec![
                doc! { "time": { "$lt": start } },
                doc! { "time": { "$gte": end } },
            ],
        );
        let read = self
            .read_log(collection, filter, limit, usize::MAX, Damaged::Skip)
            .await?;
        Ok(PendingPage::new(read, since, limit))
    }

    /// The number of pending changes of these collections, and the time of the oldest of them.
    pub(in crate::store) async fn backlog(
        &self,
        collections: &[CollectionName],
    ) -> anyhow::Result<(u64, Option<DateTime<Utc>>)> {
        let names: Vec<_> = collections.iter().map(CollectionName::as_str).collect();
        let filter = doc! { "pending": true, "collection": { "$in": names } };
        let read = async {
            let mut found = Self::raw(self.table(CHANGES))
                .find(filter)
                .projection(doc! { "_id": 0, "time": 1 })
                .limit(i64::try_from(MAX_BACKLOG)?)
                .await?;
            let (mut pending, mut oldest) = (0, i64::MAX);
            while found.advance().await? {
                pending += 1;
                let time = found.current().get_datetime("time")?;
                oldest = oldest.min(time.timestamp_millis());
            }
            // Without a pending change there is no such time.
            anyhow::Ok((pending, DateTime::from_timestamp_millis(oldest)))
        };
        timeout(CALL_TIMEOUT, read).await.context(TIMED_OUT)?
    }

    async fn read_log<T: LogRecord>(
        &self,
        collection: &CollectionName,
        filter: Bdoc,
        limit: usize,
        bytes: usize,
        damaged: Damaged,
    ) -> anyhow::Result<LogRows<T>> {
        let read = async {
            let mut found = Self::raw(self.table(CHANGES))
                .find(filter)
                .sort(doc! { "revision": 1 })
                .limit(i64::try_from(limit)?)
                // In one answer. Without it the first one has 101 rows.
                .batch_size(u32::try_from(limit)?)
                .await?;
            let mut rows = LogRows::default();
            let mut read = 0;
            // Checked before the next one, so that a large change is returned too.
            while read < bytes && found.advance().await? {
                read += found.current().as_bytes().len();
                let record = rows::record(collection, found.current());
                if let (Err(damaged), Damaged::End) = (&record, damaged) {
                    self.damage.report_record(damaged);
                    break;
                }
                rows.add(record);
            }
            Ok(rows)
        };
        timeout(CALL_TIMEOUT, read).await.context(TIMED_OUT)?
    }

    pub(in crate::store) async fn mark_published(
        &self,
        published: &[(CollectionName, Revision)],
    ) -> anyhow::Result<()> {
        let mut revisions = BTreeMap::<_, Vec<i64>>::new();
        for (collection, revision) in published {
            revisions
                .entry(collection)
                .or_default()
                .push(i64::try_from(*revision)?);
        }
        // Waiting for a majority is not worth it: if this is lost, events are only published twice.
        let log = self.table_not_durable(CHANGES);
        for (collection, revisions) in revisions {
            let filter =
                doc! { "collection": collection.as_str(), "revision": { "$in": revisions } };
            // Removed and not set to false, so that the record leaves the partial index.
            call(log.update_many(filter, doc! { "$unset": { "pending": "" } })).await?;
        }
        Ok(())
    }
}

/// What a damaged record does to a reading of the log.
#[derive(Debug, Clone, Copy)]
enum Damaged {
    /// The reading ends before it: a page has no gap, and a reader that finds nothing loads.
    End,
    /// It is left out: it cannot be published.
    Skip,
}

/// Selects the changes of a collection after a revision.
fn after(collection: &CollectionName, revision: Revision) -> Bdoc {
    // No revision is greater than the largest that can be stored.
    let revision = i64::try_from(revision).unwrap_or(i64::MAX);
    doc! { "collection": collection.as_str(), "revision": { "$gt": revision } }
}
