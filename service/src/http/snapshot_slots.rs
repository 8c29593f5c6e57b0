//! A limit for snapshots that are sent at the same time: it protects the store from a thundering
//! herd of replicas that all load at once.
//!
//! A request that finds no free slot is queued for a short time, so that a slot is used again as
//! soon as it is free; then it is answered 503. A slot belongs to a reader that reads: a reader that
//! stalls loses the slot, so that dead readers do not block the others. The slot owns the snapshot,
//! because an open snapshot holds a session of the store or keeps old pages of its file, and the
//! connection of a dead reader may stay open for 15 minutes. Nothing here knows HTTP or a store.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use tokio::{
    sync::Notify,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// A reader that takes nothing for this long has stalled.
const STALLED: Duration = Duration::from_secs(10);
/// Interval at which stalled readers are searched.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Longest time that a request is queued: replicas give up on an answer that does not begin within
/// 2 s.
const QUEUED: Duration = Duration::from_millis(1_500);

/// Text of the error and of the log line when a reader lost its slot.
const SLOT_LOST: &str = "its reader stalled for 10 s and lost its slot";

/// An open snapshot of a store. It may hold a session or old pages, so it is dropped as soon as its
/// reader is done or stalls.
pub trait SnapshotSource: Send + 'static {
    /// Some documents.
    type Chunk;

    /// The next documents; `None` after the last.
    ///
    /// # Errors
    /// When the store fails; the snapshot is then over.
    fn next(&mut self) -> impl Future<Output = anyhow::Result<Option<Self::Chunk>>>;
}

/// The slots of all snapshots. Clones share them.
///
/// [`SnapshotSlots::run`] must run as a task of the process: otherwise a stalled reader loses its slot
/// only when another request needs it.
#[derive(Debug)]
pub struct SnapshotSlots<S> {
    /// Most snapshots at the same time.
    max: usize,
    readers: Arc<Mutex<Readers<S>>>,
    /// Notified when a slot may be free.
    freed: Arc<Notify>,
}

// Derived, it would require `S: Clone`.
impl<S> Clone for SnapshotSlots<S> {
    fn clone(&self) -> Self {
        Self {
            max: self.max,
            readers: self.readers.clone(),
            freed: self.freed.clone(),
        }
    }
}

/// The readers of all snapshots.
#[derive(Debug)]
struct Readers<S> {
    next_id: u64,
    by_id: BTreeMap<u64, Reader<S>>,
}

/// One reader.
#[derive(Debug)]
struct Reader<S> {
    /// When the reader last took a piece, or began to wait for one.
    active_at: Instant,
    source: SharedSource<S>,
}

/// Locked while a piece is read; `None` before the snapshot begins and after the slot is lost.
type SharedSource<S> = Arc<tokio::sync::Mutex<Option<S>>>;

/// The slot of one snapshot. Dropping it frees the slot.
#[derive(Debug)]
pub struct SnapshotSlot<S> {
    id: u64,
    source: SharedSource<S>,
    readers: Arc<Mutex<Readers<S>>>,
    freed: Arc<Notify>,
}

impl<S: SnapshotSource> SnapshotSlots<S> {
    /// `max` slots.
    pub fn new(max: usize) -> Self {
        let readers = Readers {
            next_id: 0,
            by_id: BTreeMap::new(),
        };
        Self {
            max,
            readers: Arc::new(Mutex::new(readers)),
            freed: Arc::default(),
        }
    }

    /// A slot, as soon as one is free; `None` when none was free for 1.5 s. The caller then answers 503
    /// with `Retry-After`, and the replica tries again.
    pub async fn open(&self) -> Option<SnapshotSlot<S>> {
        let queued = async {
            loop {
                if let Some(slot) = self.try_open() {
                    return slot;
                }
                self.freed.notified().await;
            }
        };
        timeout(QUEUED, queued).await.ok()
    }

    /// A slot, unless all are in use by readers that read.
    fn try_open(&self) -> Option<SnapshotSlot<S>> {
        let mut readers = lock(&self.readers);
        readers.cut_stalled();
        if readers.by_id.len() >= self.max {
            return None;
        }
        let id = readers.next_id;
        readers.next_id += 1;
        let source = SharedSource::default();
        readers.by_id.insert(
            id,
            Reader {
                active_at: Instant::now(),
                source: source.clone(),
            },
        );
        Some(SnapshotSlot {
            id,
            source,
            readers: self.readers.clone(),
            freed: self.freed.clone(),
        })
    }

    /// Takes slots from stalled readers until `stop` is cancelled.
    ///
    /// # Errors
    /// Never; the supervisor needs the signature.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut ticks = interval(CHECK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            lock(&self.readers).cut_stalled();
            self.freed.notify_one();
        }
        Ok(())
    }
}

impl<S> Readers<S> {
    /// Takes the slots from stalled readers and closes their snapshots.
    fn cut_stalled(&mut self) {
        self.by_id.retain(|_id, reader| {
            if reader.active_at.elapsed() < STALLED {
                return true;
            }
            // A locked source means that the store is slow, not the reader.
            let Ok(mut source) = reader.source.try_lock() else {
                return true;
            };
            warn!("a snapshot was cut off: {SLOT_LOST}");
            *source = None;
            false
        });
    }
}

impl<S: SnapshotSource> SnapshotSlot<S> {
    /// Puts the snapshot into the slot. It is opened after the slot was taken, so no more snapshots are
    /// open than there are slots.
    ///
    /// [`SnapshotSlot::next`] reads it from now on.
    pub async fn hold(&self, source: S) {
        *self.source.lock().await = Some(source);
    }

    /// The next documents; `None` after the last.
    ///
    /// # Errors
    /// When the store fails, or when the reader stalled and lost the slot.
    pub async fn next(&self) -> anyhow::Result<Option<S::Chunk>> {
        let mut source = self.source.lock().await;
        // Checked under the lock, so that the slot cannot be lost while the store is read.
        ensure!(self.reader_is_active(), SLOT_LOST);
        let piece = source
            .as_mut()
            .context("the slot holds no snapshot")?
            .next()
            .await;
        // The time that the store took does not count as time of the reader.
        self.reader_is_active();
        piece
    }

    /// Starts the clock of the reader again. `false` means that it lost the slot.
    fn reader_is_active(&self) -> bool {
        match lock(&self.readers).by_id.get_mut(&self.id) {
            Some(reader) => {
                reader.active_at = Instant::now();
                true
            }
            None => false,
        }
    }
}

impl<S> Drop for SnapshotSlot<S> {
    fn drop(&mut self) {
        lock(&self.readers).by_id.remove(&self.id);
        self.freed.notify_one();
    }
}

/// Locks the readers. Nobody holds the lock across an await.
fn lock<S>(readers: &Mutex<Readers<S>>) -> MutexGuard<'_, Readers<S>> {
    readers.lock().expect("no holder of this lock can panic")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A snapshot without an end.
    struct Endless;

    impl SnapshotSource for Endless {
        type Chunk = ();

        async fn next(&mut self) -> anyhow::Result<Option<()>> {
            Ok(Some(()))
        }
    }

    fn stall(slots: &SnapshotSlots<Endless>, slot: &SnapshotSlot<Endless>) {
        let long_ago = Instant::now()
            .checked_sub(STALLED)
            .expect("a machine that is up for longer");
        lock(&slots.readers)
            .by_id
            .get_mut(&slot.id)
            .expect("its slot")
            .active_at = long_ago;
    }

    #[test]
    fn a_stalled_reader_loses_its_slot_and_no_other_reader_does() {
        let slots = SnapshotSlots::new(2);
        let reading = slots.try_open().expect("a slot");
        let stalled = slots.try_open().expect("a slot");
        assert!(slots.try_open().is_none());
        stall(&slots, &stalled);
        let next = slots.try_open().expect("the slot of the stalled reader");
        assert!(slots.try_open().is_none());
        assert!(reading.reader_is_active() && next.reader_is_active());
        assert!(!stalled.reader_is_active());
        drop(stalled);
        assert!(
            slots.try_open().is_none(),
            "a lost slot is not freed a second time"
        );
        drop(next);
        assert!(slots.try_open().is_some());
    }

    #[tokio::test]
    async fn a_request_without_a_slot_is_queued_for_a_limited_time() {
        let slots = SnapshotSlots::<Endless>::new(1);
        let first = slots.open().await.expect("a slot");
        let (second, ()) = tokio::join!(slots.open(), async { drop(first) });
        let second = second.expect("the slot that became free");
        assert!(
            slots.open().await.is_none(),
            "a request is not queued indefinitely"
        );
        drop(second);
        assert!(
            slots.open().await.is_some(),
            "a request that gave up took no slot"
        );
    }

    /// Also when no other request comes, and the connection of the stalled reader stays open.
    #[tokio::test]
    async fn the_snapshot_of_a_stalled_reader_is_closed() {
        let slots = SnapshotSlots::new(2);
        let reading = slots.try_open().expect("a slot");
        let stalled = slots.try_open().expect("a slot");
        for slot in [&reading, &stalled] {
            slot.hold(Endless).await;
        }
        let stop = CancellationToken::new();
        let mut running = tokio::task::JoinSet::new();
        running.spawn(slots.clone().run(stop.clone()));
        stall(&slots, &stalled);
        let closed = async {
            while stalled.source.lock().await.is_some() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(10), closed)
            .await
            .expect("it is closed in time");
        assert!(stalled.next().await.is_err());
        assert!(
            reading.next().await.is_ok() && reading.source.lock().await.is_some(),
            "the other reader continues"
        );
        stop.cancel();
        assert!(running.join_all().await.iter().all(Result::is_ok));
    }
}
