//! What proves a stored row, and what becomes of a row that is not proven. Pure.
//!
//! A checksum that is computed when a row is read proves nothing. So each row is written with the
//! checksum of its collection, id, revision and value, and each read compares it. A row that does
//! not fit is damaged: its document is taken from the newest record of the change log, else this
//! document alone is refused by name ([`DamagedDocument`]). A value is never guessed. The documents
//! of a whole collection are also compared with its head, which shows that a row is gone.
//!
//! Both backends use this module; nothing here reads or writes a store.

use std::fmt::{self, Write};

use contract::{
    Change, CollectionName, Crc, Digest, Document, DocumentId, Epoch, Head, Replaced, Revision,
};

/// The first part of every text that a checksum is computed over. Another form gets another number.
const VERSION: &str = "confcast-row-1";

/// The checksum of the row of a document: CRC-32C over collection, id, revision and canonical value.
///
/// It shows damage and edits by hand. It is no proof against a person who computes it.
pub fn row_checksum(
    collection: &CollectionName,
    id: &DocumentId,
    revision: Revision,
    value: &[u8],
) -> Crc {
    let mut sum = Sum::default();
    // Neither a name nor an id nor a number contains the separator, so no two rows are the same text.
    write!(sum, "{VERSION}\n{collection}\n{id}\n{revision}\n").expect("a sum takes any text");
    Crc(crc32c::crc32c_append(sum.0, value))
}

/// The CRC-32C of what is written to it. Every row that is read needs one, so no text is built.
#[derive(Default)]
struct Sum(u32);

impl fmt::Write for Sum {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 = crc32c::crc32c_append(self.0, text.as_bytes());
        Ok(())
    }
}

/// [`row_checksum`] of a document.
pub fn document_checksum(collection: &CollectionName, document: &Document) -> Crc {
    row_checksum(
        collection,
        document.id(),
        document.revision(),
        document.config_data(),
    )
}

/// The checksum of a record of the change log, or of another row that is stored as one text.
/// `kind` separates the kinds of rows from each other.
pub fn text_checksum(kind: &str, text: &str) -> Crc {
    let start = format!("{VERSION}\n{kind}\n");
    Crc(crc32c::crc32c_append(
        crc32c::crc32c(start.as_bytes()),
        text.as_bytes(),
    ))
}

/// What is wrong with a row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Collection, id, revision or value are not what was written.
    #[error("its checksum does not fit")]
    Checksum,
    /// A member is missing or has another type than a publisher writes.
    #[error("{0}")]
    Malformed(String),
    /// Its key is not the id of a document, so no publisher has written it.
    #[error("its key is not the id of a document")]
    Stray,
    /// The change log has a document, and no row has it.
    #[error("its row is gone")]
    Missing,
    /// The change log has a newer revision.
    #[error("its row is older than the change log")]
    Outdated,
    /// The change log has a deletion, and the row is there.
    #[error("its row is there although it was deleted")]
    Deleted,
}

/// A document that cannot be read: its row is damaged and the change log does not have its value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the stored document {id:?} of {collection} is damaged and the change log does not have its \
     value: {damage}"
)]
pub struct DamagedDocument {
    /// Its collection.
    pub collection: CollectionName,
    /// Its id, or the key of a row that is no document. It may hold any character.
    pub id: String,
    /// What is wrong with its row.
    pub damage: Damage,
}

/// A head that cannot be read, and of which the change log has no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the stored head of {collection} is damaged and the change log does not have it: {damage}; \
     restore a backup, or see `confcast repair`"
)]
pub struct DamagedHead {
    /// Its collection.
    pub collection: CollectionName,
    /// What is wrong with its row.
    pub damage: Damage,
}

/// A record of the change log that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the record of revision {revision} in the change log of {collection} is damaged: {damage}")]
pub struct DamagedRecord {
    /// Its collection.
    pub collection: CollectionName,
    /// Its revision, by its key.
    pub revision: Revision,
    /// What is wrong with it.
    pub damage: Damage,
}

/// What is kept of the past cannot be read. What it had is not known, so it is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DamagedPast {
    /// The rows around an answer contradict it.
    #[error(
        "what is kept of {collection} with id: {id} at revision {revision} contradicts other rows: \
         a row was changed or removed by other means"
    )]
    Document {
        /// Its collection.
        collection: CollectionName,
        /// Its id.
        id: DocumentId,
        /// The revision that was asked for.
        revision: Revision,
    },
    /// A named snapshot is not what a publisher wrote.
    #[error("the named snapshot {name:?} is damaged: restore its row or delete it")]
    Snapshot {
        /// The key of its row.
        name: String,
    },
    /// The row that says what base records cover is not what a publisher wrote.
    #[error("the row that says what is kept of the past of {0} is damaged: see `confcast repair`")]
    Coverage(CollectionName),
    /// A base record is not what a publisher wrote.
    #[error(
        "the base record of revision {revision} of {collection} with id: {id:?} is damaged: {damage}"
    )]
    Base {
        /// Its collection.
        collection: CollectionName,
        /// The id of its key. It may hold any character.
        id: String,
        /// The revision of its key.
        revision: Revision,
        /// What is wrong with it.
        damage: Damage,
    },
}

/// The documents of a collection are not those that its head stands for: a row is gone or foreign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the documents of {collection} do not add up to its head at revision {revision} ({count} \
     instead of {expected}): is a restore under way, or were rows changed by other means?"
)]
pub struct SumMismatch {
    /// The collection.
    pub collection: CollectionName,
    /// The revision of the head.
    pub revision: Revision,
    /// How many documents were read.
    pub count: u64,
    /// How many documents the head stands for.
    pub expected: u64,
}

/// Whether an error of the store means that something stored is damaged: another attempt gives the
/// same error, and [`anyhow::Error::root_cause`] names what is damaged.
pub fn is_damage(error: &anyhow::Error) -> bool {
    let cause = error.root_cause();
    cause.is::<DamagedDocument>()
        || cause.is::<DamagedHead>()
        || cause.is::<DamagedRecord>()
        || cause.is::<DamagedPast>()
        || cause.is::<SumMismatch>()
}

/// Number and digest of the documents that were read of a collection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DocumentSum {
    /// Number of documents.
    pub count: u64,
    /// Digest over them.
    pub digest: Digest,
}

impl DocumentSum {
    /// Adds a document.
    pub fn add(&mut self, document: &Document) {
        self.count = self.count.wrapping_add(1);
        self.digest = self
            .digest
            .with(document.id(), document.revision(), document.crc());
    }

    /// Compares the sum with the head of the same snapshot.
    ///
    /// # Errors
    /// When they differ.
    pub fn check(self, head: &Head) -> Result<(), SumMismatch> {
        let expected = Self {
            count: head.count,
            digest: head.digest,
        };
        if self == expected {
            return Ok(());
        }
        Err(SumMismatch {
            collection: head.collection.clone(),
            revision: head.revision,
            count: self.count,
            expected: head.count,
        })
    }
}

/// What is true of one document, by its row and by the newest record of it in the change log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The row is right.
    Whole(Document),
    /// There is no document and no row.
    Absent,
    /// The row is damaged, and this is the document by the change log.
    FromLog(Document, Damage),
    /// There is a row, and the document was deleted by the change log.
    DeletedByLog(Damage),
    /// Nothing whole says what the document is.
    Unrecoverable(Damage),
}

/// Compares the row of a document with the newest record of it in the change log.
///
/// `row` is `None` where no row has the id. `newest` is the newest whole record; `None` where the log
/// has none, because it was trimmed or the document never existed. `log_complete` = the log has
/// every revision from its oldest to the head, so that no newer record of the document can be
/// missing.
pub fn examine(
    row: Option<Result<Document, Damage>>,
    newest: Option<&Change>,
    log_complete: bool,
) -> Verdict {
    let Some(record) = newest else {
        return match row {
            None => Verdict::Absent,
            Some(Ok(document)) => Verdict::Whole(document),
            Some(Err(damage)) => Verdict::Unrecoverable(damage),
        };
    };
    let logged = record
        .config_data
        .as_ref()
        .map(|value| Document::new(record.id.clone(), record.revision, value));
    let damage = match row {
        // The log lost a record that the row still has.
        Some(Ok(document)) if document.revision() > record.revision => {
            return Verdict::Whole(document);
        }
        Some(Ok(document)) if logged.as_ref() == Some(&document) => {
            return Verdict::Whole(document);
        }
        Some(Ok(document)) if document.revision() == record.revision => Damage::Checksum,
        Some(Ok(_older)) if logged.is_none() => Damage::Deleted,
        Some(Ok(_older)) => Damage::Outdated,
        Some(Err(damage)) => damage,
        None if logged.is_none() => return Verdict::Absent,
        None => Damage::Missing,
    };
    match logged {
        _ if !log_complete => Verdict::Unrecoverable(damage),
        Some(document) => Verdict::FromLog(document, damage),
        None => Verdict::DeletedByLog(damage),
    }
}

/// Whether no epoch was declared since a repair changed what the head stands for: until then the head
/// has no proof. A collection without changes never has one.
pub fn is_unproven(head: &Head) -> bool {
    head.revision > 0 && head.proof.is_none()
}

/// The head after a change, by its record: what the newest record has of a head that is damaged.
/// `oldest` is the first revision that the log holds. A record does not have the earlier lineages.
pub fn head_of_record(record: &Change, oldest: Revision, epoch: Epoch) -> Head {
    Head {
        collection: record.collection.clone(),
        epoch,
        revision: record.revision,
        count: record.count,
        digest: record.digest,
        last_set: last_set_after(record),
        oldest,
        // A proof is of one epoch.
        proof: record.proof.filter(|_proof| record.epoch == epoch),
        replaces: Replaced::default(),
    }
}

/// The head that documents and the newest record prove together.
///
/// `stored` is the head as it is stored, if it can be read. Its proof is kept where it belongs to the
/// revision; a proof is never made here. `oldest` is the first revision that the log holds.
pub fn rebuild_head(
    stored: Head,
    sum: DocumentSum,
    newest: Option<&Change>,
    newest_row: Revision,
    oldest: Option<Revision>,
) -> Head {
    let logged = newest.map_or(0, |record| record.revision);
    // Never back: a revision that was seen is not used again.
    let revision = stored.revision.max(newest_row).max(logged);
    // A proof is of one epoch: that of a record may be of an earlier one.
    let proof = match newest {
        _ if stored.revision == revision && stored.proof.is_some() => stored.proof,
        Some(record) if (record.revision, record.epoch) == (revision, stored.epoch) => record.proof,
        _ => None,
    };
    Head {
        revision,
        count: sum.count,
        digest: sum.digest,
        last_set: newest.map_or(stored.last_set, last_set_after).min(revision),
        // A log that does not reach the revision begins after it.
        oldest: oldest
            .filter(|_oldest| logged == revision)
            .unwrap_or(revision + 1),
        proof,
        ..stored
    }
}

/// `lastSet` of the head after a change.
fn last_set_after(record: &Change) -> Revision {
    let parts = record.change_set.iter().flat_map(|set| &set.parts);
    let own = parts
        .filter(|part| part.collection == record.collection)
        .map(|part| part.last);
    own.max().unwrap_or(record.last_set)
}

#[cfg(test)]
mod tests {
    use contract::{CanonicalJson, Context, Operation};

    use super::*;

    fn name() -> CollectionName {
        "A".parse().expect("a name")
    }

    fn document(revision: Revision, text: &str) -> Document {
        let value = CanonicalJson::parse(text.as_bytes()).expect("json");
        Document::new("x".parse().expect("an id"), revision, &value)
    }

    fn record(revision: Revision, text: Option<&str>) -> Change {
        let value = text.map(|text| CanonicalJson::parse(text.as_bytes()).expect("json"));
        Change {
            collection: name(),
            op: Operation::Update,
            id: "x".parse().expect("an id"),
            revision,
            epoch: Epoch {
                lineage: 1,
                counter: 1,
            },
            last_set: 0,
            crc: value.as_ref().map(CanonicalJson::crc),
            config_data: value,
            change_set: None,
            time: chrono::Utc::now(),
            count: 1,
            digest: Digest::default(),
            proof: None,
            context: Context::default(),
        }
    }

    #[test]
    fn a_checksum_covers_collection_id_revision_and_value() {
        let id = |text: &str| -> DocumentId { text.parse().expect("an id") };
        let whole = row_checksum(&name(), &id("x"), 12, b"{}");
        let other: CollectionName = "B".parse().expect("a name");
        assert_ne!(whole, row_checksum(&other, &id("x"), 12, b"{}"));
        assert_ne!(whole, row_checksum(&name(), &id("x1"), 2, b"{}"));
        assert_ne!(whole, row_checksum(&name(), &id("x"), 13, b"{}"));
        assert_ne!(whole, row_checksum(&name(), &id("x"), 12, b"{ }"));
        // Stored rows have it.
        assert_eq!(whole, Crc::of(b"confcast-row-1\nA\nx\n12\n{}"));
    }

    #[test]
    fn the_log_decides_where_the_row_does_not() {
        let (old, new) = (r#"{"n":1}"#, r#"{"n":2}"#);
        let damaged = || Some(Err(Damage::Checksum));
        let logged = record(7, Some(new));
        let deleted = record(7, None);
        let from_log = |damage| Verdict::FromLog(document(7, new), damage);
        for (row, newest, complete, expected) in [
            (
                Some(Ok(document(7, new))),
                Some(&logged),
                false,
                Verdict::Whole(document(7, new)),
            ),
            (
                Some(Ok(document(7, old))),
                Some(&logged),
                true,
                from_log(Damage::Checksum),
            ),
            (
                Some(Ok(document(6, old))),
                Some(&logged),
                true,
                from_log(Damage::Outdated),
            ),
            (
                Some(Ok(document(8, old))),
                Some(&logged),
                false,
                Verdict::Whole(document(8, old)),
            ),
            (damaged(), Some(&logged), true, from_log(Damage::Checksum)),
            (None, Some(&logged), true, from_log(Damage::Missing)),
            (
                damaged(),
                Some(&logged),
                false,
                Verdict::Unrecoverable(Damage::Checksum),
            ),
            (
                damaged(),
                None,
                true,
                Verdict::Unrecoverable(Damage::Checksum),
            ),
            (
                Some(Ok(document(6, old))),
                Some(&deleted),
                true,
                Verdict::DeletedByLog(Damage::Deleted),
            ),
            (None, Some(&deleted), true, Verdict::Absent),
            (None, None, true, Verdict::Absent),
        ] {
            let case = format!("{row:?} {newest:?} {complete}");
            assert_eq!(examine(row, newest, complete), expected, "{case}");
        }
    }

    #[test]
    fn a_sum_tells_a_row_that_is_gone_and_a_head_is_rebuilt_from_what_is_there() {
        let mut sum = DocumentSum::default();
        sum.add(&document(7, "{}"));
        let epoch = Epoch {
            lineage: 1,
            counter: 1,
        };
        let blank = Head::empty(name(), epoch);
        assert!(sum.check(&blank).is_err());
        let head = rebuild_head(blank.clone(), sum, Some(&record(9, None)), 7, Some(3));
        assert_eq!((head.revision, head.count, head.oldest), (9, 1, 3));
        sum.check(&head).expect("it adds up");
        let trimmed = Head {
            revision: 20,
            ..blank
        };
        let head = rebuild_head(trimmed, sum, None, 7, None);
        assert_eq!((head.revision, head.oldest), (20, 21));
    }
}
