//! Preparing a database: its format, epoch, collections, heads and indexes.
//!
//! Several publishers may do this at the same time, so every step tolerates that another publisher
//! has done it.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, ensure};
use contract::CollectionName;
use mongodb::{
    ClientSession, IndexModel,
    bson::{Document as Bdoc, doc},
    error::{TRANSIENT_TRANSACTION_ERROR, UNKNOWN_TRANSACTION_COMMIT_RESULT},
    options::{IndexOptions, ReadConcern},
};
use tokio::time::{Instant, sleep, timeout};

use crate::store::{
    StoreSecret,
    mongo::{
        CALL_TIMEOUT, CHANGES, HEADS, META, Mongo, STORE, TIMED_OUT, call, durable, epoch,
        has_label, is_code, replicas::REPLICAS, rows,
    },
};

/// The version of what is stored.
const FORMAT: i64 = 3;

/// Error code: the collection exists.
const NAMESPACE_EXISTS: i32 = 48;
/// Error code: a document with this key exists.
const DUPLICATE_KEY: i32 = 11_000;

impl Mongo {
    pub(super) async fn require_transactions(&self) -> anyhow::Result<()> {
        let hello = call(self.database.run_command(doc! { "hello": 1 }))
            .await
            .context("reaching MongoDB")?;
        // A node of a replica set has a setName. A mongos has none, but is recognised by `msg`. A
        // standalone server has neither.
        ensure!(
            hello.contains_key("setName")
                || hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid"),
            "this MongoDB is a standalone server, which has no transactions. A replica set of one \
             node is enough: start it with `mongod --replSet rs0` and run \
             `mongosh --eval 'rs.initiate()'` once"
        );
        Ok(())
    }

    /// Creates what is missing.
    pub(super) async fn prepare(&self) -> anyhow::Result<()> {
        // A random lineage distinguishes this store from every other one.
        let lineage = i64::from(rand::random::<u32>());
        // Lineage and secret in one insert: they belong to one store.
        let initial = doc! {
            "lineage": lineage,
            "counter": 1_i64,
            "format": FORMAT,
            "secret": rows::secret_row(&StoreSecret::generate()),
        };
        self.insert_if_absent(META, STORE, initial)
            .await
            .context("initialising _meta")?;
        // Read back: another publisher, also of another version, may have initialised it first.
        let meta = call(self.table(META).find_one(doc! { "_id": STORE }))
            .await
            .context("reading _meta")?
            .context("_meta is empty")?;
        let format = meta.get_i64("format")?;
        ensure!(
            format == FORMAT,
            "the format of the store is {format}; this version reads only {FORMAT}"
        );
        self.create_collections().await?;
        self.create_missing_heads()
            .await
            .context("creating heads")?;
        self.create_indexes().await.context("creating indexes")
    }

    /// Creates the collections now: older servers cannot create one within a transaction, and newer
    /// ones take a lock for it.
    async fn create_collections(&self) -> anyhow::Result<()> {
        let configured = self.policy.collections.iter().map(CollectionName::as_str);
        for name in configured.chain([HEADS]) {
            if let Err(error) = call(self.database.create_collection(name)).await {
                ensure!(is_code(&error, NAMESPACE_EXISTS), error);
            }
        }
        Ok(())
    }

    async fn create_indexes(&self) -> anyhow::Result<()> {
        let unique = IndexOptions::builder().unique(true).build();
        // A small index, because a change is usually pending for milliseconds.
        let only_pending = IndexOptions::builder()
            .partial_filter_expression(doc! { "pending": true })
            .build();
        let indexes = [
            // Reading the log in order. Unique, so that no revision can be written twice.
            IndexModel::builder()
                .keys(doc! { "collection": 1, "revision": 1 })
                .options(unique)
                .build(),
            // Finding pending changes.
            IndexModel::builder()
                .keys(doc! { "pending": 1, "collection": 1, "revision": 1 })
                .options(only_pending)
                .build(),
            // The history of one document, for people.
            IndexModel::builder()
                .keys(doc! { "collection": 1, "id": 1, "revision": 1 })
                .build(),
        ];
        call(self.table(CHANGES).create_indexes(indexes)).await?;
        let seen = IndexModel::builder().keys(doc! { "seen": 1 }).build();
        call(self.table(REPLICAS).create_index(seen)).await?;
        Ok(())
    }

    async fn insert_if_absent(&self, table: &str, id: &str, value: Bdoc) -> anyhow::Result<()> {
        let table = self.table(table);
        let insert = table
            .update_one(doc! { "_id": id }, doc! { "$setOnInsert": value })
            .upsert(true);
        match call(insert).await {
            // Two upserts at the same time may both try to insert: the other publisher did.
            Err(error) if !is_code(&error, DUPLICATE_KEY) => Err(error),
            _ => Ok(()),
        }
    }

    async fn create_missing_heads(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + epoch::DECLARE_TIMEOUT;
        loop {
            let mut session = call(self.client.start_session()).await?;
            let attempt = timeout(CALL_TIMEOUT, self.try_to_create_heads(&mut session))
                .await
                .context(TIMED_OUT);
            match attempt.and_then(|in_time| in_time) {
                // Also when the outcome is unknown: the next attempt finds the heads, or creates
                // them.
                Err(error)
                    if [
                        TRANSIENT_TRANSACTION_ERROR,
                        UNKNOWN_TRANSACTION_COMMIT_RESULT,
                    ]
                    .iter()
                    .any(|label| has_label(&error, label))
                        && Instant::now() < deadline =>
                {
                    sleep(Duration::from_millis(rand::random_range(1..=50))).await;
                }
                attempt => return attempt,
            }
        }
    }

    async fn try_to_create_heads(&self, session: &mut ClientSession) -> anyhow::Result<()> {
        session
            .start_transaction()
            .read_concern(ReadConcern::snapshot())
            .write_concern(durable())
            .await?;
        let mut missing: BTreeMap<_, _> = self
            .policy
            .collections
            .iter()
            .map(|name| (name.as_str(), name))
            .collect();
        let mut existing = self
            .table_at_snapshot(HEADS)
            .find(doc! {})
            .session(&mut *session)
            .await?;
        while let Some(head) = existing.next(&mut *session).await.transpose()? {
            // A row of another type is none of ours.
            missing.remove(head.get_str("_id").unwrap_or_default());
        }
        // The usual case at a restart: nothing is written, so no other publisher is disturbed.
        if missing.is_empty() {
            session.abort_transaction().await?;
            return Ok(());
        }
        // The declaration of an epoch touches every head that it sees, and writes `_meta`. It does
        // not see a head that is created at the same time, so creating heads writes `_meta` as
        // well: the two transactions conflict, and one of them is repeated.
        let touch = doc! { "$currentDate": { "headsCreated": true } };
        let updated = self
            .table(META)
            .update_one(doc! { "_id": STORE }, touch)
            .session(&mut *session)
            .await?;
        ensure!(
            updated.matched_count == 1,
            "_meta is empty: is the database being restored?"
        );
        let heads = missing
            .into_values()
            .map(rows::initial_head)
            .collect::<anyhow::Result<Vec<_>>>()?;
        self.table(HEADS)
            .insert_many(heads)
            .session(&mut *session)
            .await?;
        session.commit_transaction().await?;
        Ok(())
    }
}
