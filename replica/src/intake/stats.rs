//! What is counted for status, metrics and check-ins. Nothing here steers: what wakes the loop that
//! keeps a replica in step is in `sync::signals`.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Mutex, MutexGuard},
    time::Instant,
};

use chrono::Utc;
use contract::{
    CollectionName, Revision,
    fleet::{IntakeFault, Transport},
    signature::UnprovenEvent,
    status::{DroppedEvent, EventCounts, SyncCounts},
};
use state::{Decision, InstallKind, Installed, ReceivedChange, Root};

use super::{DeliveryStats, EventSource, event_source::RecentSources};
use crate::{Config, Events};

/// Dropped events that are remembered.
const MAX_DROPS: usize = 32;

/// The counters of a replica since the start of its process.
#[derive(Debug, Default)]
pub(crate) struct Stats(Mutex<Counters>);

/// See [`Stats`].
#[derive(Debug, Default)]
struct Counters {
    /// Events by what became of them.
    events: EventCounts,
    /// The newest [`MAX_DROPS`] dropped events, the oldest first.
    drops: VecDeque<DroppedEvent>,
    /// Loads, pages and changes that the synchronisation brought.
    sync: SyncCounts,
    /// How the newest changes were delivered, to find faults of the intake.
    deliveries: DeliveryStats,
    /// From where the newest events of each collection came.
    sources: RecentSources,
    /// Whether the source of the events cannot be reached.
    disconnected: bool,
    /// Events that were dropped since the last one that was not, because their origin is not proven.
    unverified: Unverified,
    /// The topics that a sidecar was last told to subscribe to; `None` before it asked.
    topics: Option<BTreeSet<CollectionName>>,
    /// Why the last load, check-in or catch-up failed.
    last_error: Option<String>,
    /// Why the last load left out a collection.
    refused_load: Option<String>,
}

/// Whether events are dropped that should not be. A single dropped event may be forged and says nothing:
/// the change of a true one comes by the feed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Unverified {
    /// The last event was proven, or none is expected to be.
    #[default]
    No,
    /// Events were dropped since.
    Dropped,
    /// The feed has brought changes since.
    Missed,
}

/// What the status shows of the counters.
pub(crate) struct StatsSnapshot {
    /// Events by what became of them, since the start of the process.
    pub(crate) events: EventCounts,
    /// The newest dropped events, the oldest first.
    pub(crate) drops: Vec<DroppedEvent>,
    /// What the synchronisation brought, since the start of the process.
    pub(crate) sync: SyncCounts,
    /// What is wrong with the intake, when something is.
    pub(crate) intake: Option<IntakeFault>,
    /// By how many revisions events are behind the feed.
    pub(crate) events_behind: u64,
    /// Why the last load, check-in or catch-up failed; `None` after a success.
    pub(crate) last_error: Option<String>,
}

impl Stats {
    /// Everything for the status, at one moment.
    /// `config` has the source of the events: it decides which faults can be told.
    pub(crate) fn snapshot(&self, config: &Config) -> StatsSnapshot {
        let counters = self.lock();
        StatsSnapshot {
            events: counters.events.clone(),
            drops: counters.drops.iter().cloned().collect(),
            sync: counters.sync.clone(),
            intake: counters.intake_fault(config),
            events_behind: counters.events_behind(config),
            last_error: counters.last_error(),
        }
    }

    /// Counts one event, or what was done for it.
    pub(crate) fn count(&self, count: impl FnOnce(&mut EventCounts)) {
        count(&mut self.lock().events);
    }

    /// Counts an event with a revision by what became of it, and that it was delivered. Where events are
    /// signed, its signature was verified.
    pub(crate) fn count_decision(
        &self,
        change: &ReceivedChange,
        decision: Decision,
        source: EventSource,
    ) {
        let mut counters = self.lock();
        if decision != Decision::NotFollowed {
            counters.sources.note(&change.collection, source);
        }
        // What the live feed brings is not checked with keys.
        if source != EventSource::Feed {
            counters.unverified = Unverified::No;
        }
        // Each decision has one counter, so that the sum is the number of events.
        let count = match decision {
            Decision::Applied => &mut counters.events.applied,
            Decision::Duplicate => &mut counters.events.duplicate,
            Decision::Superseded => &mut counters.events.superseded,
            Decision::OtherEpoch => &mut counters.events.other_epoch,
            Decision::Unconfirmed => &mut counters.events.unconfirmed,
            Decision::Early => &mut counters.events.early,
            // A change that the staging has no capacity for comes by the feed.
            Decision::Staged | Decision::NoCapacity => &mut counters.events.staged,
            // A fetched record has its value, so the last case cannot be.
            Decision::NotFollowed | Decision::NeedsValue => &mut counters.events.ignored,
        };
        *count += 1;
        use Decision::{Applied, Duplicate, NoCapacity, Staged, Superseded};
        if matches!(
            decision,
            Applied | Superseded | Staged | NoCapacity | Duplicate
        ) {
            counters
                .deliveries
                .by_event(&change.collection, change.revision);
        }
    }

    /// From where the newest events of a collection came, for a log line.
    pub(crate) fn sources_of(&self, collection: &CollectionName) -> String {
        self.lock().sources.of(collection)
    }

    /// A check-in was answered: events of before the one before it are forgotten. No events are
    /// expected of the collections `without_topic`.
    pub(crate) fn checked_in(&self, without_topic: BTreeSet<CollectionName>) {
        let mut counters = self.lock();
        counters.sources.age();
        counters.deliveries.expect_none_of(without_topic);
        counters.deliveries.checked_in(Instant::now());
    }

    /// Notes that an event delivered a revision, whose value must be fetched.
    pub(crate) fn delivered(&self, change: &ReceivedChange) {
        let mut counters = self.lock();
        counters.unverified = Unverified::No;
        counters
            .deliveries
            .by_event(&change.collection, change.revision);
    }

    /// Counts a dropped event whose origin is not proven.
    pub(crate) fn unproven(&self, cause: UnprovenEvent) {
        let mut counters = self.lock();
        if counters.unverified == Unverified::No {
            counters.unverified = Unverified::Dropped;
        }
        let events = &mut counters.events;
        events.dropped += 1;
        *match cause {
            UnprovenEvent::Unsigned => &mut events.unsigned,
            UnprovenEvent::UnknownKey(_) => &mut events.unknown_key,
            UnprovenEvent::WrongSignature(_) => &mut events.wrong_signature,
        } += 1;
    }

    /// Remembers a dropped event.
    /// `reason` is one word of a fixed list, `error` may quote the event.
    pub(crate) fn dropped(&self, reason: &str, error: &str, event: Option<&str>) {
        self.lock().events.dropped += 1;
        self.refuted(reason, error, event);
    }

    /// Remembers events that were answered and counted before, and are dropped now.
    pub(crate) fn refuted(&self, reason: &str, error: &str, event: Option<&str>) {
        let mut counters = self.lock();
        if counters.drops.len() == MAX_DROPS {
            // The status has a limit; the counter says how many there were.
            counters.drops.pop_front();
        }
        counters.drops.push_back(DroppedEvent {
            time: Utc::now(),
            reason: reason.to_owned(),
            error: error.to_owned(),
            event: event.map(str::to_owned),
        });
    }

    /// Counts an id-only event, which announced a change of a collection. `held` is the revision of
    /// the document here: where the feed had brought it before, the event was only late.
    pub(crate) fn announced(&self, collection: &CollectionName, held: Option<Revision>) {
        let mut counters = self.lock();
        counters.events.without_revision += 1;
        if let Some(revision) = held {
            counters.deliveries.late_event(collection, revision);
        }
    }

    /// Counts a page of the change feed; `new` says which of its changes no event had brought, and
    /// `announced` in which collections id-only events announced them. Returns the number of those
    /// that are new.
    pub(crate) fn page_applied(
        &self,
        changes: &[ReceivedChange],
        new: &[bool],
        announced: &BTreeSet<CollectionName>,
    ) -> u64 {
        let mut counters = self.lock();
        // Both slices have one entry per change of the page.
        let (mut count, mut missed) = (0, 0);
        for (change, new) in changes.iter().zip(new) {
            // A change that an event had brought is no sign of a faulty intake.
            if *new {
                count += 1;
                let (collection, revision) = (&change.collection, change.revision);
                if announced.contains(collection) {
                    counters.deliveries.by_event(collection, revision);
                } else {
                    missed += 1;
                    counters.deliveries.by_feed(collection, revision);
                }
            }
        }
        if missed > 0 && counters.unverified == Unverified::Dropped {
            counters.unverified = Unverified::Missed;
        }
        counters.sync.pages += 1;
        counters.sync.changes += count;
        count
    }

    /// Counts a snapshot that was installed.
    pub(crate) fn installed(&self, installed: &Installed) {
        let mut counters = self.lock();
        counters.sync.loads += 1;
        counters.sync.resets += installed.resets as u64;
        if installed.how == InstallKind::Replaced {
            // In a new history revisions count from the start.
            counters.deliveries.clear();
        }
    }

    /// Notes which topics a sidecar was told to subscribe to.
    #[cfg(any(test, feature = "actix"))]
    pub(crate) fn subscribed(&self, topics: BTreeSet<CollectionName>) {
        self.lock().topics = Some(topics);
    }

    /// Topics of followed collections that a sidecar which asked was not told of; none where no
    /// sidecar is the source of the events.
    pub(crate) fn topics_not_subscribed(
        &self,
        config: &Config,
        root: &Root,
    ) -> BTreeSet<CollectionName> {
        if Transport::late_topics(config.events.transport()).is_none() {
            return BTreeSet::new();
        }
        let counters = self.lock();
        let Some(topics) = &counters.topics else {
            return BTreeSet::new();
        };
        let followed = root.collections().map(|(name, _held)| name);
        followed
            .filter(|name| !topics.contains(*name))
            .cloned()
            .collect()
    }

    /// Notes that the source of the events can be reached.
    pub(crate) fn connected(&self) {
        let mut counters = self.lock();
        if counters.disconnected {
            // What the check-ins had to bring meanwhile is no sign of a fault of the new connection.
            counters.deliveries.clear();
        }
        counters.disconnected = false;
    }

    /// Notes that the source of the events cannot be reached.
    pub(crate) fn disconnected(&self) {
        self.lock().disconnected = true;
    }

    /// What is wrong with the way events come, when something is.
    pub(crate) fn intake_fault(&self, config: &Config) -> Option<IntakeFault> {
        self.lock().intake_fault(config)
    }

    /// By how many revisions events are behind the feed.
    pub(crate) fn events_behind(&self, config: &Config) -> u64 {
        self.lock().events_behind(config)
    }

    /// Why the last load, check-in or catch-up failed, or why a collection is left out of loads;
    /// `None` after a success.
    pub(crate) fn last_error(&self) -> Option<String> {
        self.lock().last_error()
    }

    /// Whether the last load, check-in or catch-up failed as a whole.
    pub(crate) fn request_failed(&self) -> bool {
        self.lock().last_error.is_some()
    }

    /// Why the last load left out a collection; `None` when it was whole.
    pub(crate) fn set_refused_load(&self, reason: Option<String>) {
        self.lock().refused_load = reason;
    }

    /// Why the last load, check-in or catch-up failed; `None` after a success.
    pub(crate) fn set_last_error(&self, error: Option<String>) {
        self.lock().last_error = error;
    }

    /// The counters. No lock is taken under this one, and nothing is awaited.
    fn lock(&self) -> MutexGuard<'_, Counters> {
        self.0.lock().expect("nothing that holds it panics")
    }
}

#[cfg(test)]
impl Stats {
    /// Notes that the feed brought a revision which no event had brought.
    pub(crate) fn delivered_by_feed(&self, collection: &contract::CollectionName, revision: u64) {
        self.lock().deliveries.by_feed(collection, revision);
    }
}

impl Counters {
    /// By how many revisions events are behind the feed; 0 where none are expected.
    fn events_behind(&self, config: &Config) -> u64 {
        match config.events {
            Events::None => 0,
            _ => self.deliveries.behind(),
        }
    }

    /// The failure of the last request; else what a load left out.
    fn last_error(&self) -> Option<String> {
        let error = self.last_error.as_ref();
        error.or(self.refused_load.as_ref()).cloned()
    }

    /// What is wrong with the intake, as far as it can be told for this source of events.
    fn intake_fault(&self, config: &Config) -> Option<IntakeFault> {
        // A connection that is known to be down explains everything that was not delivered.
        let fault = if self.disconnected {
            Some(IntakeFault::Disconnected)
        } else if self.unverified == Unverified::Missed {
            Some(IntakeFault::Unverified)
        } else {
            self.deliveries.fault()
        };
        match &config.events {
            // No events are expected, so nothing can be wrong with them.
            Events::None => None,
            Events::Posted | Events::Dapr => fault,
            // A publisher that knows no URL of the replica cannot post to it, unless its settings
            // name the replica: then the first event proves it. So one lost change is enough.
            Events::Local if config.base_url.is_none() && self.deliveries.none_by_event() => {
                Some(IntakeFault::NotReceiving)
            }
            Events::Local => fault,
            // Each replica has a connection of its own and competes with no other; outages leave
            // the same pattern as competition does.
            Events::Feed => fault.filter(|fault| *fault != IntakeFault::SharedConsumerGroup),
            #[cfg(feature = "redis")]
            Events::Redis(_) => fault.filter(|fault| *fault != IntakeFault::SharedConsumerGroup),
        }
    }
}
