//! Base records of the embedded store: making them before the log is trimmed, making them again after
//! records were lost, and removing those that no state needs.

use std::collections::{BTreeMap, BTreeSet};

use contract::{Change, CollectionName, DocumentId, Operation, Revision};
use rusqlite::{Transaction, params};
use serde::Deserialize;
use tracing::warn;

use crate::store::{
    embedded::{
        Embedded,
        connections::{Durability, End},
        rows,
        snapshots::pins,
        tables,
    },
    integrity::{Damage, DamagedDocument, DamagedPast},
    past::{
        PastPoint, ValueRecord,
        bases::{Coverage, needed},
    },
    repair::MAX_BASES,
};

/// Documents whose base records are examined in one transaction.
const SWEEP_IDS: usize = 1_000;

/// The members of a record that decide whether it is needed.
#[derive(Deserialize)]
struct Key {
    id: DocumentId,
    op: Operation,
}

impl Embedded {
    /// Makes base records of the documents where records were removed without any: by an earlier
    /// version, by a repair, or because they were damaged.
    pub(in crate::store) async fn cover(&self, collection: &CollectionName) -> anyhow::Result<()> {
        let view = self.past_view(collection).await?;
        if view.coverage.covered + 1 >= view.head.oldest {
            return Ok(());
        }
        let name = collection.clone();
        let covered = self.write(Durability::Synced, move |store, transaction| {
            store.adopt(transaction, &name)?;
            Ok(End::Commit(()))
        });
        Ok(covered.await?)
    }

    fn adopt(
        &self,
        transaction: &Transaction<'_>,
        collection: &CollectionName,
    ) -> anyhow::Result<()> {
        let view = self.view(transaction, collection)?;
        let lost = view.head.oldest.saturating_sub(1);
        if view.coverage.covered >= lost {
            return Ok(());
        }
        let pins = pins(transaction, collection, &view.coverage)?;
        let mut remaining = BTreeSet::new();
        // What is true of the lost revisions is not known, so only pinned states keep what they had.
        for (id, records) in stored(transaction, collection, "", usize::MAX)? {
            let kept = keep(transaction, collection, &id, &records, &pins, 0)?;
            if !kept.is_empty() {
                remaining.insert(id);
            }
        }
        let mut statement = transaction.prepare_cached(
            "SELECT id, revision, crc, value FROM documents WHERE collection = ?1 AND revision <= ?2",
        )?;
        let mut documents = statement.query(params![collection.as_str(), lost])?;
        while let Some(row) = documents.next()? {
            let (id, document) = rows::document(collection, row);
            let document = document.map_err(|damage| DamagedDocument {
                collection: collection.clone(),
                id: id.clone(),
                damage,
            })?;
            put_base(transaction, &ValueRecord::of(collection, &document)?)?;
            remaining.remove(&id);
        }
        for id in remaining {
            // It has no document, so an older base record does not say what it is now.
            put_base(
                transaction,
                &ValueRecord {
                    collection: collection.clone(),
                    id: id.parse()?,
                    revision: lost,
                    config_data: None,
                },
            )?;
        }
        let complete = first_complete(transaction, collection, lost)?;
        let state = PastPoint::of_head(&view.head);
        let state = (lost == view.head.revision).then_some(&state);
        let coverage = view.coverage.after_loss(lost, complete, state);
        warn!(
            %collection, from = view.coverage.covered, oldest = coverage.complete,
            "changes of {collection} were removed without base records, so its states before \
             revision {} are not kept, except those of older snapshots", coverage.complete
        );
        tables::put_coverage(transaction, collection, &coverage)
    }

    /// Makes base records of the records up to `last`, which are about to be removed.
    pub(super) fn make_bases(
        &self,
        transaction: &Transaction<'_>,
        collection: &CollectionName,
        last: Revision,
    ) -> anyhow::Result<()> {
        let view = self.view(transaction, collection)?;
        let coverage = view.coverage;
        if coverage.covered + 1 < view.head.oldest || coverage.covered >= last {
            return Ok(());
        }
        let mut removed = BTreeMap::<DocumentId, BTreeMap<Revision, bool>>::new();
        let mut newest = None::<Change>;
        let mut statement = transaction.prepare_cached(
            "SELECT revision, crc, record FROM changes
             WHERE collection = ?1 AND revision > ?2 AND revision <= ?3 ORDER BY revision",
        )?;
        let mut records = statement.query(params![collection.as_str(), coverage.covered, last])?;
        let mut expected = coverage.covered;
        while let Some(row) = records.next()? {
            expected += 1;
            let Ok((revision, text)) = rows::record_text(collection, row) else {
                break;
            };
            let key: Key = serde_json::from_str(text)?;
            if revision != expected {
                break;
            }
            let of_document = removed.entry(key.id).or_default();
            of_document.insert(revision, key.op == Operation::Delete);
            if revision == last {
                newest = Some(rows::record(collection, row)?);
            }
        }
        // Without this one record the states are not known: `cover` begins again after it.
        let Some(newest) = newest else {
            return Ok(());
        };
        let pins = pins(transaction, collection, &coverage)?;
        for (id, mut records) in removed {
            let older = stored_of(transaction, collection, id.as_str())?;
            records.extend(older);
            keep(transaction, collection, id.as_str(), &records, &pins, last)?;
        }
        let coverage = Coverage {
            pins: coverage.pins.union(&pins).copied().collect(),
            ..coverage.advanced(&PastPoint::from(&newest))
        };
        tables::put_coverage(transaction, collection, &coverage)
    }

    /// Removes base records that no state needs since a named snapshot was deleted.
    pub(in crate::store) async fn sweep(&self, collection: &CollectionName) -> anyhow::Result<()> {
        let name = collection.clone();
        let is_needed = self.read(move |_store, transaction| {
            let coverage = tables::coverage(transaction, &name)?;
            let pinned = pins(transaction, &name, &coverage)?;
            Ok(!coverage.pins.is_subset(&pinned))
        });
        if !is_needed.await? {
            return Ok(());
        }
        let mut after = String::new();
        loop {
            let (name, from) = (collection.clone(), after);
            let swept = self.write(Durability::Later, move |_store, transaction| {
                let next = sweep_some(transaction, &name, &from)?;
                Ok(End::Commit(next))
            });
            let Some(next) = swept.await? else {
                return Ok(());
            };
            after = next;
        }
    }
}

/// As [`Embedded::sweep`], of some documents after an id. The last of them; `None` at the end.
fn sweep_some(
    transaction: &Transaction<'_>,
    collection: &CollectionName,
    after: &str,
) -> anyhow::Result<Option<String>> {
    let coverage = tables::coverage(transaction, collection)?;
    let pins = pins(transaction, collection, &coverage)?;
    let stored = stored(transaction, collection, after, SWEEP_IDS)?;
    let last = stored.last_key_value().map(|(id, _records)| id.clone());
    for (id, records) in &stored {
        keep(
            transaction,
            collection,
            id,
            records,
            &pins,
            coverage.covered,
        )?;
    }
    if last.is_none() {
        tables::put_coverage(transaction, collection, &Coverage { pins, ..coverage })?;
    }
    Ok(last)
}

impl Embedded {
    pub(in crate::store) async fn discard_coverage(
        &self,
        collection: &CollectionName,
    ) -> anyhow::Result<()> {
        let name = collection.clone();
        let removed = self.write(Durability::Synced, move |_store, transaction| {
            let sql = "DELETE FROM coverage WHERE collection = ?1";
            transaction.execute(sql, [name.as_str()])?;
            Ok(End::Commit(()))
        });
        Ok(removed.await?)
    }

    pub(in crate::store) async fn damaged_bases(
        &self,
        collection: &CollectionName,
    ) -> anyhow::Result<Vec<DamagedPast>> {
        let name = collection.clone();
        self.read(move |_store, transaction| {
            let mut statement = transaction.prepare_cached(
                "SELECT revision, crc, record, id FROM bases WHERE collection = ?1",
            )?;
            let mut found = statement.query([name.as_str()])?;
            let mut damaged = Vec::new();
            while let Some(row) = found.next()?
                && damaged.len() < MAX_BASES
            {
                let id: String = row.get(3).unwrap_or_default();
                let damage = match rows::record::<ValueRecord>(&name, row) {
                    Ok(record) if record.id.as_str() == id => continue,
                    Ok(_other) => Damage::Checksum,
                    Err(damaged) => damaged.damage,
                };
                damaged.push(DamagedPast::Base {
                    collection: name.clone(),
                    id,
                    revision: row.get(0).unwrap_or_default(),
                    damage,
                });
            }
            Ok(damaged)
        })
        .await
    }

    pub(in crate::store) async fn restore_base(&self, record: ValueRecord) -> anyhow::Result<()> {
        let restored = self.write(Durability::Synced, move |_store, transaction| {
            let sql = "DELETE FROM bases WHERE collection = ?1 AND id = ?2 AND revision = ?3";
            let key = params![
                record.collection.as_str(),
                record.id.as_str(),
                record.revision
            ];
            if transaction.execute(sql, key)? > 0 {
                put_base(transaction, &record)?;
            }
            Ok(End::Commit(()))
        });
        Ok(restored.await?)
    }
}

/// The base records of some documents after an id that may have one too many.
fn stored(
    transaction: &Transaction<'_>,
    collection: &CollectionName,
    after: &str,
    limit: usize,
) -> anyhow::Result<BTreeMap<String, BTreeMap<Revision, bool>>> {
    let mut statement = transaction.prepare_cached(
        "SELECT id FROM bases WHERE collection = ?1 AND id > ?2
         GROUP BY id HAVING count(*) > 1 OR max(deleted) OR ?4 ORDER BY id LIMIT ?3",
    )?;
    let all = limit == usize::MAX;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let ids = statement.query_map(params![collection.as_str(), after, limit, all], |row| {
        row.get::<_, String>(0)
    })?;
    let mut stored = BTreeMap::new();
    for id in ids {
        let id = id?;
        let records = stored_of(transaction, collection, &id)?;
        stored.insert(id, records);
    }
    Ok(stored)
}

/// The base records of a document, and which of them are deletions.
fn stored_of(
    transaction: &Transaction<'_>,
    collection: &CollectionName,
    id: &str,
) -> anyhow::Result<BTreeMap<Revision, bool>> {
    let mut statement = transaction
        .prepare_cached("SELECT revision, deleted FROM bases WHERE collection = ?1 AND id = ?2")?;
    let records = statement.query_map([collection.as_str(), id], |row| {
        Ok((row.get(0)?, row.get(1)?))
    })?;
    Ok(records.collect::<Result<_, _>>()?)
}

/// Leaves exactly those base records of a document that are needed. Those that are not base records
/// yet are copied from the log.
fn keep(
    transaction: &Transaction<'_>,
    collection: &CollectionName,
    id: &str,
    records: &BTreeMap<Revision, bool>,
    pins: &BTreeSet<Revision>,
    covered: Revision,
) -> anyhow::Result<BTreeSet<Revision>> {
    let needed = needed(records, pins, covered);
    for (revision, deleted) in records {
        if needed.contains(revision) {
            transaction
                .prepare_cached(
                    "INSERT OR IGNORE INTO bases (collection, id, revision, deleted, crc, record)
                     SELECT collection, ?3, revision, ?4, crc, record FROM changes
                     WHERE collection = ?1 AND revision = ?2",
                )?
                .execute(params![collection.as_str(), revision, id, deleted])?;
        } else {
            transaction
                .prepare_cached(
                    "DELETE FROM bases WHERE collection = ?1 AND id = ?2 AND revision = ?3",
                )?
                .execute(params![collection.as_str(), id, revision])?;
        }
    }
    Ok(needed)
}

fn put_base(transaction: &Transaction<'_>, record: &ValueRecord) -> anyhow::Result<()> {
    let text = serde_json::to_string(record)?;
    transaction
        .prepare_cached(
            "INSERT OR IGNORE INTO bases (collection, id, revision, deleted, crc, record)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            record.collection.as_str(),
            record.id.as_str(),
            record.revision,
            record.config_data.is_none(),
            rows::record_crc(&text),
            text,
        ])?;
    Ok(())
}

/// The first revision of which the state is known: each document whose first record after `lost`
/// replaced another value has that record.
fn first_complete(
    transaction: &Transaction<'_>,
    collection: &CollectionName,
    lost: Revision,
) -> anyhow::Result<Revision> {
    let mut statement = transaction.prepare_cached(
        "SELECT revision, crc, record FROM changes WHERE collection = ?1 AND revision > ?2
         ORDER BY revision",
    )?;
    let mut records = statement.query(params![collection.as_str(), lost])?;
    let mut seen = BTreeSet::new();
    let mut complete = lost;
    while let Some(row) = records.next()? {
        // A damaged record is reported by the reads that need it.
        let Ok((revision, text)) = rows::record_text(collection, row) else {
            continue;
        };
        let key: Key = serde_json::from_str(text)?;
        if seen.insert(key.id) && key.op != Operation::Create {
            complete = revision;
        }
    }
    Ok(complete)
}
