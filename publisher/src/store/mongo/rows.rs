//! The rows of `_heads`, `_changes` and the collections of documents, and their conversion.
//!
//! Numbers are 64-bit integers. Nothing is read from or sent to the database here.

use anyhow::{Context, bail, ensure};
use contract::{
    CanonicalJson, Change, CollectionName, Document, DocumentId, Epoch, Head, Revision,
    canonical::is_canonical,
};
use mongodb::bson::{self, Binary, Bson, Document as Bdoc, RawDocument, doc, spec::BinarySubtype};

use crate::store::{StoreIdentity, StoreSecret, mongo::json};

/// The head of a collection without any change. `_id`, its name, has to be added.
pub(super) fn initial_head() -> Bdoc {
    doc! {
        "revision": 0_i64,
        "count": 0_i64,
        "digest": contract::Digest::default().to_string(),
        "lastSet": 0_i64,
        "oldest": 1_i64,
    }
}

/// What a group updates in a head. `oldest` belongs to retention and is left alone.
pub(super) fn head_row(head: &Head) -> anyhow::Result<Bdoc> {
    let mut row = doc! {
        "revision": i64::try_from(head.revision)?,
        "count": i64::try_from(head.count)?,
        "digest": head.digest.to_string(),
        "lastSet": i64::try_from(head.last_set)?,
    };
    // Every committed head has one.
    if let Some(proof) = head.proof {
        row.insert("proof", proof.to_string());
    }
    Ok(row)
}

/// The head of a row, in the epoch of the store.
pub(super) fn head(row: &Bdoc, identity: &StoreIdentity) -> anyhow::Result<Head> {
    let StoreIdentity { epoch, secret } = identity;
    let collection: CollectionName = row.get_str("_id")?.parse()?;
    let revision = number(row, "revision")?;
    let proof = match row.get_str("proof") {
        Ok(proof) => Some(proof.parse()?),
        // No change was committed, which is true of every blank collection.
        Err(_absent) if revision == 0 => Some(secret.prove(*epoch, &collection, 0, None)),
        // The row was edited by other means. A proof is never made when a row is read.
        Err(_absent) => None,
    };
    Ok(Head {
        collection,
        epoch: *epoch,
        revision,
        count: number(row, "count")?,
        digest: row.get_str("digest")?.parse()?,
        last_set: number(row, "lastSet")?,
        oldest: number(row, "oldest")?,
        proof,
    })
}

/// Epoch and secret of the row in `_meta`.
pub(super) fn identity(meta: &Bdoc) -> anyhow::Result<StoreIdentity> {
    Ok(StoreIdentity {
        epoch: Epoch {
            lineage: u32::try_from(meta.get_i64("lineage")?)?,
            counter: number(meta, "counter")?,
        },
        secret: StoreSecret::from_bytes(meta.get_binary_generic("secret")?)?,
    })
}

/// The secret of a store, as it is in `_meta`.
pub(super) fn secret_row(secret: &StoreSecret) -> Binary {
    Binary {
        subtype: BinarySubtype::Generic,
        bytes: secret.as_bytes().to_vec(),
    }
}

/// The row of a document.
pub(super) fn document_row(document: &Document) -> anyhow::Result<Bdoc> {
    Ok(doc! {
        "_id": document.id().as_str(),
        "revision": i64::try_from(document.revision())?,
        "crc": document.crc().to_string(),
        "configData": json::to_bson(&document.config_data())?,
    })
}

/// The document of a row.
///
/// # Errors
/// When the row is not what a publisher writes, or its `crc` does not fit its value.
pub(super) fn document(row: &RawDocument) -> anyhow::Result<Document> {
    let id = row.get_str("_id")?;
    checked_document(row).with_context(|| format!("the stored document {id}"))
}

fn checked_document(row: &RawDocument) -> anyhow::Result<Document> {
    let (id, revision) = id_and_revision(row)?;
    let text = json::to_text(row.get_document("configData")?)?;
    // Fast path: usually the fields of the row are in canonical order.
    let document = if is_canonical(&text) {
        Document::from_canonical(id, revision, &text)
    } else {
        Document::new(id, revision, &CanonicalJson::parse(text.as_bytes())?)
    };
    ensure!(
        row.get_str("crc")? == document.crc().to_string(),
        "its checksum does not fit its value: was it edited by other means?"
    );
    Ok(document)
}

/// The document and the revision that a row belongs to, even if its value is damaged.
pub(super) fn id_and_revision(row: &RawDocument) -> anyhow::Result<(DocumentId, Revision)> {
    let id = row.get_str("_id")?.parse()?;
    let revision = row.get_i64("revision")?.try_into()?;
    Ok((id, revision))
}

/// The record of a change in the log. `write_id` identifies the attempt that writes it; `pending` =
/// the change has to be published.
pub(super) fn change_row(change: &Change, write_id: &str, pending: bool) -> anyhow::Result<Bdoc> {
    let mut row = doc! {
        "collection": change.collection.as_str(),
        "revision": i64::try_from(change.revision)?,
        "id": change.id.as_str(),
        "time": bson::DateTime::from_millis(change.time.timestamp_millis()),
        "writeId": write_id,
        // The change as it is returned to readers, with `configData` in canonical form. The fields
        // above are for queries only.
        "change": serde_json::to_string(change)?,
    };
    // Absent and not false otherwise, so that the record is not in the partial index.
    if pending {
        row.insert("pending", true);
    }
    Ok(row)
}

/// The change of a record.
pub(super) fn change(row: &RawDocument) -> anyhow::Result<Change> {
    Ok(serde_json::from_str(row.get_str("change")?)?)
}

/// A field that is a non-negative 64-bit integer.
pub(super) fn number(row: &Bdoc, key: &str) -> anyhow::Result<u64> {
    match row.get(key) {
        Some(Bson::Int64(number)) => Ok(u64::try_from(*number)?),
        other => bail!("{key} is {other:?}, not a 64-bit integer"),
    }
}
