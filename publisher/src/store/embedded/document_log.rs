//! The records of the change log by document: which document each record is of, and whether it is a
//! deletion.
//!
//! It is a table and not an index of an expression: SQLite looks into the row of the log for each
//! entry of such an index, and a list of a past state passes all of them. Triggers write it from the
//! record itself, so no edit by hand separates them; text that is no JSON has no entry. Where the
//! table is missing the log is read instead. It proves nothing: each record is verified.

use contract::{CollectionName, DocumentId, Revision};
use rusqlite::{CachedStatement, OptionalExtension, Transaction};

/// What an entry has of a record: the columns of the table, from the row of the log named `$row`.
macro_rules! entry_of {
    ($row:literal) => {
        concat!(
            "INSERT OR REPLACE INTO document_log (collection, id, revision, deleted) SELECT ",
            $row,
            ".collection, json_extract(",
            $row,
            ".record, '$.id'), ",
            $row,
            ".revision, json_extract(",
            $row,
            ".record, '$.op') IS 'Delete'"
        )
    };
}

/// Which rows of the log named `$row` have an entry.
macro_rules! has_entry {
    ($row:literal) => {
        concat!(
            " WHERE CASE WHEN json_valid(",
            $row,
            ".record) THEN json_extract(",
            $row,
            ".record, '$.id') END IS NOT NULL;"
        )
    };
}

const TABLE: &str = "
CREATE TABLE document_log (
  collection TEXT NOT NULL, id TEXT NOT NULL, revision INTEGER NOT NULL, deleted INTEGER NOT NULL,
  PRIMARY KEY (collection, id, revision)) WITHOUT ROWID;
";

const FILL: &str = concat!(entry_of!("changes"), " FROM changes", has_entry!("changes"));

const TRIGGERS: &str = concat!(
    "CREATE TRIGGER IF NOT EXISTS document_log_insert AFTER INSERT ON changes BEGIN ",
    entry_of!("new"),
    has_entry!("new"),
    " END;
    CREATE TRIGGER IF NOT EXISTS document_log_update AFTER UPDATE OF collection, revision, record
    ON changes BEGIN
      DELETE FROM document_log WHERE collection = old.collection AND revision = old.revision AND id = ",
    "CASE WHEN json_valid(old.record) THEN json_extract(old.record, '$.id') END; ",
    entry_of!("new"),
    has_entry!("new"),
    " END;
    CREATE TRIGGER IF NOT EXISTS document_log_delete AFTER DELETE ON changes BEGIN
      DELETE FROM document_log WHERE collection = old.collection AND revision = old.revision AND id = ",
    "CASE WHEN json_valid(old.record) THEN json_extract(old.record, '$.id') END;
    END;",
);

/// The first document after an id in the change log, by collection and id.
pub(super) const NEXT: &str = "SELECT id FROM document_log
     WHERE collection = ?1 AND id > ?2 ORDER BY id LIMIT 1";

/// The newest revision of each document after an id, after a revision and at or before another one, in
/// the change log, and whether it is a deletion, in the order of ids. It reads every revision, and for
/// that no document alone. By collection, first and second revision, and id.
pub(super) const NEWEST: &str = "SELECT id, max(revision), deleted FROM document_log
     WHERE collection = ?1 AND revision > ?2 AND revision <= ?3 AND id > ?4
     GROUP BY id ORDER BY id";

/// Makes the table where it is missing: in a new file, and in one of an earlier version.
pub(super) fn make(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let exists: bool = transaction.query_row(
        "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'document_log')",
        [],
        |row| row.get(0),
    )?;
    if !exists {
        // Earlier versions had an index instead.
        transaction.execute_batch(
            "DROP INDEX IF EXISTS changes_by_document; DROP INDEX IF EXISTS changes_of_documents;",
        )?;
        transaction.execute_batch(TABLE)?;
        transaction.execute_batch(FILL)?;
    }
    transaction.execute_batch(TRIGGERS)
}

/// A statement of the records of documents, `revision, crc, record`; `$of` and `$order` use `id` and
/// `revision`.
macro_rules! records {
    ($of:literal) => {
        (
            concat!(
                "SELECT changes.revision, crc, record FROM document_log CROSS JOIN changes
                 USING (collection, revision) WHERE ",
                $of
            ),
            concat!(
                "SELECT revision, crc, record FROM (SELECT collection, revision, crc, record,
                   CASE WHEN json_valid(record) THEN json_extract(record, '$.id') END AS id
                 FROM changes) WHERE ",
                $of
            ),
        )
    };
}

/// By the table, else by the log: an answer is the same, and takes longer.
fn prepare<'a>(
    transaction: &'a Transaction<'_>,
    (by_table, by_log): (&str, &str),
) -> rusqlite::Result<CachedStatement<'a>> {
    let prepared = transaction.prepare_cached(by_table);
    prepared.or_else(|_no_table| transaction.prepare_cached(by_log))
}

/// The statement that finds the newest record of a document by collection and id: `revision, crc,
/// record`.
pub(super) fn newest_of_document<'a>(
    transaction: &'a Transaction<'_>,
) -> rusqlite::Result<CachedStatement<'a>> {
    let statement = records!("collection = ?1 AND id = ?2 ORDER BY revision DESC LIMIT 1");
    prepare(transaction, statement)
}

/// The statement that finds the records of a document before a revision and after another one, the
/// newest first, by collection, first revision, id and second revision: `revision, crc, record`.
pub(super) fn records_of_document<'a>(
    transaction: &'a Transaction<'_>,
) -> rusqlite::Result<CachedStatement<'a>> {
    let statement = records!(
        "collection = ?1 AND revision < ?2 AND id = ?3 AND revision > ?4 ORDER BY revision DESC"
    );
    prepare(transaction, statement)
}

/// As [`records_of_document`], the first record after a revision, by collection, revision and id.
pub(super) fn next_record_of_document<'a>(
    transaction: &'a Transaction<'_>,
) -> rusqlite::Result<CachedStatement<'a>> {
    let statement =
        records!("collection = ?1 AND revision > ?2 AND id = ?3 ORDER BY revision LIMIT 1");
    prepare(transaction, statement)
}

/// The newest revision that the table has of a document. It is as cheap as a look-up of a row. `None`
/// when there is no record of it, or no table.
pub(super) fn newest_revision(
    transaction: &Transaction<'_>,
    collection: &CollectionName,
    id: &DocumentId,
) -> rusqlite::Result<Option<Revision>> {
    let statement = transaction.prepare_cached(
        "SELECT revision FROM document_log WHERE collection = ?1 AND id = ?2
         ORDER BY revision DESC LIMIT 1",
    );
    // Without the table this is the whole log for each read of a document.
    let Ok(mut statement) = statement else {
        return Ok(None);
    };
    statement
        .query_row([collection.as_str(), id.as_str()], |row| row.get(0))
        .optional()
}
