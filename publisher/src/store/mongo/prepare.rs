//! Preparing a database: its format, epoch, collections, heads and indexes.
//!
//! Several publishers may do this at the same time, so every step tolerates that another publisher
//! has done it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};
use contract::{CollectionName, Revision, formats};
use mongo_json::server::{self, DUPLICATE_KEY, NAMESPACE_EXISTS, UnfitServer};
use mongodb::{
    ClientSession, IndexModel,
    bson::{Document as Bdoc, doc},
    error::{TRANSIENT_TRANSACTION_ERROR, UNKNOWN_TRANSACTION_COMMIT_RESULT},
    options::IndexOptions,
};
use tracing::warn;

use crate::store::{
    StoreIdentity, StoreSecret,
    integrity::head_of_record,
    mongo::{
        BASES, CHANGES, COVERAGE, HEADS, META, Mongo, SNAPSHOTS, STORE,
        audit::AUDIT,
        call,
        dead_letters::DEAD_LETTERS,
        is_code,
        opening::CannotOpenError,
        replicas::REPLICAS,
        rows,
        transaction::{self, Attempts},
        verify::up_to_filter,
    },
};

/// What the crate `projection` has in its database, and no publisher.
const POSITIONS_OF_PROJECTIONS: &str = "_projection";

impl Mongo {
    pub(super) async fn require_transactions(&self) -> anyhow::Result<()> {
        let hello = call(self.database.run_command(doc! { "hello": 1 }))
            .await
            .context("reaching MongoDB")?;
        match server::check(&hello) {
            Err(unfit @ UnfitServer::Standalone) => Err(CannotOpenError(unfit.to_string()).into()),
            checked => Ok(checked?),
        }
    }

    /// Creates what is missing.
    pub(super) async fn prepare(&self) -> anyhow::Result<()> {
        self.refuse_remains().await?;
        // A random lineage distinguishes this store from every other one.
        let lineage = i64::from(rand::random::<u32>());
        // Lineage and secret in one insert: they belong to one store.
        let initial = doc! {
            "lineage": lineage,
            "counter": 1_i64,
            "format": i64::try_from(formats::STORE)?,
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
        // No version writes a negative one.
        let format = meta.get_i64("format")?.try_into().unwrap_or(0);
        formats::check_store(format).map_err(|error| CannotOpenError(error.to_string()))?;
        for table in [HEADS, BASES, COVERAGE, SNAPSHOTS, AUDIT] {
            self.create_table(table).await?;
        }
        self.add_collections(&self.policy.collections.all()).await?;
        self.create_indexes().await.context("creating indexes")
    }

    /// A database with heads or a change log, but without `_meta`, was restored or dropped in part. A
    /// new lineage would make it another store.
    async fn refuse_remains(&self) -> anyhow::Result<()> {
        let any = async |table: &str| anyhow::Ok(call(self.table(table).find_one(doc! {})).await?);
        // Before `_meta`: another publisher that initialises the database writes `_meta` first.
        let remains = any(CHANGES).await?.is_some() || any(HEADS).await?.is_some();
        let meta = call(self.table(META).find_one(doc! { "_id": STORE })).await?;
        ensure!(
            meta.is_some() || !remains,
            "the database has heads or a change log, but no _meta: is a restore under way? Restore \
             all of it, or drop it to begin with an empty store"
        );
        ensure!(
            meta.is_some() || any(POSITIONS_OF_PROJECTIONS).await?.is_none(),
            CannotOpenError(
                "the database is that of a projection of configuration: name another one in \
                 AURA_CONFIGURATION_STORE_URL. If a subscriber was given this one by mistake, correct \
                 that and drop the collection _projection"
                    .to_owned()
            )
        );
        Ok(())
    }

    /// Creates what these collections lack, so that they can be served.
    pub(in crate::store) async fn add_collections(
        &self,
        collections: &BTreeSet<CollectionName>,
    ) -> anyhow::Result<()> {
        for name in collections {
            self.create_table(name.as_str()).await?;
        }
        self.create_missing_heads(collections)
            .await
            .context("creating heads")
    }

    /// Creates a collection of the database now: older servers cannot create one within a
    /// transaction, and newer ones take a lock for it.
    async fn create_table(&self, name: &str) -> anyhow::Result<()> {
        if let Err(error) = call(self.database.create_collection(name)).await {
            ensure!(is_code(&error, NAMESPACE_EXISTS), error);
        }
        Ok(())
    }

    async fn create_indexes(&self) -> anyhow::Result<()> {
        let unique = IndexOptions::builder().unique(true).build();
        // A small index, because a change is usually pending for milliseconds.
        let only_pending = IndexOptions::builder()
            .partial_filter_expression(doc! { "pending": true })
            .build();
        let only_sets = IndexOptions::builder()
            .partial_filter_expression(doc! { "set": { "$exists": true } })
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
            // The changes of a change set.
            IndexModel::builder()
                .keys(doc! { "set": 1 })
                .options(only_sets)
                .build(),
            // The history and the past of one document.
            IndexModel::builder()
                .keys(doc! { "collection": 1, "id": 1, "revision": 1 })
                .build(),
        ];
        call(self.table(CHANGES).create_indexes(indexes)).await?;
        let of_document = IndexModel::builder()
            .keys(doc! { "collection": 1, "id": 1, "revision": 1 })
            .options(IndexOptions::builder().unique(true).build())
            .build();
        call(self.table(BASES).create_index(of_document)).await?;
        let seen = IndexModel::builder().keys(doc! { "seen": 1 }).build();
        call(self.table(REPLICAS).create_index(seen)).await?;
        let order = IndexModel::builder()
            .keys(doc! { "open": -1, "last": -1, "_id": -1 })
            .build();
        call(self.table(DEAD_LETTERS).create_index(order)).await?;
        self.create_audit_index().await
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

    async fn create_missing_heads(
        &self,
        collections: &BTreeSet<CollectionName>,
    ) -> anyhow::Result<()> {
        // Also when the outcome is unknown: the next attempt finds the heads, or creates them.
        let attempts = Attempts::repeated_on(&[
            TRANSIENT_TRANSACTION_ERROR,
            UNKNOWN_TRANSACTION_COMMIT_RESULT,
        ]);
        loop {
            let mut session = call(self.client.start_session()).await?;
            let attempt = self.try_to_create_heads(&mut session, collections);
            if let Some(ended) = attempts.attempt(attempt).await {
                return ended;
            }
        }
    }

    async fn try_to_create_heads(
        &self,
        session: &mut ClientSession,
        collections: &BTreeSet<CollectionName>,
    ) -> anyhow::Result<()> {
        transaction::start(session).await?;
        let mut missing: BTreeMap<_, _> = collections
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
        let identity = self.identity_in(session).await?;
        let mut heads = Vec::with_capacity(missing.len());
        for name in missing.into_values() {
            heads.push(self.absent_head(session, &identity, name).await?);
        }
        self.table(HEADS)
            .insert_many(heads)
            .session(&mut *session)
            .await?;
        session.commit_transaction().await?;
        Ok(())
    }

    /// The head of a collection that has none: that of a new collection, or the one of the
    /// newest record in the change log.
    async fn absent_head(
        &self,
        session: &mut ClientSession,
        identity: &StoreIdentity,
        name: &CollectionName,
    ) -> anyhow::Result<Bdoc> {
        let all = doc! { "collection": name.as_str(), "revision": up_to_filter(Revision::MAX) };
        let Some(newest) = self
            .newest_record(Some(&mut *session), name, all.clone())
            .await?
        else {
            let document = self
                .table_at_snapshot(name.as_str())
                .find_one(doc! {})
                .session(session)
                .await?;
            // A blank head would hide the documents and use their revisions again.
            ensure!(
                document.is_none(),
                "the collection {name} has documents, but neither a head nor a change log: is a \
                 restore under way? Restore all of it, or drop the collection"
            );
            return rows::initial_head(name);
        };
        let oldest = self
            .table_at_snapshot(CHANGES)
            .find_one(all)
            .sort(doc! { "revision": 1 })
            .session(session)
            .await?;
        let oldest = oldest.map_or(Ok(newest.revision), |row| rows::number(&row, "revision"))?;
        warn!(
            collection = %name, revision = newest.revision,
            "the head of {name} was gone and is made again of the newest record of the change log"
        );
        let head = head_of_record(&newest, oldest, identity.epoch);
        let mut row = rows::whole_head_row(&head)?;
        row.insert("_id", name.as_str());
        Ok(row)
    }
}
