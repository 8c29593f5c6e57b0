//! Reading the past: states of collections, and steps of their history.
//!
//! For a state, head, coverage, log and base records are read in one snapshot session, so they belong
//! together while another publisher trims the log. A step of history reads the head and then the log:
//! what is trimmed in between is no longer part of the history.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::Context;
use contract::{
    Change, CollectionName, Digest, Document, DocumentId, Head, Revision, history::HistoryFilter,
};
use mongodb::{
    ClientSession,
    bson::{Document as Bdoc, RawDocument, RawDocumentBuf, doc},
};

use crate::store::{
    document_cursor::CHUNK_BYTES,
    integrity::DamagedPast,
    mongo::{
        BASES, CHANGES, Mongo,
        bases::CoverageRow,
        rows::{self, as_number},
        transaction::{in_snapshot, in_time},
    },
    past::{
        PastPiece, PastPoint, PastView, ValueRecord,
        bases::Coverage,
        evidence::{Evidence, NextChange},
        history::{self, Step, StepLimits},
    },
};

/// Records that are read at once: of these, most are of documents of one piece.
const RECORDS_AT_ONCE: usize = 64;

impl Mongo {
    pub(in crate::store) async fn past_view(
        &self,
        collection: &CollectionName,
    ) -> anyhow::Result<PastView> {
        in_snapshot!(self, |session| { self.view_in(session, collection).await })
    }

    /// What a collection keeps of its past, in a snapshot session or a transaction.
    pub(super) async fn view_in(
        &self,
        session: &mut ClientSession,
        collection: &CollectionName,
    ) -> anyhow::Result<PastView> {
        let head = self.head_in(session, collection).await?;
        let CoverageRow { coverage, .. } = self.coverage_in(session, collection).await?;
        Ok(PastView { head, coverage })
    }

    /// The head of a collection, in a snapshot session or a transaction.
    pub(super) async fn head_in(
        &self,
        session: &mut ClientSession,
        collection: &CollectionName,
    ) -> anyhow::Result<Head> {
        let identity = self.identity_in(session).await?;
        let heads = self.heads_in(session, &identity, [collection].into_iter());
        heads.await?.pop().context("no head was read")
    }

    /// What the base records cover, which have all that the state at a revision needs of what is not
    /// in the log after them.
    ///
    /// # Errors
    /// [`PastError::NotKept`](crate::store::past::PastError::NotKept) unless the state is kept.
    async fn kept(
        &self,
        session: &mut ClientSession,
        view: PastView,
        revision: Revision,
    ) -> anyhow::Result<Coverage> {
        let (collection, coverage) = (&view.head.collection, &view.coverage);
        let is_kept = view.keeps(revision)
            || view.keeps_pinned(revision)
                && (self.pins_in(session, collection, coverage).await?).contains(&revision);
        if is_kept {
            return Ok(view.coverage);
        }
        Err(view.not_kept().into())
    }

    /// The rows that say what a document was at a point.
    pub(in crate::store) async fn evidence(
        &self,
        point: &PastPoint,
        id: &DocumentId,
    ) -> anyhow::Result<Evidence> {
        let (collection, revision) = (&point.collection, point.revision);
        in_snapshot!(self, |session| {
            let view = self.view_in(session, collection).await?;
            let coverage = self.kept(session, view, revision).await?;
            let covered = coverage.covered;
            let in_log = of_document(collection, id, covered, revision);
            let mut found = self.newest_in_log(session, collection, in_log).await?;
            if found.is_none() {
                let at = revision.min(covered);
                found = self.newest_in_bases(session, collection, id, at).await?;
            }
            let is_followed = covered <= revision;
            let mut next = None;
            if is_followed {
                let change = self.first_after(session, collection, id, revision).await?;
                if let Some(change) = change {
                    let before = self
                        .digest_before(session, collection, &coverage, change.revision)
                        .await?;
                    next = Some(NextChange { change, before });
                }
            }
            Ok(Evidence {
                found,
                next,
                is_followed,
            })
        })
    }

    /// The first change of a document in the log after a revision.
    async fn first_after(
        &self,
        session: &mut ClientSession,
        collection: &CollectionName,
        id: &DocumentId,
        after: Revision,
    ) -> anyhow::Result<Option<Change>> {
        let row = Self::raw(self.table_at_snapshot(CHANGES))
            .find_one(of_document(collection, id, after, Revision::MAX))
            .sort(doc! { "revision": 1 })
            .session(session)
            .await?;
        let change = row.map(|row| rows::record(collection, &row));
        Ok(change
            .transpose()
            .inspect_err(|damaged| self.damage.report_record(damaged))?)
    }

    /// The digest of the state before a change, if a row has it.
    async fn digest_before(
        &self,
        session: &mut ClientSession,
        collection: &CollectionName,
        coverage: &Coverage,
        revision: Revision,
    ) -> anyhow::Result<Option<Digest>> {
        let before = revision.saturating_sub(1);
        if before == 0 {
            return Ok(Some(Digest::default()));
        }
        let row = Self::raw(self.table_at_snapshot(CHANGES))
            .find_one(doc! { "collection": collection.as_str(), "revision": as_number(before) })
            .session(&mut *session)
            .await?;
        match row.map(|row| rows::record::<Change>(collection, &row)) {
            Some(Ok(record)) => Ok(Some(record.digest)),
            Some(Err(damaged)) => {
                self.damage.report_record(&damaged);
                Ok(None)
            }
            None => Ok((coverage.covered == before).then_some(coverage.digest)),
        }
    }

    /// What a change replaced, if that is kept, and the digest of the state before it.
    pub(in crate::store) async fn before_change(
        &self,
        change: &Change,
    ) -> anyhow::Result<(Option<ValueRecord>, Option<Digest>)> {
        let (collection, id) = (&change.collection, &change.id);
        let revision = change.revision.saturating_sub(1);
        in_snapshot!(self, |session| {
            let view = self.view_in(session, collection).await?;
            // Every later record of the document is in the log too.
            let trimmed = view
                .head
                .oldest
                .saturating_sub(1)
                .max(view.coverage.covered);
            let in_log = of_document(collection, id, trimmed, revision);
            let logged = self.newest_in_log(session, collection, in_log).await?;
            let (record, coverage) = match logged {
                Some(record) => (Some(record), view.coverage),
                None => {
                    let coverage = self.kept(session, view, revision).await?;
                    // What is kept and not in this part of the log is a base record.
                    let at = revision.min(coverage.covered);
                    let record = self.newest_in_bases(session, collection, id, at).await?;
                    (record, coverage)
                }
            };
            let digest = self
                .digest_before(session, collection, &coverage, change.revision)
                .await?;
            Ok((record, digest))
        })
    }

    /// The newest base record of a document at or before a revision.
    async fn newest_in_bases(
        &self,
        session: &mut ClientSession,
        collection: &CollectionName,
        id: &DocumentId,
        revision: Revision,
    ) -> anyhow::Result<Option<ValueRecord>> {
        let row = Self::raw(self.table_at_snapshot(BASES))
            .find_one(of_document(collection, id, 0, revision))
            .sort(doc! { "revision": -1 })
            .session(session)
            .await?;
        let record = row.map(|row| base(collection, &row));
        Ok(record.transpose()?)
    }

    /// The newest record of a document in a part of the log.
    async fn newest_in_log(
        &self,
        session: &mut ClientSession,
        collection: &CollectionName,
        filter: Bdoc,
    ) -> anyhow::Result<Option<ValueRecord>> {
        let row = Self::raw(self.table_at_snapshot(CHANGES))
            .find_one(filter)
            .sort(doc! { "revision": -1 })
            .session(session)
            .await?;
        let record = row.map(|row| rows::record::<ValueRecord>(collection, &row));
        Ok(record
            .transpose()
            .inspect_err(|damaged| self.damage.report_record(damaged))?)
    }

    pub(in crate::store) async fn past_piece(
        &self,
        point: &PastPoint,
        after: Option<&DocumentId>,
        ids: usize,
    ) -> anyhow::Result<PastPiece> {
        let collection = &point.collection;
        in_snapshot!(self, |session| {
            let view = self.view_in(session, collection).await?;
            let covered = self.kept(session, view, point.revision).await?.covered;
            let mut newest = BTreeMap::new();
            // Where one of the two lists ends early, the other is used no further.
            let mut end = None;
            for (table, from, to) in [
                (CHANGES, covered, point.revision),
                (BASES, 0, point.revision.min(covered)),
            ] {
                let listed = self.newest_of_ids(session, table, collection, after, ids, (from, to));
                let (found, last) = listed.await?;
                for (id, revision) in found {
                    let known = newest.entry(id).or_insert((revision, table));
                    if known.0 < revision {
                        *known = (revision, table);
                    }
                }
                end = end.into_iter().chain(last).min();
            }
            let newest: Vec<_> = newest
                .into_iter()
                .filter(|(id, _newest)| end.as_ref().is_none_or(|end| id <= end))
                .collect();
            let mut piece = PastPiece::default();
            let mut bytes = 0;
            for some in newest.chunks(RECORDS_AT_ONCE) {
                let mut records = BTreeMap::new();
                for table in [CHANGES, BASES] {
                    let of_table = some.iter().filter(|(_id, (_revision, of))| *of == table);
                    let keys: Vec<_> = of_table
                        .map(|(id, (revision, _of))| (id, *revision))
                        .collect();
                    self.read_records(session, table, collection, &keys, &mut records)
                        .await?;
                }
                let last = some.last().map(|(id, _newest)| id.clone());
                piece.examined += some.len();
                for record in records.into_values() {
                    let document: Option<Document> = record.document();
                    bytes += document.as_ref().map_or(0, |it| it.json().len());
                    piece.documents.extend(document);
                }
                if bytes >= CHUNK_BYTES {
                    piece.last = last;
                    return Ok(piece);
                }
            }
            piece.last = end;
            Ok(piece)
        })
    }

    /// The newest revision of each document after an id, in a range of revisions (its first one not
    /// included), and the last id if there are more.
    async fn newest_of_ids(
        &self,
        session: &mut ClientSession,
        table: &str,
        collection: &CollectionName,
        after: Option<&DocumentId>,
        limit: usize,
        (from, to): (Revision, Revision),
    ) -> anyhow::Result<(BTreeMap<DocumentId, Revision>, Option<DocumentId>)> {
        let mut newest = BTreeMap::<DocumentId, Revision>::new();
        if from >= to {
            return Ok((newest, None));
        }
        let filter = doc! {
            "collection": collection.as_str(),
            "id": { "$gt": after.map_or("", DocumentId::as_str) },
            "revision": { "$gt": as_number(from), "$lte": as_number(to) },
        };
        // Only the index is read.
        let mut found = self
            .table_at_snapshot(table)
            .find(filter)
            .projection(doc! { "_id": 0, "id": 1, "revision": 1 })
            .sort(doc! { "collection": 1, "id": 1, "revision": 1 })
            .session(&mut *session)
            .await?;
        while found.advance(session).await? {
            let row = found.current();
            let (id, revision) = (row.get_str("id")?.parse()?, rows::revision(row)?);
            if newest.len() == limit && !newest.contains_key(&id) {
                let last = newest.keys().next_back().cloned();
                return Ok((newest, last));
            }
            newest.insert(id, revision);
        }
        Ok((newest, None))
    }

    async fn read_records(
        &self,
        session: &mut ClientSession,
        table: &str,
        collection: &CollectionName,
        keys: &[(&DocumentId, Revision)],
        records: &mut BTreeMap<DocumentId, ValueRecord>,
    ) -> anyhow::Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        let revisions: Vec<_> = keys
            .iter()
            .map(|(_id, revision)| as_number(*revision))
            .collect();
        let ids: Vec<_> = keys.iter().map(|(id, _revision)| id.as_str()).collect();
        // By the key of the table.
        let mut filter = doc! { "collection": collection.as_str() };
        if table == BASES {
            filter.insert("id", doc! { "$in": ids });
        }
        filter.insert("revision", doc! { "$in": revisions });
        let mut found = Self::raw(self.table_at_snapshot(table))
            .find(filter)
            .session(&mut *session)
            .await?;
        while found.advance(session).await? {
            let record = match table {
                BASES => base(collection, found.current())?,
                _log => rows::record::<ValueRecord>(collection, found.current())?,
            };
            // Another document may have a record of one of these revisions only in a damaged store.
            if keys.contains(&(&record.id, record.revision)) {
                records.insert(record.id.clone(), record);
            }
        }
        anyhow::ensure!(
            keys.iter().all(|(id, _revision)| records.contains_key(*id)),
            "records of {collection} are missing that an index has"
        );
        Ok(())
    }

    pub(in crate::store) async fn history_step(
        &self,
        collection: &CollectionName,
        before: Revision,
        filter: &Arc<HistoryFilter>,
        limits: StepLimits,
    ) -> anyhow::Result<Step> {
        let view = self.past_view(collection).await?;
        // A repair may leave records before it, of which some are lost.
        let oldest = as_number(view.head.oldest);
        let mut selected = doc! {
            "collection": collection.as_str(),
            "revision": { "$gte": oldest, "$lt": as_number(before) },
        };
        if let Some(id) = &filter.id {
            selected.insert("id", id.as_str());
        }
        let read = async {
            let mut found = Self::raw(self.table(CHANGES))
                .find(selected)
                .sort(doc! { "revision": -1 })
                .limit(i64::try_from(limits.records)?)
                .await?;
            let mut step = Step::default();
            // Every revision before it has a record. Those of one document have gaps.
            let mut expected = before.min(view.head.revision + 1);
            let is_whole = filter.id.is_none();
            if !is_whole && before > view.head.revision && view.head.revision >= view.head.oldest {
                let newest = doc! {
                    "collection": collection.as_str(),
                    "revision": as_number(view.head.revision),
                };
                if self.table(CHANGES).find_one(newest).await?.is_none() {
                    step.leave_out(view.head.revision, view.head.revision);
                }
            }
            while found.advance().await? {
                let row = found.current();
                step.records += 1;
                step.bytes += row.as_bytes().len();
                step.reached = rows::revision(row).unwrap_or(step.reached);
                if is_whole {
                    step.pass(step.reached, expected);
                }
                expected = step.reached;
                // A row without the text of a record is reported as damaged.
                let text = row.get_str("change").unwrap_or_default();
                if history::fits(filter, text).unwrap_or(true) {
                    match rows::record(collection, row) {
                        Ok(change) => step.found.push(change),
                        Err(damaged) => {
                            step.leave_out(damaged.revision, damaged.revision);
                            self.damage.report_record(&damaged);
                        }
                    }
                }
                if limits.reached_by(&step) {
                    return Ok(step);
                }
            }
            // Otherwise the records ended by their number.
            if is_whole && step.records < limits.records {
                step.pass(view.head.oldest.saturating_sub(1), expected);
            }
            step.reached = 0;
            anyhow::Ok(step)
        };
        let mut step = in_time(read).await?;
        if !step.unreadable.is_empty() {
            // What was trimmed meanwhile is no gap.
            let oldest = self.past_view(collection).await?.head.oldest;
            step.unreadable.retain(|(_first, last)| *last >= oldest);
        }
        Ok(step)
    }

    pub(in crate::store) async fn records_of_set(&self, set: &str) -> anyhow::Result<Vec<Change>> {
        let read = async {
            let mut found = Self::raw(self.table(CHANGES))
                .find(doc! { "set": set })
                .limit(i64::try_from(contract::set::MAX_OPERATIONS)?)
                .await?;
            let mut changes = Vec::new();
            while found.advance().await? {
                let row: RawDocumentBuf = found.current().to_owned();
                let collection = row.get_str("collection")?.parse()?;
                match rows::record::<Change>(&collection, &row) {
                    // An index is no proof.
                    Ok(change) => {
                        let of = change.change_set.as_ref();
                        changes.extend(of.is_some_and(|of| of.id == set).then_some(change));
                    }
                    Err(damaged) => self.damage.report_record(&damaged),
                }
            }
            anyhow::Ok(changes)
        };
        in_time(read).await
    }
}

/// The base record of a row.
pub(super) fn base(
    collection: &CollectionName,
    row: &RawDocument,
) -> Result<ValueRecord, DamagedPast> {
    rows::record::<ValueRecord>(collection, row).map_err(|damaged| DamagedPast::Base {
        collection: collection.clone(),
        id: row.get_str("id").unwrap_or_default().to_owned(),
        revision: damaged.revision,
        damage: damaged.damage,
    })
}

/// Selects the records of a document after a revision and at or before another one.
fn of_document(
    collection: &CollectionName,
    id: &DocumentId,
    after: Revision,
    to: Revision,
) -> Bdoc {
    doc! {
        "collection": collection.as_str(),
        "id": id.as_str(),
        "revision": { "$gt": as_number(after), "$lte": as_number(to) },
    }
}

#[cfg(test)]
impl Mongo {
    /// Edits a row as no publisher does.
    pub(in crate::store) async fn edit(
        &self,
        edit: crate::store::past::tests::damage::Edit,
    ) -> anyhow::Result<()> {
        use crate::store::past::tests::damage::Edit;
        let bases = self.table(BASES);
        match edit {
            Edit::RemoveBase(id) => {
                bases.delete_many(doc! { "id": id }).await?;
            }
            Edit::MoveBase(id) => {
                let moved = doc! { "$inc": { "revision": 100_i64 } };
                bases.update_many(doc! { "id": id }, moved).await?;
            }
            Edit::SwapBases(a, b) => {
                for (from, to) in [(a, "other"), (b, a), ("other", b)] {
                    let renamed = doc! { "$set": { "id": to } };
                    bases.update_many(doc! { "id": from }, renamed).await?;
                }
            }
            Edit::RemoveRecord(revision) => {
                let record = doc! { "revision": as_number(revision) };
                self.table(CHANGES).delete_many(record).await?;
            }
            Edit::DamageBase(id) => {
                let damaged = doc! { "$set": { "change": "{}" } };
                bases.update_many(doc! { "id": id }, damaged).await?;
            }
            Edit::DamageCoverage => {
                let damaged = doc! { "$set": { "coverage": "{}" } };
                let table = self.table(crate::store::mongo::COVERAGE);
                table.update_many(doc! {}, damaged).await?;
            }
            Edit::DamageSnapshot(name) => {
                let damaged = doc! { "$set": { "snapshot": "{" } };
                let table = self.table(crate::store::mongo::SNAPSHOTS);
                table.update_one(doc! { "_id": name }, damaged).await?;
            }
        }
        Ok(())
    }

    /// Leaves the records as an earlier version wrote them.
    pub(in crate::store) async fn forget_sets(&self) -> anyhow::Result<()> {
        let forgotten = doc! { "$unset": { "set": "" } };
        self.table(CHANGES).update_many(doc! {}, forgotten).await?;
        Ok(())
    }
}
