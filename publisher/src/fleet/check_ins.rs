//! The batcher of check-ins: a single read of the heads answers all check-ins that waited when it
//! began.
//!
//! A check-in is never answered by a read that began before it arrived, so its report can be
//! compared with the answer. Digests of past revisions are read here as well, each once for all
//! check-ins that need it. Nothing here writes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use contract::{CollectionName, Digest, Epoch, Head, Revision};
use digest_cache::DigestCache;
use futures_util::{StreamExt, stream};
use rand::seq::IteratorRandom;
use tokio::{
    sync::{mpsc, mpsc::error::TrySendError, oneshot},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::error::FleetError;
use crate::store::{Store, is_not_open};

mod digest_cache;

/// Most check-ins that one read answers.
const BATCH: usize = 4_096;
/// Past change records that one batch may read, chosen at random. The other digests are compared
/// with a later check-in.
const RECORDS_PER_BATCH: usize = 64;
/// Past change records that are read at the same time.
const CONCURRENT_RECORDS: usize = 8;
/// Time for all of these records together: a late answer is worse than an answer without a
/// comparison, and a check-in may wait for two batches.
const RECORDS_TIME: Duration = Duration::from_millis(300);

/// A point of the history of a collection, whose digest a replica reports.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct HistoryPoint {
    pub(super) collection: CollectionName,
    pub(super) epoch: Epoch,
    pub(super) revision: Revision,
}

/// The heads of all collections from one read, and the digests of the requested points,
/// as far as they are known.
#[derive(Debug)]
pub(super) struct HeadsSnapshot {
    pub(super) heads: BTreeMap<CollectionName, Head>,
    past_digests: HashMap<HistoryPoint, Digest>,
}

impl HeadsSnapshot {
    /// The digest of a point of the present history. `None` when it is not known: the point is of
    /// another history, beyond the head, trimmed, or was not read in time.
    pub(super) fn digest(&self, point: &HistoryPoint) -> Option<Digest> {
        let head = self.heads.get(&point.collection)?;
        if head.epoch != point.epoch {
            return None;
        }
        match point.revision {
            // An empty collection has the digest zero in every history.
            0 => Some(Digest::default()),
            revision if revision == head.revision => Some(head.digest),
            _past => self.past_digests.get(point).copied(),
        }
    }
}

/// A check-in in the queue.
struct WaitingCheckIn {
    points: Vec<HistoryPoint>,
    answer: oneshot::Sender<Result<Arc<HeadsSnapshot>, FleetError>>,
}

/// The queue of check-ins. Cloning shares it.
#[derive(Debug, Clone)]
pub(super) struct CheckInBatcher(mpsc::Sender<WaitingCheckIn>);

impl CheckInBatcher {
    /// A batcher and the task that has to run for it. At most `max_queued` check-ins wait for the next
    /// read.
    pub(super) fn new(store: Store, max_queued: usize) -> (Self, CheckInTask) {
        let (sender, queue) = mpsc::channel(max_queued);
        let task = CheckInTask {
            store,
            queue,
            digests: DigestCache::default(),
        };
        (Self(sender), task)
    }

    /// The heads from a read that began after this call.
    ///
    /// # Errors
    /// [`FleetError::Busy`] when the queue is full, [`FleetError::StoreUnavailable`] when the read
    /// failed, [`FleetError::Stopping`] when the task has ended.
    pub(super) async fn snapshot(
        &self,
        points: Vec<HistoryPoint>,
    ) -> Result<Arc<HeadsSnapshot>, FleetError> {
        let (answer, snapshot) = oneshot::channel();
        self.0
            .try_send(WaitingCheckIn { points, answer })
            .map_err(|error| match error {
                TrySendError::Full(_) => FleetError::Busy,
                TrySendError::Closed(_) => FleetError::Stopping,
            })?;
        // The task drops the queue, and all senders in it, when it ends.
        snapshot
            .await
            .unwrap_or_else(|_dropped| Err(FleetError::Stopping))
    }
}

/// The task behind [`CheckInBatcher`].
pub struct CheckInTask {
    store: Store,
    queue: mpsc::Receiver<WaitingCheckIn>,
    digests: DigestCache,
}

impl CheckInTask {
    /// Answers check-ins until `no_more_requests`.
    ///
    /// # Errors
    /// Never; the signature is the supervisor's.
    pub async fn run(mut self, no_more_requests: CancellationToken) -> anyhow::Result<()> {
        let mut batch = Vec::new();
        while let Some(_count) = no_more_requests
            .run_until_cancelled(self.queue.recv_many(&mut batch, BATCH))
            .await
            .filter(|count| *count > 0)
        {
            // A set, so that a point which several replicas report is read once.
            let points = batch.iter().flat_map(|waiting| &waiting.points).collect();
            let snapshot = self.read(points).await.map(Arc::new);
            if let Err(error) = &snapshot
                && !is_not_open(error)
            {
                warn!(
                    check_ins = batch.len(),
                    "the heads could not be read, all waiting check-ins are answered 503: {error:#}"
                );
            }
            for waiting in batch.drain(..) {
                let answer = snapshot.as_ref().map(Arc::clone);
                // A replica that closed its connection needs no answer.
                drop(
                    waiting
                        .answer
                        .send(answer.map_err(|_logged| FleetError::StoreUnavailable)),
                );
            }
        }
        // A publisher without HTTP gets no check-in, so its queue is closed from
        // the beginning. A task that ends before the stop would end the process.
        no_more_requests.cancelled().await;
        Ok(())
    }

    /// Reads the heads, and the digests of these points as far as they are found in time.
    pub(super) async fn read(
        &mut self,
        points: BTreeSet<&HistoryPoint>,
    ) -> anyhow::Result<HeadsSnapshot> {
        let heads = self
            .store
            .heads(&self.store.policy().collections.all())
            .await?;
        let heads: BTreeMap<_, _> = heads
            .into_iter()
            .map(|head| (head.collection.clone(), head))
            .collect();
        // Before any digest is used: after a restore the cache holds digests of a lost history.
        self.digests.update(&heads);

        let mut past_digests = HashMap::new();
        let mut unknown = Vec::new();
        for point in points.into_iter().filter(|point| is_in_log(point, &heads)) {
            match self.digests.get(point) {
                Some(digest) => _ = past_digests.insert(point.clone(), digest),
                None => unknown.push(point),
            }
        }
        // At random: in order of name the same points would be read each time.
        let chosen = unknown
            .into_iter()
            .sample(&mut rand::rng(), RECORDS_PER_BATCH)
            .into_iter()
            .cloned()
            .collect();
        for (point, digest) in self.read_records(chosen).await {
            // A digest that the cache has no capacity for is an answer all the same.
            self.digests.insert(point.clone(), digest);
            past_digests.insert(point, digest);
        }
        Ok(HeadsSnapshot {
            heads,
            past_digests,
        })
    }

    /// The digests of the change records at these points, as far as they are found in time.
    async fn read_records(&self, points: Vec<HistoryPoint>) -> Vec<(HistoryPoint, Digest)> {
        let deadline = Instant::now() + RECORDS_TIME;
        let reads: Vec<_> = points
            .into_iter()
            .map(|point| read_record(self.store.clone(), point))
            .collect();
        let mut reads = std::pin::pin!(stream::iter(reads).buffer_unordered(CONCURRENT_RECORDS));
        let mut found = Vec::new();
        // At the deadline the reads that are left are dropped, and their points are not compared.
        while let Ok(Some(read)) = timeout_at(deadline, reads.next()).await {
            found.extend(read);
        }
        found
    }

    /// Leaves the cache of digests without capacity.
    #[cfg(test)]
    pub(super) fn fill_cache(&mut self) {
        self.digests.fill();
    }
}

/// Whether the log has a record of the point: it is of the present history, not trimmed, and before
/// the head.
fn is_in_log(point: &HistoryPoint, heads: &BTreeMap<CollectionName, Head>) -> bool {
    heads.get(&point.collection).is_some_and(|head| {
        head.epoch == point.epoch && (head.oldest.max(1)..head.revision).contains(&point.revision)
    })
}

async fn read_record(store: Store, point: HistoryPoint) -> Option<(HistoryPoint, Digest)> {
    let read = store
        .changes(&point.collection, point.revision - 1, 1, 1)
        .await;
    let records = read
        .inspect_err(|error| {
            debug!(
                collection = %point.collection, revision = point.revision,
                "a change record was not read, its digest is not compared: {error:#}"
            );
        })
        .unwrap_or_default();
    let record = records.into_iter().next()?;
    // The log may have been trimmed since the heads were read.
    (record.revision == point.revision).then_some((point, record.digest))
}
