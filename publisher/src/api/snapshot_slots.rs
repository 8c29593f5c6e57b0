//! Loads under way: a herd of replicas that all load at once is let in a few at a time. The others
//! wait in line for a while, so that a place is taken again as soon as it is free, and only then
//! are told to come back.
//!
//! A place belongs to a reader that reads: one that stalls loses it, so no herd of dead readers
//! shuts the others out. With its place goes its reading, which holds a session of the store or
//! keeps old pages of the file from being used again: the connection of a reader that is gone may
//! stay open for a quarter of an hour.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use tokio::{
    sync::Notify,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::store::{Chunk, DocumentCursor};

/// A reader that does not take anything for so long has stalled.
const STALLED: Duration = Duration::from_secs(10);
/// How often is looked for those.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a reader waits in line: replicas give up on an answer that does not begin within 2 s.
const IN_LINE: Duration = Duration::from_millis(1_500);

const CUT_OFF: &str = "its reader stalled, and lost its place";

/// The places. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Loads {
    most: usize,
    places: Arc<Mutex<Places>>,
    free: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Places {
    next: u64,
    taken: BTreeMap<u64, Place>,
}

#[derive(Debug)]
struct Place {
    /// When it was last read from.
    read: Instant,
    reading: Held,
}

/// Locked while a piece is read.
type Held = Arc<tokio::sync::Mutex<Option<DocumentCursor>>>;

/// One place, free again when this is dropped.
#[derive(Debug)]
pub struct Load {
    id: u64,
    reading: Held,
    places: Arc<Mutex<Places>>,
    free: Arc<Notify>,
}

impl Loads {
    /// This many places.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            places: Arc::default(),
            free: Arc::default(),
        }
    }

    /// A place, as soon as there is one; `None` when that takes too long.
    pub async fn begin(&self) -> Option<Load> {
        let in_line = async {
            loop {
                if let Some(load) = self.try_begin() {
                    return load;
                }
                self.free.notified().await;
            }
        };
        timeout(IN_LINE, in_line).await.ok()
    }

    fn try_begin(&self) -> Option<Load> {
        let mut places = lock(&self.places);
        places.take_from_the_stalled();
        if places.taken.len() >= self.most {
            return None;
        }
        let id = places.next;
        places.next += 1;
        let reading = Held::default();
        places.taken.insert(
            id,
            Place {
                read: Instant::now(),
                reading: reading.clone(),
            },
        );
        Some(Load {
            id,
            reading,
            places: self.places.clone(),
            free: self.free.clone(),
        })
    }

    /// Takes places from readers that stalled, until it is told to stop.
    ///
    /// # Errors
    /// Never; the signature is the supervisor's.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut rounds = interval(LOOK_EVERY);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(rounds.tick()).await.is_some() {
            lock(&self.places).take_from_the_stalled();
            self.free.notify_one();
        }
        Ok(())
    }
}

impl Places {
    fn take_from_the_stalled(&mut self) {
        self.taken.retain(|_id, place| {
            if place.read.elapsed() < STALLED {
                return true;
            }
            // Where a piece is being read it is the store that is slow.
            let Ok(mut reading) = place.reading.try_lock() else {
                return true;
            };
            warn!("a snapshot was cut off: {CUT_OFF}");
            *reading = None;
            false
        });
    }
}

impl Load {
    /// What is handed out at this place from now on.
    pub async fn hold(&self, reading: DocumentCursor) {
        *self.reading.lock().await = Some(reading);
    }

    /// The next documents; `None` after the last.
    ///
    /// # Errors
    /// When the store fails, or the reader had stalled and lost its place.
    pub async fn next(&self) -> anyhow::Result<Option<Chunk>> {
        let mut reading = self.reading.lock().await;
        ensure!(self.goes_on(), CUT_OFF);
        let piece = reading
            .as_mut()
            .context("nothing is held there")?
            .next()
            .await;
        // From now on it is the reader's time again.
        self.goes_on();
        piece
    }

    /// The reader reads on. `false` = it lost its place.
    fn goes_on(&self) -> bool {
        lock(&self.places)
            .taken
            .get_mut(&self.id)
            .map(|place| place.read = Instant::now())
            .is_some()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        lock(&self.places).taken.remove(&self.id);
        self.free.notify_one();
    }
}

fn lock(places: &Mutex<Places>) -> MutexGuard<'_, Places> {
    places.lock().expect("no holder of this lock can panic")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        decide::{Rules, schemas::Schemas},
        store::{PublisherPolicy, Store, StoreUrl},
    };

    fn stall(loads: &Loads, load: &Load) {
        let long_ago = Instant::now()
            .checked_sub(STALLED)
            .expect("this machine is up for longer");
        lock(&loads.places)
            .taken
            .get_mut(&load.id)
            .expect("its place")
            .read = long_ago;
    }

    #[test]
    fn a_stalled_reader_loses_its_place_and_no_other() {
        let loads = Loads::new(2);
        let (reads, stalls) = (
            loads.try_begin().expect("a place"),
            loads.try_begin().expect("a place"),
        );
        assert!(loads.try_begin().is_none());
        stall(&loads, &stalls);
        let next = loads.try_begin().expect("the place of the one that stalls");
        assert!(loads.try_begin().is_none());
        assert!(reads.goes_on() && next.goes_on() && !stalls.goes_on());
        drop(stalls);
        assert!(
            loads.try_begin().is_none(),
            "it gives back nothing that it does not have"
        );
        drop(next);
        assert!(loads.try_begin().is_some());
    }

    #[tokio::test]
    async fn who_finds_no_place_waits_in_line() {
        let loads = Loads::new(1);
        let first = loads.begin().await.expect("a place");
        let (second, ()) = tokio::join!(loads.begin(), async { drop(first) });
        let second = second.expect("the place that became free");
        assert!(loads.begin().await.is_none(), "nobody waits for ever");
        drop(second);
        assert!(loads.begin().await.is_some(), "who gave up took no place");
    }

    /// Nobody else comes, and its connection stays.
    #[tokio::test]
    async fn the_reading_of_a_stalled_reader_ends() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let rules = Rules {
            schemas: Schemas::default(),
            document_limit: 1_000,
        };
        let terms = Arc::new(PublisherPolicy {
            collections: BTreeSet::new(),
            rules,
            events_enabled: false,
        });
        let store = Store::open(&StoreUrl::Embedded(folder.path().into()), terms)
            .await
            .expect("a store");
        let loads = Loads::new(2);
        let (reads, stalls) = (
            loads.try_begin().expect("a place"),
            loads.try_begin().expect("a place"),
        );
        for load in [&reads, &stalls] {
            load.hold(store.documents(&BTreeSet::new()).await.expect("a reading"))
                .await;
        }
        let stop = CancellationToken::new();
        let mut running = tokio::task::JoinSet::new();
        running.spawn(loads.clone().run(stop.clone()));
        stall(&loads, &stalls);
        let ended = async {
            while stalls.reading.lock().await.is_some() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), ended)
            .await
            .expect("it ends");
        assert!(stalls.next().await.is_err());
        assert!(
            reads.next().await.is_ok() && reads.reading.lock().await.is_some(),
            "the other one reads on"
        );
        stop.cancel();
        assert!(running.join_all().await.iter().all(Result::is_ok));
    }
}
