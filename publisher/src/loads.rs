//! Loads under way: a herd of replicas that all load at once is let in a few at a time.
//!
//! A place belongs to a reader that reads: one that stalls loses it, so no herd of dead readers shuts the others out.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

/// A reader that does not take anything for so long has stalled.
const STALLED: Duration = Duration::from_secs(10);

/// The places. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Loads {
    most: usize,
    places: Arc<Mutex<Places>>,
}

#[derive(Debug, Default)]
struct Places {
    next: u64,
    /// When each was last read from.
    taken: BTreeMap<u64, Instant>,
}

/// One place, free again when this is dropped.
#[derive(Debug)]
pub struct Load {
    id: u64,
    places: Arc<Mutex<Places>>,
}

impl Loads {
    /// This many places.
    pub fn new(most: usize) -> Self {
        Self { most, places: Arc::default() }
    }

    /// A place, if there is one.
    pub fn begin(&self) -> Option<Load> {
        let mut places = lock(&self.places);
        places.taken.retain(|_id, read| read.elapsed() < STALLED);
        if places.taken.len() >= self.most {
            return None;
        }
        let id = places.next;
        places.next += 1;
        places.taken.insert(id, Instant::now());
        Some(Load { id, places: self.places.clone() })
    }
}

impl Load {
    /// The reader reads on. `false` = it had stalled, and its place was given to somebody else.
    pub fn goes_on(&self) -> bool {
        lock(&self.places).taken.get_mut(&self.id).map(|read| *read = Instant::now()).is_some()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        lock(&self.places).taken.remove(&self.id);
    }
}

fn lock(places: &Mutex<Places>) -> MutexGuard<'_, Places> {
    places.lock().expect("no holder of this lock can panic")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stalled_reader_loses_its_place_and_no_other() {
        let loads = Loads::new(2);
        let (reads, stalls) = (loads.begin().expect("a place"), loads.begin().expect("a place"));
        assert!(loads.begin().is_none());
        let long_ago = Instant::now().checked_sub(STALLED).expect("this machine is up for longer");
        lock(&loads.places).taken.insert(stalls.id, long_ago);
        let next = loads.begin().expect("the place of the one that stalls");
        assert!(loads.begin().is_none());
        assert!(reads.goes_on() && next.goes_on() && !stalls.goes_on());
        drop(stalls);
        assert!(loads.begin().is_none(), "it gives back nothing that it does not have");
        drop(next);
        assert!(loads.begin().is_some());
    }
}
