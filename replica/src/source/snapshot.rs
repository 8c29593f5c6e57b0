//! A full load: a snapshot of all followed collections, proven complete; of those that a publisher
//! serves where no publisher serves all of them.

use std::collections::{BTreeMap, BTreeSet};

use client::{ClientError, Endpoint};
use contract::{CollectionName, snapshot::SnapshotLine};
use state::{CollectionState, Root, Snapshot, snapshot::SnapshotBuilder};

use super::{Loaded, admission};
use crate::source::SourceError;

/// Reads a snapshot of all followed collections; see [`read`].
///
/// # Errors
/// As [`read`]; also when the publisher does not serve one of the collections.
pub(super) async fn load(publisher: &Endpoint, root: &Root) -> Result<Loaded, SourceError> {
    let names = root.collections().map(|(name, _held)| name).collect();
    read(publisher, root, &names).await
}

/// Reads a snapshot of the followed collections that the publisher serves, after no publisher served
/// all of them: `refusal` is what they said. The others are in [`Loaded::unserved`]. With
/// `and_all_loaded` none of them may be loaded here.
///
/// # Errors
/// As [`load`]; also when none is served.
pub(super) async fn load_served(
    publisher: &Endpoint,
    root: &Root,
    refusal: &ClientError,
    and_all_loaded: bool,
) -> Result<Loaded, SourceError> {
    let heads = publisher.heads().await?;
    let is_served = |name: &CollectionName| heads.iter().any(|head| head.collection == *name);
    let (served, unserved): (Vec<_>, Vec<_>) = root
        .collections()
        .partition(|(name, _held)| is_served(name));
    // Nothing is no load: the publisher says itself what is wrong.
    let lacks_loaded = and_all_loaded && unserved.iter().any(|(_name, held)| held.loaded());
    if served.is_empty() || lacks_loaded {
        return load(publisher, root).await;
    }
    let names = served.into_iter().map(|(name, _held)| name).collect();
    let loaded = read(publisher, root, &names).await?;
    let unserved = unserved.into_iter().map(|(name, _held)| {
        let reason = format!("no publisher serves {name}: {refusal}");
        (name.clone(), reason)
    });
    Ok(Loaded {
        unserved: unserved.collect(),
        ..loaded
    })
}

/// Reads a snapshot of these collections to its end line. Its heads are checked first, so that nothing is read of a
/// store that would be refused.
///
/// # Errors
/// When there is no answer, the heads are not admitted, the snapshot of a subscriber is not of one
/// moment, or a document is missing or damaged.
async fn read(
    publisher: &Endpoint,
    root: &Root,
    names: &BTreeSet<&CollectionName>,
) -> Result<Loaded, SourceError> {
    let mut lines = publisher.snapshot(names.iter().copied()).await?;
    // Only a subscriber says this; the snapshot of a publisher is of one moment by construction.
    let confirms = lines.settled.is_none();
    if lines.settled == Some(false) {
        let reason = "it holds changes beyond a gap, so its snapshot is not of one moment";
        return Err(publisher.unusable(reason).into());
    }
    let heads = lines.start.heads.clone();
    let needed = |name: &CollectionName, _held: &CollectionState| names.contains(name);
    admission::check_heads(publisher, root, &heads, &BTreeMap::new(), needed)?;
    let mut builder: SnapshotBuilder = Snapshot::begin(lines.start.clone());
    while let Some((line, _bytes)) = lines.next_line().await? {
        match line {
            // Documents that are the same as the held ones are shared with them.
            SnapshotLine::Item(item) => builder
                .item(item, root)
                .map_err(|error| publisher.unusable(error))?,
            // The end line proves that nothing is missing; without it nothing is used.
            SnapshotLine::End(end) => {
                let unserved = root.collections().map(|(name, _held)| name);
                let unserved = unserved.filter(|name| !names.contains(name)).cloned();
                let snapshot = builder
                    .complete_without(&end, root, &unserved.collect())
                    .map_err(|error| publisher.unusable(error))?;
                return Ok(Loaded {
                    heads,
                    snapshot,
                    confirms,
                    unserved: BTreeMap::new(),
                });
            }
        }
    }
    let reason = "the snapshot is cut off: it has no end line";
    Err(publisher.unusable(reason).into())
}
