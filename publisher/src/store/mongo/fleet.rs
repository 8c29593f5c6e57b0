//! Rows of replicas, and the epoch, in MongoDB.
//!
//! Rows are written without waiting for a majority: they are a view. The epoch is declared in a
//! transaction that also touches every head, so that no group that read the old epoch can commit
//! after it. A head that comes into being meanwhile is one that it does not see: so heads are made
//! in a transaction that also writes `_meta`, and the two conflict.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, bail, ensure};
use chrono::{DateTime, Utc};
use contract::{CollectionName, Epoch};
use mongodb::{
    ClientSession,
    bson::{self, Document as Bdoc, doc},
    options::{Acknowledgment, CollectionOptions, ReadConcern, WriteConcern},
};
use tokio::time::{Instant, sleep, timeout};

use crate::store::{
    fleet::{MOST_BYTES, MOST_MEMBERS, Row},
    mongo::{CALL, HEADS, LATE, META, Mongo, STORE, call, durable, has_label, rows},
};

pub(super) const REPLICAS: &str = "_replicas";

/// Rows and bytes of them in one command.
const COMMAND_ROWS: usize = 1_000;
const COMMAND_BYTES: usize = 8 << 20;
/// A declaration, with all its retries: writers that are busy on the heads conflict with it.
const DECLARE: Duration = Duration::from_secs(5);

impl Mongo {
    pub(in crate::store) async fn put_members(&self, rows: &[Row]) -> anyhow::Result<()> {
        let (mut updates, mut bytes) = (Vec::new(), 0);
        for row @ Row { member, .. } in rows {
            let text = serde_json::to_string(row)?;
            bytes += text.len();
            let seen = bson::DateTime::from_millis(member.seen.timestamp_millis());
            let row =
                doc! { "_id": member.check_in.instance.as_str(), "seen": seen, "member": text };
            // Another publisher may have heard of it since.
            let newest =
                doc! { "$cond": [{ "$gt": ["$seen", seen] }, "$$ROOT", { "$literal": &row }] };
            updates.push(doc! {
                "q": { "_id": member.check_in.instance.as_str() }, "u": [{ "$replaceWith": newest }], "upsert": true,
            });
            if updates.len() >= COMMAND_ROWS || bytes >= COMMAND_BYTES {
                self.update_members(std::mem::take(&mut updates)).await?;
                bytes = 0;
            }
        }
        self.update_members(updates).await
    }

    async fn update_members(&self, updates: Vec<Bdoc>) -> anyhow::Result<()> {
        if updates.is_empty() {
            return Ok(());
        }
        let command = doc! { "update": REPLICAS, "updates": updates, "ordered": false, "writeConcern": { "w": 1 } };
        let answer = call(self.database.run_command(command)).await?;
        match answer.get("writeErrors") {
            Some(errors) => bail!("MongoDB refused rows of replicas: {errors}"),
            None => Ok(()),
        }
    }

    pub(in crate::store) async fn members(&self) -> anyhow::Result<Vec<Row>> {
        let read = async {
            let newest_first = doc! { "seen": -1 };
            let limit = i64::try_from(MOST_MEMBERS)?;
            let mut rows = self
                .table(REPLICAS)
                .find(doc! {})
                .sort(newest_first)
                .limit(limit)
                .await?;
            let (mut found, mut bytes) = (Vec::new(), 0);
            while bytes < MOST_BYTES && rows.advance().await? {
                bytes += rows.current().as_bytes().len();
                found.push(serde_json::from_str(rows.current().get_str("member")?)?);
            }
            Ok(found)
        };
        timeout(CALL, read).await.context(LATE)?
    }

    pub(in crate::store) async fn forget_members(
        &self,
        before: DateTime<Utc>,
    ) -> anyhow::Result<()> {
        let once = WriteConcern::builder().w(Acknowledgment::Nodes(1)).build();
        let options = CollectionOptions::builder().write_concern(once).build();
        let rows = self
            .database
            .collection_with_options::<Bdoc>(REPLICAS, options);
        let before = bson::DateTime::from_millis(before.timestamp_millis());
        call(rows.delete_many(doc! { "seen": { "$lt": before } })).await?;
        let beyond = rows
            .find_one(doc! {})
            .sort(doc! { "seen": -1 })
            .skip(u64::try_from(MOST_MEMBERS)?);
        if let Some(beyond) = call(beyond).await? {
            call(rows.delete_many(doc! { "seen": { "$lte": beyond.get_datetime("seen")? } }))
                .await?;
        }
        Ok(())
    }

    pub(in crate::store) async fn confirm(&self) -> anyhow::Result<()> {
        let touch = doc! { "$currentDate": { "confirmed": true } };
        let done = call(self.table(META).update_one(doc! { "_id": STORE }, touch)).await?;
        ensure!(
            done.matched_count == 1,
            "_meta is empty: is the database being restored?"
        );
        Ok(())
    }

    pub(in crate::store) async fn declare(&self, from: Epoch, to: Epoch) -> anyhow::Result<bool> {
        let deadline = Instant::now() + DECLARE;
        loop {
            let mut session = call(self.client.start_session()).await?;
            let tried = timeout(CALL, self.try_to_declare(&mut session, from, to))
                .await
                .context(LATE);
            match tried.and_then(|in_time| in_time) {
                Err(error)
                    if has_label(&error, mongodb::error::TRANSIENT_TRANSACTION_ERROR)
                        && Instant::now() < deadline =>
                {
                    sleep(Duration::from_millis(rand::random_range(1..=50))).await;
                }
                tried => return tried,
            }
        }
    }

    /// Makes the heads that are missing. Several publishers may do it at once.
    pub(super) async fn make_heads(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + DECLARE;
        loop {
            let mut session = call(self.client.start_session()).await?;
            let tried = timeout(CALL, self.try_to_make_heads(&mut session))
                .await
                .context(LATE);
            match tried.and_then(|in_time| in_time) {
                // Where the outcome is unknown, looking again tells.
                Err(error)
                    if [
                        mongodb::error::TRANSIENT_TRANSACTION_ERROR,
                        mongodb::error::UNKNOWN_TRANSACTION_COMMIT_RESULT,
                    ]
                    .iter()
                    .any(|label| has_label(&error, label))
                        && Instant::now() < deadline =>
                {
                    sleep(Duration::from_millis(rand::random_range(1..=50))).await;
                }
                tried => return tried,
            }
        }
    }

    async fn try_to_make_heads(&self, session: &mut ClientSession) -> anyhow::Result<()> {
        session
            .start_transaction()
            .read_concern(ReadConcern::snapshot())
            .write_concern(durable())
            .await?;
        let mut missing: BTreeSet<_> = self
            .terms
            .collections
            .iter()
            .map(CollectionName::as_str)
            .collect();
        let mut there = self
            .table_at_snapshot(HEADS)
            .find(doc! {})
            .session(&mut *session)
            .await?;
        while let Some(head) = there.next(&mut *session).await.transpose()? {
            missing.remove(head.get_str("_id")?);
        }
        if missing.is_empty() {
            session.abort_transaction().await?;
            return Ok(());
        }
        let touch = doc! { "$currentDate": { "headsMade": true } };
        let done = self
            .table(META)
            .update_one(doc! { "_id": STORE }, touch)
            .session(&mut *session)
            .await?;
        ensure!(
            done.matched_count == 1,
            "_meta is empty: is the database being restored?"
        );
        let heads = missing.into_iter().map(|name| {
            let mut head = rows::virgin_head();
            head.insert("_id", name);
            head
        });
        self.table(HEADS)
            .insert_many(heads)
            .session(&mut *session)
            .await?;
        session.commit_transaction().await?;
        Ok(())
    }

    /// Whoever drops the session before the commit aborts the transaction.
    async fn try_to_declare(
        &self,
        session: &mut ClientSession,
        from: Epoch,
        to: Epoch,
    ) -> anyhow::Result<bool> {
        session
            .start_transaction()
            .read_concern(ReadConcern::snapshot())
            .write_concern(durable())
            .await?;
        let old = doc! { "_id": STORE, "lineage": i64::from(from.lineage), "counter": i64::try_from(from.counter)? };
        let new = doc! { "lineage": i64::from(to.lineage), "counter": i64::try_from(to.counter)? };
        let done = self
            .table(META)
            .update_one(old, doc! { "$set": new })
            .session(&mut *session)
            .await?;
        if done.matched_count == 0 {
            session.abort_transaction().await?;
            return Ok(false);
        }
        // A snapshot transaction conflicts only over what both write, and a group only reads
        // `_meta`.
        let touch = doc! { "$set": { "declared": i64::try_from(to.counter)? } };
        self.table(HEADS)
            .update_many(doc! {}, touch)
            .session(&mut *session)
            .await?;
        session.commit_transaction().await?;
        Ok(true)
    }
}
