//! Trimming the log in MongoDB: the head moves first, durably, then the records go.
//!
//! That order keeps readers safe without a transaction: a head never names a record that is gone.
//! What a publisher leaves below its head when it dies in between is taken in the next round, by
//! whichever publisher.

use anyhow::Context;
use chrono::{DateTime, Utc};
use contract::CollectionName;
use mongodb::bson::doc;
use tokio::time::timeout;

use crate::store::{
    Trimmed,
    mongo::{CALL, CHANGES, HEADS, LATE, Mongo, call, rows},
};

impl Mongo {
    pub(in crate::store) async fn trim(
        &self,
        collection: &CollectionName,
        keep: u64,
        before: DateTime<Utc>,
        limit: usize,
    ) -> anyhow::Result<Trimmed> {
        let this = doc! { "_id": collection.as_str() };
        let Some(head) = call(self.table(HEADS).find_one(this.clone())).await? else {
            return Ok(Trimmed::default());
        };
        let beyond = rows::number(&head, "revision")?.saturating_sub(keep);
        let removable = self.removable(collection, i64::try_from(beyond)?, before, limit);
        let (trimmed, last) = timeout(CALL, removable).await.context(LATE)??;
        if trimmed.changes == 0 {
            return Ok(trimmed);
        }
        // Outside a transaction, so that a group that has the head open makes this wait, and not
        // the other way round.
        call(
            self.table(HEADS)
                .update_one(this, doc! { "$max": { "oldest": last + 1 } }),
        )
        .await?;
        let gone = doc! { "collection": collection.as_str(), "revision": { "$lte": last } };
        call(self.table(CHANGES).delete_many(gone)).await?;
        Ok(trimmed)
    }

    /// What may go, and the last of it. Read at majority: what is no longer owed there stays so.
    async fn removable(
        &self,
        collection: &CollectionName,
        beyond: i64,
        before: DateTime<Utc>,
        limit: usize,
    ) -> anyhow::Result<(Trimmed, i64)> {
        let filter = doc! { "collection": collection.as_str(), "revision": { "$lte": beyond } };
        let what = doc! { "revision": 1, "time": 1, "owed": 1 };
        let (log, order) = (self.table(CHANGES), doc! { "revision": 1 });
        let mut found = log
            .find(filter)
            .sort(order)
            .projection(what)
            .limit(i64::try_from(limit)?)
            .await?;
        let (mut trimmed, mut last) = (Trimmed::default(), 0);
        while found.advance().await? {
            let row = found.deserialize_current()?;
            if row.get_datetime("time")?.timestamp_millis() >= before.timestamp_millis() {
                break;
            }
            if self.terms.events_enabled && row.contains_key("owed") {
                trimmed.held_up = Some(rows::number(&row, "revision")?);
                break;
            }
            (trimmed.changes, last) = (trimmed.changes + 1, row.get_i64("revision")?);
        }
        Ok((trimmed, last))
    }
}
