//! Which heads a replica admits, before it loads anything.
//!
//! A blank store, another store or an earlier history never replaces the held documents.

use client::Endpoint;
use contract::{Epoch, Head};
use state::{InstallError, Root};

use crate::source::SourceError;

/// Requires heads of every followed collection, of the same store, none of them behind what is
/// held.
///
/// # Errors
/// When a head is absent or behind what is held, or is of another store or an earlier history.
pub(super) fn check_heads(
    publisher: &Endpoint,
    root: &Root,
    heads: &[Head],
) -> Result<(), SourceError> {
    check_epoch(root.epoch(), heads)?;
    for (name, held) in root.collections() {
        // A collection without a head would be emptied by the load that follows.
        let Some(head) = heads.iter().find(|head| head.collection == *name) else {
            return Err(publisher
                .unusable(format_args!("{name} is not in it"))
                .into());
        };
        // In a newer history revisions may be lower.
        if Some(head.epoch) == root.epoch() && head.revision < held.watermark() {
            return Err(publisher
                .unusable(format_args!(
                    "{name} is at revision {} there, and at {} here",
                    head.revision,
                    held.watermark()
                ))
                .into());
        }
    }
    Ok(())
}

/// Requires the history `ours` or a later one of the same store. Another publisher may have it.
///
/// # Errors
/// When a head is of another store, or of an earlier history.
pub(super) fn check_epoch(ours: Option<Epoch>, heads: &[Head]) -> Result<(), SourceError> {
    let Some(ours) = ours else { return Ok(()) };
    // The heads of one answer are of one history, so one that differs is enough.
    let other = heads
        .iter()
        .map(|head| head.epoch)
        .find(|epoch| *epoch != ours);
    match other {
        Some(theirs) if theirs.lineage != ours.lineage => {
            Err(InstallError::OtherStore(theirs).into())
        }
        Some(theirs) if theirs.counter < ours.counter => {
            Err(InstallError::OlderEpoch(theirs).into())
        }
        _ => Ok(()),
    }
}
