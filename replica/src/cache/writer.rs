//! The side of the cache that changes: the state machine, and how far its content may be trusted.
//!
//! Nothing here reads a clock or does I/O: the time is a parameter.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use contract::{
    CanonicalJson, CollectionName, DocumentId, Head, Revision, apply_delays::ApplyDelays,
    fleet::MAX_SERVED,
};
use state::{
    Decision, Image, InstallError, Installed, LoadId, Machine, ReceivedChange, Root, Snapshot,
    VisibleChange,
};

use super::{ChangeBuffers, Gap};
use crate::cache::{GRACE, TypedReach, Unserved, View};

/// Heads that wait until the replica has reached them. Older ones could no longer make a replica
/// current.
const MAX_PENDING_HEADS: usize = 8;

/// With more ranges than this beyond the watermark, catch-up starts at once: each range costs
/// memory, and events alone close few of them.
const MAX_RANGES: usize = 4_096;

/// A replica that no publisher confirmed for this many check-in intervals is stale.
const STALE_AFTER_INTERVALS: f64 = 2.5;

/// See the head of the module.
#[derive(Debug)]
pub(super) struct Writer {
    /// The documents and revisions of every followed collection, and the rules that change them.
    machine: Machine,
    /// Counts the edits that events made in unversioned collections: a list that was requested
    /// before an edit is out of date.
    unversioned_edits: u64,
    /// See [`View::refused`].
    refused: Option<&'static str>,
    /// See [`View::unserved`].
    unserved: Arc<BTreeMap<CollectionName, Unserved>>,
    /// See [`View::typed`].
    typed: Arc<TypedReach>,
    /// See [`View::open`].
    open: bool,
    /// See [`View::restored`].
    restored: bool,
    /// See [`View::saved_confirmed_ms`].
    saved_confirmed_ms: Option<i64>,
    /// The newest changes of each collection. They follow the machine in [`Writer::view`].
    buffers: ChangeBuffers,
    /// Heads that are not reached yet, and when they were true.
    pending_heads: VecDeque<(Instant, Vec<Head>)>,
    /// See [`View::confirmed_at`].
    confirmed_at: Option<Instant>,
    /// The collections that lack a revision, since when; see [`View::gaps`].
    gaps: BTreeMap<CollectionName, Gap>,
    /// How old the confirmation may be before the state is stale; from the check-in interval.
    stale_after: Duration,
    /// How long changes took until readers saw them.
    delays: ApplyDelays,
    /// The delay of an earlier change would be that of the start of the replica.
    started_at: DateTime<Utc>,
}

/// One moment by both clocks of the host.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClockReading {
    /// The clock that nobody sets: for everything that is decided.
    pub(super) monotonic: Instant,
    /// The clock that other hosts share, approximately: for measures.
    pub(super) wall: DateTime<Utc>,
}

impl ClockReading {
    /// Reads the clocks.
    pub(super) fn now() -> Self {
        Self {
            monotonic: Instant::now(),
            wall: Utc::now(),
        }
    }
}

impl Writer {
    /// A writer that follows these collections, holds nothing, and lets readers see that.
    /// `check_in` is the longest time between two check-ins.
    pub(super) fn new(
        collections: &BTreeSet<CollectionName>,
        check_in: Duration,
        started_at: DateTime<Utc>,
    ) -> Self {
        Self {
            machine: Machine::new(collections),
            unversioned_edits: 0,
            refused: None,
            unserved: Arc::default(),
            typed: Arc::default(),
            open: true,
            restored: false,
            saved_confirmed_ms: None,
            buffers: ChangeBuffers::default(),
            pending_heads: VecDeque::new(),
            confirmed_at: None,
            gaps: BTreeMap::new(),
            stale_after: check_in.mul_f64(STALE_AFTER_INTERVALS),
            delays: ApplyDelays::default(),
            started_at,
        }
    }

    /// How long the changes took that were committed since the start.
    pub(super) fn delays(&self) -> &ApplyDelays {
        &self.delays
    }

    /// Applies the change of an event, or says why it cannot be applied now.
    pub(super) fn apply(&mut self, change: &ReceivedChange) -> Decision {
        self.machine.apply(change)
    }

    /// Applies records of the feed. Returns for each whether it was new here.
    pub(super) fn apply_page(&mut self, changes: &[ReceivedChange]) -> Vec<bool> {
        let mut new = Vec::with_capacity(changes.len());
        for change in changes {
            // What is a duplicate here was delivered by an event.
            new.push(matches!(
                self.machine.apply_record(change),
                Decision::Applied | Decision::Superseded | Decision::Staged
            ));
        }
        new
    }

    /// Begins a load, and makes every load before it invalid. While it is under way deletions are
    /// remembered: its snapshot may still have the documents.
    pub(super) fn begin_load(&mut self) -> LoadId {
        self.machine.begin_load()
    }

    /// Ends a load that failed. What is held stays.
    pub(super) fn abandon_load(&mut self, load: LoadId) {
        self.machine.abandon_load(load);
    }

    /// Replaces what is held by a proven snapshot. Newer changes that came meanwhile stay.
    ///
    /// # Errors
    /// When the load was superseded, or the snapshot is of another store, of an earlier history, or
    /// behind what is held. Nothing changed then.
    pub(super) fn install(
        &mut self,
        load: LoadId,
        snapshot: Snapshot,
    ) -> Result<Installed, InstallError> {
        self.machine.install(load, snapshot)
    }

    /// Marks a collection as diverged whose digest differs from the digest of its source at the same
    /// revision. The point that is compared is the newest at which nothing was missing or staged.
    pub(super) fn compare_digest(&mut self, head: &Head) {
        let root = self.machine.root();
        let Some(held) = root.collection(&head.collection) else {
            return;
        };
        let comparable = root.epoch() == Some(head.epoch) && !held.diverged();
        let differs = held.last_settled().is_some_and(|settled| {
            settled.revision == head.revision && settled.digest != head.digest
        });
        if comparable && differs {
            let Head {
                collection,
                revision,
                ..
            } = head;
            tracing::error!(%collection, revision, "the content of {collection} differs from that of its source at revision {revision}: it is loaded again");
            self.machine.mark_diverged(collection);
        }
    }

    /// The content of a collection differs from the publisher's at the same revision: the
    /// collection is stale until a load replaces it.
    pub(super) fn mark_diverged(&mut self, collection: &CollectionName) {
        self.machine.mark_diverged(collection);
    }

    /// A collection has a revision that was never committed: it is stale until a load that is not
    /// older than the revision `head` replaces it.
    pub(super) fn mark_refuted(&mut self, collection: &CollectionName, head: Revision) {
        self.machine.mark_refuted(collection, head);
    }

    /// Takes over heads that were true at `requested_at`. Returns whether they are of another
    /// history than what is held. Heads of before the clock began (`None`) confirm nothing.
    pub(super) fn compare_heads(
        &mut self,
        requested_at: Option<Instant>,
        heads: Vec<Head>,
    ) -> bool {
        let epoch = self.machine.root().epoch();
        // A publisher serves it now.
        if heads
            .iter()
            .any(|head| self.unserved.contains_key(&head.collection))
        {
            let is_served =
                |name: &CollectionName| heads.iter().any(|head| head.collection == *name);
            let unserved = Arc::make_mut(&mut self.unserved);
            let before = unserved.len();
            unserved.retain(|name, _unserved| !is_served(name));
            // Heads without it do not confirm it.
            if unserved.len() < before {
                self.pending_heads.clear();
            }
        }
        // Heads raise what is known to exist, and so show gaps that no event told of.
        self.machine.compare(&heads);
        let other_epoch = heads.iter().any(|head| Some(head.epoch) != epoch);
        if !other_epoch {
            // The publishers are back in the history that is followed.
            self.refused = None;
            // Heads of an older history can no longer be reached.
            self.pending_heads
                .retain(|(_at, heads)| heads.iter().all(|head| Some(head.epoch) == epoch));
            // The oldest heads go: newer ones confirm more.
            if self.pending_heads.len() == MAX_PENDING_HEADS {
                self.pending_heads.pop_front();
            }
            self.pending_heads
                .extend(requested_at.map(|at| (at, heads)));
        }
        other_epoch
    }

    /// Notes that everything which was committed before `requested_at` is held.
    pub(super) fn confirm(&mut self, requested_at: Instant) {
        self.confirmed_at = self.confirmed_at.max(Some(requested_at));
    }

    /// Notes why the store of the publishers is refused; until heads of the own history come.
    pub(super) fn refuse(&mut self, reason: &'static str) {
        self.refused = Some(reason);
    }

    /// Follows these collections too; see [`Machine::follow`].
    pub(super) fn follow(&mut self, served: &BTreeSet<CollectionName>) -> BTreeSet<CollectionName> {
        self.machine.follow(served, MAX_SERVED)
    }

    /// Notes what typed readers can read.
    pub(super) fn note_typed(&mut self, typed: TypedReach) {
        self.typed = Arc::new(typed);
    }

    /// Notes which collections no publisher serves, all of them, and what a publisher said of each.
    pub(super) fn note_unserved(&mut self, unserved: BTreeMap<CollectionName, String>) {
        let noted: BTreeMap<_, _> = unserved
            .into_iter()
            .map(|(name, reason)| (name.clone(), self.unserved(&name, reason)))
            .collect();
        // As in `compare_heads`.
        if self.unserved.keys().any(|name| !noted.contains_key(name)) {
            self.pending_heads.clear();
        }
        self.unserved = Arc::new(noted);
    }

    /// Notes that no publisher serves these loaded collections any more, besides those that are known.
    pub(super) fn note_withdrawn(&mut self, withdrawn: BTreeMap<CollectionName, String>) {
        for (name, reason) in withdrawn {
            let unserved = self.unserved(&name, reason);
            Arc::make_mut(&mut self.unserved).insert(name, unserved);
        }
    }

    /// A collection that no publisher serves keeps the time at which it was last confirmed.
    fn unserved(&self, name: &CollectionName, reason: String) -> Unserved {
        let loaded = self.machine.root().collection(name);
        let loaded = loaded.is_some_and(|held| held.loaded());
        let confirmed_at = match self.unserved.get(name) {
            Some(before) => before.confirmed_at,
            None => self.confirmed_at.filter(|_at| loaded),
        };
        Unserved {
            reason,
            confirmed_at,
        }
    }

    /// Takes an image from disk, hidden from readers until [`Writer::open`].
    pub(super) fn restore(&mut self, image: Image, confirmed_ms: Option<i64>) {
        self.open = false;
        self.restored = true;
        self.saved_confirmed_ms = confirmed_ms;
        self.machine.restore(image);
    }

    /// Lets readers see what was restored.
    pub(super) fn open(&mut self) {
        self.open = true;
    }

    /// Sets a document. Returns `false` when the collection counts revisions: nothing was set then.
    pub(super) fn set_unversioned(
        &mut self,
        collection: &CollectionName,
        id: &DocumentId,
        config: &CanonicalJson,
    ) -> bool {
        // Counted whether it succeeds or not: a list that is under way must be read again.
        self.unversioned_edits += 1;
        self.machine.add_unversioned(collection, id.clone(), config)
    }

    /// Removes a document. Returns whether it was there.
    pub(super) fn remove_unversioned(
        &mut self,
        collection: &CollectionName,
        id: &DocumentId,
    ) -> bool {
        self.unversioned_edits += 1;
        self.machine.remove_unversioned(collection, id)
    }

    /// See [`Cache::unversioned_edits`](super::Cache::unversioned_edits).
    pub(super) fn unversioned_edits(&self) -> u64 {
        self.unversioned_edits
    }

    /// Replaces a collection by a complete list, unless an event edited a collection after
    /// `expected_edits` was read. Returns whether it did.
    pub(super) fn replace_unversioned(
        &mut self,
        collection: &CollectionName,
        documents: Vec<(DocumentId, CanonicalJson)>,
        expected_edits: Option<u64>,
    ) -> bool {
        let unchanged = expected_edits.is_none_or(|edits| edits == self.unversioned_edits);
        if unchanged {
            self.machine.replace_unversioned(collection, documents);
        }
        unchanged
    }

    /// The view that readers get from now on.
    pub(super) fn view(&mut self, now: ClockReading) -> View {
        // Heads are reached in the order in which they came, so the oldest pending ones are first.
        while self
            .pending_heads
            .front()
            .is_some_and(|(_at, heads)| reached(self.machine.root(), &self.unserved, heads))
        {
            if let Some((requested_at, _heads)) = self.pending_heads.pop_front() {
                self.confirm(requested_at);
            }
        }
        // After the changes above, so that buffers and documents of the view are of one moment.
        let visible = self.machine.take_visible();
        self.note_delays(&visible, now.wall);
        self.buffers.update(visible, self.machine.root());
        let root = self.machine.root().clone();
        self.note_gaps(&root, now.monotonic);
        View {
            root,
            buffers: self.buffers.clone(),
            confirmed_at: self.confirmed_at,
            gaps: self.gaps.clone(),
            refused: self.refused,
            unserved: Arc::clone(&self.unserved),
            typed: Arc::clone(&self.typed),
            open: self.open,
            restored: self.restored,
            saved_confirmed_ms: self.saved_confirmed_ms,
            stale_after: self.stale_after,
        }
    }

    /// Counts how long changes took that readers see from now on. One that a later change of its
    /// document has overtaken counts too.
    fn note_delays(&mut self, visible: &[VisibleChange], now: DateTime<Utc>) {
        for change in visible {
            if let VisibleChange::Change(change) = change
                && let Some(committed) = change.origin.committed
                && committed >= self.started_at
            {
                let delay = now.signed_duration_since(committed);
                self.delays.note(delay.num_milliseconds());
            }
        }
    }

    /// Finds out which collections lack a revision that they know of.
    ///
    /// A gap keeps the time at which it was noticed until it is closed, so that its grace ends.
    fn note_gaps(&mut self, root: &Root, now: Instant) {
        let old = std::mem::take(&mut self.gaps);
        for (name, held) in root.collections() {
            // A collection that was never loaded lacks everything: a load brings it, not the feed. What
            // no publisher serves cannot be had.
            if !held.loaded()
                || held.known() <= held.watermark()
                || self.unserved.contains_key(name)
            {
                continue;
            }
            // The mark stays until the watermark has passed it: only then is the next gap a new one.
            let mut gap = old
                .get(name)
                .copied()
                .filter(|gap| gap.known > held.watermark())
                .unwrap_or(Gap {
                    known: held.known(),
                    since: now,
                });
            // Too many ranges: the grace counts as over.
            if held.ranges_beyond() > MAX_RANGES
                && let Some(grace_over) = now.checked_sub(GRACE)
            {
                gap.since = gap.since.min(grace_over);
            }
            self.gaps.insert(name.clone(), gap);
        }
    }
}

/// Whether a replica has seen everything that these heads name, in every collection that it has
/// loaded and a publisher serves.
fn reached(root: &Root, unserved: &BTreeMap<CollectionName, Unserved>, heads: &[Head]) -> bool {
    let mut loaded = root
        .collections()
        .filter(|(name, held)| held.loaded() && !unserved.contains_key(*name));
    loaded.all(|(name, held)| {
        heads.iter().any(|head| {
            head.collection == *name
                && Some(head.epoch) == root.epoch()
                && held.watermark() >= head.revision
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::{
        Operation, Revision,
        snapshot::{SnapshotEnd, SnapshotStart},
        status::ReplicaState,
    };

    impl From<Instant> for ClockReading {
        fn from(monotonic: Instant) -> Self {
            let wall = DateTime::UNIX_EPOCH;
            Self { monotonic, wall }
        }
    }

    fn head(revision: Revision) -> Head {
        Head {
            revision,
            ..Head::empty(
                "A".parse().expect("a name"),
                "0f86d081-1".parse().expect("an epoch"),
            )
        }
    }

    fn next_epoch() -> contract::Epoch {
        "0f86d081-2".parse().expect("an epoch")
    }

    fn change(revision: Revision) -> ReceivedChange {
        let Head {
            collection, epoch, ..
        } = head(0);
        let config = CanonicalJson::parse(b"{}").ok();
        let (id, op) = ("x".parse().expect("an id"), Operation::Update);
        ReceivedChange {
            collection,
            id,
            epoch,
            revision,
            op,
            config,
            last_set: 0,
            change_set: None,
            proof: None,
            origin: Default::default(),
        }
    }

    /// A writer that was loaded at revision 7 by a load that was asked for at the returned moment.
    fn loaded() -> (Writer, Instant) {
        let mut writer = Writer::new(
            &BTreeSet::from([head(7).collection]),
            Duration::from_secs(10),
            DateTime::UNIX_EPOCH,
        );
        let requested_at = Instant::now();
        let load = writer.machine.begin_load();
        let builder = Snapshot::begin(SnapshotStart {
            epoch: head(7).epoch,
            heads: vec![head(7)],
        });
        let snapshot = builder
            .complete(
                &SnapshotEnd {
                    end: true,
                    count: 0,
                },
                writer.machine.root(),
            )
            .expect("complete");
        writer.machine.install(load, snapshot).expect("installed");
        assert!(!writer.compare_heads(Some(requested_at), vec![head(7)]));
        (writer, requested_at)
    }

    #[test]
    fn a_confirmed_replica_is_current_for_two_and_a_half_intervals() {
        let (mut writer, requested_at) = loaded();
        let view = writer.view(requested_at.into());
        assert_eq!(
            view.state(requested_at + Duration::from_secs(25)),
            ReplicaState::Current
        );
        assert_eq!(
            view.state(requested_at + Duration::from_millis(25_001)),
            ReplicaState::Stale
        );
    }

    #[test]
    fn heads_confirm_only_when_they_are_reached() {
        let (mut writer, requested_at) = loaded();
        let later = requested_at + Duration::from_secs(20);
        writer.compare_heads(Some(later), vec![head(9)]);
        assert_eq!(writer.view(later.into()).confirmed_at, Some(requested_at));
        writer.machine.apply(&change(9));
        assert_eq!(writer.view(later.into()).confirmed_at, Some(requested_at));
        writer.machine.apply(&change(8));
        assert_eq!(writer.view(later.into()).confirmed_at, Some(later));
    }

    #[test]
    fn a_replica_is_behind_when_a_revision_is_missing_for_longer_than_the_grace() {
        let (mut writer, start) = loaded();
        let at = |ms| start + Duration::from_millis(ms);
        writer.machine.apply(&change(9));
        assert_eq!(
            writer.view(at(0).into()).state(at(200)),
            ReplicaState::Current
        );
        assert_eq!(
            writer.view(at(150).into()).state(at(201)),
            ReplicaState::Behind
        );
        // The gap closes and another opens: its own grace begins.
        writer.machine.apply(&change(8));
        writer.machine.apply(&change(11));
        assert_eq!(
            writer.view(at(250).into()).state(at(400)),
            ReplicaState::Current
        );
        assert_eq!(
            writer.view(at(250).into()).state(at(451)),
            ReplicaState::Behind
        );
    }

    #[test]
    fn pending_heads_of_an_older_history_are_forgotten() {
        let (mut writer, requested_at) = loaded();
        writer.compare_heads(Some(requested_at), vec![head(9)]);
        let (load, newer) = (
            writer.machine.begin_load(),
            Head {
                epoch: next_epoch(),
                ..head(3)
            },
        );
        let builder = Snapshot::begin(SnapshotStart {
            epoch: next_epoch(),
            heads: vec![newer.clone()],
        });
        let snapshot = builder
            .complete(
                &SnapshotEnd {
                    end: true,
                    count: 0,
                },
                writer.machine.root(),
            )
            .expect("complete");
        writer.machine.install(load, snapshot).expect("installed");
        let later = requested_at + Duration::from_secs(20);
        assert!(!writer.compare_heads(Some(later), vec![newer]));
        assert_eq!(writer.view(later.into()).confirmed_at, Some(later));
    }

    #[test]
    fn heads_of_another_history_confirm_nothing() {
        let (mut writer, requested_at) = loaded();
        let later = requested_at + Duration::from_secs(20);
        let other = Head {
            epoch: next_epoch(),
            ..head(7)
        };
        assert!(writer.compare_heads(Some(later), vec![other]));
        assert_eq!(writer.view(later.into()).confirmed_at, Some(requested_at));
    }

    /// The commit is older than the start, of unknown time, 40 ms ago, or ahead of the own clock.
    #[test]
    fn the_delay_of_a_change_is_from_its_commit_to_the_view_and_never_negative() {
        let (mut writer, requested_at) = loaded();
        let at = |ms| DateTime::from_timestamp_millis(ms).expect("a time");
        for (revision, committed) in [(8, Some(-1)), (9, None), (10, Some(60)), (11, Some(5_000))] {
            let mut change = change(revision);
            change.origin.committed = committed.map(at);
            assert_eq!(writer.apply(&change), Decision::Applied);
        }
        assert_eq!(writer.delays().changes(), 0, "no reader sees them");
        let (monotonic, wall) = (requested_at, at(100));
        writer.view(ClockReading { monotonic, wall });
        let delays = writer.delays();
        assert_eq!(
            (delays.changes(), delays.sum_ms, delays.clock_ahead),
            (2, 40, 1)
        );
        // A repetition is no change.
        assert_eq!(writer.apply(&change(11)), Decision::Duplicate);
        writer.view(ClockReading { monotonic, wall });
        assert_eq!(writer.delays().changes(), 2);
    }
}
