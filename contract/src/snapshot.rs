//! A snapshot: all documents of some collections at one moment, as newline-delimited JSON.
//!
//! The first line is a [`SnapshotStart`], then one [`SnapshotItem`] per document follows, and the
//! last line is a [`SnapshotEnd`]. A snapshot without its last line, or whose items do not add up to
//! the heads of its first line, must not be used: [`SnapshotProof`] checks that. Nothing here reads
//! or sends.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::value::RawValue;

use crate::{
    document::Document,
    head::Head,
    ids::{CollectionName, Crc, Digest, DocumentId, Epoch, Revision},
};

/// Response header of a snapshot of a subscriber: `false` while it has changes beyond a gap. Such a
/// snapshot belongs to no single moment: readers may use it, and no replica may load it.
pub const SETTLED: &str = "confcast-settled";

/// Request header with the name of the replica that asks, as in its check-ins. A hint: it
/// distinguishes the replicas behind one address, so that each gets a slot.
pub const INSTANCE: &str = "confcast-instance";

/// First line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct SnapshotStart {
    /// The epoch of all revisions.
    pub epoch: Epoch,
    /// Head of each collection at that moment.
    pub heads: Vec<Head>,
}

/// One document. Written by [`Document::snapshot_line`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotItem {
    /// Its collection.
    pub collection: CollectionName,
    /// Checksum of the value, as the line gives it: [`SnapshotProof::item`] compares it.
    pub crc: Crc,
    /// The document.
    pub document: Document,
}

/// The members of the line of a [`SnapshotItem`].
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ItemMembers<'a> {
    collection: CollectionName,
    id: DocumentId,
    revision: Revision,
    crc: Crc,
    #[serde(borrow)]
    config_data: &'a RawValue,
}

/// Reads a line that is in memory as a whole. Its value is copied once, into the document.
impl<'de> Deserialize<'de> for SnapshotItem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let line = ItemMembers::deserialize(deserializer)?;
        let document = Document::from_json(line.id, line.revision, line.config_data.get());
        Ok(Self {
            collection: line.collection,
            crc: line.crc,
            document: document.map_err(D::Error::custom)?,
        })
    }
}

/// Last line: `{"end":true,"count":n}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct SnapshotEnd {
    /// Always true.
    pub end: bool,
    /// Number of items, over all collections.
    pub count: u64,
}

/// A line after the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotLine {
    /// A document.
    Item(SnapshotItem),
    /// The last line.
    End(SnapshotEnd),
}

impl SnapshotLine {
    /// Parses a line after the first.
    ///
    /// # Errors
    /// When it is neither an item nor the end.
    pub fn parse(line: &[u8]) -> Result<Self, serde_json::Error> {
        if line.starts_with(br#"{"end""#) {
            crate::objects::from_slice(line).map(Self::End)
        } else {
            crate::objects::from_slice(line).map(Self::Item)
        }
    }
}

/// Proof that a snapshot is complete: every line is checked as it arrives, and the end line, the
/// counts and the digests of the heads must agree with the received items.
///
/// It holds no documents. The caller keeps each item that was accepted, and uses none of them before
/// [`SnapshotProof::finish`] succeeded.
#[derive(Debug)]
pub struct SnapshotProof {
    epoch: Epoch,
    parts: BTreeMap<CollectionName, Part>,
    items: u64,
}

/// One collection of a snapshot that is being read.
#[derive(Debug)]
struct Part {
    head: Head,
    count: u64,
    digest: Digest,
}

/// Why an answer is not a complete snapshot. Nothing of it may be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// An item of a collection that the first line does not name.
    #[error("an item of {0}, which the first line does not name")]
    UnknownCollection(CollectionName),
    /// A value whose checksum does not match.
    #[error("{collection}/{id} is damaged: its crc is not {crc}")]
    Damaged {
        /// Its collection.
        collection: CollectionName,
        /// Its id.
        id: DocumentId,
        /// The checksum that the line gives.
        crc: Crc,
    },
    /// More items of a collection than its head counts.
    #[error("more documents of {collection} arrived than the {count} that its head counts")]
    TooMany {
        /// The collection.
        collection: CollectionName,
        /// Count of its head.
        count: u64,
    },
    /// The last line says that it is not the end.
    #[error("the last line is not an end line")]
    NotTheEnd,
    /// A head of another epoch than the first line.
    #[error("the head of {0} belongs to another epoch than the snapshot")]
    Epoch(CollectionName),
    /// The end line counts other items than arrived.
    #[error("the end line counts {announced} documents, but {received} arrived")]
    Count {
        /// Items that arrived.
        received: u64,
        /// Items that the end line counts.
        announced: u64,
    },
    /// Items and head of a collection disagree.
    #[error(
        "{collection} at revision {revision} has {count} documents with digest {digest}, but \
         {received} with {received_digest} arrived"
    )]
    Digest {
        /// The collection.
        collection: CollectionName,
        /// Its revision in the first line.
        revision: Revision,
        /// Count of its head.
        count: u64,
        /// Digest of its head.
        digest: Digest,
        /// Items that arrived.
        received: u64,
        /// Digest of these items.
        received_digest: Digest,
    },
    /// A collection that the reader follows is absent.
    #[error("{0} is not in it")]
    Missing(CollectionName),
}

impl SnapshotProof {
    /// Begins with the first line.
    pub fn begin(start: SnapshotStart) -> Self {
        let part = |head: Head| {
            let part = Part {
                count: 0,
                digest: Digest::default(),
                head,
            };
            (part.head.collection.clone(), part)
        };
        Self {
            epoch: start.epoch,
            parts: start.heads.into_iter().map(part).collect(),
            items: 0,
        }
    }

    /// The number of documents that the first line announces.
    pub fn announced(&self) -> u64 {
        let counts = self.parts.values().map(|part| part.head.count);
        counts.fold(0, u64::saturating_add)
    }

    /// The number of documents that arrived until now.
    pub fn received(&self) -> u64 {
        self.items
    }

    /// Checks one item and counts it.
    ///
    /// # Errors
    /// When its collection was not announced, its checksum does not match, or it is one more than the
    /// head of its collection counts: the caller then keeps no more than was announced.
    pub fn item(&mut self, item: &SnapshotItem) -> Result<(), SnapshotError> {
        let Some(part) = self.parts.get_mut(&item.collection) else {
            return Err(SnapshotError::UnknownCollection(item.collection.clone()));
        };
        let document = &item.document;
        if document.crc() != item.crc {
            return Err(SnapshotError::Damaged {
                collection: item.collection.clone(),
                id: document.id().clone(),
                crc: item.crc,
            });
        }
        if part.count >= part.head.count {
            return Err(SnapshotError::TooMany {
                collection: item.collection.clone(),
                count: part.head.count,
            });
        }
        part.count += 1;
        part.digest = part
            .digest
            .with(document.id(), document.revision(), item.crc);
        self.items += 1;
        Ok(())
    }

    /// Ends with the last line, and gives epoch and heads of the complete snapshot.
    ///
    /// # Errors
    /// When a count or a digest disagrees.
    pub fn finish(self, end: &SnapshotEnd) -> Result<SnapshotStart, SnapshotError> {
        if !end.end {
            return Err(SnapshotError::NotTheEnd);
        }
        let mixed = |part: &&Part| part.head.epoch != self.epoch;
        if let Some(part) = self.parts.values().find(mixed) {
            return Err(SnapshotError::Epoch(part.head.collection.clone()));
        }
        if end.count != self.items {
            return Err(SnapshotError::Count {
                received: self.items,
                announced: end.count,
            });
        }
        let different =
            |part: &&Part| (part.count, part.digest) != (part.head.count, part.head.digest);
        if let Some(part) = self.parts.values().find(different) {
            return Err(SnapshotError::Digest {
                collection: part.head.collection.clone(),
                revision: part.head.revision,
                count: part.head.count,
                digest: part.head.digest,
                received: part.count,
                received_digest: part.digest,
            });
        }
        let heads = self.parts.into_values().map(|part| part.head).collect();
        Ok(SnapshotStart {
            epoch: self.epoch,
            heads,
        })
    }
}
