//! What events said about revisions that no publisher has confirmed.
//!
//! Such an event is not applied, not shown and not reported. The next check-in decides: where the
//! head covers the revision, the feed brings its change; where it does not, the event is dropped.
//! One entry per collection is kept, however many events come. Nothing here applies anything.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
};

use contract::{CollectionName, Head, Revision};
use state::ReceivedChange;

use super::Stats;

/// The unconfirmed claims of all followed collections.
#[derive(Debug, Default)]
pub(crate) struct UnconfirmedClaims(Mutex<Claims>);

/// Claims by collection.
pub(crate) type Claims = BTreeMap<CollectionName, Claim>;

/// The events of one collection that wait for the next check-in.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Claim {
    /// The highest revision that one of them had.
    highest: Revision,
    /// Their number.
    events: u64,
}

impl UnconfirmedClaims {
    /// Notes an event. Its collection is followed, so the number of entries is bounded.
    pub(crate) fn note(&self, change: &ReceivedChange) {
        let mut claims = self.lock();
        let claim = claims.entry(change.collection.clone()).or_default();
        claim.highest = claim.highest.max(change.revision);
        claim.events += 1;
    }

    /// Takes all claims. The heads of a check-in that begins now decide about them.
    pub(crate) fn take(&self) -> Claims {
        std::mem::take(&mut *self.lock())
    }

    /// Puts claims back after a check-in that failed: the next one decides.
    pub(crate) fn put_back(&self, claims: Claims) {
        let mut waiting = self.lock();
        for (collection, claim) in claims {
            let newer = waiting.entry(collection).or_insert(claim);
            newer.highest = newer.highest.max(claim.highest);
            newer.events = newer.events.max(claim.events);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Claims> {
        self.0.lock().expect("nothing that holds it panics")
    }
}

/// Drops the claims that the heads do not cover, with one line and one remembered drop for each
/// collection. The others come by the feed.
pub(crate) fn drop_refuted(claims: Claims, heads: &[Head], stats: &Stats) {
    for (collection, Claim { highest, events }) in claims {
        let head = heads.iter().find(|head| head.collection == collection);
        let revision = head.map_or(0, |head| head.revision);
        if highest <= revision {
            continue;
        }
        let error = format!(
            "events of {collection} named revisions up to {highest} (number of events: {events}), and \
             the publisher is at {revision}"
        );
        tracing::warn!(%collection, events, highest, revision, "events were dropped (unconfirmed): {error}");
        stats.refuted("unconfirmed", &error, None);
    }
}
