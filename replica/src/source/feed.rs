//! Pages and single records of the change feed, checked before they are used.

use client::{Endpoint, feed::BegunPage};
use contract::{CollectionName, Epoch, FeedPage, Operation, Revision};
use state::ReceivedChange;

use super::{Cursor, Page};
use crate::source::SourceError;

/// Reads the page after a cursor. Its changes must follow the cursor without a gap.
///
/// # Errors
/// When the answer breaks off, or the page has a gap, a change of another history, or a damaged one.
pub(super) async fn read(
    begun: BegunPage,
    cursor: &Cursor,
    epoch: Epoch,
) -> Result<Page, SourceError> {
    let publisher = begun.endpoint().clone();
    let FeedPage::<ReceivedChange> { items, more, .. } = begun.read().await?;
    // By collection: a page holds the changes of several, each in its own order.
    let mut reached = cursor.clone();
    let follows = |change: &ReceivedChange| {
        let revision = reached.get_mut(&change.collection);
        revision.is_some_and(|revision| {
            *revision += 1;
            (*revision, epoch) == (change.revision, change.epoch) && is_intact(change)
        })
    };
    if !items.iter().all(follows) {
        let reason = "a page of the feed has a gap, or a damaged change";
        return Err(publisher.unusable(reason).into());
    }
    // Such an answer would be asked for indefinitely.
    if more && items.is_empty() {
        let reason = "an empty page of the feed says that more follows";
        return Err(publisher.unusable(reason).into());
    }
    Ok(Page {
        changes: items,
        more,
        reached,
    })
}

/// Reads one record of the change log.
///
/// # Errors
/// When there is no answer, or the record is absent or damaged.
pub(super) async fn record(
    publisher: &Endpoint,
    collection: &CollectionName,
    epoch: Epoch,
    revision: Revision,
) -> Result<ReceivedChange, SourceError> {
    // The log gives what comes after a revision, so the one before it is asked for.
    let since = revision.saturating_sub(1);
    let FeedPage::<ReceivedChange> { items, .. } = publisher
        .collection_page(collection, since, epoch, 1)
        .await?;
    let record = items.into_iter().next().filter(|change| {
        let key = (&change.collection, change.epoch, change.revision);
        key == (collection, epoch, revision) && is_intact(change)
    });
    record.ok_or_else(|| {
        let reason = format!("revision {revision} of {collection} is not in it, or damaged");
        publisher.unusable(reason).into()
    })
}

/// Whether a record has the value that its operation requires. One whose checksum does not match
/// was read as one without a value.
fn is_intact(change: &ReceivedChange) -> bool {
    (change.op == Operation::Delete) == change.config.is_none()
}
