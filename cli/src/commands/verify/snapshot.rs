//! One side of the comparison: a snapshot, read document by document to its proven end. Of a value
//! only a hash is kept.

use std::{
    collections::BTreeMap,
    fmt,
    hash::{DefaultHasher, Hasher},
};

use anyhow::Context;
use client::snapshot::SnapshotReader;
use contract::{CollectionName, Crc, DocumentId, Head, Revision};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::progress::ProgressLine;

/// What is compared of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Stamp {
    pub(super) revision: Revision,
    crc: Crc,
    /// Hash of its `configData` as it was sent.
    #[serde(skip)]
    bytes: u64,
}

/// All documents of a publisher, as stamps.
#[derive(Debug, Default)]
pub(super) struct Reference {
    pub(super) heads: Vec<Head>,
    pub(super) documents: BTreeMap<CollectionName, BTreeMap<DocumentId, Stamp>>,
}

impl Reference {
    pub(super) async fn read(
        snapshot: SnapshotReader,
        progress: &ProgressLine,
    ) -> anyhow::Result<Self> {
        let mut reference = Self::default();
        reference.heads = read(snapshot, progress, |collection, id, stamp| {
            reference
                .documents
                .entry(collection)
                .or_default()
                .insert(id, stamp);
        })
        .await?;
        Ok(reference)
    }

    pub(super) fn head(&self, collection: &CollectionName) -> Option<&Head> {
        self.heads
            .iter()
            .find(|head| head.collection == *collection)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ValueAsSent<'a> {
    #[serde(borrow)]
    config_data: &'a RawValue,
}

/// Gives every document to `take`, then the heads of the snapshot, if it is complete.
pub(super) async fn read(
    mut snapshot: SnapshotReader,
    progress: &ProgressLine,
    mut take: impl FnMut(CollectionName, DocumentId, Stamp),
) -> anyhow::Result<Vec<Head>> {
    progress.announce(snapshot.announced());
    while let Some(record) = snapshot.next_record().await? {
        // The item has its canonical form since it was parsed: only the line has the bytes that
        // were sent.
        let ValueAsSent { config_data } =
            contract::objects::from_slice(&record.line).context("a line of the snapshot")?;
        let mut hasher = DefaultHasher::new();
        hasher.write(config_data.get().as_bytes());
        let document = record.item.document;
        let stamp = Stamp {
            revision: document.revision(),
            crc: record.item.crc,
            bytes: hasher.finish(),
        };
        take(record.item.collection, document.id().clone(), stamp);
        progress.document();
    }
    Ok(snapshot.finish()?.heads)
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.revision, self.crc)
    }
}
