//! Comparing the rows of a collection with its documents, in pieces, in the order of ids.
//!
//! A piece is read in one transaction and bounded by number and bytes. Every row is read with its
//! value, so an edit by hand is found as well. What becomes of the differences is the caller's
//! decision.

use contract::DocumentId;
use mongodb::{
    ClientSession,
    bson::{RawDocumentBuf, doc},
    options::Collation,
};
use replica::RawCollection;

use crate::{
    ProjectionError,
    database::{Database, Writes},
    rows::is_row_of,
};

/// Documents and rows in a piece, at most of each.
const PIECE: usize = 500;
/// Bytes of them, at most of each; there is at least one.
const PIECE_BYTES: usize = 8 << 20;

/// Up to where a collection was compared. The default is its beginning.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    /// The last id, of a row or of a document.
    up_to: Option<String>,
    /// The last document up to there.
    document: Option<DocumentId>,
}

/// Compares the next piece. Returns what has to be written so that the rows are the documents, and
/// the progress after it; `None` at the end of the collection.
///
/// # Errors
/// When the rows cannot be read, or a document has no form in BSON.
pub(crate) async fn compare(
    database: &Database,
    session: &mut ClientSession,
    name: &contract::CollectionName,
    held: &RawCollection,
    progress: &Progress,
) -> Result<(Writes, Option<Progress>), ProjectionError> {
    let mut bytes = 0;
    let mut documents: Vec<_> = held
        .documents_after(progress.document.as_ref())
        .take(PIECE)
        .take_while(|document| {
            let is_first = bytes == 0;
            bytes += document.json().len();
            is_first || bytes <= PIECE_BYTES
        })
        .collect();
    let last = documents.last().map(|document| document.id());
    let more = held.documents_after(last).next().is_some();
    let mut end = last.filter(|_last| more).map(|id| id.as_str().to_owned());

    let mut ids = match &progress.up_to {
        Some(up_to) => doc! { "$gt": up_to },
        // Texts alone: a comparison is within one type.
        None => doc! { "$gte": "" },
    };
    if let Some(end) = &end {
        ids.insert("$lte", end);
    }
    let mut found = database
        .table(name.as_str())
        .clone_with_type::<RawDocumentBuf>()
        .find(doc! { "_id": ids })
        .sort(doc! { "_id": 1 })
        // The order of the documents, whatever collation the collection was created with.
        .collation(Collation::builder().locale("simple").build())
        .session(&mut *session)
        .await?;
    let mut rows = Vec::new();
    let mut bytes = 0;
    while let Some(row) = found.next(&mut *session).await.transpose()? {
        let id = row.get_str("_id").unwrap_or_default().to_owned();
        bytes += row.as_bytes().len();
        rows.push((id.clone(), row));
        if rows.len() == PIECE || bytes > PIECE_BYTES {
            // The rest belongs to the next piece.
            end = Some(id);
            break;
        }
    }
    if let Some(end) = &end {
        documents.retain(|document| document.id().as_str() <= end.as_str());
    }

    let mut writes = Writes::of(name);
    let mut rows = rows.into_iter().peekable();
    for document in &documents {
        let id = document.id().as_str();
        while let Some((foreign, _row)) = rows.next_if(|(row, _)| row.as_str() < id) {
            writes.remove(&foreign);
        }
        let row = rows.next_if(|(row, _)| row == id);
        if !row.is_some_and(|(_id, row)| is_row_of(&row, document)) {
            let (revision, crc) = (document.revision(), document.crc());
            let config = document.config_data();
            writes.put_document(document.id(), revision, crc, config)?;
        }
    }
    rows.for_each(|(foreign, _row)| writes.remove(&foreign));
    if let Some(end) = end {
        let document = documents.last().map(|document| document.id().clone());
        let next = Progress {
            up_to: Some(end),
            document: document.or_else(|| progress.document.clone()),
        };
        return Ok((writes, Some(next)));
    }
    let foreign = database
        .table(name.as_str())
        .count_documents(doc! { "_id": { "$not": { "$type": "string" } } })
        .session(session)
        .await?;
    if foreign > 0 {
        writes.remove_foreign(foreign);
    }
    Ok((writes, None))
}
