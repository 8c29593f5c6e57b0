//! Digests of past revisions, kept for a short time: replicas of one fleet report the same few
//! revisions. It reads nothing.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use contract::{CollectionName, Digest, Head};
use tokio::time::Instant;

use super::HistoryPoint;

/// Digests in the cache, at most.
const CAPACITY: usize = 4_096;
/// How long a digest stays in the cache.
const LIFETIME: Duration = Duration::from_secs(60);

/// Digests by point, with the time when each was added.
#[derive(Debug, Default)]
pub(super) struct DigestCache {
    entries: HashMap<HistoryPoint, (Instant, Digest)>,
    /// The heads of the read before.
    last_heads: BTreeMap<CollectionName, Head>,
}

impl DigestCache {
    pub(super) fn get(&self, point: &HistoryPoint) -> Option<Digest> {
        self.entries.get(point).map(|(_since, digest)| *digest)
    }

    /// Adds a digest, unless the cache is full.
    pub(super) fn insert(&mut self, point: HistoryPoint, digest: Digest) {
        if self.entries.len() < CAPACITY {
            self.entries.insert(point, (Instant::now(), digest));
        }
    }

    /// Removes what is old or no longer true, and adds the heads that were just read: they are the
    /// past of the next read.
    pub(super) fn update(&mut self, heads: &BTreeMap<CollectionName, Head>) {
        let regressed = heads.values().any(|head| {
            self.last_heads
                .get(&head.collection)
                .is_some_and(|last| head.revision < last.revision)
        });
        // Where a head went back, the store was restored: the same revisions may hold other values.
        if regressed {
            self.entries.clear();
        }
        // Old digests make room for those that replicas report now.
        self.entries
            .retain(|_point, (since, _digest)| since.elapsed() < LIFETIME);
        for head in heads.values() {
            let point = HistoryPoint {
                collection: head.collection.clone(),
                epoch: head.epoch,
                revision: head.revision,
            };
            self.insert(point, head.digest);
        }
        self.last_heads.clone_from(heads);
    }

    /// Leaves no capacity.
    #[cfg(test)]
    pub(super) fn fill(&mut self) {
        let collection: CollectionName = "Full".parse().expect("a name");
        for revision in 1.. {
            if self.entries.len() >= CAPACITY {
                break;
            }
            let point = HistoryPoint {
                collection: collection.clone(),
                epoch: contract::Epoch {
                    lineage: 0,
                    counter: 0,
                },
                revision,
            };
            self.insert(point, Digest::default());
        }
    }
}
