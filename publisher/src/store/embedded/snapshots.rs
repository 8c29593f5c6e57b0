//! Named snapshots in the embedded store. Each is one row.

use std::collections::BTreeSet;

use contract::{
    CollectionName, Revision,
    history::SnapshotName,
    named_snapshot::{MAX_SNAPSHOTS, NamedSnapshot},
};
use rusqlite::{Transaction, params};

use crate::store::{
    embedded::{
        Embedded,
        connections::{Durability, End},
    },
    integrity::text_checksum,
    past::bases::Coverage,
    snapshots::{SnapshotError, StoredSnapshot, collections_of, pinned},
};

impl Embedded {
    pub(in crate::store) async fn create_snapshot(
        &self,
        snapshot: NamedSnapshot,
        collections: &BTreeSet<CollectionName>,
    ) -> Result<NamedSnapshot, SnapshotError> {
        for collection in collections {
            self.cover(collection).await?;
        }
        let collections = collections.clone();
        let created = self.write(Durability::Synced, move |store, transaction| {
            let known = read(transaction)?;
            if known
                .iter()
                .any(|known| known.name == snapshot.name.as_str())
            {
                return Ok(End::RollBack(Err(SnapshotError::Exists(snapshot.name))));
            }
            if known.len() >= MAX_SNAPSHOTS {
                return Ok(End::RollBack(Err(SnapshotError::Full)));
            }
            let (_epoch, heads) = store.heads_of(transaction, &collections)?;
            for head in &heads {
                let view = store.view(transaction, &head.collection)?;
                if !view.keeps(head.revision) {
                    let refused = SnapshotError::Past(view.not_kept());
                    return Ok(End::RollBack(Err(refused)));
                }
            }
            let snapshot = NamedSnapshot {
                collections: collections_of(&heads),
                ..snapshot
            };
            let text = serde_json::to_string(&snapshot)?;
            transaction.execute(
                "INSERT INTO snapshots (name, crc, snapshot) VALUES (?1, ?2, ?3)",
                params![snapshot.name.as_str(), crc(&text), text],
            )?;
            Ok(End::Commit(Ok(snapshot)))
        });
        created.await.map_err(anyhow::Error::from)?
    }

    pub(in crate::store) async fn snapshots(&self) -> anyhow::Result<Vec<StoredSnapshot>> {
        self.read(|_store, transaction| read(transaction)).await
    }

    pub(in crate::store) async fn delete_snapshot(
        &self,
        name: &SnapshotName,
    ) -> anyhow::Result<bool> {
        let name = name.clone();
        let deleted = self.write(Durability::Synced, move |_store, transaction| {
            let sql = "DELETE FROM snapshots WHERE name = ?1";
            let deleted = transaction.execute(sql, [name.as_str()])?;
            Ok(End::Commit(deleted > 0))
        });
        Ok(deleted.await?)
    }
}

/// The revisions of a collection with this coverage that named snapshots pin.
pub(super) fn pins(
    transaction: &Transaction<'_>,
    collection: &CollectionName,
    coverage: &Coverage,
) -> anyhow::Result<BTreeSet<Revision>> {
    Ok(pinned(&read(transaction)?, collection, coverage))
}

/// All named snapshots, by name.
fn read(transaction: &Transaction<'_>) -> anyhow::Result<Vec<StoredSnapshot>> {
    let mut statement =
        transaction.prepare_cached("SELECT name, crc, snapshot FROM snapshots ORDER BY name")?;
    let mut rows = statement.query([])?;
    let mut snapshots = Vec::new();
    while let Some(row) = rows.next()? {
        // Of another type than a publisher writes, it is damaged.
        let text: String = row.get(2).unwrap_or_default();
        let is_whole = row.get(1).is_ok_and(|stored: u32| stored == crc(&text));
        let name = row.get(0).unwrap_or_default();
        snapshots.push(StoredSnapshot::new(name, &text, is_whole));
    }
    Ok(snapshots)
}

fn crc(text: &str) -> u32 {
    text_checksum("snapshot", text).0
}
