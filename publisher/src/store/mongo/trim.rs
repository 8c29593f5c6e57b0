//! Removing the oldest changes in MongoDB: base records are made and then the head changes, durably;
//! after that the records are removed.
//!
//! That order keeps readers safe without a transaction: a head never names a record that is gone.
//! If a publisher stops between the two steps, the records below the head are removed in the next
//! round of any publisher.

use anyhow::Context;
use chrono::{DateTime, Utc};
use contract::CollectionName;
use mongodb::bson::doc;
use tokio::time::timeout;

use crate::store::{
    TRIM_BYTES, Trimmed,
    mongo::{CALL_TIMEOUT, CHANGES, HEADS, Mongo, TIMED_OUT, call, rows},
};

/// Records that the database sends at once.
const BATCH_RECORDS: u32 = 100;

impl Mongo {
    pub(in crate::store) async fn trim(
        &self,
        collection: &CollectionName,
        keep: u64,
        before: DateTime<Utc>,
        limit: usize,
    ) -> anyhow::Result<Trimmed> {
        let this_head = doc! { "_id": collection.as_str() };
        let Some(head) = call(self.table(HEADS).find_one(this_head))
            .await
            .context("reading the head")?
        else {
            // The database was dropped. Reads report it; retention has nothing to do.
            return Ok(Trimmed::default());
        };
        let revision = rows::number(&head, "revision")?;
        let newest_removable = revision.saturating_sub(keep);
        let removable = self.removable(collection, i64::try_from(newest_removable)?, before, limit);
        let (trimmed, last) = timeout(CALL_TIMEOUT, removable)
            .await
            .context(TIMED_OUT)?
            .context("finding changes to remove")?;
        if trimmed.changes == 0 {
            return Ok(trimmed);
        }
        let newest = u64::try_from(last)?;
        let made = self.make_bases(collection, newest).await;
        let Some(made) = made.context("making base records")? else {
            return Ok(Trimmed::default());
        };
        // Not in a transaction: outside one, this write waits for a group that is writing the head.
        // In one, the two would conflict and the group might be the one that is repeated.
        let same_log = doc! {
            "_id": collection.as_str(),
            "revision": { "$gte": i64::try_from(revision)? },
        };
        let raised = call(
            self.table(HEADS)
                .update_one(same_log, doc! { "$max": { "oldest": last + 1 } }),
        )
        .await
        .context("raising the oldest revision of the head")?;
        if raised.matched_count == 0 {
            // A dump is being put back: the records are those of its log, which may need them.
            return Ok(Trimmed::default());
        }
        let replaced = self.remove_replaced(collection, &made, newest).await;
        if !replaced.context("removing base records")? {
            return Ok(Trimmed::default());
        }
        let removed = doc! { "collection": collection.as_str(), "revision": { "$lte": last } };
        call(self.table(CHANGES).delete_many(removed))
            .await
            .context("removing changes")?;
        Ok(trimmed)
    }

    /// How many changes may be removed, and the last of them.
    ///
    /// Read at majority: no failover can make a change pending again that is not pending here.
    async fn removable(
        &self,
        collection: &CollectionName,
        newest_removable: i64,
        before: DateTime<Utc>,
        limit: usize,
    ) -> anyhow::Result<(Trimmed, i64)> {
        let has_topic = self.policy.broadcast.publishes(collection);
        let collection = collection.as_str();
        let mut found = Self::raw(self.table(CHANGES))
            .find(doc! { "collection": collection, "revision": { "$lte": newest_removable } })
            .sort(doc! { "revision": 1 })
            .limit(i64::try_from(limit)?)
            .batch_size(BATCH_RECORDS)
            .await?;
        let mut trimmed = Trimmed::default();
        let mut last = 0;
        let mut bytes = 0;
        while found.advance().await? {
            let row = found.current();
            // Only a prefix is removed, so the first change that has to stay ends the search.
            // A damaged record has no time that counts, and is worth nothing.
            let recent = row
                .get_datetime("time")
                .is_ok_and(|time| time.timestamp_millis() >= before.timestamp_millis());
            if recent {
                break;
            }
            if has_topic && row.get("pending")?.is_some() {
                trimmed.blocked_by = Some(rows::revision(row)?);
                break;
            }
            let Ok(revision) = row.get_i64("revision") else {
                // Not a record of a publisher: it is removed with the records around it.
                continue;
            };
            trimmed.changes += 1;
            last = revision;
            // Some of it is copied before it is removed.
            bytes += row.as_bytes().len();
            trimmed.more = trimmed.changes >= limit || bytes >= TRIM_BYTES;
            if trimmed.more {
                break;
            }
        }
        Ok((trimmed, last))
    }
}

#[cfg(test)]
impl Mongo {
    /// Removes changes as a version without base records did.
    pub(in crate::store) async fn trim_without_bases(
        &self,
        collection: &CollectionName,
        last: contract::Revision,
    ) -> anyhow::Result<()> {
        self.raise_oldest(collection, last + 1).await?;
        let last = i64::try_from(last)?;
        let removed = doc! { "collection": collection.as_str(), "revision": { "$lte": last } };
        call(self.table(CHANGES).delete_many(removed)).await?;
        Ok(())
    }

    /// Raises the oldest revision of the head alone.
    pub(in crate::store) async fn raise_oldest(
        &self,
        collection: &CollectionName,
        oldest: contract::Revision,
    ) -> anyhow::Result<()> {
        let raised = doc! { "$max": { "oldest": i64::try_from(oldest)? } };
        let this_head = doc! { "_id": collection.as_str() };
        call(self.table(HEADS).update_one(this_head, raised)).await?;
        Ok(())
    }
}
