//! Rows of the store's collections, and what they mean.

use anyhow::{Context, bail, ensure};
use contract::{
    CanonicalJson, Change, Document, DocumentId, Epoch, Head, Revision, canonical::is_canonical,
};
use mongodb::bson::{self, Bson, Document as Bdoc, RawDocument, doc};

use crate::store::mongo::text;

pub(super) fn virgin_head() -> Bdoc {
    doc! { "revision": 0_i64, "count": 0_i64, "digest": contract::Digest::default().to_string(), "lastSet": 0_i64, "oldest": 1_i64 }
}

pub(super) fn head_row(head: &Head) -> anyhow::Result<Bdoc> {
    Ok(doc! {
        "revision": i64::try_from(head.revision)?,
        "count": i64::try_from(head.count)?,
        "digest": head.digest.to_string(),
        "lastSet": i64::try_from(head.last_set)?,
    })
}

pub(super) fn head(row: &Bdoc, epoch: Epoch) -> anyhow::Result<Head> {
    Ok(Head {
        collection: row.get_str("_id")?.parse()?,
        epoch,
        revision: number(row, "revision")?,
        count: number(row, "count")?,
        digest: row.get_str("digest")?.parse()?,
        last_set: number(row, "lastSet")?,
        oldest: number(row, "oldest")?,
    })
}

pub(super) fn document_row(document: &Document) -> anyhow::Result<Bdoc> {
    Ok(doc! {
        "_id": document.id().as_str(),
        "revision": i64::try_from(document.revision())?,
        "crc": document.crc().to_string(),
        "configData": text::to_bson(&document.config_data())?,
    })
}

pub(super) fn document(row: &RawDocument) -> anyhow::Result<Document> {
    let id = row.get_str("_id")?;
    let read = || {
        let (id, revision) = (id.parse()?, revision(row)?);
        let text = text::to_text(row.get_document("configData")?)?;
        let document = if is_canonical(&text) {
            Document::from_canonical(id, revision, &text)
        } else {
            Document::new(id, revision, &CanonicalJson::parse(text.as_bytes())?)
        };
        ensure!(
            row.get_str("crc")? == document.crc().to_string(),
            "its checksum does not hold: was it edited by hand?"
        );
        Ok(document)
    };
    read().with_context(|| format!("the stored document {id}"))
}

/// Which document a row is, and of which revision, whatever has become of its value.
pub(super) fn place(row: &RawDocument) -> anyhow::Result<(DocumentId, Revision)> {
    Ok((row.get_str("_id")?.parse()?, revision(row)?))
}

fn revision(row: &RawDocument) -> anyhow::Result<Revision> {
    Ok(row.get_i64("revision")?.try_into()?)
}

pub(super) fn change_row(change: &Change, write_id: &str, owe: bool) -> anyhow::Result<Bdoc> {
    let mut row = doc! {
        "collection": change.collection.as_str(),
        "revision": i64::try_from(change.revision)?,
        "id": change.id.as_str(),
        "time": bson::DateTime::from_millis(change.time.timestamp_millis()),
        "writeId": write_id,
        // The record as it will be read, `configData` in its canonical spelling included.
        "change": serde_json::to_string(change)?,
    };
    if owe {
        row.insert("owed", true);
    }
    Ok(row)
}

pub(super) fn change(row: &RawDocument) -> anyhow::Result<Change> {
    Ok(serde_json::from_str(row.get_str("change")?)?)
}

pub(super) fn number(row: &Bdoc, key: &str) -> anyhow::Result<u64> {
    match row.get(key) {
        Some(Bson::Int64(number)) => Ok(u64::try_from(*number)?),
        other => bail!("{key} is {other:?}, not a 64-bit integer"),
    }
}
