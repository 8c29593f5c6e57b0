//! New heads for live streams: one task reads the heads once for all streams.
//!
//! A commit of this publisher triggers a reading at once; an interval finds the commits of other
//! publishers. While no stream is open nothing is read. Streams read the changes from the log, each at
//! the pace of its reader; those that are equally far share the read ([`SharedReads`]).

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use contract::{CollectionName, Head, Revision};
use service::http::feed::FeedLimits;
use tokio::{
    sync::{Notify, OnceCell, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::store::{FeedRecord, Store};

/// Interval at which the commits of other publishers are found.
const POLL: Duration = Duration::from_millis(500);

/// One reading of all heads. Readings are numbered in the order in which they began.
#[derive(Debug, Clone, Default)]
pub struct HeadsReading {
    number: u64,
    /// The heads; `None` when the store could not be read.
    pub heads: Option<Arc<[Head]>>,
    /// The reads of streams since.
    pub reads: SharedReads,
}

/// The farthest read of each collection after a reading of the heads. Most streams have everything but
/// the newest changes: they want the same ones, and one of them reads for all.
///
/// It holds at most one read for each collection, and a stream that waits holds none. Clones share
/// it.
#[derive(Debug, Clone, Default)]
pub struct SharedReads(Arc<Mutex<BTreeMap<CollectionName, SharedRead>>>);

#[derive(Debug, Clone)]
struct SharedRead {
    after: Revision,
    limits: FeedLimits,
    records: Arc<OnceCell<Vec<FeedRecord>>>,
}

impl SharedReads {
    /// The changes after a revision, as [`Store::feed_records`] reads them, at the time of this call or of
    /// an earlier one since the heads were read.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn records(
        &self,
        store: &Store,
        collection: &CollectionName,
        after: Revision,
        limits: FeedLimits,
    ) -> anyhow::Result<Vec<FeedRecord>> {
        let read = || store.feed_records(collection, after, limits);
        let own = SharedRead {
            after,
            limits,
            records: Arc::default(),
        };
        let shared = {
            let mut reads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let shared = reads
                .entry(collection.clone())
                .or_insert_with(|| own.clone());
            // A stream that lags asked first. What it reads is of no use to the others.
            if after > shared.after {
                *shared = own;
            }
            shared.clone()
        };
        // A stream that is not as far, or that has less to send, reads for itself.
        if (shared.after, shared.limits) != (after, limits) {
            return read().await;
        }
        Ok(shared.records.get_or_try_init(read).await?.clone())
    }
}

/// The readings of this publisher. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct FeedWatch(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    readings: watch::Sender<HeadsReading>,
    /// Number of the newest reading that began.
    begun: AtomicU64,
    wake: Notify,
}

impl FeedWatch {
    /// Triggers a reading after a commit of this publisher.
    pub fn wake(&self) {
        if self.0.readings.receiver_count() > 0 {
            self.0.wake.notify_one();
        }
    }

    /// All readings from now on, and the first of them: it begins after this call.
    pub async fn follow(&self) -> (watch::Receiver<HeadsReading>, HeadsReading) {
        let mut readings = self.0.readings.subscribe();
        let first = self.0.begun.load(Ordering::SeqCst) + 1;
        self.0.wake.notify_one();
        let reading = readings.wait_for(|reading| reading.number >= first).await;
        let reading = reading.map(|reading| reading.clone()).unwrap_or_default();
        (readings, reading)
    }

    /// Reads the heads of all collections while a stream is open, until `stop` is cancelled.
    ///
    /// # Errors
    /// Never; the supervisor needs the signature.
    pub async fn run(self, store: Store, stop: CancellationToken) -> anyhow::Result<()> {
        let Shared {
            readings,
            begun,
            wake,
        } = &*self.0;
        let mut failing = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => {
                    // A stream that has just begun to follow must not wait for a reading.
                    readings.send_replace(HeadsReading { number: u64::MAX, ..HeadsReading::default() });
                    return Ok(());
                }
                () = wake.notified() => {}
                () = sleep(POLL), if readings.receiver_count() > 0 => {}
            }
            let number = begun.fetch_add(1, Ordering::SeqCst) + 1;
            let heads = match store.heads(&store.policy().collections.all()).await {
                Ok(heads) => {
                    if std::mem::take(&mut failing) {
                        info!("the heads of the store can be read again; live streams continue");
                    }
                    Some(heads.into())
                }
                Err(error) => {
                    // One line per outage, not one per reading.
                    if !std::mem::replace(&mut failing, true) {
                        warn!(
                            "the heads of the store cannot be read; live streams wait: {error:#}"
                        );
                    }
                    None
                }
            };
            let reads = SharedReads::default();
            readings.send_replace(HeadsReading {
                number,
                heads,
                reads,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::bench_support;

    #[tokio::test]
    async fn pages_are_dropped_after_the_last_stream_has_ended() {
        let folder = tempfile::tempdir().expect("a folder");
        let name: CollectionName = "A".parse().expect("a name");
        let url = crate::store::StoreUrl::Embedded(folder.path().into());
        let store = bench_support::open(&url, &name).await.expect("a store");
        let watch = FeedWatch::default();
        let stop = CancellationToken::new();
        let running = watch.clone().run(store.clone(), stop.clone());
        let test = async {
            let (streams, reading) = watch.follow().await;
            let limits = FeedLimits {
                changes: 10,
                bytes: 1_000,
            };
            let read = reading.reads.records(&store, &name, 0, limits).await;
            read.expect("read");
            let held = || {
                watch
                    .0
                    .readings
                    .borrow()
                    .reads
                    .0
                    .lock()
                    .expect("reads")
                    .len()
            };
            assert_eq!(held(), 1);
            drop((streams, reading));
            // The interval began while a stream was open, so one more reading follows.
            let deadline = Instant::now() + Duration::from_secs(30);
            while held() > 0 {
                assert!(Instant::now() < deadline, "pages are held without a stream");
                tokio::task::yield_now().await;
            }
            stop.cancel();
        };
        let (ended, ()) = tokio::join!(running, test);
        ended.expect("a clean end");
    }
}
