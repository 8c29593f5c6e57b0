//! Reading the rows of documents and records: each is verified, and a damaged document is read from
//! the change log.

use std::collections::BTreeSet;

use contract::{Change, CollectionName, Document, DocumentId, Epoch, Head, Revision};
use rusqlite::{OptionalExtension, Row, Transaction, params, types::ValueRef};

use crate::store::{
    StoreIdentity,
    damage::{DamagedPart, Outcome},
    embedded::{Embedded, document_log, tables},
    integrity::{
        Damage, DamagedDocument, DamagedHead, DamagedRecord, DocumentSum, Verdict, examine,
        head_of_record, row_checksum, text_checksum,
    },
    log_record::LogRecord,
};

/// Some documents of a collection, ordered by id.
pub(super) struct Piece {
    pub(super) documents: Vec<Document>,
    /// The id that the piece ends with; `None` if it ends with the collection.
    pub(super) last: Option<DocumentId>,
    /// The first row that cannot be read.
    pub(super) damaged: Option<DamagedDocument>,
}

impl Embedded {
    /// One document; `None` if it does not exist.
    ///
    /// # Errors
    /// [`DamagedDocument`], and when its absence is not proven.
    pub(super) fn row(
        &self,
        transaction: &Transaction<'_>,
        collection: &CollectionName,
        id: &DocumentId,
    ) -> anyhow::Result<Option<Document>> {
        let row = transaction
            .prepare_cached(
                "SELECT id, revision, crc, value FROM documents WHERE collection = ?1 AND id = ?2",
            )?
            .query_row([collection.as_str(), id.as_str()], |row| {
                Ok((document(collection, row).1, revision(row)))
            })
            .optional()?;
        match row {
            Some((Ok(document), _revision)) => self.current(transaction, collection, document),
            Some((Err(damage), revision)) => {
                let read = Err(damage);
                self.repaired(transaction, collection, id.as_str(), read, revision)
            }
            None => self.absent(transaction, collection, id),
        }
    }

    /// The documents after an id, until their values reach `bytes`.
    pub(super) fn piece(
        &self,
        transaction: &Transaction<'_>,
        collection: &CollectionName,
        after: Option<&DocumentId>,
        bytes: usize,
    ) -> anyhow::Result<Piece> {
        let mut statement = transaction.prepare_cached(
            "SELECT id, revision, crc, value FROM documents
             WHERE collection = ?1 AND id > ?2 ORDER BY id",
        )?;
        // No id is empty, so the empty id is before the first.
        let after = after.map_or("", DocumentId::as_str);
        let mut rows = statement.query([collection.as_str(), after])?;
        let mut documents: Vec<Document> = Vec::new();
        let mut damaged = None;
        // A list of whole rows does not ask the log for each.
        let doubtful = self.0.damage.has_damaged_rows(collection);
        let mut read = 0;
        while let Some(row) = rows.next()? {
            let document = match self.listed(transaction, collection, row, doubtful) {
                Ok(Some(document)) => document,
                Ok(None) => continue,
                Err(error) => {
                    self.note(&error);
                    damaged.get_or_insert(error.downcast::<DamagedDocument>()?);
                    continue;
                }
            };
            read += document.json().len();
            documents.push(document);
            if read >= bytes {
                let last = documents.last().map(|document| document.id().clone());
                return Ok(Piece {
                    documents,
                    last,
                    damaged,
                });
            }
        }
        Ok(Piece {
            documents,
            last: None,
            damaged,
        })
    }

    /// The document of a row `id, revision, crc, value` of a list. `doubtful` = rows of the collection
    /// are known to be damaged, so the log is asked about each.
    ///
    /// # Errors
    /// [`DamagedDocument`]
    pub(super) fn listed(
        &self,
        transaction: &Transaction<'_>,
        collection: &CollectionName,
        row: &Row<'_>,
        doubtful: bool,
    ) -> anyhow::Result<Option<Document>> {
        let (id, stored) = document(collection, row);
        match stored {
            Ok(document) if !doubtful => Ok(Some(document)),
            Ok(document) => self.current(transaction, collection, document),
            stored => self.repaired(transaction, collection, &id, stored, revision(row)),
        }
    }

    /// Reads all documents of a collection, and compares them with its head.
    ///
    /// # Errors
    /// When one of them cannot be read, or they do not add up to the head.
    pub(super) fn check_collection(
        &self,
        transaction: &Transaction<'_>,
        collection: &CollectionName,
    ) -> anyhow::Result<()> {
        const BYTES: usize = 1 << 20;
        let identity = tables::identity(transaction)?;
        let head = self.head(transaction, collection, &identity)?;
        let mut damaged = None;
        let mut sum = DocumentSum::default();
        let mut after = None;
        loop {
            let piece = self.piece(transaction, collection, after.as_ref(), BYTES)?;
            piece
                .documents
                .iter()
                .for_each(|document| sum.add(document));
            damaged = damaged.or(piece.damaged);
            after = piece.last;
            if after.is_none() {
                break;
            }
        }
        match (sum.check(&head), damaged) {
            (Ok(()), _) => {
                self.0.absence.proven(collection);
                Ok(())
            }
            (Err(_), Some(damaged)) => Err(damaged.into()),
            (Err(mismatch), None) => Err(mismatch.into()),
        }
    }

    /// What is true of a document, by its row and the change log. `revision` is that of the row, as far
    /// as it can be read.
    pub(super) fn verdict(
        &self,
        transaction: &Transaction<'_>,
        collection: &CollectionName,
        id: &DocumentId,
        row: Option<Result<Document, Damage>>,
        revision: Option<Revision>,
    ) -> anyhow::Result<Verdict> {
        let newest = self.newest_record(transaction, collection, id)?;
        let is_newest = match &newest {
            None => false,
            // The row and the log name the same revision.
            Some(record) if revision == Some(record.revision) => true,
            Some(record) => self.is_newest(transaction, record)?,
        };
        let left_behind = match &newest {
            Some(record) if row.is_none() && !is_newest => {
                self.is_left_behind(transaction, record)?
            }
            _other => false,
        };
        let newest = newest.filter(|_record| !left_behind);
        Ok(examine(row, newest.as_ref(), is_newest))
    }

    /// The document of a row that fits its checksum. Where the log has a newer record, the row is an
    /// earlier one, for example of a page that was not written, and the log decides.
    fn current(
        &self,
        transaction: &Transaction<'_>,
        collection: &CollectionName,
        document: Document,
    ) -> anyhow::Result<Option<Document>> {
        let revision = document.revision();
        match document_log::newest_revision(transaction, collection, document.id())? {
            Some(newest) if newest > revision => {
                let id = document.id().to_string();
                self.repaired(transaction, collection, &id, Ok(document), Some(revision))
            }
            _same_or_trimmed => Ok(Some(document)),
        }
    }

    /// The document of a damaged or earlier row, by the change log.
    fn repaired(
        &self,
        transaction: &Transaction<'_>,
        collection: &CollectionName,
        id: &str,
        read: Result<Document, Damage>,
        revision: Option<Revision>,
    ) -> anyhow::Result<Option<Document>> {
        let verdict = match (id.parse::<DocumentId>(), read) {
            (Ok(id), read) => self.verdict(transaction, collection, &id, Some(read), revision)?,
            (Err(_stray), Ok(document)) => Verdict::Whole(document),
            (Err(_stray), Err(damage)) => Verdict::Unrecoverable(damage),
        };
        Ok(self.0.damage.settle(collection, id, verdict)?)
    }

    /// A document without a row: by the change log, if that has it.
    ///
    /// # Errors
    /// When the collection may lack a row and nothing says that it is not this one.
    fn absent(
        &self,
        transaction: &Transaction<'_>,
        collection: &CollectionName,
        id: &DocumentId,
    ) -> anyhow::Result<Option<Document>> {
        let newest = self.newest_record(transaction, collection, id)?;
        let proven = self.0.absence.check(collection);
        let record = match (newest, proven) {
            (None, proven) => return proven.map(|()| None),
            (Some(record), Ok(())) if record.config_data.is_none() => return Ok(None),
            (Some(record), _) => record,
        };
        let is_newest = self.is_newest(transaction, &record)?;
        if !is_newest && self.is_left_behind(transaction, &record)? {
            return self.0.absence.check(collection).map(|()| None);
        }
        match examine(None, Some(&record), is_newest) {
            verdict @ (Verdict::FromLog(..) | Verdict::Unrecoverable(_)) => {
                Ok(self.0.damage.settle(collection, id.as_str(), verdict)?)
            }
            // The log has its deletion.
            _absent if is_newest => Ok(None),
            _unproven => self.0.absence.check(collection).map(|()| None),
        }
    }

    /// The head of a collection; by its newest record where the stored one is damaged.
    ///
    /// # Errors
    /// [`DamagedHead`]
    pub(super) fn head(
        &self,
        transaction: &Transaction<'_>,
        collection: &CollectionName,
        identity: &StoreIdentity,
    ) -> anyhow::Result<Head> {
        let damaged = match tables::head(transaction, collection, identity)? {
            Ok(head) => return Ok(head),
            Err(damaged) => damaged,
        };
        let end = |order: &str| {
            let sql = format!(
                "SELECT revision, crc, record FROM changes WHERE collection = ?1
                 ORDER BY revision {order} LIMIT 1"
            );
            let mut statement = transaction.prepare_cached(&sql)?;
            let row = statement.query_row([collection.as_str()], |row| Ok(record(collection, row)));
            row.optional()
        };
        let (Some(Ok(oldest)), Some(Ok(newest))) = (end("ASC")?, end("DESC")?) else {
            let register = &self.0.damage;
            register.report(collection, DamagedPart::Head, Outcome::Refused, &damaged);
            return Err(damaged.into());
        };
        let detail = format!(
            "the head is read from the newest change, because its row is damaged: {}; the next \
             write replaces the row",
            damaged.damage
        );
        let register = &self.0.damage;
        register.report(collection, DamagedPart::Head, Outcome::FromLog, detail);
        Ok(Head {
            replaces: identity.replaces.clone(),
            ..head_of_record(&newest, oldest.revision, identity.epoch)
        })
    }

    /// The heads of some collections, ordered by name.
    pub(super) fn heads_of(
        &self,
        transaction: &Transaction<'_>,
        collections: &BTreeSet<CollectionName>,
    ) -> anyhow::Result<(Epoch, Vec<Head>)> {
        let identity = tables::identity(transaction)?;
        let heads = collections
            .iter()
            .map(|name| self.head(transaction, name, &identity))
            .collect::<anyhow::Result<_>>()?;
        Ok((identity.epoch, heads))
    }

    /// The newest record of a document, if that is whole. [`Self::is_newest`] says whether a newer one
    /// may have been lost.
    pub(super) fn newest_record(
        &self,
        transaction: &Transaction<'_>,
        collection: &CollectionName,
        id: &DocumentId,
    ) -> anyhow::Result<Option<Change>> {
        let newest = document_log::newest_of_document(transaction)?
            .query_row([collection.as_str(), id.as_str()], |row| {
                Ok(record::<Change>(collection, row))
            })
            .optional()?;
        // An index is no proof.
        Ok(newest
            .and_then(Result::ok)
            .filter(|record| record.id == *id))
    }

    /// Whether no newer record of the same document can be missing.
    fn is_newest(&self, transaction: &Transaction<'_>, record: &Change) -> anyhow::Result<bool> {
        let collection = &record.collection;
        let head = self.head(transaction, collection, &tables::identity(transaction)?);
        let head = match head {
            // Nothing tells where the log ends.
            Err(error) if error.root_cause().is::<DamagedHead>() => return Ok(false),
            head => head?,
        };
        let log = &self.0.whole_log;
        log.is_whole(transaction, collection, record.revision, head.revision)
    }

    /// Whether a repair let the log begin after a record. A record that is not proven to be the newest
    /// of its document then says nothing of a document without a row: the row may have been moved aside.
    fn is_left_behind(
        &self,
        transaction: &Transaction<'_>,
        record: &Change,
    ) -> anyhow::Result<bool> {
        let identity = tables::identity(transaction)?;
        let head = self.head(transaction, &record.collection, &identity)?;
        Ok(record.revision < head.oldest)
    }
}

/// The revision of a row `id, revision, …`, as far as it can be read.
pub(super) fn revision(row: &Row<'_>) -> Option<Revision> {
    row.get(1).ok()
}

/// About how many bytes a row takes: those of its texts and blobs.
pub(super) fn bytes(row: &Row<'_>) -> rusqlite::Result<usize> {
    let columns = row.as_ref().column_count();
    (0..columns)
        .map(|column| {
            Ok(match row.get_ref(column)? {
                ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.len(),
                _null_or_number => 0,
            })
        })
        .sum()
}

/// The document of a row `id, revision, crc, value`, and the id as it is stored.
pub(super) fn document(
    collection: &CollectionName,
    row: &Row<'_>,
) -> (String, Result<Document, Damage>) {
    // Any column may have any type: the type of a value is part of what can be damaged.
    let id = match row.get_ref(0) {
        Ok(ValueRef::Text(id)) => String::from_utf8_lossy(id).into_owned(),
        _other => String::new(),
    };
    let read = || {
        let revision: Revision = row.get(1).ok()?;
        let crc: u32 = row.get(2).ok()?;
        let value = row.get_ref(3).ok()?.as_blob().ok()?;
        Some((revision, crc, value))
    };
    let document = match (id.parse::<DocumentId>(), read()) {
        (Err(_), _) => Err(Damage::Stray),
        (_, None) => Err(Damage::Malformed("a column has another type".to_owned())),
        (Ok(id), Some((revision, crc, value))) => match std::str::from_utf8(value) {
            Ok(text) if row_checksum(collection, &id, revision, value).0 == crc => {
                Ok(Document::from_canonical(id, revision, text))
            }
            _damaged => Err(Damage::Checksum),
        },
    };
    (id, document)
}

/// Writes the row of a document.
pub(super) fn put_document(
    transaction: &Transaction<'_>,
    collection: &CollectionName,
    id: &DocumentId,
    revision: Revision,
    value: &str,
) -> anyhow::Result<()> {
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO documents (collection, id, revision, crc, value)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            collection.as_str(),
            id.as_str(),
            revision,
            row_checksum(collection, id, revision, value.as_bytes()).0,
            value.as_bytes(),
        ])?;
    Ok(())
}

/// Removes the row of a document.
pub(super) fn remove_document(
    transaction: &Transaction<'_>,
    collection: &CollectionName,
    id: &DocumentId,
) -> anyhow::Result<()> {
    transaction
        .prepare_cached("DELETE FROM documents WHERE collection = ?1 AND id = ?2")?
        .execute([collection.as_str(), id.as_str()])?;
    Ok(())
}

/// Writes a record of the change log.
pub(super) fn put_record(transaction: &Transaction<'_>, change: &Change) -> anyhow::Result<()> {
    let text = serde_json::to_string(change)?;
    transaction
        .prepare_cached(
            "INSERT INTO changes (collection, revision, crc, record, set_id)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            change.collection.as_str(),
            change.revision,
            record_crc(&text),
            text,
            change.change_set.as_ref().map(|set| &set.id),
        ])?;
    Ok(())
}

/// The verified text of a record, from a row that begins with `revision, crc, record`.
pub(super) fn record_text<'a>(
    collection: &CollectionName,
    row: &'a Row<'_>,
) -> Result<(Revision, &'a str), DamagedRecord> {
    let revision = row.get(0).unwrap_or_default();
    let read = || {
        let crc: u32 = row.get(1).ok()?;
        let text = row.get_ref(2).ok()?.as_str().ok()?;
        (record_crc(text) == crc).then_some(text)
    };
    match read() {
        Some(text) => Ok((revision, text)),
        None => Err(DamagedRecord {
            collection: collection.clone(),
            revision,
            damage: Damage::Checksum,
        }),
    }
}

/// The change of a record, from a row that begins with `revision, crc, record`.
///
/// A `ValueRecord` also reads a base record.
pub(super) fn record<T: LogRecord>(
    collection: &CollectionName,
    row: &Row<'_>,
) -> Result<T, DamagedRecord> {
    let (revision, text) = record_text(collection, row)?;
    let damaged = |damage| DamagedRecord {
        collection: collection.clone(),
        revision,
        damage,
    };
    let record = T::read(text).map_err(|error| damaged(Damage::Malformed(error.to_string())))?;
    // The text is right, and the key by which it was found is not.
    let (of_collection, of_revision, _id) = record.key();
    if (of_collection, of_revision) != (collection, revision) {
        return Err(damaged(Damage::Checksum));
    }
    Ok(record)
}

pub(super) fn record_crc(text: &str) -> u32 {
    text_checksum("change", text).0
}
