//! All of some collections at one moment, as newline-delimited JSON: [`Start`], then an [`Item`]
//! per document, then [`End`].
//!
//! The end line is what makes it complete: a snapshot without it, or whose items do not add up to
//! the heads of its first line, is never installed.

use serde::{Deserialize, Serialize};

use crate::{
    canonical::CanonicalJson,
    head::Head,
    ids::{CollectionName, Crc, DocumentId, Epoch, Revision},
};

/// Response header of a subscriber's snapshot: `false` while it holds changes beyond a gap. Such a
/// snapshot is of no one moment; it shows what readers see, and no replica may load it.
pub const SETTLED: &str = "confcast-settled";

/// First line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "utoipa", schema(as = SnapshotStart))]
pub struct Start {
    /// The history that all revisions count in.
    pub epoch: Epoch,
    /// Where each collection stood at that moment.
    pub heads: Vec<Head>,
}

/// One document. Written by [`crate::Document::snapshot_line`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "utoipa", schema(as = SnapshotItem))]
#[serde(rename_all = "camelCase")]
pub struct Item {
    /// Its collection.
    pub collection: CollectionName,
    /// Its id.
    pub id: DocumentId,
    /// The revision that gave it this value.
    pub revision: Revision,
    /// Checksum of `config_data`.
    pub crc: Crc,
    /// Its value.
    pub config_data: CanonicalJson,
}

/// Last line: `{"end":true,"count":n}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "utoipa", schema(as = SnapshotEnd))]
pub struct End {
    /// Always true.
    pub end: bool,
    /// Items sent, over all collections.
    pub count: u64,
}

/// A line after the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// A document.
    Item(Item),
    /// The proof that nothing is missing.
    End(End),
}

impl Line {
    /// Reads a line after the first.
    ///
    /// # Errors
    /// When it is neither an item nor the end.
    pub fn parse(line: &[u8]) -> Result<Self, serde_json::Error> {
        if line.starts_with(br#"{"end""#) {
            serde_json::from_slice(line).map(Self::End)
        } else {
            serde_json::from_slice(line).map(Self::Item)
        }
    }
}
