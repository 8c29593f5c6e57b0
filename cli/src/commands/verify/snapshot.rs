//! One side of the comparison: a snapshot, read document by document to its proven end. Nothing of
//! a value is kept but a hash.

use std::{
    collections::BTreeMap,
    fmt,
    hash::{DefaultHasher, Hasher},
};

use anyhow::Context;
use contract::{CollectionName, Crc, DocumentId, Head, Revision};
use reqwest::Response;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    client::lines,
    progress::Progress,
    whole::{Step, Whole},
};

/// What is compared of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Stamp {
    pub(super) revision: Revision,
    crc: Crc,
    /// Hash of its `configData` as it came.
    #[serde(skip)]
    bytes: u64,
}

/// All that a publisher holds, as stamps.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) heads: Vec<Head>,
    pub(super) documents: BTreeMap<CollectionName, BTreeMap<DocumentId, Stamp>>,
}

impl Held {
    pub(super) async fn read(answer: Response, progress: &Progress) -> anyhow::Result<Self> {
        let mut held = Self::default();
        held.heads = read(answer, progress, |collection, id, stamp| {
            held.documents
                .entry(collection)
                .or_default()
                .insert(id, stamp);
        })
        .await?;
        Ok(held)
    }

    pub(super) fn head(&self, collection: &CollectionName) -> Option<&Head> {
        self.heads
            .iter()
            .find(|head| head.collection == *collection)
    }
}

/// Gives every document to `take`, then tells the heads of the snapshot, if it was whole.
pub(super) async fn read(
    answer: Response,
    progress: &Progress,
    mut take: impl FnMut(CollectionName, DocumentId, Stamp),
) -> anyhow::Result<Vec<Head>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct AsItCame<'a> {
        #[serde(borrow)]
        config_data: &'a RawValue,
    }
    let mut whole = Whole::default();
    let mut lines = lines(answer);
    while let Some(line) = lines
        .next_segment()
        .await
        .context("the snapshot broke off")?
    {
        match whole.line(&line)? {
            Step::Start(documents) => progress.more(documents),
            Step::Item(item) => {
                // The item was given its canonical spelling when it was read: only the line tells
                // the bytes that are served.
                let AsItCame { config_data } =
                    serde_json::from_slice(&line).context("a line of the snapshot")?;
                let mut hasher = DefaultHasher::new();
                hasher.write(config_data.get().as_bytes());
                let stamp = Stamp {
                    revision: item.revision,
                    crc: item.crc,
                    bytes: hasher.finish(),
                };
                take(item.collection, item.id, stamp);
                progress.document();
            }
            Step::End => {}
        }
    }
    Ok(whole.finish()?.heads)
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.revision, self.crc)
    }
}
