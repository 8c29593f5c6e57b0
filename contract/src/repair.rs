//! The repair of a store: what an operator asks for, and what was found and done.
//!
//! Nothing here reads a store.

use serde::{Deserialize, Serialize};

use crate::{
    head::Head,
    ids::{CollectionName, Epoch, Revision},
};

/// Most rows that a report names in each list; its counts have all.
pub const MAX_NAMED: usize = 100;

/// Body of `POST /v1/repair`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RepairRequest {
    /// Write what was found to be true; otherwise only report it.
    #[serde(default)]
    pub apply: bool,
    /// Also move damaged rows aside whose value the change log does not have. Their documents are lost
    /// in the store.
    #[serde(default)]
    pub discard: bool,
    /// The collections; empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub collections: Vec<CollectionName>,
}

/// Answer to `POST /v1/repair`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct RepairReport {
    /// Whether anything was written where it was needed.
    pub applied: bool,
    /// The collections, by name.
    pub collections: Vec<CollectionRepair>,
    /// The epoch that was declared, because content that replicas may hold was changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// Why no epoch could be declared although one is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch_failure: Option<String>,
}

/// What was found and done in one collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct CollectionRepair {
    /// The collection.
    pub collection: CollectionName,
    /// Its state after this repair.
    pub state: RepairState,
    /// Rows that were read.
    pub rows: u64,
    /// Rows that were restored or deleted by the change log, and base records that were restored by the
    /// rows of their documents.
    pub from_log: DamagedRows,
    /// Rows that are no documents, moved aside.
    pub stray: DamagedRows,
    /// Damaged rows whose value the change log does not have.
    pub unrecoverable: DamagedRows,
    /// Records of the change log that are damaged or gone. The log begins after the last of them.
    pub records: DamagedRows,
    /// The head as it was stored; absent if it was gone or damaged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_before: Option<Head>,
    /// The head that rows and log prove; absent if they prove none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_after: Option<Head>,
}

/// The state of a collection after a repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum RepairState {
    /// Nothing was damaged.
    Whole,
    /// Something is damaged, and a repair that applies would mend it.
    Repairable,
    /// Everything that was damaged was mended.
    Repaired,
    /// Something is damaged that the change log does not have. Everything else was mended, if it was applied.
    Unrecoverable,
    /// The collection was written while it was read. Nothing is known; try again.
    Busy,
}

/// Damaged rows: all are counted, some are named.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct DamagedRows {
    /// How many.
    pub count: u64,
    /// The first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub named: Vec<DamagedRow>,
}

/// One damaged row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct DamagedRow {
    /// The id of the document, or the key of another row.
    pub id: String,
    /// What is wrong with it.
    pub damage: String,
    /// The revision that it has by the change log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
}

impl DamagedRows {
    /// Adds a row.
    pub fn add(&mut self, row: DamagedRow) {
        self.count += 1;
        if self.named.len() < MAX_NAMED {
            self.named.push(row);
        }
    }
}

/// Body of `GET /readyz` of a publisher that works and has damaged rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct DegradedStore {
    /// Always `degraded`.
    pub status: String,
    /// In words, with one of the rows. To a caller that is not known nothing of them is said.
    pub detail: String,
    /// Damaged rows whose document is taken from the change log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_log: Option<usize>,
    /// Rows that are no documents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignored: Option<usize>,
    /// Damaged rows that are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<usize>,
}
