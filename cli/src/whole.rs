//! Proof that a snapshot is whole: its end line, its count, and per collection the count and digest
//! of its head.

use std::collections::BTreeMap;

use anyhow::{Context, bail, ensure};
use contract::{
    CollectionName, Digest, Head,
    snapshot::{SnapshotEnd, SnapshotItem, SnapshotLine, SnapshotStart},
};

/// Reads a snapshot line by line and says whether anything is missing or damaged.
#[derive(Debug, Default)]
pub(crate) struct Whole {
    collections: Option<BTreeMap<CollectionName, Sum>>,
    items: u64,
    ended: bool,
}

/// What a line was.
#[derive(Debug)]
pub(crate) enum Step {
    /// The first one, which announces so many documents.
    Start(u64),
    Item(SnapshotItem),
    End,
}

/// What was proven.
#[derive(Debug)]
pub(crate) struct Proven {
    pub(crate) heads: Vec<Head>,
    pub(crate) documents: u64,
}

#[derive(Debug)]
struct Sum {
    head: Head,
    count: u64,
    digest: Digest,
}

impl Whole {
    /// Takes the next line.
    pub(crate) fn line(&mut self, line: &[u8]) -> anyhow::Result<Step> {
        ensure!(!self.ended, "something follows the end line");
        let Some(collections) = &mut self.collections else {
            let start: SnapshotStart =
                serde_json::from_slice(line).context("the first line of the snapshot")?;
            let announced = start
                .heads
                .iter()
                .map(|head| head.count)
                .fold(0, u64::saturating_add);
            let sum = |head: Head| {
                (
                    head.collection.clone(),
                    Sum {
                        head,
                        count: 0,
                        digest: Digest::default(),
                    },
                )
            };
            self.collections = Some(start.heads.into_iter().map(sum).collect());
            return Ok(Step::Start(announced));
        };
        match SnapshotLine::parse(line)
            .with_context(|| format!("item {} of the snapshot", self.items + 1))?
        {
            SnapshotLine::Item(item) => {
                self.items += 1;
                collections
                    .get_mut(&item.collection)
                    .with_context(|| format!("{} has no head in the first line", item.collection))?
                    .add(&item)?;
                Ok(Step::Item(item))
            }
            SnapshotLine::End(SnapshotEnd { count, .. }) => {
                self.ended = true;
                ensure!(
                    count == self.items,
                    "the end line counts {count} documents, but {} came",
                    self.items
                );
                collections.values().try_for_each(Sum::check)?;
                Ok(Step::End)
            }
        }
    }

    /// What there was, if the end line proved that this is all.
    pub(crate) fn finish(self) -> anyhow::Result<Proven> {
        if !self.ended {
            bail!(
                "the snapshot is cut off after {} documents: it has no end line",
                self.items
            );
        }
        let heads = self
            .collections
            .into_iter()
            .flatten()
            .map(|(_name, sum)| sum.head)
            .collect();
        Ok(Proven {
            heads,
            documents: self.items,
        })
    }
}

impl Sum {
    fn add(&mut self, item: &SnapshotItem) -> anyhow::Result<()> {
        let SnapshotItem {
            collection,
            id,
            revision,
            crc,
            config_data,
        } = item;
        ensure!(
            config_data.crc() == *crc,
            "{collection}/{id} is damaged: its crc is not {crc}"
        );
        self.count += 1;
        self.digest = self.digest.with(id, *revision, *crc);
        Ok(())
    }

    fn check(&self) -> anyhow::Result<()> {
        let Head {
            collection,
            revision,
            count,
            digest,
            ..
        } = &self.head;
        ensure!(
            (self.count, self.digest) == (*count, *digest),
            "{collection} at revision {revision} has {count} documents with digest {digest}, but {} with {} came",
            self.count,
            self.digest,
        );
        Ok(())
    }
}
