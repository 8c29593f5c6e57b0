//! What this publisher has seen committed: a database whose heads are behind it was put back to a
//! dump.
//!
//! It is a memory and no state: a publisher that starts anew knows nothing, and hears of a restore
//! from replicas. It decides nothing; what is behind is a suspicion that `fleet::epoch` looks into.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use contract::{CollectionName, Epoch, Head, Revision};
use tokio::sync::Notify;

/// The newest heads at some moment.
pub type Marks = BTreeMap<CollectionName, (Epoch, Revision)>;

/// The newest heads that were read at majority, or committed.
#[derive(Debug, Default)]
pub struct CommittedHeads {
    heads: Mutex<Marks>,
    behind: Notify,
}

impl CommittedHeads {
    /// What is known now. Take it before a reading begins: what is committed meanwhile may not be
    /// in it.
    pub fn marks(&self) -> Marks {
        self.heads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Whether a head that was read is behind what had been seen before. Whoever waits in
    /// [`Self::until_behind`] hears of it.
    pub fn is_behind<'a>(&self, marks: &Marks, heads: impl IntoIterator<Item = &'a Head>) -> bool {
        let behind = |head: &Head| {
            let seen = marks
                .get(&head.collection)
                .filter(|(epoch, _revision)| epoch.lineage == head.epoch.lineage);
            seen.is_some_and(|seen| *seen > (head.epoch, head.revision))
        };
        let behind = heads.into_iter().any(behind);
        if behind {
            self.behind.notify_one();
        }
        behind
    }

    /// Takes note of heads that are durable.
    pub fn note<'a>(&self, heads: impl IntoIterator<Item = &'a Head>) {
        let mut known = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        for head in heads {
            let now = (head.epoch, head.revision);
            let newest = known.entry(head.collection.clone()).or_insert(now);
            if now > *newest || newest.0.lineage != head.epoch.lineage {
                *newest = now;
            }
        }
    }

    /// Waits until something was behind.
    pub async fn until_behind(&self) {
        self.behind.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_is_a_lower_place_in_the_same_lineage() {
        let newest = CommittedHeads::default();
        let head = |lineage, counter, revision| Head {
            revision,
            ..Head::empty("A".parse().expect("a name"), Epoch { lineage, counter })
        };
        let is_behind = |head: Head| newest.is_behind(&newest.marks(), [&head]);
        assert!(!is_behind(head(7, 1, 1)), "nothing is known yet");
        newest.note([&head(7, 1, 9)]);
        assert!(is_behind(head(7, 1, 8)) && !is_behind(head(7, 1, 9)) && !is_behind(head(7, 2, 3)));
        newest.note([&head(7, 2, 3)]);
        assert!(
            is_behind(head(7, 1, 99)),
            "an epoch that was declared is gone"
        );
        let before = newest.marks();
        newest.note([&head(7, 2, 4)]);
        assert!(
            !newest.is_behind(&before, [&head(7, 2, 3)]),
            "it was committed while that was read"
        );
        assert!(
            !is_behind(head(8, 1, 0)),
            "another store is not behind, it is another"
        );
        newest.note([&head(8, 1, 0)]);
        assert!(is_behind(head(8, 0, 9)));
    }
}
