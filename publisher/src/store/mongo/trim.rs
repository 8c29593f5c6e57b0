//! Removing the oldest changes in MongoDB: the head changes first, durably, then the records are
//! removed.
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
    Trimmed,
    mongo::{CALL_TIMEOUT, CHANGES, HEADS, Mongo, TIMED_OUT, call, rows},
};

impl Mongo {
    pub(in crate::store) async fn trim(
        &self,
        collection: &CollectionName,
        keep: u64,
        before: DateTime<Utc>,
        limit: usize,
    ) -> anyhow::Result<Trimmed> {
        let this_head = doc! { "_id": collection.as_str() };
        let Some(head) = call(self.table(HEADS).find_one(this_head.clone()))
            .await
            .context("reading the head")?
        else {
            // The database was dropped. Reads report it; retention has nothing to do.
            return Ok(Trimmed::default());
        };
        let newest_removable = rows::number(&head, "revision")?.saturating_sub(keep);
        let removable = self.removable(collection, i64::try_from(newest_removable)?, before, limit);
        let (trimmed, last) = timeout(CALL_TIMEOUT, removable)
            .await
            .context(TIMED_OUT)?
            .context("finding changes to remove")?;
        if trimmed.changes == 0 {
            return Ok(trimmed);
        }
        // Not in a transaction: outside one, this write waits for a group that is writing the head.
        // In one, the two would conflict and the group might be the one that is repeated.
        call(
            self.table(HEADS)
                .update_one(this_head, doc! { "$max": { "oldest": last + 1 } }),
        )
        .await
        .context("raising the oldest revision of the head")?;
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
        let mut found = self
            .table(CHANGES)
            .find(doc! { "collection": collection, "revision": { "$lte": newest_removable } })
            .sort(doc! { "revision": 1 })
            .projection(doc! { "revision": 1, "time": 1, "pending": 1 })
            .limit(i64::try_from(limit)?)
            .await?;
        let mut trimmed = Trimmed::default();
        let mut last = 0;
        while found.advance().await? {
            let row = found.deserialize_current()?;
            // Only a prefix is removed, so the first change that has to stay ends the search.
            // A damaged record has no time that counts, and is worth nothing.
            let recent = row
                .get_datetime("time")
                .is_ok_and(|time| time.timestamp_millis() >= before.timestamp_millis());
            if recent {
                break;
            }
            if has_topic && row.contains_key("pending") {
                trimmed.blocked_by = Some(rows::number(&row, "revision")?);
                break;
            }
            let Ok(revision) = row.get_i64("revision") else {
                // Not a record of a publisher: it is removed with the records around it.
                continue;
            };
            trimmed.changes += 1;
            last = revision;
        }
        Ok((trimmed, last))
    }
}
