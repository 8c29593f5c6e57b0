//! The keys of the publishers in MongoDB: one row of `_meta`, which each of them updates in one step.

use std::collections::BTreeSet;

use anyhow::Context;
use mongodb::{
    bson::{Bson, Document as Bdoc, doc},
    options::ReturnDocument,
};

use crate::store::{
    mongo::{META, Mongo, call},
    secret_keys::TOLD_FOR,
};

/// `_id` of the row in [`META`].
const ROW: &str = "secretKeys";
/// Most publishers in the row: of more, the ones that were silent for longest are forgotten.
const MAX_PUBLISHERS: i32 = 256;

impl Mongo {
    pub(in crate::store) async fn tell_secret_key(
        &self,
        publisher: u64,
        key: &str,
    ) -> anyhow::Result<BTreeSet<String>> {
        let publisher = format!("{publisher:016x}");
        let age = i64::try_from(TOLD_FOR.as_millis()).unwrap_or(i64::MAX);
        // The clock of the server: those of the publishers may differ.
        let others = doc! { "$filter": {
            "input": { "$ifNull": ["$publishers", []] },
            "cond": { "$and": [
                { "$ne": ["$$this.publisher", &publisher] },
                { "$gt": ["$$this.told", { "$subtract": ["$$NOW", age] }] },
            ] },
        } };
        let own = doc! {
            "publisher": { "$literal": &publisher }, "key": { "$literal": key }, "told": "$$NOW",
        };
        let publishers = doc! { "$slice": [
            { "$concatArrays": [others, [own]] }, -MAX_PUBLISHERS,
        ] };
        let update = vec![doc! { "$set": { "publishers": publishers } }];
        let meta = self.table(META);
        let update = meta
            .find_one_and_update(doc! { "_id": ROW }, update)
            .upsert(true)
            .return_document(ReturnDocument::After);
        let row = call(update).await?.context("the row was removed")?;
        let told = row.get_array("publishers")?;
        let keys = told.iter().filter_map(Bson::as_document);
        let keys = keys.filter_map(|told: &Bdoc| told.get_str("key").ok());
        Ok(keys
            .filter(|told| *told != key)
            .map(str::to_owned)
            .collect())
    }
}
