//! A full load: a snapshot of all followed collections, proven complete.

use std::collections::BTreeMap;

use client::Endpoint;
use contract::snapshot::SnapshotLine;
use state::{Root, Snapshot, snapshot::SnapshotBuilder};

use super::{Loaded, admission};
use crate::source::SourceError;

/// Reads a snapshot to its end line. Its heads are checked first, so that nothing is read of a
/// store that would be refused.
///
/// # Errors
/// When there is no answer, the heads are not admitted, the snapshot of a subscriber is not of one
/// moment, or a document is missing or damaged.
pub(super) async fn load(publisher: &Endpoint, root: &Root) -> Result<Loaded, SourceError> {
    let names = root.collections().map(|(name, _held)| name);
    let mut lines = publisher.snapshot(names).await?;
    // Only a subscriber says this; the snapshot of a publisher is of one moment by construction.
    let confirms = lines.settled.is_none();
    if lines.settled == Some(false) {
        let reason = "it holds changes beyond a gap, so its snapshot is not of one moment";
        return Err(publisher.unusable(reason).into());
    }
    admission::check_heads(publisher, root, &lines.start.heads, &BTreeMap::new())?;
    let heads = lines.start.heads.clone();
    let mut builder: SnapshotBuilder = Snapshot::begin(lines.start.clone());
    while let Some((line, _bytes)) = lines.next_line().await? {
        match line {
            // Documents that are the same as the held ones are shared with them.
            SnapshotLine::Item(item) => builder
                .item(item, root)
                .map_err(|error| publisher.unusable(error))?,
            // The end line proves that nothing is missing; without it nothing is used.
            SnapshotLine::End(end) => {
                let snapshot = builder
                    .complete(&end, root)
                    .map_err(|error| publisher.unusable(error))?;
                return Ok(Loaded {
                    heads,
                    snapshot,
                    confirms,
                });
            }
        }
    }
    let reason = "the snapshot is cut off: it has no end line";
    Err(publisher.unusable(reason).into())
}
