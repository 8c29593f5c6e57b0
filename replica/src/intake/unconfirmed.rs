//! What events said about revisions that no publisher has confirmed.
//!
//! Such an event is not applied, not shown and not reported. The next check-in decides: where the
//! head covers the revision, the feed brings its change; where it does not, the event is dropped.
//! After an event was applied that turned out wrong, every event of its collection waits in this way
//! for a while, so that wrong events, however many, cost one load in that time.
//! One entry per collection is kept, however many events come. Nothing here applies anything.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use contract::{CollectionName, Head, Revision};
use state::ReceivedChange;

use super::Stats;

/// How long the events of a collection wait for check-ins after one of them was wrong.
const HOLD_BACK: Duration = Duration::from_secs(60);

/// The unconfirmed claims of all followed collections.
#[derive(Debug, Default)]
pub(crate) struct UnconfirmedClaims {
    claims: Mutex<Claims>,
    /// Until when the events of a collection are held back.
    held_back: Mutex<BTreeMap<CollectionName, Instant>>,
    /// Whether there may be such a collection: nearly always there is none.
    any_held_back: AtomicBool,
}

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

    /// From now on the events of a collection wait for check-ins, for [`HOLD_BACK`].
    pub(crate) fn hold_back(&self, collection: &CollectionName, now: Instant) {
        let mut held_back = self.held_back();
        held_back.insert(collection.clone(), now + HOLD_BACK);
        self.any_held_back.store(true, Ordering::Relaxed);
    }

    /// Whether the events of a collection wait for check-ins.
    pub(crate) fn holds_back(&self, collection: &CollectionName, now: Instant) -> bool {
        if !self.any_held_back.load(Ordering::Relaxed) {
            return false;
        }
        let mut held_back = self.held_back();
        held_back.retain(|_collection, until| now < *until);
        self.any_held_back
            .store(!held_back.is_empty(), Ordering::Relaxed);
        held_back.contains_key(collection)
    }

    fn held_back(&self) -> MutexGuard<'_, BTreeMap<CollectionName, Instant>> {
        self.held_back.lock().expect("nothing that holds it panics")
    }

    fn lock(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().expect("nothing that holds it panics")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_held_back_for_a_bounded_time_and_of_one_collection() {
        let name = |text: &str| text.parse::<CollectionName>().expect("a name");
        let (claims, now) = (UnconfirmedClaims::default(), Instant::now());
        assert!(!claims.holds_back(&name("A"), now));
        claims.hold_back(&name("A"), now);
        assert!(claims.holds_back(&name("A"), now + HOLD_BACK / 2));
        assert!(!claims.holds_back(&name("B"), now + HOLD_BACK / 2));
        assert!(!claims.holds_back(&name("A"), now + HOLD_BACK));
        assert!(!claims.any_held_back.load(Ordering::Relaxed));
    }
}
