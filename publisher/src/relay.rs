//! The relay: takes committed changes to the event manager until each is published.
//!
//! Changes come in memory right after their commit; a sweep of the log finds what this or another publisher left owed.
//! Order does not matter and sending twice is harmless, so many are in flight and nothing waits for its neighbour.
//! A change stops being owed only after it was published.

use std::{collections::HashSet, future::Future, pin::Pin, sync::Arc, time::Duration};

use chrono::Utc;
use contract::{Change, CollectionName, Revision};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tracing::{info, warn};

use crate::{manager::Manager, store::Store};

/// Changes handed over in memory; what finds no room is found by the sweep.
pub const QUEUE: usize = 4_096;
const IN_FLIGHT: usize = 64;
const CLEAR_EVERY: Duration = Duration::from_millis(100);
const SWEEP_EVERY: Duration = Duration::from_millis(500);
/// A change owed for longer than this was left behind: its publisher died, or had no room for it.
const LEFT_BEHIND: Duration = Duration::from_secs(1);
/// After so many attempts in a row a change gives its place to another and comes back by the sweep.
const ATTEMPTS: u32 = 5;
/// What is in flight at the end gets this long.
const LAST_CALL: Duration = Duration::from_secs(3);

type Key = (CollectionName, Revision);
type Sending = Pin<Box<dyn Future<Output = (Key, anyhow::Result<()>)> + Send>>;

/// Runs for as long as changes may come.
pub struct Relay {
    store: Store,
    manager: Arc<Manager>,
    changes: mpsc::Receiver<Change>,
    in_flight: FuturesUnordered<Sending>,
    /// Everything in flight, or published and not yet cleared: the sweep leaves it alone.
    known: HashSet<Key>,
    published: Vec<Key>,
    failing: bool,
}

impl Relay {
    /// A relay of the changes that arrive, to `manager`.
    pub fn new(store: Store, manager: Manager, changes: mpsc::Receiver<Change>) -> Self {
        let (in_flight, known) = (FuturesUnordered::new(), HashSet::new());
        Self { store, manager: Arc::new(manager), changes, in_flight, known, published: Vec::new(), failing: false }
    }

    /// Relays until the last sender of changes is gone, then finishes what is in flight.
    ///
    /// # Errors
    /// Never; the signature is the supervisor's.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let (mut clear, mut sweep) = (interval(CLEAR_EVERY), interval(SWEEP_EVERY));
        clear.set_missed_tick_behavior(MissedTickBehavior::Delay);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                change = self.changes.recv(), if self.in_flight.len() < IN_FLIGHT => match change {
                    Some(change) => self.send(change),
                    None => break,
                },
                Some(ended) = self.in_flight.next() => self.ended(ended),
                _ = clear.tick(), if !self.published.is_empty() => self.clear().await,
                _ = sweep.tick(), if self.in_flight.len() < IN_FLIGHT => self.sweep().await,
            }
        }
        let finish = async {
            while let Some(ended) = self.in_flight.next().await {
                self.ended(ended);
            }
        };
        // What is not sent by then stays owed: the next publisher finds it.
        drop(timeout(LAST_CALL, finish).await);
        self.clear().await;
        Ok(())
    }

    fn send(&mut self, change: Change) {
        let key = (change.collection.clone(), change.revision);
        if self.known.insert(key.clone()) {
            let manager = self.manager.clone();
            self.in_flight.push(Box::pin(async move { (key, publish(&manager, &change).await) }));
        }
    }

    fn ended(&mut self, (key, result): (Key, anyhow::Result<()>)) {
        match result {
            Ok(()) => {
                if std::mem::take(&mut self.failing) {
                    info!("events are published again");
                }
                self.published.push(key);
            }
            Err(error) => {
                // One line when it begins, not one per event.
                if !std::mem::replace(&mut self.failing, true) {
                    warn!(collection = %key.0, revision = key.1, "events cannot be published, they stay owed: {error:#}");
                }
                self.known.remove(&key);
            }
        }
    }

    async fn clear(&mut self) {
        if self.published.is_empty() {
            return;
        }
        // When it fails the list is kept for the next time.
        match self.store.clear_owed(&self.published).await {
            Ok(()) => {
                for key in self.published.drain(..) {
                    self.known.remove(&key);
                }
            }
            Err(error) => warn!("published changes could not be cleared yet: {error:#}"),
        }
    }

    async fn sweep(&mut self) {
        let room = IN_FLIGHT - self.in_flight.len();
        match self.store.owed(Utc::now() - LEFT_BEHIND, self.known.len() + room).await {
            Ok(owed) => {
                let left: Vec<_> = owed
                    .into_iter()
                    .filter(|one| !self.known.contains(&(one.collection.clone(), one.revision)))
                    .collect();
                left.into_iter().take(room).for_each(|change| self.send(change));
            }
            Err(error) => warn!("owed changes could not be read: {error:#}"),
        }
    }
}

async fn publish(manager: &Manager, change: &Change) -> anyhow::Result<()> {
    let mut attempt = 1;
    loop {
        match manager.publish(change).await {
            Err(_failed) if attempt < ATTEMPTS => sleep(backoff(attempt)).await,
            ended => return ended,
        }
        attempt += 1;
    }
}

/// 50 ms, doubled with each attempt, at most 1 s, and anything from half of that: retries must not march in step.
fn backoff(attempt: u32) -> Duration {
    let most = 50_u64.saturating_mul(1 << attempt.min(5)).min(1_000);
    Duration::from_millis(rand::random_range(most / 2..=most))
}
