//! A full load: a snapshot of all followed collections, proven complete; of those that a publisher
//! serves, and whose documents it can give, where no publisher gives all of them.

use std::collections::{BTreeMap, BTreeSet};

use client::{ClientError, Endpoint};
use contract::{CollectionName, ProblemKind, snapshot::SnapshotLine};
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

/// Whether a failed load may be the fault of one collection: the publisher answered, and refused or
/// did not finish what it has stored.
pub(super) fn may_be_of_one_collection(error: &SourceError) -> bool {
    match error {
        SourceError::Client(error) => match error {
            // A publisher that breaks off before its first bytes are sent closes the connection.
            ClientError::Unreachable { cause, .. } => !cause.is_connect() && !cause.is_timeout(),
            // Each collection for itself would be as slow.
            late if late.is_late() => false,
            ClientError::BrokenOff { .. } | ClientError::Unusable { .. } => true,
            ClientError::Refused(_) => matches!(
                error.kind(),
                Some(ProblemKind::Unreadable | ProblemKind::UnknownCollection)
            ),
            ClientError::NoAnswer { .. } | ClientError::NoPublisher => false,
        },
        SourceError::Install(_) | SourceError::TooLate(_) => false,
    }
}

/// Why a publisher does not give one collection for itself; `None` when it gives it whole. Nothing
/// is kept of it.
///
/// # Errors
/// When the failure says nothing about the collection.
pub(super) async fn refusal_of(
    publisher: &Endpoint,
    root: &Root,
    name: &CollectionName,
) -> Result<Option<SourceError>, SourceError> {
    match read(publisher, root, &BTreeSet::from([name])).await {
        Ok(loaded) if loaded.heads.len() == 1 => Ok(None),
        Ok(_more) => Err(publisher
            .unusable("it has collections that were not asked for")
            .into()),
        Err(error) if may_be_of_one_collection(&error) => Ok(Some(error)),
        Err(error) => Err(error),
    }
}

/// Reads a snapshot of the followed collections that the publisher gives whole, after it did not give
/// all of them. Each is asked for by itself first, which tells the others; the snapshot is still of
/// one moment. The others are in [`Loaded::unserved`] and [`Loaded::refused`].
///
/// # Errors
/// As [`load`]; when none is whole, or all are, which the next attempt finds; when the history is
/// another one and a loaded collection would be left behind in the old one.
pub(super) async fn load_whole(publisher: &Endpoint, root: &Root) -> Result<Loaded, SourceError> {
    let mut whole = BTreeSet::new();
    let (mut unserved, mut refused) = (BTreeMap::new(), BTreeMap::new());
    let mut first = None;
    for (name, _held) in root.collections() {
        let Some(error) = refusal_of(publisher, root, name).await? else {
            whole.insert(name);
            continue;
        };
        match &error {
            SourceError::Client(client)
                if client.kind() == Some(ProblemKind::UnknownCollection) =>
            {
                unserved.insert(name.clone(), format!("no publisher serves {name}: {error}"));
            }
            _refused => {
                refused.insert(name.clone(), format!("{name} cannot be loaded: {error}"));
            }
        }
        first.get_or_insert(error);
    }
    if let (true, Some(error)) = (whole.is_empty(), first) {
        return Err(error);
    }
    let loaded = read(publisher, root, &whole).await?;
    let same_history = loaded
        .heads
        .first()
        .is_none_or(|head| root.epoch().is_none_or(|epoch| epoch == head.epoch));
    let is_loaded = |name: &CollectionName| root.collection(name).is_some_and(|held| held.loaded());
    if let Some(reason) = refused
        .iter()
        .find(|(name, _reason)| !same_history && is_loaded(name))
        .map(|(_name, reason)| reason)
    {
        return Err(publisher.unusable(reason).into());
    }
    Ok(Loaded {
        unserved,
        refused,
        ..loaded
    })
}

/// Reads a snapshot of these collections to its end line. Its heads are checked first, so that nothing
/// is read of a store that would be refused.
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
                    refused: BTreeMap::new(),
                });
            }
        }
    }
    let reason = "the snapshot is cut off: it has no end line";
    Err(publisher.unusable(reason).into())
}
