//! Base records in MongoDB: making them before the log is trimmed, making them again after records
//! were lost, and removing those that no state needs.
//!
//! Every transaction that adds or removes base records of a collection, or makes a named snapshot,
//! writes its coverage too: two publishers do so one after the other. Otherwise a slow publisher could
//! write an old base record again after a newer one of a deletion was removed, and the document would
//! come back. Only a repair writes without the coverage: it replaces a base record that is there by
//! the same record, and gives a damaged coverage up.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::ensure;
use contract::{Change, CollectionName, DocumentId, Operation, Revision};
use mongodb::{
    ClientSession,
    bson::{Document as Bdoc, RawDocument, doc},
};
use serde::Deserialize;
use tracing::warn;

use crate::store::{
    integrity::{DamagedDocument, DamagedPast, text_checksum},
    mongo::{
        BASES, CHANGES, COVERAGE, Mongo, call,
        rows::{self, as_number},
        transaction::in_transaction,
    },
    past::{
        PastPoint, ValueRecord,
        bases::{Coverage, needed},
    },
    repair::MAX_BASES,
};

/// Documents whose base records are examined in one transaction.
const SWEEP_IDS: usize = 500;
/// Rows of which base records are made in one transaction, after records were lost.
const ADOPT_ROWS: i64 = 200;

/// The coverage of a collection as it is stored.
#[derive(Debug, Default)]
pub(super) struct CoverageRow {
    pub(super) coverage: Coverage,
    /// How often it was written; 0 = never.
    version: i64,
}

/// The members of a record that decide whether it is needed.
#[derive(Deserialize)]
struct Key {
    id: DocumentId,
    op: Operation,
}

/// Records of documents, and which of them are deletions.
type Records = BTreeMap<DocumentId, BTreeMap<Revision, bool>>;

/// Which base records were made.
#[derive(Debug, Default)]
pub(in crate::store) struct MadeBases {
    /// Whether all are there that the records need. Otherwise a record before them is lost.
    is_complete: bool,
    /// The documents that may have too many now.
    ids: Vec<DocumentId>,
    /// The version of the coverage with which no other documents have too many.
    only: Option<i64>,
}

/// Another publisher wrote the coverage since it was read. It does the same.
#[derive(Debug, thiserror::Error)]
#[error("another publisher makes base records of the same collection")]
struct Overtaken;

impl Mongo {
    /// What the base records of a collection cover, in a snapshot session or a transaction.
    ///
    /// # Errors
    /// [`DamagedPast::Coverage`]: to take it for a collection without any would give all of them up.
    pub(super) async fn coverage_in(
        &self,
        session: &mut ClientSession,
        collection: &CollectionName,
    ) -> anyhow::Result<CoverageRow> {
        let row = self
            .table_at_snapshot(COVERAGE)
            .find_one(doc! { "_id": collection.as_str() })
            .session(session)
            .await?;
        let Some(row) = row else {
            return Ok(CoverageRow::default());
        };
        let text = row.get_str("coverage").unwrap_or_default();
        let whole = row
            .get_str("crc")
            .is_ok_and(|crc| crc == checksum(collection, text));
        let coverage = whole.then(|| serde_json::from_str(text).ok()).flatten();
        Ok(CoverageRow {
            coverage: coverage.ok_or_else(|| DamagedPast::Coverage(collection.clone()))?,
            version: row.get_i64("version").unwrap_or_default(),
        })
    }

    /// Replaces the coverage that was read in the same transaction.
    pub(super) async fn put_coverage_in(
        &self,
        session: &mut ClientSession,
        collection: &CollectionName,
        read: &CoverageRow,
        coverage: &Coverage,
    ) -> anyhow::Result<()> {
        let text = serde_json::to_string(coverage)?;
        let update = doc! { "$set": {
            "version": read.version + 1,
            "crc": checksum(collection, &text),
            "coverage": text,
        } };
        self.table(COVERAGE)
            .update_one(doc! { "_id": collection.as_str() }, update)
            .upsert(true)
            .session(session)
            .await?;
        Ok(())
    }

    /// Makes base records of the records up to `last`, which are about to be removed. `None`: they must
    /// not be, because a dump is being put back.
    pub(in crate::store) async fn make_bases(
        &self,
        collection: &CollectionName,
        last: Revision,
    ) -> anyhow::Result<Option<MadeBases>> {
        in_transaction!(self, |session| {
            let head = self.head_in(session, collection).await?;
            let row = self.coverage_in(session, collection).await?;
            let covered = row.coverage.covered;
            if covered >= last {
                return Ok(Some(MadeBases {
                    is_complete: true,
                    ..MadeBases::default()
                }));
            }
            let mut texts = BTreeMap::new();
            let mut records = Records::new();
            let filter = doc! {
                "collection": collection.as_str(),
                "revision": { "$gt": as_number(covered), "$lte": as_number(last) },
            };
            let mut found = Self::raw(self.table_at_snapshot(CHANGES))
                .find(filter)
                .sort(doc! { "revision": 1 })
                .session(&mut *session)
                .await?;
            let mut expected = covered;
            while found.advance(session).await? {
                expected += 1;
                let Ok(record) = rows::record::<ValueRecord>(collection, found.current()) else {
                    break;
                };
                if record.revision != expected {
                    break;
                }
                let of_document = records.entry(record.id).or_default();
                of_document.insert(expected, record.config_data.is_none());
                texts.insert(expected, found.current().get_str("change")?.to_owned());
            }
            // Without this one record the states are not known: `cover` begins again after it.
            let newest = texts
                .get(&last)
                .map(|text| serde_json::from_str::<Change>(text));
            let Some(newest) = newest.transpose()? else {
                // A log that was trimmed has a coverage, unless it is about to be put back.
                let is_restored = row.version == 0 && head.oldest > 1;
                return Ok((!is_restored).then(MadeBases::default));
            };
            let mut pins = self.pins_in(session, collection, &row.coverage).await?;
            let kept_pins: BTreeSet<_> = row.coverage.pins.union(&pins).copied().collect();
            // Nothing is removed here, because states from `oldest` - 1 on are kept until it moves.
            pins.insert(head.oldest.saturating_sub(1));
            let ids: Vec<_> = records.keys().cloned().collect();
            for (id, older) in self.stored_of(session, collection, &ids).await? {
                records.entry(id).or_default().extend(older);
            }
            let mut inserted = Vec::new();
            for (id, revisions) in &records {
                for revision in needed(revisions, &pins, last) {
                    if let Some(text) = texts.get(&revision) {
                        let deleted = revisions[&revision];
                        inserted.push(rows::base_row(collection, id, revision, deleted, text));
                    }
                }
            }
            self.insert_bases(session, inserted).await?;
            let coverage = Coverage {
                pins: kept_pins,
                unswept: true,
                ..row.coverage.advanced(&PastPoint::from(&newest))
            };
            self.put_coverage_in(session, collection, &row, &coverage)
                .await?;
            Ok(Some(MadeBases {
                is_complete: true,
                ids,
                only: (!row.coverage.unswept).then_some(row.version + 1),
            }))
        })
    }

    /// Removes the base records that no state needs since `oldest` of the head was raised. `false`, and
    /// nothing is removed, when those that were made up to `last` are gone: a dump was put back.
    pub(in crate::store) async fn remove_replaced(
        &self,
        collection: &CollectionName,
        made: &MadeBases,
        last: Revision,
    ) -> anyhow::Result<bool> {
        if !made.is_complete {
            return Ok(true);
        }
        in_transaction!(self, |session| {
            let row = self.coverage_in(session, collection).await?;
            if row.coverage.covered < last {
                return Ok(false);
            }
            if made.ids.is_empty() {
                return Ok(true);
            }
            let stored = self.stored_of(session, collection, &made.ids).await?;
            self.keep_needed(session, collection, &row.coverage, &stored)
                .await?;
            let mut swept = row.coverage.clone();
            // Otherwise another publisher has made some since, and the next sweep removes them.
            swept.unswept &= made.only != Some(row.version);
            self.put_coverage_in(session, collection, &row, &swept)
                .await?;
            Ok(true)
        })
    }

    /// Removes all base records of a collection that no state needs, where there may be some: a named
    /// snapshot was deleted, or a publisher stopped before it removed them.
    pub(in crate::store) async fn sweep(&self, collection: &CollectionName) -> anyhow::Result<()> {
        let mut session = self.snapshot_session().await?;
        let coverage = self.coverage_in(&mut session, collection).await?.coverage;
        let pins = self.pins_in(&mut session, collection, &coverage).await?;
        drop(session);
        if !coverage.unswept && coverage.pins.is_subset(&pins) {
            return Ok(());
        }
        let mut after = None::<DocumentId>;
        loop {
            let from = after.clone();
            let last = in_transaction!(self, |session| {
                let row = self.coverage_in(session, collection).await?;
                let stored = self
                    .stored_after(session, collection, from.as_ref())
                    .await?;
                self.keep_needed(session, collection, &row.coverage, &stored)
                    .await?;
                let last = stored.into_keys().next_back();
                let mut swept = row.coverage.clone();
                if last.is_none() {
                    swept.pins = self.pins_in(session, collection, &row.coverage).await?;
                    swept.unswept = false;
                }
                self.put_coverage_in(session, collection, &row, &swept)
                    .await?;
                Ok(last)
            });
            after = last?;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// Makes base records of the documents where records were removed without any: by an earlier
    /// version, by a repair, or because they were damaged.
    pub(in crate::store) async fn cover(&self, collection: &CollectionName) -> anyhow::Result<()> {
        let view = self.past_view(collection).await?;
        let Some(lost) = view.head.oldest.checked_sub(1) else {
            return Ok(());
        };
        if view.coverage.covered >= lost {
            return Ok(());
        }
        // A publisher that stopped, or a dump that was put back, can leave the records there.
        if let Some(made) = self.make_bases(collection, lost).await?
            && made.is_complete
        {
            return Ok(());
        }
        match self.adopt(collection, lost).await {
            Err(error) if error.is::<Overtaken>() => Ok(()),
            ended => ended,
        }
    }

    async fn adopt(&self, collection: &CollectionName, lost: Revision) -> anyhow::Result<()> {
        let mut session = self.snapshot_session().await?;
        let mut version = self.coverage_in(&mut session, collection).await?.version;
        drop(session);
        // What is true of the lost revisions is not known, so only pinned states keep what they had.
        let mut after = None::<DocumentId>;
        loop {
            let from = after.clone();
            let last = in_transaction!(self, |session| {
                let row = self.begin_adoption(session, collection, version).await?;
                let stored = self
                    .stored_after(session, collection, from.as_ref())
                    .await?;
                let pins = self.pins_in(session, collection, &row.coverage).await?;
                let mut tombstones = Vec::new();
                for (id, records) in &stored {
                    let kept = needed(records, &pins, 0);
                    self.remove_bases(session, collection, id, records, &kept)
                        .await?;
                    if !kept.is_empty() && !kept.contains(&lost) {
                        // Unless it has a document, an older base record does not say what it is now.
                        tombstones.push(base_of(&ValueRecord {
                            collection: collection.clone(),
                            id: id.clone(),
                            revision: lost,
                            config_data: None,
                        })?);
                    }
                }
                self.insert_bases(session, tombstones).await?;
                Ok(stored.into_keys().next_back())
            });
            version += 1;
            after = last?;
            if after.is_none() {
                break;
            }
        }
        let mut after = String::new();
        loop {
            let from = after.clone();
            let last = in_transaction!(self, |session| {
                self.begin_adoption(session, collection, version).await?;
                self.adopt_rows(session, collection, &from, lost).await
            });
            version += 1;
            let Some(last) = last? else { break };
            after = last;
        }
        // After the documents were read: each record that is missing here is of a document that was.
        let complete = self.first_complete(collection, lost).await?;
        in_transaction!(self, |session| {
            let row = self.begin_adoption(session, collection, version).await?;
            let head = self.head_in(session, collection).await?;
            ensure!(head.oldest == lost + 1, Overtaken);
            let state = PastPoint::of_head(&head);
            let state = (lost == head.revision).then_some(&state);
            let coverage = row.coverage.after_loss(lost, complete, state);
            warn!(
                %collection, from = row.coverage.covered, oldest = coverage.complete,
                "changes of {collection} were removed without base records, so its states before \
                 revision {} are not kept, except those of older snapshots", coverage.complete
            );
            self.put_coverage_in(session, collection, &row, &coverage)
                .await
        })
    }

    /// Reads the coverage, and writes the same one, so that nobody else changes base records in
    /// between two transactions of an adoption.
    async fn begin_adoption(
        &self,
        session: &mut ClientSession,
        collection: &CollectionName,
        version: i64,
    ) -> anyhow::Result<CoverageRow> {
        let row = self.coverage_in(session, collection).await?;
        ensure!(row.version == version, Overtaken);
        self.put_coverage_in(session, collection, &row, &row.coverage)
            .await?;
        Ok(row)
    }

    /// Makes base records of the documents after an id that have no record after `lost`. The last id;
    /// `None` at the end.
    async fn adopt_rows(
        &self,
        session: &mut ClientSession,
        collection: &CollectionName,
        after: &str,
        lost: Revision,
    ) -> anyhow::Result<Option<String>> {
        let mut found = Self::raw(self.table_at_snapshot(collection.as_str()))
            .find(doc! { "_id": { "$gt": after } })
            .sort(doc! { "_id": 1 })
            .limit(ADOPT_ROWS)
            .session(&mut *session)
            .await?;
        let mut records = Vec::new();
        let mut last = None;
        while found.advance(session).await? {
            let row: &RawDocument = found.current();
            let id = row.get_str("_id")?.to_owned();
            let document = rows::document(collection, row).map_err(|damage| DamagedDocument {
                collection: collection.clone(),
                id: id.clone(),
                damage,
            })?;
            last = Some(id);
            if document.revision() <= lost {
                records.push(ValueRecord::of(collection, &document)?);
            }
        }
        let ids: Vec<_> = records.iter().map(|record| record.id.clone()).collect();
        let stored = self.stored_of(session, collection, &ids).await?;
        let mut inserted = Vec::new();
        for record in &records {
            let none = BTreeMap::new();
            let known = stored.get(&record.id).unwrap_or(&none);
            if known.get(&lost) == Some(&true) {
                let tombstone = BTreeMap::from([(lost, true)]);
                self.remove_bases(
                    session,
                    collection,
                    &record.id,
                    &tombstone,
                    &BTreeSet::new(),
                )
                .await?;
            }
            if known.get(&record.revision) != Some(&false) {
                inserted.push(base_of(record)?);
            }
        }
        self.insert_bases(session, inserted).await?;
        Ok(last)
    }

    /// The first revision of which the state is known: each document whose first record after `lost`
    /// replaced another value has that record.
    async fn first_complete(
        &self,
        collection: &CollectionName,
        lost: Revision,
    ) -> anyhow::Result<Revision> {
        let filter = doc! {
            "collection": collection.as_str(), "revision": { "$gt": as_number(lost) },
        };
        let table = Self::raw(self.table(CHANGES));
        let mut found = call(table.find(filter).sort(doc! { "revision": 1 })).await?;
        let mut seen = BTreeSet::new();
        let mut complete = lost;
        while call(found.advance()).await? {
            // A damaged record is reported by the reads that need it.
            let Ok(key) = serde_json::from_str::<Key>(found.current().get_str("change")?) else {
                continue;
            };
            if seen.insert(key.id) && key.op != Operation::Create {
                complete = rows::revision(found.current())?;
            }
        }
        Ok(complete)
    }

    /// The base records of documents, and which of them are deletions.
    async fn stored_of(
        &self,
        session: &mut ClientSession,
        collection: &CollectionName,
        ids: &[DocumentId],
    ) -> anyhow::Result<Records> {
        let ids: Vec<_> = ids.iter().map(DocumentId::as_str).collect();
        let filter = doc! { "collection": collection.as_str(), "id": { "$in": ids } };
        self.stored(session, filter, usize::MAX).await
    }

    /// The base records of the next documents after an id.
    async fn stored_after(
        &self,
        session: &mut ClientSession,
        collection: &CollectionName,
        after: Option<&DocumentId>,
    ) -> anyhow::Result<Records> {
        let after = after.map_or("", DocumentId::as_str);
        let filter = doc! { "collection": collection.as_str(), "id": { "$gt": after } };
        self.stored(session, filter, SWEEP_IDS).await
    }

    async fn stored(
        &self,
        session: &mut ClientSession,
        filter: Bdoc,
        limit: usize,
    ) -> anyhow::Result<Records> {
        let mut found = self
            .table_at_snapshot(BASES)
            .find(filter)
            .projection(doc! { "_id": 0, "id": 1, "revision": 1, "deleted": 1 })
            .sort(doc! { "id": 1, "revision": 1 })
            .session(&mut *session)
            .await?;
        let mut records = Records::new();
        while found.advance(session).await? {
            let row = found.current();
            let id: DocumentId = row.get_str("id")?.parse()?;
            if records.len() == limit && !records.contains_key(&id) {
                break;
            }
            let of_document = records.entry(id).or_default();
            of_document.insert(rows::revision(row)?, row.get_bool("deleted")?);
        }
        Ok(records)
    }

    async fn keep_needed(
        &self,
        session: &mut ClientSession,
        collection: &CollectionName,
        coverage: &Coverage,
        stored: &Records,
    ) -> anyhow::Result<()> {
        let head = self.head_in(session, collection).await?;
        let mut pins = self.pins_in(session, collection, coverage).await?;
        // It may be before what is covered, when a publisher stopped in between.
        pins.insert(head.oldest.saturating_sub(1));
        for (id, records) in stored {
            let kept = needed(records, &pins, coverage.covered);
            self.remove_bases(session, collection, id, records, &kept)
                .await?;
        }
        Ok(())
    }

    /// Removes base records of a document, except those that are kept.
    async fn remove_bases(
        &self,
        session: &mut ClientSession,
        collection: &CollectionName,
        id: &DocumentId,
        records: &BTreeMap<Revision, bool>,
        kept: &BTreeSet<Revision>,
    ) -> anyhow::Result<()> {
        let removed = records.keys().filter(|revision| !kept.contains(revision));
        let removed: Vec<_> = removed.map(|revision| as_number(*revision)).collect();
        if removed.is_empty() {
            return Ok(());
        }
        let filter = doc! {
            "collection": collection.as_str(),
            "id": id.as_str(),
            "revision": { "$in": removed },
        };
        self.table(BASES)
            .delete_many(filter)
            .session(session)
            .await?;
        Ok(())
    }

    async fn insert_bases(
        &self,
        session: &mut ClientSession,
        bases: Vec<Bdoc>,
    ) -> anyhow::Result<()> {
        if !bases.is_empty() {
            self.table(BASES)
                .insert_many(bases)
                .session(session)
                .await?;
        }
        Ok(())
    }
}

impl Mongo {
    pub(in crate::store) async fn discard_coverage(
        &self,
        collection: &CollectionName,
    ) -> anyhow::Result<()> {
        let row = doc! { "_id": collection.as_str() };
        call(self.table(COVERAGE).delete_one(row)).await?;
        Ok(())
    }

    pub(in crate::store) async fn damaged_bases(
        &self,
        collection: &CollectionName,
    ) -> anyhow::Result<Vec<DamagedPast>> {
        let table = Self::raw(self.table(BASES));
        let mut found = call(table.find(doc! { "collection": collection.as_str() })).await?;
        let mut damaged = Vec::new();
        while damaged.len() < MAX_BASES && call(found.advance()).await? {
            damaged.extend(super::past::base(collection, found.current()).err());
        }
        Ok(damaged)
    }

    pub(in crate::store) async fn restore_base(&self, record: ValueRecord) -> anyhow::Result<()> {
        let key = doc! {
            "collection": record.collection.as_str(),
            "id": record.id.as_str(),
            "revision": as_number(record.revision),
        };
        // Only if it is still there.
        let table = self.table(BASES);
        call(table.replace_one(key, base_of(&record)?)).await?;
        Ok(())
    }
}

fn base_of(record: &ValueRecord) -> anyhow::Result<Bdoc> {
    let text = serde_json::to_string(record)?;
    let ValueRecord {
        collection,
        id,
        revision,
        config_data,
    } = record;
    let deleted = config_data.is_none();
    Ok(rows::base_row(collection, id, *revision, deleted, &text))
}

fn checksum(collection: &CollectionName, text: &str) -> String {
    text_checksum(&format!("coverage {collection}"), text).to_string()
}
