//! What is true of a row: by its checksum, else by the change log.
//!
//! A row that is not what a publisher wrote concerns its own document only. Its document is read
//! from the newest record of the log, or refused by name. Nothing is written here.

use anyhow::Context;
use contract::{Change, CollectionName, Document, DocumentId, Head, Revision};
use mongodb::{
    ClientSession,
    bson::{Bson, Document as Bdoc, RawDocument, doc},
};

use crate::store::{
    StoreIdentity,
    damage::{DamagedPart, Outcome},
    integrity::{Damage, DamagedHead, Verdict, examine, head_of_record},
    mongo::{CHANGES, HEADS, Mongo, call, rows},
};

/// Damaged records at the end of the log, or of the history of a document, that are passed over.
const MAX_DAMAGED_RECORDS: u64 = 16;

/// A head, and what its row has as its revision: the filter of a later write.
pub(super) struct HeadRow {
    pub(super) head: Head,
    pub(super) stored_revision: Bson,
    /// The row is not what a publisher wrote: the next write replaces all of it.
    pub(super) damaged: bool,
}

impl Mongo {
    /// The document of a row, or `None` if there is no such document. `up_to` is the newest revision
    /// that the reader may see.
    ///
    /// # Errors
    /// [`crate::store::integrity::DamagedDocument`] when the row is damaged and the log does not have
    /// its document.
    pub(super) async fn document_of_row(
        &self,
        session: Option<&mut ClientSession>,
        collection: &CollectionName,
        id: &DocumentId,
        row: Option<&RawDocument>,
        up_to: Revision,
    ) -> anyhow::Result<Option<Document>> {
        // Fast path: the log is read for damaged rows, and where another row is known to be damaged.
        let read = match row.map(|row| rows::document(collection, row)) {
            Some(Ok(document)) if !self.damage.has_damaged_rows(collection) => {
                return Ok(Some(document));
            }
            other => other,
        };
        let revision = row.and_then(|row| rows::revision(row).ok());
        let verdict = self
            .verdict(session, collection, id, read, revision, up_to)
            .await?;
        Ok(self.damage.settle(collection, id.as_str(), verdict)?)
    }

    /// Compares what was read of a row with the newest record of its document. `revision` is the
    /// revision that the row has, if it can be read.
    pub(super) async fn verdict(
        &self,
        mut session: Option<&mut ClientSession>,
        collection: &CollectionName,
        id: &DocumentId,
        row: Option<Result<Document, Damage>>,
        revision: Option<Revision>,
        up_to: Revision,
    ) -> anyhow::Result<Verdict> {
        let of_document = doc! {
            "collection": collection.as_str(),
            "id": id.as_str(),
            "revision": up_to_filter(up_to),
        };
        let newest = self
            .newest_record(session.as_deref_mut(), collection, of_document)
            .await?;
        let complete = match &newest {
            None => true,
            // The row and the log name the same revision.
            Some(record) if revision == Some(record.revision) => true,
            Some(record) => {
                let session = session.as_deref_mut();
                self.is_log_complete(session, collection, record.revision, up_to)
                    .await?
            }
        };
        let left_behind = match &newest {
            Some(record) if row.is_none() && !complete => {
                self.is_left_behind(session, collection, record).await?
            }
            _other => false,
        };
        let newest = newest.filter(|_record| !left_behind);
        Ok(examine(row, newest.as_ref(), complete))
    }

    /// The newest whole record that a filter finds. No record before it is read.
    pub(super) async fn newest_record(
        &self,
        mut session: Option<&mut ClientSession>,
        collection: &CollectionName,
        filter: Bdoc,
    ) -> anyhow::Result<Option<Change>> {
        for damaged_records in 0..MAX_DAMAGED_RECORDS {
            let table = match session {
                // Within a transaction every read has to be part of it.
                Some(_) => self.table_at_snapshot(CHANGES),
                None => self.table(CHANGES),
            };
            let table = Self::raw(table);
            let newest = table
                .find_one(filter.clone())
                .sort(doc! { "revision": -1 })
                .skip(damaged_records);
            let row = match session.as_deref_mut() {
                Some(session) => newest.session(session).await?,
                None => call(newest).await.context("reading the change log")?,
            };
            let Some(row) = row else { return Ok(None) };
            match rows::record(collection, &row) {
                Ok(change) => return Ok(Some(change)),
                Err(damaged) => self.damage.report_record(&damaged),
            }
        }
        Ok(None)
    }

    /// The row of a head, as it is stored.
    async fn head_row(
        &self,
        session: Option<&mut ClientSession>,
        collection: &CollectionName,
    ) -> anyhow::Result<Option<Bdoc>> {
        let this_head = doc! { "_id": collection.as_str() };
        Ok(match session {
            Some(session) => {
                self.table_at_snapshot(HEADS)
                    .find_one(this_head)
                    .session(session)
                    .await?
            }
            None => call(self.table(HEADS).find_one(this_head)).await?,
        })
    }

    /// Whether the log has every revision after `after`, up to the head or to `up_to`.
    async fn is_log_complete(
        &self,
        mut session: Option<&mut ClientSession>,
        collection: &CollectionName,
        after: Revision,
        up_to: Revision,
    ) -> anyhow::Result<bool> {
        let newest = if up_to == Revision::MAX {
            let head = self.head_row(session.as_deref_mut(), collection).await?;
            match head.map(|head| rows::number(&head, "revision")) {
                Some(Ok(revision)) => revision,
                _damaged_or_absent => return Ok(false),
            }
        } else {
            up_to
        };
        let between = doc! {
            "collection": collection.as_str(),
            "revision": { "$gt": i64::try_from(after)?, "$lte": i64::try_from(newest)? },
        };
        let count = match session {
            Some(session) => {
                self.table_at_snapshot(CHANGES)
                    .count_documents(between)
                    .session(session)
                    .await?
            }
            None => call(self.table(CHANGES).count_documents(between)).await?,
        };
        Ok(newest >= after && count == newest - after)
    }

    /// Whether a repair let the log begin after a record. A record that is not proven to be the newest
    /// of its document then says nothing of a document without a row: the row may have been moved aside.
    async fn is_left_behind(
        &self,
        session: Option<&mut ClientSession>,
        collection: &CollectionName,
        record: &Change,
    ) -> anyhow::Result<bool> {
        let head = self.head_row(session, collection).await?;
        let oldest = head.and_then(|head| rows::number(&head, "oldest").ok());
        Ok(oldest.is_some_and(|oldest| record.revision < oldest))
    }

    /// The head of a row. A damaged one is taken from the newest record of the log.
    ///
    /// # Errors
    /// [`DamagedHead`] when the log does not have it.
    pub(super) async fn head_of_row(
        &self,
        session: &mut ClientSession,
        collection: &CollectionName,
        identity: &StoreIdentity,
        row: &Bdoc,
    ) -> anyhow::Result<HeadRow> {
        let stored_revision = row.get("revision").cloned().unwrap_or(Bson::Null);
        let damage = match rows::head(row, collection, identity) {
            Ok(head) => {
                return Ok(HeadRow {
                    head,
                    stored_revision,
                    damaged: false,
                });
            }
            Err(damage) => damage,
        };
        let all =
            doc! { "collection": collection.as_str(), "revision": up_to_filter(Revision::MAX) };
        let newest = self
            .newest_record(Some(&mut *session), collection, all)
            .await?;
        let Some(record) = newest else {
            self.damage.report(
                collection,
                DamagedPart::Head,
                Outcome::Refused,
                format_args!(
                    "the stored head is damaged ({damage}) and the change log does not have it: \
                     the collection cannot be read or written; see `confcast repair`"
                ),
            );
            return Err(DamagedHead {
                collection: collection.clone(),
                damage,
            }
            .into());
        };
        self.damage.report(
            collection,
            DamagedPart::Head,
            Outcome::FromLog,
            format_args!(
                "the stored head is damaged ({damage}): it is taken from the change log, and the \
                 next write or `confcast repair` makes it true"
            ),
        );
        // An `oldest` that cannot be read is corrected by retention and by a repair.
        let oldest = rows::number(row, "oldest").unwrap_or(record.revision);
        let head = Head {
            replaces: identity.replaces.clone(),
            ..head_of_record(&record, oldest.min(record.revision + 1), identity.epoch)
        };
        Ok(HeadRow {
            head,
            stored_revision,
            damaged: true,
        })
    }
}

/// Selects revisions up to `up_to`, numbers only.
pub(super) fn up_to_filter(up_to: Revision) -> Bdoc {
    doc! { "$gte": 0_i64, "$lte": i64::try_from(up_to).unwrap_or(i64::MAX) }
}
