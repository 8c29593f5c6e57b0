//! Named snapshots in MongoDB. Each is one document of `_snapshots`.
//!
//! A snapshot is made in one transaction with the coverage of each collection: where another publisher
//! makes base records at the same time, one of the two waits for the other.

use std::collections::BTreeSet;

use contract::{
    CollectionName, Revision,
    history::SnapshotName,
    named_snapshot::{MAX_SNAPSHOTS, NamedSnapshot},
};
use mongodb::{ClientSession, bson::doc, error::TRANSIENT_TRANSACTION_ERROR};

use crate::store::{
    integrity::text_checksum,
    mongo::{
        Mongo, SNAPSHOTS, call,
        transaction::{self, Attempts, in_snapshot},
    },
    past::{PastView, bases::Coverage},
    snapshots::{SnapshotError, StoredSnapshot, collections_of, pinned},
};

impl Mongo {
    pub(in crate::store) async fn create_snapshot(
        &self,
        snapshot: NamedSnapshot,
        collections: &BTreeSet<CollectionName>,
    ) -> Result<NamedSnapshot, SnapshotError> {
        for collection in collections {
            self.cover(collection).await?;
        }
        // A commit without an answer is not repeated: the name would be taken by the first attempt.
        let attempts = Attempts::repeated_on(&[TRANSIENT_TRANSACTION_ERROR]);
        loop {
            let mut session = call(self.client.start_session()).await?;
            let attempt = self.try_to_create_snapshot(&mut session, &snapshot, collections);
            if let Some(ended) = attempts.attempt(attempt).await {
                return ended?;
            }
        }
    }

    async fn try_to_create_snapshot(
        &self,
        session: &mut ClientSession,
        snapshot: &NamedSnapshot,
        collections: &BTreeSet<CollectionName>,
    ) -> anyhow::Result<Result<NamedSnapshot, SnapshotError>> {
        transaction::start(session).await?;
        let known = self.snapshots_in(session).await?;
        if known
            .iter()
            .any(|known| known.name == snapshot.name.as_str())
        {
            return Ok(Err(SnapshotError::Exists(snapshot.name.clone())));
        }
        if known.len() >= MAX_SNAPSHOTS {
            return Ok(Err(SnapshotError::Full));
        }
        let mut heads = Vec::new();
        for collection in collections {
            let head = self.head_in(session, collection).await?;
            let row = self.coverage_in(session, collection).await?;
            // The same coverage again, so that nobody changes it at the same time.
            self.put_coverage_in(session, collection, &row, &row.coverage)
                .await?;
            let coverage = row.coverage;
            let view = PastView { head, coverage };
            if !view.keeps(view.head.revision) {
                return Ok(Err(SnapshotError::Past(view.not_kept())));
            }
            heads.push(view.head);
        }
        let created = NamedSnapshot {
            collections: collections_of(&heads),
            ..snapshot.clone()
        };
        let text = serde_json::to_string(&created)?;
        let row = doc! {
            "_id": created.name.as_str(),
            "crc": text_checksum("snapshot", &text).to_string(),
            "snapshot": text,
        };
        self.table(SNAPSHOTS)
            .insert_one(row)
            .session(&mut *session)
            .await?;
        session.commit_transaction().await?;
        Ok(Ok(created))
    }

    pub(in crate::store) async fn snapshots(&self) -> anyhow::Result<Vec<StoredSnapshot>> {
        in_snapshot!(self, |session| { self.snapshots_in(session).await })
    }

    /// All named snapshots, by name, in a snapshot session or a transaction.
    async fn snapshots_in(
        &self,
        session: &mut ClientSession,
    ) -> anyhow::Result<Vec<StoredSnapshot>> {
        let mut found = self
            .table_at_snapshot(SNAPSHOTS)
            .find(doc! {})
            .sort(doc! { "_id": 1 })
            .session(&mut *session)
            .await?;
        let mut snapshots = Vec::new();
        while let Some(row) = found.next(&mut *session).await.transpose()? {
            // Of another type than a publisher writes, it is damaged.
            let name = row.get_str("_id").unwrap_or_default().to_owned();
            let text = row.get_str("snapshot").unwrap_or_default();
            let crc = text_checksum("snapshot", text).to_string();
            let is_whole = row.get_str("crc").is_ok_and(|stored| stored == crc);
            snapshots.push(StoredSnapshot::new(name, text, is_whole));
        }
        Ok(snapshots)
    }

    pub(in crate::store) async fn delete_snapshot(
        &self,
        name: &SnapshotName,
    ) -> anyhow::Result<bool> {
        let table = self.table(SNAPSHOTS);
        let deleted = call(table.delete_one(doc! { "_id": name.as_str() })).await?;
        Ok(deleted.deleted_count > 0)
    }

    /// The revisions of a collection with this coverage that named snapshots pin.
    pub(super) async fn pins_in(
        &self,
        session: &mut ClientSession,
        collection: &CollectionName,
        coverage: &Coverage,
    ) -> anyhow::Result<BTreeSet<Revision>> {
        let stored = self.snapshots_in(session).await?;
        Ok(pinned(&stored, collection, coverage))
    }
}
