//! Declaring an epoch in MongoDB.
//!
//! The transaction that declares it also writes every head, so that no group that read the old
//! epoch can commit after it. A head that is created at the same time is not visible to it;
//! `create_missing_heads` therefore conflicts with it over `_meta`. The groups of this publisher wait
//! for it a moment, because in their stream it would conflict again and again.

use anyhow::{Context, ensure};
use contract::Epoch;
use mongodb::{ClientSession, bson::doc, error::TRANSIENT_TRANSACTION_ERROR};
use tokio::time::timeout;

use crate::store::mongo::{
    HEADS, META, Mongo, ROOM_TIMEOUT, STORE, call, rows,
    transaction::{self, Attempts},
    verify::HeadRow,
};

impl Mongo {
    pub(in crate::store) async fn confirm_primary(&self) -> anyhow::Result<()> {
        // A primary that was deposed without noticing cannot get a majority to acknowledge this.
        let touch = doc! { "$currentDate": { "confirmed": true } };
        let updated = call(self.table(META).update_one(doc! { "_id": STORE }, touch))
            .await
            .context("confirming the primary")?;
        ensure!(
            updated.matched_count == 1,
            "_meta is empty: is the database being restored?"
        );
        Ok(())
    }

    pub(in crate::store) async fn declare_epoch(
        &self,
        from: Epoch,
        to: Epoch,
    ) -> anyhow::Result<bool> {
        // A stream of groups would conflict with each attempt.
        let _room = timeout(ROOM_TIMEOUT, self.declaring.write()).await;
        // A group was writing a head. Another attempt is safe: if this one was committed after all, the
        // next one finds another epoch and returns `false`. After an unknown outcome the caller reads
        // the epoch and tries again.
        let attempts = Attempts::repeated_on(&[TRANSIENT_TRANSACTION_ERROR]);
        loop {
            let mut session = call(self.client.start_session()).await?;
            let attempt = self.try_to_declare(&mut session, from, to);
            if let Some(ended) = attempts.attempt(attempt).await {
                return ended;
            }
        }
    }

    /// Dropping the session before the commit aborts the transaction.
    async fn try_to_declare(
        &self,
        session: &mut ClientSession,
        from: Epoch,
        to: Epoch,
    ) -> anyhow::Result<bool> {
        transaction::start(session).await?;
        let old = doc! {
            "_id": STORE,
            "lineage": i64::from(from.lineage),
            "counter": i64::try_from(from.counter)?,
        };
        // Of the same snapshot: another declaration conflicts over the row that both write.
        let identity = self.identity_in(session).await?;
        let new = doc! {
            "lineage": i64::from(to.lineage),
            "counter": i64::try_from(to.counter)?,
            "replaces": rows::replaces(&identity.replaces.after(from, to))?,
        };
        let updated = self
            .table(META)
            .update_one(old, doc! { "$set": new })
            .session(&mut *session)
            .await?;
        // Another publisher has declared an epoch.
        if updated.matched_count == 0 {
            session.abort_transaction().await?;
            return Ok(false);
        }
        // Snapshot transactions conflict only over documents that both write, and a group only
        // reads `_meta`. Every group writes a head, so writing all heads makes it conflict. Each one
        // is proven in the new epoch.
        let mut stored = Vec::new();
        let mut found = self
            .table_at_snapshot(HEADS)
            .find(doc! {})
            .session(&mut *session)
            .await?;
        while let Some(row) = found.next(&mut *session).await.transpose()? {
            stored.push(row);
        }
        for row in stored {
            // A row of another type is none of ours.
            let Some(name) = row.get_str("_id").ok().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let HeadRow { head, damaged, .. } =
                self.head_of_row(session, &name, &identity, &row).await?;
            let head = identity.secret.prove_head(head, to);
            let mut proven = if damaged {
                rows::whole_head_row(&head)?
            } else {
                doc! { "proof": head.proof.map(|proof| proof.to_string()) }
            };
            proven.insert("declared", i64::try_from(to.counter)?);
            self.table(HEADS)
                .update_one(
                    doc! { "_id": head.collection.as_str() },
                    doc! { "$set": proven },
                )
                .session(&mut *session)
                .await?;
        }
        session.commit_transaction().await?;
        Ok(true)
    }
}
