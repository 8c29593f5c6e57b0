//! Reading the past: states of collections, and steps of their history.
//!
//! Each call is one read transaction, so the log, the base records and what is kept belong together.

use std::sync::Arc;

use contract::{Change, CollectionName, Digest, DocumentId, Revision, history::HistoryFilter};
use rusqlite::{OptionalExtension, Transaction, params};

use crate::store::{
    document_cursor::CHUNK_BYTES,
    embedded::{Embedded, document_log, rows, snapshots::pins, tables},
    integrity::{Damage, DamagedPast},
    past::{
        PastPiece, PastPoint, PastView, ValueRecord,
        bases::Coverage,
        evidence::{Evidence, NextChange},
        history::{self, Step, StepLimits},
    },
};

/// Documents that are looked for in one call, at most, also where most of them do not exist.
const PIECE_IDS: usize = 1_000;
/// After so many it is known whether most of them exist. Tests have few documents.
const FEW_IDS: usize = if cfg!(test) { 4 } else { 32 };

impl Embedded {
    pub(in crate::store) async fn past_view(
        &self,
        collection: &CollectionName,
    ) -> anyhow::Result<PastView> {
        let name = collection.clone();
        self.read(move |store, transaction| store.view(transaction, &name))
            .await
    }

    pub(super) fn view(
        &self,
        transaction: &Transaction<'_>,
        collection: &CollectionName,
    ) -> anyhow::Result<PastView> {
        Ok(PastView {
            head: self.head(transaction, collection, &tables::identity(transaction)?)?,
            coverage: tables::coverage(transaction, collection)?,
        })
    }

    /// The rows that say what a document was at a point.
    pub(in crate::store) async fn evidence(
        &self,
        point: &PastPoint,
        id: &DocumentId,
    ) -> anyhow::Result<Evidence> {
        let (point, id) = (point.clone(), id.clone());
        self.read(move |store, transaction| {
            let (collection, revision) = (&point.collection, point.revision);
            let view = store.view(transaction, collection)?;
            let coverage = kept(transaction, view, revision)?;
            let covered = coverage.covered;
            let found = newest_at(transaction, collection, &id, covered, revision)?;
            let is_followed = covered <= revision;
            let mut next = None;
            if is_followed
                && let Some(change) = first_after(transaction, collection, &id, revision)?
            {
                let before =
                    store.digest_before(transaction, collection, &coverage, change.revision)?;
                next = Some(NextChange { change, before });
            }
            Ok(Evidence {
                found,
                next,
                is_followed,
            })
        })
        .await
    }

    /// The digest of the state before a change, if a row has it.
    fn digest_before(
        &self,
        transaction: &Transaction<'_>,
        collection: &CollectionName,
        coverage: &Coverage,
        revision: Revision,
    ) -> anyhow::Result<Option<Digest>> {
        let before = revision.saturating_sub(1);
        if before == 0 {
            return Ok(Some(Digest::default()));
        }
        let record = transaction
            .prepare_cached(
                "SELECT revision, crc, record FROM changes WHERE collection = ?1 AND revision = ?2",
            )?
            .query_row(params![collection.as_str(), before], |row| {
                Ok(rows::record::<Change>(collection, row))
            })
            .optional()?;
        match record {
            Some(Ok(record)) => Ok(Some(record.digest)),
            Some(Err(damaged)) => {
                self.0.damage.report_record(&damaged);
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
        let (collection, id) = (change.collection.clone(), change.id.clone());
        let revision = change.revision.saturating_sub(1);
        self.read(move |store, transaction| {
            let view = store.view(transaction, &collection)?;
            // Every later record of the document is in the log too.
            let trimmed = view
                .head
                .oldest
                .saturating_sub(1)
                .max(view.coverage.covered);
            let logged = newest_in_log(transaction, &collection, &id, trimmed, revision)?;
            let (record, coverage) = match logged {
                Some(record) => (Some(record), view.coverage),
                None => {
                    let coverage = kept(transaction, view, revision)?;
                    // What is kept and not in this part of the log is a base record.
                    let at = revision.min(coverage.covered);
                    let record = newest_in_bases(transaction, &collection, &id, at)?;
                    (record, coverage)
                }
            };
            let digest = store.digest_before(transaction, &collection, &coverage, revision + 1)?;
            Ok((record, digest))
        })
        .await
    }

    pub(in crate::store) async fn past_piece(
        &self,
        point: &PastPoint,
        after: Option<&DocumentId>,
    ) -> anyhow::Result<PastPiece> {
        let (point, after) = (point.clone(), after.cloned());
        self.read(move |store, transaction| {
            let view = store.view(transaction, &point.collection)?;
            let coverage = kept(transaction, view, point.revision)?;
            piece(transaction, &point, coverage.covered, after.as_ref())
        })
        .await
    }

    pub(in crate::store) async fn history_step(
        &self,
        collection: &CollectionName,
        before: Revision,
        filter: &Arc<HistoryFilter>,
        limits: StepLimits,
    ) -> anyhow::Result<Step> {
        let (collection, filter) = (collection.clone(), filter.clone());
        self.read(move |store, transaction| {
            let mut statement = match &filter.id {
                Some(_) => document_log::records_of_document(transaction)?,
                None => transaction.prepare_cached(
                    "SELECT revision, crc, record FROM changes
                     WHERE collection = ?1 AND revision < ?2 AND revision > ?3
                     ORDER BY revision DESC",
                )?,
            };
            let before = before.min(i64::MAX.unsigned_abs());
            let view = store.view(transaction, &collection)?;
            // A repair may leave records before it, of which some are lost.
            let trimmed = view.head.oldest.saturating_sub(1);
            let name = collection.as_str();
            let mut rows = match &filter.id {
                Some(id) => statement.query(params![name, before, id.as_str(), trimmed])?,
                None => statement.query(params![name, before, trimmed])?,
            };
            let mut step = Step::default();
            // Every revision before it has a record. Those of one document have gaps.
            let mut expected = before.min(view.head.revision + 1);
            let is_whole = filter.id.is_none();
            if !is_whole && before > view.head.revision && view.head.revision > trimmed {
                let newest = transaction
                    .prepare_cached(
                        "SELECT 1 FROM changes WHERE collection = ?1 AND revision = ?2",
                    )?
                    .exists(params![name, view.head.revision])?;
                if !newest {
                    step.leave_out(view.head.revision, view.head.revision);
                }
            }
            while let Some(row) = rows.next()? {
                step.records += 1;
                step.bytes += rows::bytes(row)?;
                let revision: Revision = row.get(0).unwrap_or_default();
                if is_whole {
                    step.pass(revision, expected);
                }
                expected = revision;
                let read = rows::record_text(&collection, row);
                let read = read.and_then(|(revision, text)| {
                    step.reached = revision;
                    // Text that is no record is reported as damaged.
                    let fits = history::fits(&filter, text).unwrap_or(true);
                    fits.then(|| rows::record(&collection, row)).transpose()
                });
                match read {
                    Ok(change) => step.found.extend(change),
                    Err(damaged) => {
                        step.reached = damaged.revision;
                        step.leave_out(damaged.revision, damaged.revision);
                        store.0.damage.report_record(&damaged);
                    }
                }
                if limits.reached_by(&step) {
                    return Ok(step);
                }
            }
            if is_whole {
                step.pass(trimmed, expected);
            }
            step.reached = 0;
            Ok(step)
        })
        .await
    }

    pub(in crate::store) async fn records_of_set(&self, set: &str) -> anyhow::Result<Vec<Change>> {
        let set = set.to_owned();
        self.read(move |store, transaction| {
            let mut statement = transaction.prepare_cached(
                "SELECT revision, crc, record, collection FROM changes WHERE set_id = ?1
                 ORDER BY collection, revision LIMIT ?2",
            )?;
            let mut rows = statement.query(params![set, contract::set::MAX_OPERATIONS])?;
            let mut changes = Vec::new();
            while let Some(row) = rows.next()? {
                let collection: CollectionName = row.get::<_, String>(3)?.parse()?;
                match rows::record::<Change>(&collection, row) {
                    // An index is no proof.
                    Ok(change) => {
                        let of = change.change_set.as_ref();
                        changes.extend(of.is_some_and(|of| of.id == set).then_some(change));
                    }
                    Err(damaged) => store.0.damage.report_record(&damaged),
                }
            }
            Ok(changes)
        })
        .await
    }
}

/// What the base records cover, which have all that the state at a revision needs of what is not in
/// the log after them.
///
/// # Errors
/// [`PastError::NotKept`](crate::store::past::PastError::NotKept) unless the state is kept.
fn kept(
    transaction: &Transaction<'_>,
    view: PastView,
    revision: Revision,
) -> anyhow::Result<Coverage> {
    let is_kept = view.keeps(revision)
        || view.keeps_pinned(revision)
            && pins(transaction, &view.head.collection, &view.coverage)?.contains(&revision);
    if is_kept {
        return Ok(view.coverage);
    }
    Err(view.not_kept().into())
}

/// The newest record of a document at or before a revision: of the log after `covered`, else a base
/// record.
fn newest_at(
    transaction: &Transaction<'_>,
    collection: &CollectionName,
    id: &DocumentId,
    covered: Revision,
    revision: Revision,
) -> anyhow::Result<Option<ValueRecord>> {
    if let Some(record) = newest_in_log(transaction, collection, id, covered, revision)? {
        return Ok(Some(record));
    }
    newest_in_bases(transaction, collection, id, revision.min(covered))
}

/// The newest base record of a document at or before a revision.
fn newest_in_bases(
    transaction: &Transaction<'_>,
    collection: &CollectionName,
    id: &DocumentId,
    revision: Revision,
) -> anyhow::Result<Option<ValueRecord>> {
    let record = transaction
        .prepare_cached(
            "SELECT revision, crc, record FROM bases
             WHERE collection = ?1 AND revision <= ?2 AND id = ?3 ORDER BY revision DESC LIMIT 1",
        )?
        .query_row(params![collection.as_str(), revision, id.as_str()], |row| {
            Ok(rows::record::<ValueRecord>(collection, row))
        })
        .optional()?
        .transpose()
        .map_err(|damaged| DamagedPast::Base {
            collection: collection.clone(),
            id: id.to_string(),
            revision: damaged.revision,
            damage: damaged.damage,
        })?;
    match record {
        Some(record) if record.id != *id => Err(DamagedPast::Base {
            collection: collection.clone(),
            id: id.to_string(),
            revision: record.revision,
            damage: Damage::Checksum,
        }
        .into()),
        record => Ok(record),
    }
}

/// The newest record of a document in the log, after a revision and at or before another one.
fn newest_in_log(
    transaction: &Transaction<'_>,
    collection: &CollectionName,
    id: &DocumentId,
    after: Revision,
    revision: Revision,
) -> anyhow::Result<Option<ValueRecord>> {
    if revision <= after {
        return Ok(None);
    }
    let record = document_log::records_of_document(transaction)?
        .query_row(
            params![
                collection.as_str(),
                revision.saturating_add(1),
                id.as_str(),
                after
            ],
            |row| Ok(rows::record::<ValueRecord>(collection, row)),
        )
        .optional()?
        .transpose()?;
    Ok(record.filter(|record| record.id == *id))
}

/// The first change of a document in the log after a revision.
fn first_after(
    transaction: &Transaction<'_>,
    collection: &CollectionName,
    id: &DocumentId,
    after: Revision,
) -> anyhow::Result<Option<Change>> {
    let mut statement = document_log::next_record_of_document(transaction)?;
    let record = statement
        .query_row(params![collection.as_str(), after, id.as_str()], |row| {
            Ok(rows::record::<Change>(collection, row))
        })
        .optional()?
        .transpose()?;
    Ok(record.filter(|record| record.id == *id))
}

/// The documents of a state after an id.
fn piece(
    transaction: &Transaction<'_>,
    point: &PastPoint,
    covered: Revision,
    after: Option<&DocumentId>,
) -> anyhow::Result<PastPiece> {
    let mut piece = PastPiece {
        last: after.cloned(),
        ..PastPiece::default()
    };
    let mut bytes = 0;
    // Each document by itself: its revisions before the newest one cost nothing.
    for examined in 1..=PIECE_IDS {
        let Some(id) = next_id(transaction, &point.collection, piece.last.as_ref())? else {
            piece.last = None;
            return Ok(piece);
        };
        let record = newest_at(transaction, &point.collection, &id, covered, point.revision)?;
        let document = record.and_then(|record| record.document());
        bytes += document.as_ref().map_or(0, |it| it.json().len());
        piece.documents.extend(document);
        piece.last = Some(id);
        if bytes >= CHUNK_BYTES {
            return Ok(piece);
        }
        if examined == FEW_IDS && piece.documents.len() < FEW_IDS / 4 {
            // Most did not exist: what follows is read in the order of the index.
            return sparse_piece(transaction, point, covered, piece);
        }
    }
    Ok(piece)
}

/// The first document after an id that has a record.
fn next_id(
    transaction: &Transaction<'_>,
    collection: &CollectionName,
    after: Option<&DocumentId>,
) -> anyhow::Result<Option<DocumentId>> {
    // No id is empty, so the empty id is before the first.
    let keys = [collection.as_str(), after.map_or("", DocumentId::as_str)];
    let mut first = None::<String>;
    for sql in [document_log::NEXT, tables::NEXT_IN_BASES] {
        let next = transaction
            .prepare_cached(sql)?
            .query_row(keys, |row| row.get(0))
            .optional()?;
        first = first.into_iter().chain(next).min();
    }
    Ok(first.map(|id| id.parse()).transpose()?)
}

/// More documents of a state in which most documents with records do not exist.
fn sparse_piece(
    transaction: &Transaction<'_>,
    point: &PastPoint,
    covered: Revision,
    mut piece: PastPiece,
) -> anyhow::Result<PastPiece> {
    let of = point.collection.as_str();
    let to = point.revision;
    let after = piece
        .last
        .as_ref()
        .map_or("", DocumentId::as_str)
        .to_owned();
    let mut in_log = transaction.prepare_cached(document_log::NEWEST)?;
    let mut in_bases = transaction.prepare_cached(tables::NEWEST_IN_BASES)?;
    let mut sources = [
        Newest::new(in_log.query(params![of, covered, to, after])?)?,
        Newest::new(in_bases.query(params![of, 0, to.min(covered), after])?)?,
    ];
    let mut bytes = 0;
    for _examined in 0..PIECE_IDS {
        let ids = sources.iter().filter_map(|source| source.next.as_ref());
        let Some(id) = ids.map(|next| next.id.clone()).min() else {
            piece.last = None;
            break;
        };
        let mut deleted = false;
        // A record of the log is newer than every base record that is read here.
        for source in sources.iter_mut().rev() {
            if let Some(found) = source.take(&id)? {
                deleted = found.deleted;
            }
        }
        let id: DocumentId = id.parse()?;
        if !deleted {
            let record = newest_at(transaction, &point.collection, &id, covered, to)?;
            let document = record.and_then(|record| record.document());
            bytes += document.as_ref().map_or(0, |it| it.json().len());
            piece.documents.extend(document);
        }
        piece.last = Some(id);
        if bytes >= CHUNK_BYTES {
            break;
        }
    }
    Ok(piece)
}

/// The newest records of documents in one of the two tables, in the order of ids.
struct Newest<'a> {
    rows: rusqlite::Rows<'a>,
    next: Option<NewestOf>,
}

struct NewestOf {
    id: String,
    deleted: bool,
}

impl<'a> Newest<'a> {
    fn new(rows: rusqlite::Rows<'a>) -> rusqlite::Result<Self> {
        let mut source = Self { rows, next: None };
        source.read()?;
        Ok(source)
    }

    fn read(&mut self) -> rusqlite::Result<()> {
        self.next = match self.rows.next()? {
            Some(row) => Some(NewestOf {
                id: row.get(0)?,
                deleted: row.get::<_, Option<bool>>(2)?.unwrap_or_default(),
            }),
            None => None,
        };
        Ok(())
    }

    /// The next one, if it is of this document.
    fn take(&mut self, id: &str) -> rusqlite::Result<Option<NewestOf>> {
        let taken = self.next.take_if(|next| next.id == id);
        if taken.is_some() {
            self.read()?;
        }
        Ok(taken)
    }
}
