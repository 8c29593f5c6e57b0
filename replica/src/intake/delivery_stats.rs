//! How changes are delivered: by an event, or only by the change feed. It tells an intake that
//! receives nothing from one that shares a consumer group with others.
//!
//! It decides nothing about any change; the fault that it finds is for status, log, metric and
//! check-in. No clock, no I/O.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use contract::{CollectionName, Revision, fleet::IntakeFault};

/// Changes of a collection that the fault is found from: those of the highest revisions.
const WINDOW: usize = 64;
/// A share of the window that only the feed delivered and that is no accident: 30 %.
const SHARED_GROUP: usize = WINDOW * 3 / 10;
/// How often the delivery must alternate from revision to revision: an outage leaves one run of
/// changes that the feed delivered, replicas that share a consumer group leave many short ones.
const ALTERNATIONS: usize = 8;

/// Events that did not come in this time after the feed brought their changes are no longer expected:
/// they were lost.
const LOST_AFTER: Duration = Duration::from_secs(30);

/// How the newest changes of each collection were delivered.
#[derive(Debug, Default)]
pub(crate) struct DeliveryStats {
    /// By revision: whether an event delivered it.
    newest: BTreeMap<CollectionName, BTreeMap<Revision, bool>>,
    /// Collections whose publisher sends no events.
    silent: BTreeSet<CollectionName>,
    /// How far events and the feed are.
    progress: BTreeMap<CollectionName, Progress>,
    /// Since when check-ins found that the feed brought nothing more; `None` when it did.
    quiet_since: Option<Instant>,
}

/// The newest revision of a collection that events brought, and that the feed brought.
#[derive(Debug, Default)]
struct Progress {
    /// Before the first event: the revision before the first one that the feed brought.
    event: Option<Revision>,
    feed: Revision,
}

impl DeliveryStats {
    /// An event delivered a change. If the feed had delivered it before, the event was only late.
    pub(crate) fn by_event(&mut self, collection: &CollectionName, revision: Revision) {
        self.note(collection, revision, true);
        if !self.silent.contains(collection) {
            let event = &mut self.progress.entry(collection.clone()).or_default().event;
            *event = (*event).max(Some(revision));
        }
    }

    /// The feed delivered a change before any event did.
    pub(crate) fn by_feed(&mut self, collection: &CollectionName, revision: Revision) {
        self.note(collection, revision, false);
        if !self.silent.contains(collection) {
            let progress = self.progress.entry(collection.clone()).or_default();
            progress.event.get_or_insert(revision.saturating_sub(1));
            progress.feed = progress.feed.max(revision);
            self.quiet_since = None;
        }
    }

    /// A check-in was answered. Events that have not come within [`LOST_AFTER`] of the last change that
    /// the feed brought are behind no longer.
    pub(crate) fn checked_in(&mut self, now: Instant) {
        let since = *self.quiet_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= LOST_AFTER {
            for progress in self.progress.values_mut() {
                progress.event = progress.event.max(Some(progress.feed));
            }
        }
    }

    /// By how many revisions events are behind the feed, over all collections.
    pub(crate) fn behind(&self) -> u64 {
        let behind = |progress: &Progress| {
            progress
                .feed
                .saturating_sub(progress.event.unwrap_or(progress.feed))
        };
        self.progress
            .values()
            .map(behind)
            .fold(0, u64::saturating_add)
    }

    /// An event announced a change that the feed had delivered. One that is not remembered stays so.
    pub(crate) fn late_event(&mut self, collection: &CollectionName, revision: Revision) {
        let newest = self.newest.get_mut(collection);
        if let Some(by_event) = newest.and_then(|newest| newest.get_mut(&revision)) {
            *by_event = true;
        }
        if let Some(progress) = self.progress.get_mut(collection) {
            progress.event = progress.event.max(Some(revision));
        }
    }

    /// These collections have no events: that none comes is no fault.
    pub(crate) fn expect_none_of(&mut self, collections: BTreeSet<CollectionName>) {
        self.newest
            .retain(|name, _newest| !collections.contains(name));
        self.progress
            .retain(|name, _progress| !collections.contains(name));
        self.silent = collections;
    }

    /// Forgets everything: in a new history revisions count from the start.
    pub(crate) fn clear(&mut self) {
        self.newest.clear();
        self.progress.clear();
    }

    /// What is wrong with the intake, by the window of any collection.
    pub(crate) fn fault(&self) -> Option<IntakeFault> {
        self.newest.values().find_map(fault_of)
    }

    /// Whether changes arrived, and none of those that are remembered by an event.
    pub(crate) fn none_by_event(&self) -> bool {
        let mut all = self.newest.values().flat_map(BTreeMap::values).peekable();
        all.peek().is_some() && all.all(|by_event| !by_event)
    }

    /// Remembers how a revision was delivered; the oldest of more than [`WINDOW`] is forgotten.
    fn note(&mut self, collection: &CollectionName, revision: Revision, by_event: bool) {
        if self.silent.contains(collection) {
            return;
        }
        let newest = self.newest.entry(collection.clone()).or_default();
        newest.insert(revision, by_event);
        if newest.len() > WINDOW {
            newest.pop_first();
        }
    }
}

/// The fault that the deliveries of one collection show. Fewer than [`WINDOW`] changes show none.
fn fault_of(newest: &BTreeMap<Revision, bool>) -> Option<IntakeFault> {
    if newest.len() < WINDOW {
        return None;
    }
    let by_feed = newest.values().filter(|by_event| !**by_event).count();
    // One long outage and a shared group may lose the same share: only the pattern differs.
    let alternations = newest
        .values()
        .zip(newest.values().skip(1))
        .filter(|(one, next)| one != next)
        .count();
    match by_feed {
        WINDOW => Some(IntakeFault::NotReceiving),
        SHARED_GROUP.. if alternations >= ALTERNATIONS => Some(IntakeFault::SharedConsumerGroup),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fault after changes that came by event (`e`), by the feed (`f`), or by the feed and
    /// later by event (`l`).
    fn fault(deliveries: &str) -> Option<IntakeFault> {
        let mut stats = DeliveryStats::default();
        let name = "A".parse().expect("a name");
        for (revision, delivery) in (1..).zip(deliveries.chars()) {
            match delivery {
                'e' => stats.by_event(&name, revision),
                _ => stats.by_feed(&name, revision),
            }
        }
        for (revision, delivery) in (1..).zip(deliveries.chars()) {
            if delivery == 'l' {
                stats.by_event(&name, revision);
            }
        }
        stats.fault()
    }

    #[test]
    fn events_are_behind_by_the_revisions_that_only_the_feed_brought() {
        let mut stats = DeliveryStats::default();
        let [a, b] = ["A", "B"].map(|name| name.parse().expect("a name"));
        stats.by_event(&a, 7);
        assert_eq!(stats.behind(), 0);
        for revision in 8..=20 {
            stats.by_feed(&a, revision);
        }
        // Without any event since the start, only what the feed brought since then counts.
        stats.by_feed(&b, 1_000);
        assert_eq!(stats.behind(), 13 + 1);
        stats.by_event(&a, 15);
        stats.late_event(&b, 1_000);
        assert_eq!(stats.behind(), 5);
        stats.by_event(&a, 21);
        assert_eq!(stats.behind(), 0, "what was lost stays behind no longer");
        stats.by_feed(&b, 1_001);
        stats.expect_none_of([b.clone()].into());
        stats.by_feed(&b, 1_002);
        assert_eq!(stats.behind(), 0, "no events are expected");
    }

    #[test]
    fn events_that_were_lost_are_behind_until_the_feed_was_quiet_for_a_while() {
        let mut stats = DeliveryStats::default();
        let a = "A".parse().expect("a name");
        stats.by_event(&a, 1);
        stats.by_feed(&a, 3);
        let start = Instant::now();
        stats.checked_in(start);
        stats.checked_in(start + LOST_AFTER / 2);
        assert_eq!(stats.behind(), 2, "they may come");
        stats.by_feed(&a, 4);
        stats.checked_in(start + LOST_AFTER);
        assert_eq!(stats.behind(), 3, "the feed goes on");
        stats.checked_in(start + LOST_AFTER * 2);
        assert_eq!(stats.behind(), 0);
        stats.by_feed(&a, 5);
        assert_eq!(stats.behind(), 1);
    }

    #[test]
    fn an_intake_is_not_receiving_when_no_event_came() {
        assert_eq!(fault(&"f".repeat(63)), None, "too few to tell");
        assert_eq!(fault(&"f".repeat(64)), Some(IntakeFault::NotReceiving));
        assert_eq!(fault(&format!("{}e", "f".repeat(64))), None);
        assert_eq!(
            fault(&format!("{}{}", "e".repeat(64), "f".repeat(64))),
            Some(IntakeFault::NotReceiving),
            "older changes do not count"
        );
        assert_eq!(
            fault(&"l".repeat(64)),
            None,
            "a late event is still an event"
        );
    }

    #[test]
    fn a_collection_without_a_topic_has_no_fault() {
        let mut stats = DeliveryStats::default();
        let name: CollectionName = "A".parse().expect("a name");
        let by_feed = |stats: &mut DeliveryStats| {
            (1..=64).for_each(|revision| stats.by_feed(&name, revision));
        };
        by_feed(&mut stats);
        assert_eq!(stats.fault(), Some(IntakeFault::NotReceiving));
        stats.expect_none_of([name.clone()].into());
        by_feed(&mut stats);
        assert_eq!((stats.fault(), stats.none_by_event()), (None, false));
        stats.expect_none_of(BTreeSet::new());
        by_feed(&mut stats);
        assert_eq!(
            stats.fault(),
            Some(IntakeFault::NotReceiving),
            "it has a topic again"
        );
    }

    #[test]
    fn many_short_runs_by_the_feed_are_a_shared_consumer_group() {
        assert_eq!(
            fault(&"eef".repeat(30)),
            Some(IntakeFault::SharedConsumerGroup)
        );
        assert_eq!(
            fault(&"eeeeef".repeat(20)),
            None,
            "one in six is an accident"
        );
        assert_eq!(
            fault(&format!("{}{}", "f".repeat(40), "e".repeat(24))),
            None,
            "an outage that is over"
        );
    }
}
