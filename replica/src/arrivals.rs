//! How changes come in: by event, or only by the feed. It tells an intake that is deaf from one that competes with others.
//!
//! It decides nothing about any change; what it says is for status, log, metric and check-in. No clock, no I/O.

use std::collections::VecDeque;

use contract::{CollectionName, Revision, fleet::Intake};

/// Changes that a verdict is about.
const WINDOW: usize = 64;
/// A share of the window that comes by the feed alone and is no accident any more: 30 %.
const COMPETING: usize = WINDOW * 3 / 10;
/// How often the way of coming must alternate within the window: an outage leaves one run of changes that came by the
/// feed, replicas that compete leave a patchwork.
const PATCHES: usize = 8;

/// The newest changes that became known one by one, and how each came.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    newest: VecDeque<Arrival>,
}

#[derive(Debug)]
struct Arrival {
    collection: CollectionName,
    revision: Revision,
    by_event: bool,
}

impl Arrivals {
    /// A change came by event. One that the feed had brought before was merely late.
    pub(crate) fn by_event(&mut self, collection: &CollectionName, revision: Revision) {
        let known = self.newest.iter_mut().find(|known| known.revision == revision && known.collection == *collection);
        match known {
            Some(known) => known.by_event = true,
            None => self.note(collection, revision, true),
        }
    }

    /// A change came by the feed before any event brought it.
    pub(crate) fn by_feed(&mut self, collection: &CollectionName, revision: Revision) {
        self.note(collection, revision, false);
    }

    fn note(&mut self, collection: &CollectionName, revision: Revision, by_event: bool) {
        if self.newest.len() == WINDOW {
            self.newest.pop_front();
        }
        self.newest.push_back(Arrival { collection: collection.clone(), revision, by_event });
    }

    /// What is wrong with the intake, when the window says so.
    pub(crate) fn verdict(&self) -> Option<Intake> {
        if self.newest.len() < WINDOW {
            return None;
        }
        let by_feed = self.newest.iter().filter(|arrival| !arrival.by_event).count();
        let ways = self.newest.iter().map(|arrival| arrival.by_event);
        let alternations = ways.clone().zip(ways.skip(1)).filter(|(one, next)| one != next).count();
        match by_feed {
            WINDOW => Some(Intake::Deaf),
            COMPETING.. if alternations >= PATCHES => Some(Intake::Competing),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verdict after changes that came by event (`e`), by the feed (`f`), or by the feed and later by event (`l`).
    fn verdict(ways: &str) -> Option<Intake> {
        let (mut arrivals, name) = (Arrivals::default(), "A".parse().expect("a name"));
        for (revision, way) in (1..).zip(ways.chars()) {
            match way {
                'e' => arrivals.by_event(&name, revision),
                _ => arrivals.by_feed(&name, revision),
            }
        }
        for (revision, way) in (1..).zip(ways.chars()) {
            if way == 'l' {
                arrivals.by_event(&name, revision);
            }
        }
        arrivals.verdict()
    }

    #[test]
    fn deaf_means_that_no_event_came() {
        assert_eq!(verdict(&"f".repeat(63)), None, "too few to tell");
        assert_eq!(verdict(&"f".repeat(64)), Some(Intake::Deaf));
        assert_eq!(verdict(&format!("{}e", "f".repeat(64))), None);
        assert_eq!(verdict(&"l".repeat(64)), None, "late is not never");
    }

    #[test]
    fn competing_means_a_patchwork() {
        assert_eq!(verdict(&"eef".repeat(30)), Some(Intake::Competing));
        assert_eq!(verdict(&"eeeeef".repeat(20)), None, "one in six is bad luck");
        assert_eq!(verdict(&format!("{}{}", "f".repeat(40), "e".repeat(24))), None, "an outage that is over");
    }
}
