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
    damage::Outcome,
    integrity::{Damage, DamagedDocument, DamagedHead, Verdict, examine, head_of_record},
    mongo::{CHANGES, HEADS, Mongo, call, rows},
};

/// Damaged records at the end of the log, or of the history of a document, that are passed over.
const MAX_DAMAGED_RECORDS: i64 = 16;

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
    /// [`DamagedDocument`] when the row is damaged and the log does not have its document.
    pub(super) async fn document_of_row(
        &self,
        session: Option<&mut ClientSession>,
        collection: &CollectionName,
        id: &DocumentId,
        row: Option<&RawDocument>,
        up_to: Revision,
    ) -> anyhow::Result<Option<Document>> {
        // Fast path: the log is read for damaged rows only.
        let read = match row.map(|row| rows::document(collection, row)) {
            Some(Ok(document)) => return Ok(Some(document)),
            other => other,
        };
        let revision = row.and_then(|row| rows::revision(row).ok());
        let verdict = self
            .verdict(session, collection, id, read, revision, up_to)
            .await?;
        self.settle(collection, id, verdict)
    }

    /// What a reader gets by a verdict. Damage is reported.
    fn settle(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
        verdict: Verdict,
    ) -> anyhow::Result<Option<Document>> {
        let report = |outcome, damage: &Damage, follows| {
            self.damage.report(
                collection,
                id.as_str(),
                outcome,
                format_args!("a stored document is damaged ({damage}): {follows}"),
            );
        };
        match verdict {
            Verdict::Whole(document) => Ok(Some(document)),
            Verdict::Absent => Ok(None),
            Verdict::FromLog(document, damage) => {
                report(
                    Outcome::FromLog,
                    &damage,
                    "readers get it from the change log, and the next write or `confcast repair` \
                     makes the row true",
                );
                Ok(Some(document))
            }
            Verdict::DeletedByLog(damage) => {
                report(
                    Outcome::Ignored,
                    &damage,
                    "it was deleted by the change log, and its row is ignored",
                );
                Ok(None)
            }
            Verdict::Unrecoverable(damage) => {
                report(
                    Outcome::Refused,
                    &damage,
                    "the change log does not have its value, so it is refused; see `confcast repair`",
                );
                Err(DamagedDocument {
                    collection: collection.clone(),
                    id: id.to_string(),
                    damage,
                }
                .into())
            }
        }
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
                self.is_log_complete(session, collection, record.revision, up_to)
                    .await?
            }
        };
        Ok(examine(row, newest.as_ref(), complete))
    }

    /// The newest whole record that a filter finds.
    pub(super) async fn newest_record(
        &self,
        session: Option<&mut ClientSession>,
        collection: &CollectionName,
        filter: Bdoc,
    ) -> anyhow::Result<Option<Change>> {
        let newest_first = doc! { "revision": -1 };
        let mut found = Vec::new();
        match session {
            // Within a transaction every read has to be part of it.
            Some(session) => {
                let mut cursor = Self::raw(self.table_at_snapshot(CHANGES))
                    .find(filter)
                    .sort(newest_first)
                    .limit(MAX_DAMAGED_RECORDS)
                    .session(&mut *session)
                    .await?;
                while let Some(row) = cursor.next(session).await.transpose()? {
                    found.push(row);
                }
            }
            None => {
                let read = async {
                    let mut cursor = Self::raw(self.table(CHANGES))
                        .find(filter)
                        .sort(newest_first)
                        .limit(MAX_DAMAGED_RECORDS)
                        .await?;
                    while cursor.advance().await? {
                        found.push(cursor.current().to_owned());
                    }
                    Ok(())
                };
                call(read).await.context("reading the change log")?;
            }
        }
        for row in found {
            match rows::change(collection, &row) {
                Ok(change) => return Ok(Some(change)),
                Err(damaged) => self.report_record(collection, &damaged),
            }
        }
        Ok(None)
    }

    /// Whether the log has every revision after `after`, up to the head or to `up_to`.
    async fn is_log_complete(
        &self,
        mut session: Option<&mut ClientSession>,
        collection: &CollectionName,
        after: Revision,
        up_to: Revision,
    ) -> anyhow::Result<bool> {
        let name = collection.as_str();
        let newest = if up_to == Revision::MAX {
            let this_head = doc! { "_id": name };
            let head = match session.as_deref_mut() {
                Some(session) => {
                    self.table_at_snapshot(HEADS)
                        .find_one(this_head)
                        .session(session)
                        .await?
                }
                None => call(self.table(HEADS).find_one(this_head)).await?,
            };
            match head.map(|head| rows::number(&head, "revision")) {
                Some(Ok(revision)) => revision,
                _damaged_or_absent => return Ok(false),
            }
        } else {
            up_to
        };
        let between = doc! {
            "collection": name,
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
                "",
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
            "",
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

    /// Reports a record that is not what a publisher wrote.
    pub(super) fn report_record(
        &self,
        collection: &CollectionName,
        damaged: &crate::store::integrity::DamagedRecord,
    ) {
        self.damage.report(
            collection,
            &format!("record {}", damaged.revision),
            Outcome::Ignored,
            format_args!(
                "{damaged}: the feed ends before it, so replicas that need it load the collection"
            ),
        );
    }
}

/// Selects revisions up to `up_to`, numbers only.
pub(super) fn up_to_filter(up_to: Revision) -> Bdoc {
    doc! { "$gte": 0_i64, "$lte": i64::try_from(up_to).unwrap_or(i64::MAX) }
}
