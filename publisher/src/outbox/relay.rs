//! The relay: takes committed changes to the event manager until each is published.
//!
//! Changes come in memory right after their commit; a sweep of the log finds what this or another
//! publisher left owed. Order does not matter and sending twice is harmless, so many are in flight
//! and nothing waits for its neighbour. A change stops being owed only after it was published, and
//! one that cannot be published never stands in another's way.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use chrono::Utc;
use contract::{Change, CollectionName, Revision};
use futures_util::{
    future::{BoxFuture, FutureExt},
    stream::{FuturesUnordered, StreamExt},
};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tracing::{info, warn};

use crate::{metrics::Metrics, store::Store, transport::Transport};

/// Changes handed over in memory; what finds no room is found by the sweep.
pub const QUEUE: usize = 4_096;
/// Bytes of values handed over in memory.
pub const QUEUE_BYTES: usize = 64 << 20;
const IN_FLIGHT: usize = 64;
/// What the sweep found may take this many places: fresh changes always have the others.
const SWEPT_IN_FLIGHT: usize = 32;
const CLEAR_EVERY: Duration = Duration::from_millis(100);
const SWEEP_EVERY: Duration = Duration::from_millis(500);
/// A change owed for longer than this was left behind: its publisher died, had no room for it, or
/// could not send it.
const LEFT_BEHIND: Duration = Duration::from_secs(1);
/// What is in flight or still waits at the end gets this long; then it stays owed.
const LAST_CALL: Duration = Duration::from_secs(3);

type Key = (CollectionName, Revision);

/// A change on its way from the writer, with its share of the memory for such changes.
pub type Handed = (Change, OwnedSemaphorePermit);

/// What the relay waits for.
enum Done {
    Sent {
        key: Key,
        swept: bool,
        result: anyhow::Result<()>,
    },
    Cleared {
        keys: Vec<Key>,
        result: anyhow::Result<()>,
    },
    Swept {
        collection: CollectionName,
        asked: usize,
        result: anyhow::Result<Vec<Change>>,
    },
}

/// Runs for as long as changes may come.
pub struct Relay {
    store: Store,
    manager: Arc<Transport>,
    changes: mpsc::Receiver<Handed>,
    waiting_for: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Everything in flight, or published and not yet cleared: the sweep leaves it alone.
    known: HashSet<Key>,
    in_flight: usize,
    swept_in_flight: usize,
    published: Vec<Key>,
    clearing: bool,
    sweep: Sweep,
    /// Collections whose last attempt failed.
    failing: BTreeSet<CollectionName>,
    metrics: Arc<Metrics>,
}

/// The sweep goes round: collection by collection, and in each from where it stopped, so that what
/// cannot be published is passed by.
struct Sweep {
    after: BTreeMap<CollectionName, Revision>,
    next: CollectionName,
    under_way: bool,
}

impl Relay {
    /// A relay of the changes that arrive, to `manager`.
    pub fn new(
        store: Store,
        manager: Transport,
        changes: mpsc::Receiver<Handed>,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let after: BTreeMap<_, _> = store
            .terms()
            .collections
            .iter()
            .map(|name| (name.clone(), 0))
            .collect();
        let next = after
            .keys()
            .next()
            .cloned()
            .ok_or_else(|| anyhow::anyhow!("no collections"))?;
        Ok(Self {
            store,
            manager: Arc::new(manager),
            changes,
            waiting_for: FuturesUnordered::new(),
            known: HashSet::new(),
            in_flight: 0,
            swept_in_flight: 0,
            published: Vec::new(),
            clearing: false,
            sweep: Sweep {
                after,
                next,
                under_way: false,
            },
            failing: BTreeSet::new(),
            metrics,
        })
    }

    /// Relays until the last sender of changes is gone, then what can still be sent in time.
    ///
    /// # Errors
    /// Never; the signature is the supervisor's.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let (mut clear, mut sweep) = (interval(CLEAR_EVERY), interval(SWEEP_EVERY));
        clear.set_missed_tick_behavior(MissedTickBehavior::Delay);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.changes.is_closed() {
            tokio::select! {
                Some((change, _memory)) = self.changes.recv(), if self.in_flight < IN_FLIGHT => self.send(change, false),
                Some(done) = self.waiting_for.next() => self.done(done),
                _ = clear.tick() => self.clear(),
                _ = sweep.tick() => self.sweep(),
                else => break,
            }
        }
        self.last_call().await;
        Ok(())
    }

    /// No more changes will come. What waits is sent while that works and time is left; the rest
    /// stays owed.
    async fn last_call(mut self) {
        let deadline = Instant::now() + LAST_CALL;
        self.failing.clear();
        loop {
            while self.in_flight < IN_FLIGHT
                && self.failing.is_empty()
                && let Ok((change, _memory)) = self.changes.try_recv()
            {
                self.send(change, false);
            }
            if self.in_flight == 0 {
                self.clear();
            }
            match tokio::time::timeout_at(deadline, self.waiting_for.next()).await {
                Ok(Some(done)) => self.done(done),
                Ok(None) => return,
                Err(_elapsed) => break,
            }
        }
        // A note that something was published is lost at worst: then it is published once more.
        self.clear();
        let noted = async {
            while self
                .waiting_for
                .next()
                .await
                .is_some_and(|done| !matches!(done, Done::Cleared { .. }))
            {}
        };
        drop(timeout(LAST_CALL, noted).await);
    }

    fn send(&mut self, change: Change, swept: bool) {
        let key = (change.collection.clone(), change.revision);
        if !self.known.insert(key.clone()) {
            return;
        }
        self.in_flight += 1;
        self.swept_in_flight += usize::from(swept);
        let manager = self.manager.clone();
        let sending = async move {
            let result = manager.publish(&change).await;
            Done::Sent { key, swept, result }
        };
        self.waiting_for.push(sending.boxed());
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Sent { key, swept, result } => self.sent(key, swept, result),
            Done::Cleared { keys, result } => self.cleared(keys, result),
            Done::Swept {
                collection,
                asked,
                result,
            } => self.swept(collection, asked, result),
        }
    }

    fn sent(&mut self, key: Key, swept: bool, result: anyhow::Result<()>) {
        self.in_flight -= 1;
        self.swept_in_flight -= usize::from(swept);
        self.metrics.event(result.is_ok());
        match result {
            Ok(()) => {
                if self.failing.remove(&key.0) {
                    info!(collection = %key.0, "events are published again");
                }
                self.published.push(key);
                // A backlog is worked off as fast as it goes, not at the pace of the sweep.
                if swept && self.swept_in_flight <= SWEPT_IN_FLIGHT / 2 {
                    self.sweep();
                }
            }
            Err(error) => {
                // One line when it begins, not one per event.
                if self.failing.insert(key.0.clone()) {
                    warn!(collection = %key.0, revision = key.1, "events cannot be published, they stay owed: {error:#}");
                }
                self.known.remove(&key);
            }
        }
    }

    fn clear(&mut self) {
        if self.published.is_empty() || self.clearing {
            return;
        }
        self.clearing = true;
        let (store, keys) = (self.store.clone(), std::mem::take(&mut self.published));
        let clearing = async move {
            let result = store.clear_owed(&keys).await;
            Done::Cleared { keys, result }
        };
        self.waiting_for.push(clearing.boxed());
    }

    fn cleared(&mut self, keys: Vec<Key>, result: anyhow::Result<()>) {
        self.clearing = false;
        match result {
            Ok(()) => {
                for key in keys {
                    self.known.remove(&key);
                }
            }
            // They are kept for the next time.
            Err(error) => {
                warn!("published changes could not be cleared yet: {error:#}");
                self.published.extend(keys);
            }
        }
    }

    fn sweep(&mut self) {
        let room = SWEPT_IN_FLIGHT.saturating_sub(self.swept_in_flight);
        if self.sweep.under_way || room == 0 {
            return;
        }
        self.sweep.under_way = true;
        let (store, collection) = (self.store.clone(), self.sweep.next.clone());
        let after = self.sweep.after.get(&collection).copied().unwrap_or(0);
        let sweeping = async move {
            let now = Utc::now();
            let result = store
                .owed(
                    &collection,
                    after,
                    now - LEFT_BEHIND..now + LEFT_BEHIND,
                    room,
                )
                .await;
            Done::Swept {
                collection,
                asked: room,
                result,
            }
        };
        self.waiting_for.push(sweeping.boxed());
    }

    fn swept(
        &mut self,
        collection: CollectionName,
        asked: usize,
        result: anyhow::Result<Vec<Change>>,
    ) {
        self.sweep.under_way = false;
        let found = match result {
            Ok(found) => found,
            Err(error) => return warn!("owed changes could not be read: {error:#}"),
        };
        // Fewer than asked for: that was the end of the collection, and the next one's turn.
        let more = found.len() == asked;
        let reached = found.last().map_or(0, |change| change.revision);
        self.sweep
            .after
            .insert(collection.clone(), if more { reached } else { 0 });
        found.into_iter().for_each(|change| self.send(change, true));
        if !more {
            use std::ops::Bound::{Excluded, Unbounded};
            let following = self
                .sweep
                .after
                .range::<CollectionName, _>((Excluded(&collection), Unbounded))
                .next();
            let first = || self.sweep.after.keys().next().cloned();
            let wrapped = following.is_none();
            self.sweep.next = following
                .map(|(name, _after)| name.clone())
                .or_else(first)
                .unwrap_or(collection);
            // Once round, then it rests until the next tick.
            if !wrapped {
                self.sweep();
            }
        }
    }
}
