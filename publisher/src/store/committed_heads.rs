//! The heads that this publisher knows to be committed. A database whose heads are older was
//! restored from a backup.
//!
//! It is kept in memory only: a publisher that restarts knows nothing and learns of a restore from
//! replicas. It declares nothing: a regressed head is a suspicion, which `fleet::restore` checks.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use contract::{CollectionName, Epoch, Head, Revision};
use tokio::sync::Notify;

/// Epoch and revision of heads, by collection.
pub type HeadPositions = BTreeMap<CollectionName, (Epoch, Revision)>;

/// The newest heads that were read at majority or committed.
#[derive(Debug, Default)]
pub struct CommittedHeads {
    positions: Mutex<HeadPositions>,
    regressed: Notify,
}

impl CommittedHeads {
    /// A copy of the known positions. Take it before a read begins: a head that is committed during
    /// the read need not be visible to it.
    pub fn positions(&self) -> HeadPositions {
        self.lock().clone()
    }

    /// Whether a head that was read is older than `known`, which was taken before the read began.
    /// If so, a waiting [`Self::until_regressed`] returns.
    ///
    /// Heads of another lineage are not compared: another store is not an older one.
    pub fn regressed<'a>(
        &self,
        known: &HeadPositions,
        heads: impl IntoIterator<Item = &'a Head>,
    ) -> bool {
        let regressed = heads.into_iter().any(|head| {
            known.get(&head.collection).is_some_and(|position| {
                let (epoch, _revision) = position;
                epoch.lineage == head.epoch.lineage && *position > (head.epoch, head.revision)
            })
        });
        if regressed {
            self.regressed.notify_one();
        }
        regressed
    }

    /// Records heads that are durable. A head that is older than the known one changes nothing; a
    /// head of another lineage replaces it.
    pub fn record<'a>(&self, heads: impl IntoIterator<Item = &'a Head>) {
        let mut positions = self.lock();
        for head in heads {
            let position = (head.epoch, head.revision);
            let known = positions.entry(head.collection.clone()).or_insert(position);
            if position > *known || known.0.lineage != head.epoch.lineage {
                *known = position;
            }
        }
    }

    /// Waits until a head was found to be regressed. One waiter is notified.
    pub async fn until_regressed(&self) {
        self.regressed.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, HeadPositions> {
        // No code that holds the lock leaves the map half changed.
        self.positions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_position_in_the_same_lineage_is_regressed() {
        let committed = CommittedHeads::default();
        let head = |lineage, counter, revision| Head {
            revision,
            ..Head::empty("A".parse().expect("a name"), Epoch { lineage, counter })
        };
        let regressed = |head: Head| committed.regressed(&committed.positions(), [&head]);
        assert!(!regressed(head(7, 1, 1)), "nothing is known yet");
        committed.record([&head(7, 1, 9)]);
        assert!(regressed(head(7, 1, 8)) && !regressed(head(7, 1, 9)) && !regressed(head(7, 2, 3)));
        committed.record([&head(7, 2, 3)]);
        assert!(
            regressed(head(7, 1, 99)),
            "the declared epoch was replaced by the one before it"
        );
        let before = committed.positions();
        committed.record([&head(7, 2, 4)]);
        assert!(
            !committed.regressed(&before, [&head(7, 2, 3)]),
            "the newer head was committed during the read"
        );
        assert!(
            !regressed(head(8, 1, 0)),
            "a head of another lineage is not comparable"
        );
        committed.record([&head(8, 1, 0)]);
        assert!(regressed(head(8, 0, 9)));
    }
}
