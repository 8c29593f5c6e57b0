//! The rows of `_heads`, `_changes` and the collections of documents, and their conversion.
//!
//! Numbers are 64-bit integers. Each row has a checksum over what a reader relies on; reading a row
//! that is not what a publisher wrote gives its [`Damage`]. Nothing is read from or sent to the
//! database here.

use anyhow::bail;
use contract::{
    Change, CollectionName, Crc, Document, DocumentId, Epoch, Head, Replaced, Revision,
};
use mongodb::bson::{
    self, Binary, Bson, Document as Bdoc, RawBsonRef, RawDocument, doc, spec::BinarySubtype,
};

use crate::store::{
    StoreIdentity, StoreSecret,
    integrity::{Damage, DamagedRecord, document_checksum, text_checksum},
    log_record::LogRecord,
    mongo::json,
};

/// The kind of row of a record, in its checksum.
const RECORD: &str = "change";

/// The row of a collection without any change.
pub(super) fn initial_head(collection: &CollectionName) -> anyhow::Result<Bdoc> {
    // The epoch is not stored in a head.
    let epoch = Epoch {
        lineage: 0,
        counter: 0,
    };
    let blank = Head::empty(collection.clone(), epoch);
    let mut row = head_row(&blank)?;
    row.insert("_id", collection.as_str());
    row.insert("oldest", 1_i64);
    Ok(row)
}

/// What a group updates in a head. `oldest` belongs to retention and is left alone.
pub(super) fn head_row(head: &Head) -> anyhow::Result<Bdoc> {
    let mut row = doc! {
        "revision": i64::try_from(head.revision)?,
        "count": i64::try_from(head.count)?,
        "digest": head.digest.to_string(),
        "lastSet": i64::try_from(head.last_set)?,
        "headCrc": head_checksum(head).to_string(),
    };
    // Every committed head has one.
    if let Some(proof) = head.proof {
        row.insert("proof", proof.to_string());
    }
    Ok(row)
}

/// What replaces a head whose row is damaged: all of it.
pub(super) fn whole_head_row(head: &Head) -> anyhow::Result<Bdoc> {
    let mut row = head_row(head)?;
    row.insert("oldest", i64::try_from(head.oldest)?);
    Ok(row)
}

/// The checksum of a head. `oldest` is not part of it, because retention moves it alone, and the
/// proof has a code of its own.
fn head_checksum(head: &Head) -> Crc {
    let Head {
        collection,
        revision,
        count,
        digest,
        last_set,
        ..
    } = head;
    text_checksum(
        "head",
        &format!("{collection}\n{revision}\n{count}\n{digest}\n{last_set}"),
    )
}

/// The head of a row, in the epoch of the store.
///
/// # Errors
/// The damage of a row that is not what a publisher wrote.
pub(super) fn head(
    row: &Bdoc,
    collection: &CollectionName,
    identity: &StoreIdentity,
) -> Result<Head, Damage> {
    let StoreIdentity {
        epoch,
        secret,
        replaces,
    } = identity;
    let read = || -> anyhow::Result<Head> {
        let revision = number(row, "revision")?;
        let proof = match row.get_str("proof") {
            Ok(proof) => Some(proof.parse()?),
            // No change was committed, which is true of every blank collection.
            Err(_absent) if revision == 0 => Some(secret.prove(*epoch, collection, 0, None)),
            // The row was edited by other means. A proof is never made when a row is read.
            Err(_absent) => None,
        };
        Ok(Head {
            collection: collection.clone(),
            epoch: *epoch,
            revision,
            count: number(row, "count")?,
            digest: row.get_str("digest")?.parse()?,
            last_set: number(row, "lastSet")?,
            oldest: number(row, "oldest")?,
            proof,
            replaces: replaces.clone(),
        })
    };
    let head = read().map_err(malformed)?;
    fits(row.get_str("headCrc").ok(), head_checksum(&head))?;
    Ok(head)
}

/// Whether the row of a head has a proof that this identity made: then the store has this identity.
pub(super) fn is_head_of(
    row: &Bdoc,
    collection: &CollectionName,
    identity: &StoreIdentity,
) -> bool {
    let (Ok(revision), Ok(proof)) = (number(row, "revision"), row.get_str("proof")) else {
        return false;
    };
    let StoreIdentity { epoch, secret, .. } = identity;
    proof
        .parse()
        .is_ok_and(|proof| secret.verifies(*epoch, collection, revision, &proof))
}

/// The identity of the store, from the row in `_meta`.
pub(super) fn identity(meta: &Bdoc) -> anyhow::Result<StoreIdentity> {
    let replaces = match meta.get("replaces") {
        Some(lineages) => bson::deserialize_from_bson(lineages.clone())?,
        // The store always had the same lineage.
        None => Replaced::default(),
    };
    Ok(StoreIdentity {
        epoch: Epoch {
            lineage: u32::try_from(meta.get_i64("lineage")?)?,
            counter: number(meta, "counter")?,
        },
        secret: StoreSecret::from_bytes(meta.get_binary_generic("secret")?)?,
        replaces,
    })
}

/// The earlier lineages of a store, as they are in `_meta`.
pub(super) fn replaces(replaced: &Replaced) -> anyhow::Result<Bson> {
    Ok(bson::serialize_to_bson(replaced)?)
}

/// The secret of a store, as it is in `_meta`.
pub(super) fn secret_row(secret: &StoreSecret) -> Binary {
    Binary {
        subtype: BinarySubtype::Generic,
        bytes: secret.as_bytes().to_vec(),
    }
}

/// The row of a document. `rowCrc` covers collection, id, revision and value; `crc` is that of the
/// value, which the entity tag has.
pub(super) fn document_row(
    collection: &CollectionName,
    document: &Document,
) -> anyhow::Result<Bdoc> {
    Ok(doc! {
        "_id": document.id().as_str(),
        "revision": i64::try_from(document.revision())?,
        "crc": document.crc().to_string(),
        "rowCrc": document_checksum(collection, document).to_string(),
        "configData": json::to_bson(document.config_data())?,
    })
}

/// The id that a row is stored under.
///
/// # Errors
/// [`Damage::Stray`] when it is not the id of a document.
pub(super) fn id(row: &RawDocument) -> Result<DocumentId, Damage> {
    let id = row.get_str("_id").map_err(|_other_type| Damage::Stray)?;
    id.parse().map_err(|_malformed| Damage::Stray)
}

/// The document of a row.
///
/// # Errors
/// The damage of a row that is not what a publisher wrote.
pub(super) fn document(collection: &CollectionName, row: &RawDocument) -> Result<Document, Damage> {
    document_in(collection, row, &mut Vec::new())
}

/// As [`document`], for a caller that reads many rows: `buffer` is where each is converted.
///
/// # Errors
/// As [`document`].
pub(super) fn document_in(
    collection: &CollectionName,
    row: &RawDocument,
    buffer: &mut Vec<u8>,
) -> Result<Document, Damage> {
    let fields = DocumentFields::of(row).map_err(malformed)?;
    let Some(RawBsonRef::String(id)) = fields.id else {
        return Err(Damage::Stray);
    };
    let id = id.parse().map_err(|_malformed| Damage::Stray)?;
    let read = || -> anyhow::Result<Document> {
        let revision = as_revision(fields.revision)?;
        let Some(RawBsonRef::Document(value)) = fields.value else {
            bail!("configData is not a document");
        };
        buffer.clear();
        json::write_text(value, buffer)?;
        // The fields of a row that was edited may be in another order.
        Ok(Document::from_json(id, revision, str::from_utf8(buffer)?)?)
    };
    let document = read().map_err(malformed)?;
    fits(fields.crc.and_then(|crc| crc.as_str()), document.crc())?;
    fits(
        fields.row_crc.and_then(|crc| crc.as_str()),
        document_checksum(collection, &document),
    )?;
    Ok(document)
}

/// The fields of the row of a document. They are read in one pass, because a look-up by name begins
/// at the first field each time.
#[derive(Default)]
struct DocumentFields<'a> {
    id: Option<RawBsonRef<'a>>,
    revision: Option<RawBsonRef<'a>>,
    crc: Option<RawBsonRef<'a>>,
    row_crc: Option<RawBsonRef<'a>>,
    value: Option<RawBsonRef<'a>>,
}

impl<'a> DocumentFields<'a> {
    fn of(row: &'a RawDocument) -> anyhow::Result<Self> {
        let mut fields = Self::default();
        for element in row.iter_elements() {
            let element = element?;
            let field = match element.key().as_str() {
                "_id" => &mut fields.id,
                "revision" => &mut fields.revision,
                "crc" => &mut fields.crc,
                "rowCrc" => &mut fields.row_crc,
                "configData" => &mut fields.value,
                _other => continue,
            };
            // Of two with one name the first counts, as in a look-up.
            if field.is_none() {
                *field = Some(element.value()?);
            }
        }
        Ok(fields)
    }
}

/// The revision of a row or a record.
pub(super) fn revision(row: &RawDocument) -> anyhow::Result<Revision> {
    as_revision(row.get("revision")?)
}

fn as_revision(field: Option<RawBsonRef<'_>>) -> anyhow::Result<Revision> {
    match field {
        Some(RawBsonRef::Int64(revision)) => Ok(revision.try_into()?),
        other => bail!("revision is {other:?}, not a 64-bit integer"),
    }
}

/// Compares a stored checksum with that of what was read.
fn fits(stored: Option<&str>, computed: Crc) -> Result<(), Damage> {
    match stored {
        // A checksum has one text only, so none is written to compare it.
        Some(stored) if stored.parse() == Ok(computed) => Ok(()),
        _absent_or_other => Err(Damage::Checksum),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is given to `map_err`")]
fn malformed(error: anyhow::Error) -> Damage {
    // The text may hold a stored value of any length.
    Damage::Malformed(format!("{error:#}").chars().take(200).collect())
}

/// The record of a change in the log. `write_id` identifies the attempt that writes it; `pending` =
/// the change has to be published.
pub(super) fn change_row(change: &Change, write_id: &str, pending: bool) -> anyhow::Result<Bdoc> {
    let text = serde_json::to_string(change)?;
    let mut row = doc! {
        "collection": change.collection.as_str(),
        "revision": i64::try_from(change.revision)?,
        "id": change.id.as_str(),
        "time": bson::DateTime::from_millis(change.time.timestamp_millis()),
        "writeId": write_id,
        "recordCrc": text_checksum(RECORD, &text).to_string(),
        // The change as it is returned to readers, with `configData` in canonical form. The fields
        // above are for queries only.
        "change": text,
    };
    // Each is absent otherwise, so that the record is not in a partial index.
    if let Some(set) = &change.change_set {
        row.insert("set", set.id.as_str());
    }
    if pending {
        row.insert("pending", true);
    }
    Ok(row)
}

/// The record of a row in the log of a collection. [`ValueRecord`](crate::store::past::ValueRecord)
/// also reads a base record.
///
/// # Errors
/// The damage of a record that is not what a publisher wrote.
pub(super) fn record<T: LogRecord>(
    collection: &CollectionName,
    row: &RawDocument,
) -> Result<T, DamagedRecord> {
    let checked = || -> Result<T, Damage> {
        let read = || anyhow::Ok((revision(row)?, row.get_str("change")?));
        let (revision, text) = read().map_err(malformed)?;
        fits(row.get_str("recordCrc").ok(), text_checksum(RECORD, text))?;
        let record = T::read(text).map_err(|error| malformed(error.into()))?;
        // The text is right; the fields beside it, by which it was found, may have been edited.
        let (of_collection, of_revision, id) = record.key();
        if (of_collection, of_revision) != (collection, revision)
            || row.get_str("id").ok() != Some(id.as_str())
        {
            return Err(Damage::Checksum);
        }
        Ok(record)
    };
    checked().map_err(|damage| {
        // A number of any type, or 0.
        let key = match row.get("revision") {
            Ok(Some(RawBsonRef::Int32(number))) => i64::from(number),
            Ok(Some(RawBsonRef::Int64(number))) => number,
            _other => 0,
        };
        DamagedRecord {
            collection: collection.clone(),
            revision: key.try_into().unwrap_or(0),
            damage,
        }
    })
}

/// The row of a base record: of a record of the log, the same text.
pub(super) fn base_row(
    collection: &CollectionName,
    id: &DocumentId,
    revision: Revision,
    deleted: bool,
    text: &str,
) -> Bdoc {
    doc! {
        "collection": collection.as_str(),
        "id": id.as_str(),
        "revision": as_number(revision),
        "deleted": deleted,
        "recordCrc": text_checksum(RECORD, text).to_string(),
        "change": text,
    }
}

/// A revision as it is stored. None is greater than the largest that can be.
pub(super) fn as_number(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

/// A field that is a non-negative 64-bit integer.
pub(super) fn number(row: &Bdoc, key: &str) -> anyhow::Result<u64> {
    match row.get(key) {
        Some(Bson::Int64(number)) => Ok(u64::try_from(*number)?),
        other => bail!("{key} is {other:?}, not a 64-bit integer"),
    }
}
