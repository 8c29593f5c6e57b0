//! Waiting until a replica has a revision, so that a reader finds what was written before it asked.
//!
//! A replica that lacks the revision asks a publisher at once, as after a hint: however many wait, and
//! whatever they wait for, check-ins keep the distance of hints. Nothing here changes what is held.

use std::time::Instant;

use contract::{CollectionName, Revision, status::ReplicaState};
use tokio::time::timeout_at;

use crate::{View, cache::Cache, sync::SyncSignals, typed::Typed};

/// Why a collection does not have the revision that was waited for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotFresh {
    /// The replica does not follow the collection.
    #[error("this replica does not follow {0}")]
    NotFollowed(CollectionName),
    /// The publisher of the collection counts no revisions.
    #[error("the publisher of {0} counts no revisions")]
    Unversioned(CollectionName),
    /// The time is over.
    #[error(
        "{collection} is at revision {held} and not at {wanted} yet, its state is {}",
        .state.as_str()
    )]
    Late {
        /// The collection.
        collection: CollectionName,
        /// The revision that was waited for.
        wanted: Revision,
        /// The revision up to which readers see every change.
        held: Revision,
        /// How far the collection may be trusted.
        state: ReplicaState,
    },
}

/// Waits until readers see every change of a collection up to a revision, also as values where the
/// collection has a type.
pub(crate) async fn wait(
    (cache, typed, signals): (&Cache, &Typed, &SyncSignals),
    collection: &CollectionName,
    wanted: Revision,
    deadline: Instant,
) -> Result<(), NotFresh> {
    if !cache.view_guard().has_revision(collection, wanted) {
        can_come(&cache.view_guard(), collection)?;
        // Its event may be lost, and the next check-in far away.
        signals.request_check_in();
    }
    let arrives = async {
        cache.until_revision(collection, wanted).await;
        // Values follow the documents.
        typed.until_revision(collection, wanted).await;
    };
    let waited = timeout_at(deadline.into(), arrives).await;
    waited.map_err(|_late| {
        let view = cache.view_guard();
        let held = view.root().collection(collection);
        let held = held.map_or(0, state::CollectionState::watermark);
        NotFresh::Late {
            collection: collection.clone(),
            wanted,
            held: typed
                .watermark(collection)
                .map_or(held, |read| read.min(held)),
            state: view.state_of(collection, Instant::now()),
        }
    })
}

/// # Errors
/// When no revision of the collection will ever come.
fn can_come(view: &View, collection: &CollectionName) -> Result<(), NotFresh> {
    match view.root().collection(collection) {
        None => Err(NotFresh::NotFollowed(collection.clone())),
        Some(held) if held.loaded() && !held.versioned() => {
            Err(NotFresh::Unversioned(collection.clone()))
        }
        Some(_held) => Ok(()),
    }
}
