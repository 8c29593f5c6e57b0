//! What readers see: the documents, and how far they may be trusted.
//!
//! A view is immutable and pins one moment over all collections. Its state depends on the time of
//! reading, so it is computed then and never stored; documents and state in one answer come from
//! the same view.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use contract::{CollectionName, Revision, status::ReplicaState};
use state::Root;

use crate::ring::{Ring, Rings};

/// How long a revision may be missing before anything is made of it: events overtake each other.
pub(crate) const GRACE: Duration = Duration::from_millis(200);

/// Collections that lack a revision they know of: which one, and since when.
pub(crate) type Gaps = BTreeMap<CollectionName, (Revision, Instant)>;

fn badness(state: ReplicaState) -> u8 {
    match state {
        ReplicaState::Current => 0,
        ReplicaState::Stale => 1,
        ReplicaState::Behind => 2,
        ReplicaState::Loading => 3,
    }
}

/// One moment of a replica.
#[derive(Debug, Default)]
pub struct View {
    pub(crate) root: Root,
    pub(crate) rings: Rings,
    /// When the newest reading was asked for that this replica has reached in every collection. It
    /// is the time of asking, not of the answer: what is committed in between is not promised.
    /// (`Instant` stands still while a Linux machine is suspended; a clock that runs on would
    /// show staleness at once after waking, this one after the next reading fails.)
    pub(crate) confirmed: Option<Instant>,
    /// What it lacks.
    pub(crate) lacking: Gaps,
    /// Why what publishers offer is not taken: `other-store` or `older-epoch`.
    pub(crate) refused: Option<&'static str>,
    /// Whether readers may see it. What was read from disk is held back for a moment, in which it
    /// may catch up.
    pub(crate) opened: bool,
    /// This life of the process began with what was on disk.
    pub(crate) recalled: bool,
    /// When a publisher last confirmed what was on disk, in milliseconds since 1970 by the wall
    /// clock of that time.
    pub(crate) kept: Option<i64>,
    pub(crate) stale_after: Duration,
}

impl View {
    /// The documents of all followed collections.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// The newest changes of a followed collection, up to its watermark; `None` while it counts no
    /// revisions.
    pub fn changes(&self, name: &CollectionName) -> Option<&Ring> {
        self.rings.ring(name)
    }

    /// Whether there is something to serve.
    pub fn loaded(&self) -> bool {
        self.opened && self.root.loaded()
    }

    /// Time since a publisher confirmed what is held; `None` before the first time.
    pub fn confirmed(&self, now: Instant) -> Option<Duration> {
        self.confirmed.map(|at| now.saturating_duration_since(at))
    }

    /// ReplicaState of one followed collection.
    pub fn state_of(&self, name: &CollectionName, now: Instant) -> ReplicaState {
        let late = |(_revision, since): &(Revision, Instant)| {
            now.saturating_duration_since(*since) > GRACE
        };
        let Some(held) = self
            .root
            .collection(name)
            .filter(|held| self.opened && held.loaded())
        else {
            return ReplicaState::Loading;
        };
        if self.lacking.get(name).is_some_and(late) {
            ReplicaState::Behind
        } else if self.refused.is_some()
            || held.diverged()
            || self.confirmed(now).is_none_or(|ago| ago > self.stale_after)
        {
            ReplicaState::Stale
        } else {
            ReplicaState::Current
        }
    }

    /// The worst state of all followed collections.
    pub fn state(&self, now: Instant) -> ReplicaState {
        let states = self
            .root
            .collections()
            .map(|(name, _held)| self.state_of(name, now));
        states
            .max_by_key(|state| badness(*state))
            .unwrap_or(ReplicaState::Current)
    }

    /// What must be said of a collection besides its state.
    ///
    /// An `unversioned` collection has a publisher that counts no revisions. It is current while
    /// its complete list was read in time; what came in between by events is trusted as the
    /// source document trusts it.
    pub fn reason_of(&self, name: &CollectionName) -> Option<&'static str> {
        let held = self.root.collection(name).filter(|held| held.loaded())?;
        let reasons = [
            (held.diverged(), "diverged"),
            (!held.versioned(), "unversioned"),
            (self.confirmed.is_none() && self.recalled, "from-disk"),
        ];
        self.refused.or_else(|| {
            reasons
                .iter()
                .find(|(holds, _reason)| *holds)
                .map(|(_holds, reason)| *reason)
        })
    }

    /// When the state may be another by time alone.
    pub(crate) fn turns_after(&self, now: Instant) -> Option<Instant> {
        // Both are over only when more than that has passed.
        let after = |at: Instant, time: Duration| {
            at.checked_add(time)?.checked_add(Duration::from_millis(1))
        };
        let late = self
            .lacking
            .values()
            .filter_map(|(_revision, since)| after(*since, GRACE));
        let turns = late.chain(self.confirmed.and_then(|at| after(at, self.stale_after)));
        turns.filter(|at| *at > now).min()
    }

    /// Since when the longest known gap is there that is none of these.
    pub(crate) fn lacking_since(&self, except: &Gaps) -> Option<Instant> {
        let others = self
            .lacking
            .iter()
            .filter(|(name, gap)| except.get(*name) != Some(gap));
        others.map(|(_name, (_revision, since))| *since).min()
    }
}
