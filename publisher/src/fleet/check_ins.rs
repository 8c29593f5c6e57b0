//! The desk: one reading of the heads answers all check-ins that waited when it began.
//!
//! A check-in is never answered by a reading that began before it arrived, so what it says can be
//! compared with the answer. Digests of the past are read here as well, each once for all who need
//! it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use contract::{CollectionName, Digest, Epoch, Head, Revision};
use futures_util::{StreamExt, stream};
use rand::seq::IteratorRandom;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::store::Store;

/// Check-ins that may wait for the next reading.
const QUEUE: usize = 4_096;
/// Records of the past that one reading may cause, drawn by lot; the others get their verdict with
/// another check-in.
const RECORDS: usize = 64;
const RECORDS_AT_A_TIME: usize = 8;
/// All of them together: an answer late is worse than no verdict, and a check-in may wait for two
/// readings.
const RECORDS_TIME: Duration = Duration::from_millis(300);
/// Digests that are remembered, and for how long.
const REMEMBERED: usize = 4_096;
const MEMORY: Duration = Duration::from_secs(60);

/// A moment whose digest a replica reports.
pub(super) type Moment = (CollectionName, Epoch, Revision);

/// Where everything stood, and the digests that were asked for, as far as they are known.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) heads: BTreeMap<CollectionName, Head>,
    digests: HashMap<Moment, Digest>,
}

impl Reading {
    /// The digest of a moment of the present history; `None` = nobody can tell.
    pub(super) fn digest(&self, moment: &Moment) -> Option<Digest> {
        let (name, epoch, revision) = moment;
        let head = self.heads.get(name).filter(|head| head.epoch == *epoch)?;
        match *revision {
            0 => Some(Digest::default()),
            at if at == head.revision => Some(head.digest),
            _past => self.digests.get(moment).copied(),
        }
    }
}

struct Waiting {
    moments: Vec<Moment>,
    answer: oneshot::Sender<Arc<Reading>>,
}

/// Where check-ins wait. Cloning shares the queue.
#[derive(Debug, Clone)]
pub(super) struct Desk(mpsc::Sender<Waiting>);

impl Desk {
    /// A reading that began after this call; `None` when the store does not answer, or too many
    /// wait.
    pub(super) async fn read(&self, moments: Vec<Moment>) -> Option<Arc<Reading>> {
        let (answer, reading) = oneshot::channel();
        self.0.try_send(Waiting { moments, answer }).ok()?;
        reading.await.ok()
    }
}

/// The task behind [`Desk`].
pub struct DeskTask {
    store: Store,
    queue: mpsc::Receiver<Waiting>,
    recent: HashMap<Moment, (Instant, Digest)>,
    last: BTreeMap<CollectionName, Head>,
}

pub(super) fn desk(store: Store) -> (Desk, DeskTask) {
    let (sender, queue) = mpsc::channel(QUEUE);
    (
        Desk(sender),
        DeskTask {
            store,
            queue,
            recent: HashMap::new(),
            last: BTreeMap::new(),
        },
    )
}

impl DeskTask {
    /// Answers until no more requests will come.
    ///
    /// # Errors
    /// Never; the signature is the supervisor's.
    pub async fn run(mut self, no_more_requests: CancellationToken) -> anyhow::Result<()> {
        let mut waiting = Vec::new();
        while let Some(_some) = no_more_requests
            .run_until_cancelled(self.queue.recv_many(&mut waiting, QUEUE))
            .await
            .filter(|n| *n > 0)
        {
            let moments = waiting.iter().flat_map(|one| &one.moments).collect();
            match self.read(moments).await {
                Ok(reading) => {
                    let reading = Arc::new(reading);
                    for Waiting { answer, .. } in waiting.drain(..) {
                        // Who hung up needs no answer.
                        drop(answer.send(reading.clone()));
                    }
                }
                Err(error) => {
                    warn!(
                        check_ins = waiting.len(),
                        "check-ins were answered 503: {error:#}"
                    );
                    waiting.clear();
                }
            }
        }
        Ok(())
    }

    pub(super) async fn read(&mut self, moments: BTreeSet<&Moment>) -> anyhow::Result<Reading> {
        let heads = self.store.heads(&self.store.policy().collections).await?;
        let heads: BTreeMap<_, _> = heads
            .into_iter()
            .map(|head| (head.collection.clone(), head))
            .collect();
        self.forget(&heads);
        let past: Vec<_> = moments
            .into_iter()
            .filter(|(name, epoch, at)| {
                heads.get(name).is_some_and(|head| {
                    head.epoch == *epoch && (head.oldest.max(1)..head.revision).contains(at)
                })
            })
            .collect();
        let known = |moment: &&Moment| Some(((*moment).clone(), self.recent.get(*moment)?.1));
        let mut digests: HashMap<_, _> = past.iter().filter_map(known).collect();
        let unknown = past
            .into_iter()
            .filter(|moment| !digests.contains_key(*moment));
        // By lot: the first by name would be the same ones each time.
        let unknown = unknown
            .sample(&mut rand::rng(), RECORDS)
            .into_iter()
            .cloned()
            .collect();
        // What finds no room to be remembered is an answer all the same.
        for (moment, digest) in self.look_up(unknown).await {
            self.remember(moment.clone(), digest);
            digests.insert(moment, digest);
        }
        Ok(Reading { heads, digests })
    }

    /// Where a head went back the past is another one now. The present heads are the next past.
    fn forget(&mut self, heads: &BTreeMap<CollectionName, Head>) {
        let back = |head: &Head| {
            self.last
                .get(&head.collection)
                .is_some_and(|last| head.revision < last.revision)
        };
        if heads.values().any(back) {
            self.recent.clear();
        }
        self.recent
            .retain(|_moment, (since, _digest)| since.elapsed() < MEMORY);
        for head in heads.values() {
            self.remember(
                (head.collection.clone(), head.epoch, head.revision),
                head.digest,
            );
        }
        self.last.clone_from(heads);
    }

    fn remember(&mut self, moment: Moment, digest: Digest) {
        if self.recent.len() < REMEMBERED {
            self.recent.insert(moment, (Instant::now(), digest));
        }
    }

    /// Those that are found in time.
    async fn look_up(&self, moments: Vec<Moment>) -> Vec<(Moment, Digest)> {
        let deadline = Instant::now() + RECORDS_TIME;
        let reads = moments.into_iter().map(|moment| {
            let store = self.store.clone();
            async move {
                let (name, _epoch, revision) = &moment;
                let found = store.changes(name, revision - 1, 1, 1).await;
                let found = found
                    .inspect_err(|error| debug!("a record was not read: {error:#}"))
                    .unwrap_or_default();
                let record = found
                    .into_iter()
                    .next()
                    .filter(|record| record.revision == *revision)?;
                Some((moment, record.digest))
            }
        });
        let reads: Vec<_> = reads.collect();
        let mut reads = std::pin::pin!(stream::iter(reads).buffer_unordered(RECORDS_AT_A_TIME));
        let mut found = Vec::new();
        while let Ok(Some(read)) = timeout_at(deadline, reads.next()).await {
            found.extend(read);
        }
        found
    }

    /// Leaves no room to remember anything.
    #[cfg(test)]
    pub(super) fn fill(&mut self) {
        let name: CollectionName = "Full".parse().expect("a name");
        for at in 1.. {
            if self.recent.len() >= REMEMBERED {
                break;
            }
            self.remember(
                (
                    name.clone(),
                    Epoch {
                        lineage: 0,
                        counter: 0,
                    },
                    at,
                ),
                Digest::default(),
            );
        }
    }
}
