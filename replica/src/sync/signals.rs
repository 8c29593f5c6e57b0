//! What wakes and steers the loop that keeps a replica in step. Nothing here is shown in a status.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering, fence},
    },
};

use contract::CollectionName;
use tokio::sync::Notify;

/// Signals of the intake to the loop, and whether the loop waits. A signal
/// that is given twice before the loop looks counts once.
#[derive(Debug, Default)]
pub(crate) struct SyncSignals {
    /// A change left a gap.
    gap: Notify,
    /// Something changed, but not what: the heads must be asked for.
    check_in: Notify,
    /// An event counts in another history.
    other_epoch: Notify,
    /// An event named revisions that no publisher has confirmed.
    unconfirmed: Notify,
    /// An event came that no publisher has signed.
    unproven: Notify,
    /// An event was applied that asks for a check-in.
    confirmation: Notify,
    /// A document of a collection changed, and the event did not say how.
    hint: Notify,
    /// The collections of such events since the last catch-up. They are followed, so their number is
    /// bounded.
    hinted: Mutex<BTreeSet<CollectionName>>,
    /// Changes come and events do not, or a collection joined: the source of events must connect
    /// again.
    reconnect: Notify,
    /// No event has come since the replica started or a check-in was requested: what is missing is
    /// not on its way, and needs no grace.
    skip_grace: AtomicBool,
    /// The loop waits for the grace of a gap to end, and looks at all gaps then.
    in_grace: AtomicBool,
}

impl SyncSignals {
    /// The loop must look at the gaps.
    pub(crate) fn gap_found(&self) {
        self.gap.notify_one();
    }

    /// The heads must be asked for.
    pub(crate) fn request_check_in(&self) {
        self.check_in.notify_one();
    }

    /// An event counts in another history.
    pub(crate) fn other_epoch_seen(&self) {
        self.other_epoch.notify_one();
    }

    /// An event named revisions that no publisher has confirmed.
    pub(crate) fn unconfirmed_seen(&self) {
        self.unconfirmed.notify_one();
    }

    /// An event came that no publisher has signed.
    pub(crate) fn unproven_seen(&self) {
        self.unproven.notify_one();
    }

    /// An event was applied that asks for a check-in: a request waits for it.
    pub(crate) fn confirmation_wanted(&self) {
        self.confirmation.notify_one();
    }

    /// A followed collection has a change that an event did not describe: its feed must be read.
    pub(crate) fn changed(&self, collection: &CollectionName) {
        self.hinted().insert(collection.clone());
        self.hint.notify_one();
    }

    /// The collections of [`SyncSignals::changed`] since this was last asked.
    pub(crate) fn take_changed(&self) -> BTreeSet<CollectionName> {
        std::mem::take(&mut *self.hinted())
    }

    /// Whether [`SyncSignals::take_changed`] would give any.
    pub(crate) fn any_changed(&self) -> bool {
        !self.hinted().is_empty()
    }

    /// Nothing is awaited under the lock, and a set is whole at any time.
    fn hinted(&self) -> MutexGuard<'_, BTreeSet<CollectionName>> {
        self.hinted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The source of events must connect again.
    pub(crate) fn request_reconnect(&self) {
        self.reconnect.notify_one();
    }

    /// An event was handled after its change was published to the view. Returns whether the loop
    /// looks at new gaps by itself.
    pub(crate) fn event_handled(&self) -> bool {
        // A load is cheaper than a store, and nearly always enough.
        if self.skip_grace.load(Ordering::Relaxed) {
            self.skip_grace.store(false, Ordering::Relaxed);
        }
        // Pairs with the fence in `look_at_gaps`: either the loop sees the view with the gap, or
        // this sees that the loop does not wait.
        fence(Ordering::SeqCst);
        self.in_grace.load(Ordering::SeqCst)
    }

    /// The loop is about to read the gaps of the view.
    pub(crate) fn look_at_gaps(&self) {
        self.in_grace.store(false, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// The loop waits for the grace of a gap to end.
    pub(crate) fn wait_for_grace(&self) {
        self.in_grace.store(true, Ordering::SeqCst);
    }

    /// What is missing at the next check-in needs no grace, unless an event comes before.
    pub(crate) fn skip_grace(&self) {
        self.skip_grace.store(true, Ordering::Relaxed);
    }

    /// Whether [`SyncSignals::skip_grace`] was called since this was last asked, and no event has
    /// come since.
    pub(crate) fn take_skip_grace(&self) -> bool {
        self.skip_grace.swap(false, Ordering::Relaxed)
    }

    /// Resolves after [`SyncSignals::gap_found`].
    pub(crate) async fn gap(&self) {
        self.gap.notified().await;
    }

    /// Resolves after [`SyncSignals::request_check_in`].
    pub(crate) async fn check_in(&self) {
        self.check_in.notified().await;
    }

    /// Resolves after [`SyncSignals::other_epoch_seen`].
    pub(crate) async fn other_epoch(&self) {
        self.other_epoch.notified().await;
    }

    /// Resolves after [`SyncSignals::unconfirmed_seen`].
    pub(crate) async fn unconfirmed(&self) {
        self.unconfirmed.notified().await;
    }

    /// Resolves after [`SyncSignals::unproven_seen`].
    pub(crate) async fn unproven(&self) {
        self.unproven.notified().await;
    }

    /// Resolves after [`SyncSignals::confirmation_wanted`].
    pub(crate) async fn confirmation(&self) {
        self.confirmation.notified().await;
    }

    /// Resolves after [`SyncSignals::changed`].
    pub(crate) async fn until_changed(&self) {
        self.hint.notified().await;
    }

    /// Resolves after [`SyncSignals::request_reconnect`].
    pub(crate) async fn reconnect(&self) {
        self.reconnect.notified().await;
    }
}
