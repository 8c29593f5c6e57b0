//! The state of a replica: one writer behind a lock, and a view that readers load without waiting.
//!
//! [`Cache`] owns everything that a replica holds of the configuration. Each change of it is one of
//! the verbs of [`Cache`], and each verb publishes one new [`View`] while it holds the lock, so
//! views follow each other in order. Nothing here does I/O, awaits a publisher, or calls foreign
//! code under the lock.

mod arrivals;
mod change_buffer;
mod swap_cell;
mod view;
mod writer;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use contract::{
    CanonicalJson, CollectionName, DocumentId, Head, Revision, apply_delays::ApplyDelays,
    fleet::ResyncReason, status::ReplicaState,
};
use state::{Decision, Image, InstallError, Installed, LoadId, ReceivedChange, Snapshot};
use tokio::{sync::watch, task::yield_now, time::sleep_until};

use arrivals::Arrivals;
pub use change_buffer::ChangeBuffer;
pub(crate) use change_buffer::ChangeBuffers;
pub(crate) use swap_cell::SwapCell;
pub(crate) use view::Unserved;
pub use view::View;
pub(crate) use view::{GRACE, Gaps, TypedReach};
use writer::{ClockReading, Writer};

/// Owner of the state of a replica.
#[derive(Debug)]
pub(crate) struct Cache {
    /// A std mutex: a change is a few map operations, and the lock is never held across an await.
    /// Under it only locks are taken that are held for a moment and under which no other is taken:
    /// those of the arrivals, of the view and of the notifications.
    writer: Mutex<Writer>,
    /// Changes of events that the next task with the lock applies.
    arrivals: Arrivals<ReceivedChange, Decision>,
    /// The newest view; swapped under the lock of the writer.
    view: SwapCell<View>,
    /// Version of the newest changes in the view. It grows with every watermark.
    feed_changed: watch::Sender<u64>,
    /// Notified after each swap.
    written: watch::Sender<()>,
    /// The state that the view has, and when time alone may change it.
    state_changed: watch::Sender<(ReplicaState, Option<Instant>)>,
    /// The state as it was last reported; see [`Cache::report_states`].
    states: watch::Sender<ReplicaState>,
}

impl Cache {
    /// A cache that follows these collections and holds nothing.
    pub(crate) fn new(collections: &BTreeSet<CollectionName>, check_in: Duration) -> Self {
        let now = ClockReading::now();
        let mut writer = Writer::new(collections, check_in, now.wall);
        let view = SwapCell::new(writer.view(now));
        Self {
            writer: Mutex::new(writer),
            arrivals: Arrivals::default(),
            view,
            feed_changed: watch::Sender::default(),
            written: watch::Sender::default(),
            state_changed: watch::Sender::new((ReplicaState::Loading, None)),
            states: watch::Sender::new(ReplicaState::Loading),
        }
    }

    /// The newest view, to be kept.
    pub(crate) fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// The newest view for a short read. It counts no references.
    pub(crate) fn view_guard(&self) -> impl Deref<Target = Arc<View>> + use<> {
        self.view.load()
    }

    /// Changes with [`View::changes`]. The number has no meaning.
    pub(crate) fn feed_changed(&self) -> watch::Receiver<u64> {
        self.feed_changed.subscribe()
    }

    /// Changes with every new view.
    pub(crate) fn written(&self) -> watch::Receiver<()> {
        self.written.subscribe()
    }

    /// Resolves as soon as readers see a collection at a revision or beyond it.
    pub(crate) async fn until_revision(&self, collection: &CollectionName, revision: Revision) {
        // Subscribed before the view is read, so that no change is missed in between.
        let mut written = self.written();
        while !self.view_guard().has_revision(collection, revision) {
            if written.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Waits until a collection is followed; `false` when the cache ends before.
    #[cfg(any(feature = "actix", feature = "redis"))]
    pub(crate) async fn until_followed(&self) -> bool {
        let mut written = self.written();
        while self.view_guard().root().collections().next().is_none() {
            if written.changed().await.is_err() {
                return false;
            }
        }
        true
    }

    /// The state as [`Cache::report_states`] reports it.
    pub(crate) fn states(&self) -> watch::Receiver<ReplicaState> {
        self.states.subscribe()
    }

    /// Applies the change of an event.
    pub(crate) fn apply(&self, change: &ReceivedChange) -> Decision {
        self.write(|writer| writer.apply(change))
    }

    /// Applies the change of an event together with those that arrive at the same time, as one view:
    /// the tasks of this thread that are ready run before, and one of them applies what all have
    /// left. The result is `None` after a panic under the lock.
    pub(crate) async fn apply_together(&self, change: ReceivedChange) -> Option<Decision> {
        let left = self.arrivals.leave(change);
        yield_now().await;
        if let Some(decision) = left.result() {
            return Some(decision);
        }
        let mut writer = self.writer.lock().ok()?;
        // Another thread may have had the lock meanwhile.
        if left.result().is_none() {
            let decided = self.arrivals.decide(|change| writer.apply(change));
            // An event is answered when its change is in the view, and not before.
            let freed = self.publish(&mut writer);
            decided.report();
            drop(writer);
            drop(freed);
        }
        left.result()
    }

    /// Applies a page of the change feed as one new view: readers see all of it or nothing. Returns
    /// for each change whether it was new here.
    pub(crate) fn apply_page(&self, changes: &[ReceivedChange]) -> Vec<bool> {
        self.write(|writer| writer.apply_page(changes))
    }

    /// Begins a load of all collections. Loads that began before are superseded.
    pub(crate) fn begin_load(&self) -> LoadId {
        self.write(Writer::begin_load)
    }

    /// Ends a load that failed.
    pub(crate) fn abandon_load(&self, load: LoadId) {
        self.write(|writer| writer.abandon_load(load));
    }

    /// Installs a proven snapshot and takes its heads over. `requested_at` is when the snapshot was
    /// asked for, if its heads say where the store stood then.
    ///
    /// # Errors
    /// When the snapshot would replace what is held by something older or foreign. Nothing changed
    /// then.
    pub(crate) fn install(
        &self,
        load: LoadId,
        snapshot: Snapshot,
        heads: Vec<Head>,
        requested_at: Option<Instant>,
    ) -> Result<Installed, InstallError> {
        self.write(|writer| {
            // A snapshot that is refused must not leave its heads behind.
            let installed = writer.install(load, snapshot)?;
            writer.compare_heads(requested_at, heads);
            Ok(installed)
        })
    }

    /// Takes over the heads of a check-in, and which collections have to be loaded again, and why.
    /// Returns whether the heads are of another history than what is held.
    ///
    /// The digests are compared here too, whatever `resync` says: a replica that follows a
    /// subscriber has nobody else who does it. The digest of a collection in `unsettled` is not that
    /// of its revision.
    pub(crate) fn compare_heads(
        &self,
        requested_at: Option<Instant>,
        heads: Vec<Head>,
        resync: &BTreeMap<CollectionName, ResyncReason>,
        unsettled: &BTreeSet<CollectionName>,
    ) -> bool {
        self.write(|writer| {
            for (collection, reason) in resync {
                let head = heads.iter().find(|head| head.collection == *collection);
                match (reason, head) {
                    (ResyncReason::Unproven, Some(head)) => {
                        writer.mark_refuted(collection, head.revision);
                    }
                    _ => writer.mark_diverged(collection),
                }
            }
            // After what the publisher compared, which is known and in the log.
            for head in heads
                .iter()
                .filter(|head| !unsettled.contains(&head.collection))
            {
                writer.compare_digest(head);
            }
            writer.compare_heads(requested_at, heads)
        })
    }

    /// Notes that everything which was committed before `requested_at` is held.
    pub(crate) fn confirm(&self, requested_at: Instant) {
        self.write(|writer| writer.confirm(requested_at));
    }

    /// Notes which collections no publisher serves, all of them, and what a publisher said of each. A
    /// load is made for one of them only after heads of it came.
    pub(crate) fn note_unserved(&self, unserved: BTreeMap<CollectionName, String>) {
        self.write(|writer| writer.note_unserved(unserved));
    }

    /// Notes what typed readers can read, if that is new: the state depends on it.
    pub(crate) fn note_typed(&self, typed: TypedReach) {
        if *self.view_guard().typed != typed {
            self.write(|writer| writer.note_typed(typed));
        }
    }

    /// Notes that no publisher serves these loaded collections any more, besides those that are known.
    pub(crate) fn note_withdrawn(&self, withdrawn: BTreeMap<CollectionName, String>) {
        self.write(|writer| writer.note_withdrawn(withdrawn));
    }

    /// Notes why the store of the publishers is refused: `other-store` or `older-epoch`.
    pub(crate) fn refuse(&self, reason: &'static str) {
        self.write(|writer| writer.refuse(reason));
    }

    /// Follows these collections too, and gives up those that join and are not among them. Returns
    /// the names that there is no place for.
    pub(crate) fn follow(&self, served: &BTreeSet<CollectionName>) -> BTreeSet<CollectionName> {
        self.write(|writer| writer.follow(served))
    }

    /// Takes an image from disk. Readers do not see it before [`Cache::open`]. `confirmed_ms` is
    /// when a publisher last confirmed it, in milliseconds since 1970.
    pub(crate) fn restore(&self, image: Image, confirmed_ms: Option<i64>) {
        self.write(|writer| writer.restore(image, confirmed_ms));
    }

    /// Lets readers see what was restored.
    pub(crate) fn open(&self) {
        self.write(Writer::open);
    }

    /// Sets a document of an unversioned collection. Returns whether it could.
    pub(crate) fn set_unversioned(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
        config: &CanonicalJson,
    ) -> bool {
        self.write(|writer| writer.set_unversioned(collection, id, config))
    }

    /// Removes a document of an unversioned collection. Returns whether it was there.
    pub(crate) fn remove_unversioned(&self, collection: &CollectionName, id: &DocumentId) -> bool {
        self.write(|writer| writer.remove_unversioned(collection, id))
    }

    /// How long changes took from their commit until readers saw them, since the start.
    pub(crate) fn delays(&self) -> ApplyDelays {
        self.lock().delays().clone()
    }

    /// Number of edits that events made in unversioned collections.
    pub(crate) fn unversioned_edits(&self) -> u64 {
        self.lock().unversioned_edits()
    }

    /// Replaces an unversioned collection by a complete list. With `expected_edits` only while
    /// [`Cache::unversioned_edits`] is still that number. Returns whether it did.
    pub(crate) fn replace_unversioned(
        &self,
        collection: &CollectionName,
        documents: Vec<(DocumentId, CanonicalJson)>,
        expected_edits: Option<u64>,
    ) -> bool {
        self.write(|writer| writer.replace_unversioned(collection, documents, expected_edits))
    }

    /// Reports the state whenever it changes, by a new view and by time alone. It never ends.
    pub(crate) async fn report_states(&self) {
        let mut state_changed = self.state_changed.subscribe();
        loop {
            // Before the view is read: a change after that wakes the loop below.
            state_changed.mark_unchanged();
            let (state, changes_after) = self.state(Instant::now());
            self.states
                .send_if_modified(|last| std::mem::replace(last, state) != state);
            // A state also changes without a new view: when a grace or the confirmation runs out.
            let by_time = async {
                match changes_after {
                    Some(then) => sleep_until(then.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = state_changed.changed() => {}
                () = by_time => {}
            }
        }
    }

    /// The state now, and when time alone may change it. It keeps no view: a task that waits with
    /// a view keeps in memory everything that was replaced since.
    fn state(&self, now: Instant) -> (ReplicaState, Option<Instant>) {
        let view = self.view_guard();
        (view.state(now), view.state_changes_after(now))
    }

    /// Applies `change`, then publishes the view that follows. All changes come this way, besides those of
    /// [`Cache::apply_together`].
    fn write<T>(&self, change: impl FnOnce(&mut Writer) -> T) -> T {
        let mut writer = self.lock();
        let result = change(&mut writer);
        let freed = self.publish(&mut writer);
        drop(writer);
        // Old views are freed without the lock: the next change need not wait for that.
        drop(freed);
        result
    }

    /// Publishes the view of the writer, under its lock. Returns the views that no reader holds any
    /// more, to be freed without it.
    fn publish(&self, writer: &mut Writer) -> Vec<Arc<View>> {
        let now = ClockReading::now();
        let view = writer.view(now);
        let now = now.monotonic;
        let version = view.buffers.version;
        let state = (view.state(now), view.state_changes_after(now));
        // Readers see the new view from here on; notifications follow it, never the other way.
        let freed = self.view.publish(view);
        self.feed_changed
            .send_if_modified(|last| std::mem::replace(last, version) != version);
        // Without typed collections nothing waits for each view, and nothing needs to be notified.
        if self.written.receiver_count() > 0 {
            self.written.send_replace(());
        }
        // Most changes leave the state as it is, and need wake nothing.
        self.state_changed
            .send_if_modified(|last| std::mem::replace(last, state) != state);
        freed
    }

    /// The writer. Nothing panics while it holds the lock, so the lock is never poisoned.
    fn lock(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().expect("nothing that holds it panics")
    }
}

/// A collection lacks a revision that it knows of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gap {
    /// The highest revision that was known when the gap was noticed. The gap lasts until the
    /// watermark has passed it.
    pub(crate) known: Revision,
    /// When it was noticed.
    pub(crate) since: Instant,
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use super::*;
    use crate::{Builder, tests::settings};

    #[test]
    fn no_reader_waits_while_the_writer_is_locked() {
        let builder = Builder::new(settings(Vec::new()));
        let builder = builder
            .collection::<serde_json::Value>("A")
            .expect("a type");
        let replica = builder.build().expect("a replica");
        let cache = &replica.intake().cache;
        let values = replica.collection::<serde_json::Value>("A").expect("typed");
        let (read, done) = mpsc::channel();
        thread::scope(|scope| {
            let writer = cache.lock();
            let (replica, values) = (&replica, &values);
            scope.spawn(move || {
                let view = replica.view();
                let raw = view.root().collections().count();
                let typed = values.get("x").is_none();
                read.send((raw, typed)).expect("the test waits");
            });
            let result = done.recv_timeout(Duration::from_secs(10));
            assert_eq!(result, Ok((2, true)), "a reader waits for the writer");
            drop(writer);
        });
    }
}
