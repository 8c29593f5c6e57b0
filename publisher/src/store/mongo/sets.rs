//! Finding the change sets of records that a publisher of an earlier version wrote: it did not give them
//! the field by which a set is found. It may still run, so new records are examined too.
//!
//! The log is examined in steps. Where it was examined up to is stored for each collection, so that a
//! step is done once, by any publisher.

use anyhow::Context;
use contract::{CollectionName, Revision};
use mongodb::bson::{Bson, Document as Bdoc, doc};

use crate::store::mongo::{CHANGES, HEADS, META, Mongo, call, rows};

/// Revisions of one step: the database reads their records, which may be large.
const STEP: Revision = 200;

impl Mongo {
    /// Gives records the id of their change set.
    ///
    /// # Errors
    /// When the database cannot be read or written. The steps until then are kept.
    pub(in crate::store) async fn index_sets(&self) -> anyhow::Result<()> {
        for collection in self.policy.collections.all().iter() {
            let indexed = self.index_sets_of(collection).await;
            indexed.with_context(|| format!("finding the change sets of {collection}"))?;
        }
        Ok(())
    }

    async fn index_sets_of(&self, collection: &CollectionName) -> anyhow::Result<()> {
        let heads = self.table(HEADS);
        let head = call(heads.find_one(doc! { "_id": collection.as_str() })).await?;
        let Some(head) = head else { return Ok(()) };
        // A damaged head is reported by its readers.
        let (Ok(end), Ok(oldest)) = (
            rows::number(&head, "revision"),
            rows::number(&head, "oldest"),
        ) else {
            return Ok(());
        };
        let position = doc! { "_id": format!("sets {collection}") };
        let stored = call(self.table(META).find_one(position.clone())).await?;
        let indexed = stored.and_then(|row| rows::number(&row, "indexed").ok());
        // A position beyond the head is of a database that was restored since.
        let indexed = indexed
            .filter(|indexed| *indexed <= end)
            .unwrap_or_default();
        let mut from = indexed.max(oldest.saturating_sub(1));
        while from < end {
            let to = end.min(from + STEP);
            let step = doc! {
                "collection": collection.as_str(),
                "revision": { "$gt": rows::as_number(from), "$lte": rows::as_number(to) },
                "set": { "$exists": false },
                "change": { "$regex": r#""changeSet":\{"id":""# },
            };
            let log = self.table(CHANGES);
            call(log.update_many(step, vec![doc! { "$set": { "set": set_of_record() } }])).await?;
            // Where another publisher is further, some steps are done twice.
            let reached = doc! { "$set": { "indexed": rows::as_number(to) } };
            let meta = self.table(META);
            call(meta.update_one(position.clone(), reached).upsert(true)).await?;
            from = to;
        }
        Ok(())
    }
}

/// The id of the change set in the text of a record.
fn set_of_record() -> Bson {
    // The last one of the text: a value may have the same member, and comes before it.
    let found = doc! { "$regexFind": {
        "input": "$change", "regex": r#"^.*"changeSet":\{"id":"([^"\\]+)""#, "options": "s",
    } };
    let id: Bdoc = doc! { "$let": {
        "vars": { "found": found },
        "in": { "$arrayElemAt": ["$$found.captures", 0] },
    } };
    id.into()
}
