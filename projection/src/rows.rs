//! How rows and positions are stored. Nothing here speaks to a server.

use contract::{Crc, Digest, Document, DocumentId, Epoch, Revision};
use mongodb::bson::{Document as Bdoc, RawDocument, doc};

use crate::ProjectionError;

/// Which revision the rows of a collection are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    /// The history that the revisions count in.
    pub(crate) epoch: Epoch,
    /// The rows are the documents of this revision.
    pub(crate) revision: Revision,
    /// How many rows there are.
    pub(crate) count: u64,
    /// Their digest.
    pub(crate) digest: Digest,
    /// From which revision on that is so: a comparison may have written rows of later revisions.
    pub(crate) settled_at: Revision,
    /// Whether a comparison began and did not end.
    pub(crate) reconciling: bool,
}

impl Position {
    /// Whether the rows are exactly those of the revision.
    pub(crate) fn is_settled(&self) -> bool {
        !self.reconciling && self.revision >= self.settled_at
    }

    /// The members of its row, without the id and the time.
    pub(crate) fn members(&self) -> Result<Bdoc, ProjectionError> {
        let mut members = doc! {
            "epoch": self.epoch.to_string(),
            "revision": number(self.revision)?,
            "count": number(self.count)?,
            "digest": self.digest.to_string(),
            "settledAt": number(self.settled_at)?,
        };
        if self.reconciling {
            members.insert("reconciling", true);
        }
        Ok(members)
    }

    /// The position that a row says; `None` when it cannot be read.
    pub(crate) fn of_row(row: &Bdoc) -> Option<Self> {
        let number = |name: &str| u64::try_from(row.get_i64(name).ok()?).ok();
        Some(Self {
            epoch: row.get_str("epoch").ok()?.parse().ok()?,
            revision: number("revision")?,
            count: number("count")?,
            digest: row.get_str("digest").ok()?.parse().ok()?,
            settled_at: number("settledAt")?,
            reconciling: row.contains_key("reconciling"),
        })
    }
}

/// A number as MongoDB stores it.
pub(crate) fn number(value: u64) -> Result<i64, ProjectionError> {
    i64::try_from(value).map_err(|error| ProjectionError::Row(error.to_string()))
}

/// The row of a document.
pub(crate) fn row_of(
    id: &DocumentId,
    revision: Revision,
    crc: Crc,
    config: &[u8],
) -> Result<Bdoc, ProjectionError> {
    let config =
        mongo_json::to_bson(config).map_err(|error| ProjectionError::Row(format!("{error:#}")))?;
    Ok(doc! {
        "_id": id.as_str(),
        "revision": number(revision)?,
        "crc": crc.to_string(),
        "configData": config,
    })
}

/// Whether a row is the row of a document, byte for byte: the same members in the same order, with the
/// same values of the same types.
pub(crate) fn is_row_of(row: &RawDocument, document: &Document) -> bool {
    let (revision, crc) = (document.revision(), document.crc());
    let expected = row_of(document.id(), revision, crc, document.config_data());
    let expected = expected.ok().and_then(|expected| expected.to_vec().ok());
    expected.is_some_and(|expected| expected == row.as_bytes())
}

/// Revision and checksum of a row; `None` when it is not one of a projection.
pub(crate) fn head_of_row(row: &Bdoc) -> Option<(DocumentId, Revision, Crc)> {
    let id = row.get_str("_id").ok()?.parse().ok()?;
    let revision = u64::try_from(row.get_i64("revision").ok()?).ok()?;
    let crc = row.get_str("crc").ok()?.parse().ok()?;
    Some((id, revision, crc))
}

#[cfg(test)]
mod tests {
    use contract::CanonicalJson;
    use mongodb::bson::RawDocumentBuf;

    use super::*;

    #[test]
    fn a_row_is_that_of_its_document_until_anything_in_it_changes() {
        let text = r#"{"a":{"$set":1,"b.c":[0.1,9007199254740993]},"n":null}"#;
        let config = CanonicalJson::parse(text.as_bytes()).expect("json");
        let id: DocumentId = "x".parse().expect("an id");
        let document = Document::new(id.clone(), 7, &config);
        let row = row_of(&id, 7, config.crc(), text.as_bytes()).expect("a row");
        let is_same = |row: &Bdoc| {
            let raw = RawDocumentBuf::try_from(row).expect("BSON");
            is_row_of(&raw, &document)
        };
        assert!(is_same(&row));
        for (name, value) in [
            ("_id", "y".into()),
            ("revision", 8_i64.into()),
            ("crc", "00000000".into()),
            ("configData", doc! { "a": 1_i64 }.into()),
            // The same number of another type.
            (
                "configData",
                doc! { "a": { "$set": 1.0, "b.c": [0.1, 9_007_199_254_740_993_i64] }, "n": null }
                    .into(),
            ),
            ("revision", 7_i32.into()),
            ("added", true.into()),
        ] {
            let mut row = row.clone();
            row.insert(name, mongodb::bson::Bson::clone(&value));
            assert!(!is_same(&row), "{name}");
        }
    }

    #[test]
    fn a_position_is_read_back_as_it_was_written() {
        let position = Position {
            epoch: "9f86d081-3".parse().expect("an epoch"),
            revision: 12,
            count: 3,
            digest: Digest(5),
            settled_at: 13,
            reconciling: false,
        };
        let row = position.members().expect("members");
        assert_eq!(Position::of_row(&row), Some(position));
        assert!(!position.is_settled(), "later rows are there already");
        let began = Position {
            reconciling: true,
            ..position
        };
        let row = began.members().expect("members");
        assert_eq!(Position::of_row(&row), Some(began));
        assert_eq!(Position::of_row(&doc! { "epoch": "x" }), None);
    }
}
