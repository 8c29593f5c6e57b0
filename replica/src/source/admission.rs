//! Which heads a replica admits, before it loads anything.
//!
//! A blank store, another store or an earlier history never replaces the held documents.

use std::collections::BTreeMap;

use client::Endpoint;
use contract::{CollectionName, Epoch, Head, fleet::ResyncReason};
use state::{CollectionState, InstallError, Root};

use crate::source::SourceError;

/// Requires heads of the collections `needed`, of the same store, none of them behind what is
/// held. A collection that `resync` names as unproven, now or before, may be ahead of its head: what
/// it holds was never committed.
///
/// # Errors
/// When a needed head is absent, or a head is behind what is held, or is of another store or an earlier
/// history.
pub(super) fn check_heads(
    publisher: &Endpoint,
    root: &Root,
    heads: &[Head],
    resync: &BTreeMap<CollectionName, ResyncReason>,
    needed: impl Fn(&CollectionName, &CollectionState) -> bool,
) -> Result<(), SourceError> {
    check_epoch(root.epoch(), heads)?;
    for (name, held) in root.collections() {
        // It holds nothing that could be emptied, and another publisher may not serve it yet.
        if held.joining() {
            continue;
        }
        let Some(head) = heads.iter().find(|head| head.collection == *name) else {
            if needed(name, held) {
                return Err(publisher
                    .unusable(format_args!("{name} is not in it"))
                    .into());
            }
            continue;
        };
        // In a newer history revisions may be lower.
        let needed = match (held.refuted(), resync.get(name)) {
            (_, Some(ResyncReason::Unproven)) => 0,
            (Some(refuted), _) => refuted,
            (None, _) => held.watermark(),
        };
        if Some(head.epoch) == root.epoch() && head.revision < needed {
            return Err(publisher
                .unusable(format_args!(
                    "{name} is at revision {} there, and at {} here",
                    head.revision, needed
                ))
                .into());
        }
    }
    Ok(())
}

/// Requires the history `ours`, a later one of the same store, or one of a lineage that replaces ours.
/// Another publisher may have it.
///
/// # Errors
/// When a head is of another store, or of an earlier history.
pub(super) fn check_epoch(ours: Option<Epoch>, heads: &[Head]) -> Result<(), SourceError> {
    let Some(ours) = ours else { return Ok(()) };
    // The heads of one answer are of one history, so one that differs is enough.
    let Some(other) = heads.iter().find(|head| head.epoch != ours) else {
        return Ok(());
    };
    let theirs = other.epoch;
    if theirs.lineage != ours.lineage {
        if !other.replaces.includes(ours) {
            return Err(InstallError::OtherStore(theirs).into());
        }
    } else if theirs.counter < ours.counter {
        return Err(InstallError::OlderEpoch(theirs).into());
    }
    Ok(())
}
