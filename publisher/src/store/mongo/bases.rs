//! Base records in MongoDB: making them before the log is trimmed, making them again after records
//! were lost, and removing those that no state needs.
//!
//! Base records and coverage of a collection are written together, in transactions that all write
//! the coverage: two publishers that trim at the same time, or a publisher that makes a named
//! snapshot, do so one after the other. Otherwise a slow publisher could write an old base record
//! again after a newer one of a deletion was removed, and the document would come back.

use contract::CollectionName;
use mongodb::{ClientSession, bson::doc};

use crate::store::{
    integrity::text_checksum,
    mongo::{COVERAGE, Mongo},
    past::bases::Coverage,
};

/// The coverage of a collection as it is stored.
#[derive(Debug, Default)]
pub(super) struct CoverageRow {
    pub(super) coverage: Coverage,
    /// How often it was written; 0 = never.
    version: i64,
}

impl Mongo {
    /// What the base records of a collection cover, in a snapshot session or a transaction. A row that
    /// is damaged covers nothing.
    pub(super) async fn coverage_in(
        &self,
        session: &mut ClientSession,
        collection: &CollectionName,
    ) -> anyhow::Result<CoverageRow> {
        let row = self
            .table_at_snapshot(COVERAGE)
            .find_one(doc! { "_id": collection.as_str() })
            .session(session)
            .await?;
        let Some(row) = row else {
            return Ok(CoverageRow::default());
        };
        let text = row.get_str("coverage").unwrap_or_default();
        let whole = row
            .get_str("crc")
            .is_ok_and(|crc| crc == checksum(collection, text));
        let coverage = whole.then(|| serde_json::from_str(text).ok()).flatten();
        Ok(CoverageRow {
            coverage: coverage.unwrap_or_default(),
            version: row.get_i64("version").unwrap_or_default(),
        })
    }

    /// Replaces the coverage that was read in the same transaction.
    pub(super) async fn put_coverage_in(
        &self,
        session: &mut ClientSession,
        collection: &CollectionName,
        read: &CoverageRow,
        coverage: &Coverage,
    ) -> anyhow::Result<()> {
        let text = serde_json::to_string(coverage)?;
        let update = doc! { "$set": {
            "version": read.version + 1,
            "crc": checksum(collection, &text),
            "coverage": text,
        } };
        self.table(COVERAGE)
            .update_one(doc! { "_id": collection.as_str() }, update)
            .upsert(true)
            .session(session)
            .await?;
        Ok(())
    }
}

fn checksum(collection: &CollectionName, text: &str) -> String {
    text_checksum(&format!("coverage {collection}"), text).to_string()
}
