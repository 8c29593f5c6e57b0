//! What readers see: the documents, and how far they may be trusted.
//!
//! A view is immutable and shows all collections at one moment. Its state depends on the time of
//! reading, so it is computed on each read and never stored; documents and state of one answer come
//! from the same view.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use contract::{CollectionName, Head, Revision, status::ReplicaState};
use state::Root;

use super::{ChangeBuffer, ChangeBuffers, Gap};

/// How long a revision may be missing without a consequence: events overtake each other.
pub(crate) const GRACE: Duration = Duration::from_millis(200);

/// The collections that lack a revision which they know of.
pub(crate) type Gaps = BTreeMap<CollectionName, Gap>;

/// How far the service can read documents as values of its types, as far as the state depends on it.
/// Collections without a type are in neither set.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct TypedReach {
    /// The collections whose first values cannot be read yet.
    pub(crate) unread: BTreeSet<CollectionName>,
    /// The collections with documents of which the service has never had a value.
    pub(crate) partial: BTreeSet<CollectionName>,
}

/// A followed collection that no publisher serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unserved {
    /// What a publisher said.
    pub(crate) reason: String,
    /// As [`View::confirmed_at`], of this collection; `None` also where it is not loaded.
    pub(crate) confirmed_at: Option<Instant>,
}

/// A replica at one moment.
#[derive(Debug, Default)]
pub struct View {
    /// The documents and watermarks of all followed collections.
    pub(crate) root: Root,
    /// The newest changes of each collection, up to the watermarks of `root`.
    pub(crate) buffers: ChangeBuffers,
    /// When the newest heads were requested that this replica has reached in every collection which
    /// a publisher serves. It
    /// is the time of the request, not of the answer: what is committed in between is not promised.
    /// (`Instant` stands still while a Linux machine is suspended. After it wakes, the replica is
    /// stale only when the next check-in fails.)
    pub(crate) confirmed_at: Option<Instant>,
    /// What it lacks.
    pub(crate) gaps: Gaps,
    /// Why the store of the publishers is refused: `other-store` or `older-epoch`.
    pub(crate) refused: Option<&'static str>,
    /// The followed collections that no publisher serves. What was loaded of them before stays.
    pub(crate) unserved: Arc<BTreeMap<CollectionName, Unserved>>,
    /// What typed readers can read. It may be of an earlier root: values are decoded after the swap.
    pub(crate) typed: Arc<TypedReach>,
    /// Whether readers may see it. What was restored from disk is held back for a moment, in which
    /// it may catch up.
    pub(crate) open: bool,
    /// The process started with what was on disk.
    pub(crate) restored: bool,
    /// When a publisher last confirmed what was on disk, in milliseconds since 1970 by the wall
    /// clock of that time.
    pub(crate) saved_confirmed_ms: Option<i64>,
    /// How old the confirmation may be before the state is stale: 2.5 check-in intervals.
    pub(crate) stale_after: Duration,
}

impl View {
    /// The documents of all followed collections.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// The newest changes of a followed collection, up to its watermark; `None` while it counts no
    /// revisions.
    pub fn changes(&self, name: &CollectionName) -> Option<&ChangeBuffer> {
        self.buffers.buffer(name)
    }

    /// The head of a followed collection, at its watermark; `None` while it counts no revisions. Documents
    /// after a gap are included already, so count and digest match the content; they match the head of
    /// the publisher at that revision only when there is no gap.
    pub fn head(&self, name: &CollectionName) -> Option<Head> {
        let held = self.root.collection(name)?;
        let epoch = self.root.epoch().filter(|_epoch| held.versioned())?;
        let oldest = self.changes(name).map(ChangeBuffer::oldest);
        Some(Head {
            revision: held.watermark(),
            count: held.count(),
            digest: held.digest(),
            replaces: self.root.replaces().clone(),
            oldest: oldest.unwrap_or(held.watermark() + 1),
            ..Head::empty(name.clone(), epoch)
        })
    }

    /// Whether every followed collection was loaded, and readers may see it.
    pub fn loaded(&self) -> bool {
        self.open && self.root.loaded()
    }

    /// Whether every followed collection that a publisher serves was loaded, at least one, and readers
    /// may see them: what can be read then is all that there is.
    pub fn loaded_as_served(&self) -> bool {
        let mut collections = self.root.collections();
        self.open
            && self.root.collections().any(|(_name, held)| held.loaded())
            && collections.all(|(name, held)| {
                held.loaded() || held.joining() || self.unserved.contains_key(name)
            })
    }

    /// Whether readers may see this collection: it is followed and was loaded. The others may be
    /// loading.
    pub fn loaded_of(&self, name: &CollectionName) -> bool {
        self.open && self.root.collection(name).is_some_and(|held| held.loaded())
    }

    /// Whether readers may see this collection, and it holds every change up to a revision.
    pub fn has_revision(&self, name: &CollectionName, revision: Revision) -> bool {
        let held = self.root.collection(name);
        self.loaded_of(name)
            && held.is_some_and(|held| held.versioned() && held.watermark() >= revision)
    }

    /// Time since a publisher confirmed what is held; `None` before the first time.
    pub fn confirmed(&self, now: Instant) -> Option<Duration> {
        since(self.confirmed_at, now)
    }

    /// Whether a publisher serves this followed collection, as far as is known.
    pub fn is_served(&self, name: &CollectionName) -> bool {
        !self.unserved.contains_key(name)
    }

    /// State of one followed collection.
    pub fn state_of(&self, name: &CollectionName, now: Instant) -> ReplicaState {
        let Some(held) = self
            .root
            .collection(name)
            .filter(|held| self.open && held.loaded())
        else {
            // Nothing can be said about documents that nobody may read yet.
            return ReplicaState::Loading;
        };
        // The service reads values: documents that it cannot read yet are not loaded for it.
        if self.typed.unread.contains(name) {
            return ReplicaState::Loading;
        }
        if self.typed.partial.contains(name) {
            return ReplicaState::Partial;
        }
        let gap = self.gaps.get(name);
        let confirmed = match self.unserved.get(name) {
            Some(unserved) => since(unserved.confirmed_at, now),
            None => self.confirmed(now),
        };
        // Behind is worse than stale: it is known that a revision is missing.
        if gap.is_some_and(|gap| now.saturating_duration_since(gap.since) > GRACE) {
            ReplicaState::Behind
        } else if self.refused.is_some()
            || held.diverged()
            || confirmed.is_none_or(|ago| ago > self.stale_after)
        {
            ReplicaState::Stale
        } else {
            ReplicaState::Current
        }
    }

    /// The worst state of all followed collections; of one that joined later once it is loaded.
    pub fn state(&self, now: Instant) -> ReplicaState {
        self.root
            .collections()
            .filter(|(_name, held)| !held.joining())
            .map(|(name, _held)| self.state_of(name, now))
            .min()
            .unwrap_or(ReplicaState::Loading)
    }

    /// What readers of a collection must know besides its state: `diverged`, `unversioned`,
    /// `from-disk`, `other-store` or `older-epoch`; `unknown-collection` where no publisher serves it.
    ///
    /// An `unversioned` collection has a publisher that counts no revisions. It is current while
    /// its complete list was read in time; what events changed in between is trusted as the
    /// source document trusts it.
    pub fn reason_of(&self, name: &CollectionName) -> Option<&'static str> {
        let held = self.root.collection(name)?;
        let unserved = (!self.is_served(name)).then_some("unknown-collection");
        if !held.loaded() {
            return unserved;
        }
        // In this order: a refused store explains why nothing else is confirmed.
        if self.refused.is_some() {
            self.refused
        } else if unserved.is_some() {
            unserved
        } else if held.diverged() {
            Some("diverged")
        } else if !held.versioned() {
            Some("unversioned")
        } else if self.confirmed_at.is_none() && self.restored {
            Some("from-disk")
        } else {
            None
        }
    }

    /// The error that the status shows: that of the last request, if it failed.
    pub(crate) fn last_error(&self, of_request: Option<String>) -> Option<String> {
        // What no publisher serves is an error as long as it is not served.
        let unserved = self.unserved.values().next();
        of_request.or_else(|| unserved.map(|unserved| unserved.reason.clone()))
    }

    /// When time alone may change the state.
    pub(crate) fn state_changes_after(&self, now: Instant) -> Option<Instant> {
        let stale = self
            .confirmed_at
            .and_then(|at| just_after(at, self.stale_after));
        let withdrawn = self.unserved.values();
        let withdrawn = withdrawn.filter_map(|unserved| unserved.confirmed_at);
        let withdrawn = withdrawn.filter_map(|at| just_after(at, self.stale_after));
        self.gaps
            .values()
            .filter_map(|gap| just_after(gap.since, GRACE))
            .chain(stale)
            .chain(withdrawn)
            .filter(|at| *at > now)
            .min()
    }

    /// Since when the longest gap is known that is none of these.
    pub(crate) fn oldest_gap_except(&self, except: &Gaps) -> Option<Instant> {
        self.gaps
            .iter()
            .filter(|(name, gap)| except.get(*name) != Some(gap))
            .map(|(_name, gap)| gap.since)
            .min()
    }
}

fn since(at: Option<Instant>, now: Instant) -> Option<Duration> {
    at.map(|at| now.saturating_duration_since(at))
}

/// Both limits of the state are passed only when more time than the limit has passed.
fn just_after(at: Instant, time: Duration) -> Option<Instant> {
    at.checked_add(time)?.checked_add(Duration::from_millis(1))
}
