//! The other side: the snapshot of a replica is compared with the publisher's in both directions,
//! while it is read.

use std::collections::{BTreeMap, HashSet};

use client::snapshot::SnapshotReader;
use contract::{CollectionName, DocumentId, Head};

use super::{
    row::{DocumentDifference, Row},
    snapshot::{self, Reference, Stamp},
};
use crate::progress::ProgressLine;

/// Differences that are listed per collection; the others are counted.
const LISTED: usize = 20;

/// What was found in a collection until now.
#[derive(Default)]
struct Found<'a> {
    /// Documents of the publisher that the replica has as well.
    seen: HashSet<&'a DocumentId>,
    differences: usize,
    /// The first differences by id.
    first: BTreeMap<DocumentId, DocumentDifference>,
}

/// Reads the snapshot of a replica and compares it.
pub(super) async fn compare(
    snapshot: SnapshotReader,
    publisher: &Reference,
    progress: &ProgressLine,
) -> anyhow::Result<Vec<Row>> {
    let mut found: BTreeMap<CollectionName, Found<'_>> = BTreeMap::new();
    let heads = snapshot::read(snapshot, progress, |collection, id, stamp| {
        let expected = publisher
            .documents
            .get(&collection)
            .and_then(|documents| documents.get_key_value(&id));
        let found = found.entry(collection).or_default();
        found.seen.extend(expected.map(|(id, _stamp)| id));
        let theirs = expected.map(|(_id, stamp)| *stamp);
        if theirs != Some(stamp) {
            found.add(id, theirs, Some(stamp));
        }
    })
    .await?;
    let row = |head: Head| {
        let mut found = found.remove(&head.collection).unwrap_or_default();
        // The replica was read to its end: what it did not send, it does not have.
        for (id, stamp) in publisher
            .documents
            .get(&head.collection)
            .into_iter()
            .flatten()
        {
            if !found.seen.contains(id) {
                found.add(id.clone(), Some(*stamp), None);
            }
        }
        let theirs = publisher.head(&head.collection);
        Row::new(
            head,
            theirs,
            found.differences,
            found.first.into_values().collect(),
        )
    };
    Ok(heads.into_iter().map(row).collect())
}

impl Found<'_> {
    /// Counts a difference, and lists it if it is among the first.
    fn add(&mut self, id: DocumentId, publisher: Option<Stamp>, replica: Option<Stamp>) {
        self.differences += 1;
        self.first
            .insert(id.clone(), DocumentDifference::new(id, publisher, replica));
        if self.first.len() > LISTED {
            self.first.pop_last();
        }
    }
}
