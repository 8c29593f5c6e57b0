//! How changes come in: by event, or only by the feed. It tells an intake that is deaf from one
//! that competes with others.
//!
//! It decides nothing about any change; what it says is for status, log, metric and check-in. No
//! clock, no I/O.

use std::collections::BTreeMap;

use contract::{CollectionName, Revision, fleet::IntakeFault};

/// Changes of a collection that a verdict is about: those of the highest revisions.
const WINDOW: usize = 64;
/// A share of the window that comes by the feed alone and is no accident any more: 30 %.
const COMPETING: usize = WINDOW * 3 / 10;
/// How often the way of coming must alternate from revision to revision: an outage leaves one run
/// of changes that came by the feed, replicas that compete leave a patchwork.
const PATCHES: usize = 8;

/// How the newest changes of each collection came: whether by event.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    newest: BTreeMap<CollectionName, BTreeMap<Revision, bool>>,
}

impl Arrivals {
    /// A change came by event. One that the feed had brought before was merely late.
    pub(crate) fn by_event(&mut self, collection: &CollectionName, revision: Revision) {
        self.note(collection, revision, true);
    }

    /// A change came by the feed before any event brought it.
    pub(crate) fn by_feed(&mut self, collection: &CollectionName, revision: Revision) {
        self.note(collection, revision, false);
    }

    /// Forgets everything: in a new history revisions count anew.
    pub(crate) fn clear(&mut self) {
        self.newest.clear();
    }

    fn note(&mut self, collection: &CollectionName, revision: Revision, by_event: bool) {
        let newest = self.newest.entry(collection.clone()).or_default();
        newest.insert(revision, by_event);
        if newest.len() > WINDOW {
            newest.pop_first();
        }
    }

    /// What is wrong with the intake, when the window of any collection says so.
    pub(crate) fn verdict(&self) -> Option<IntakeFault> {
        self.newest.values().find_map(verdict)
    }
}

fn verdict(newest: &BTreeMap<Revision, bool>) -> Option<IntakeFault> {
    if newest.len() < WINDOW {
        return None;
    }
    let by_feed = newest.values().filter(|by_event| !**by_event).count();
    let alternations = newest
        .values()
        .zip(newest.values().skip(1))
        .filter(|(one, next)| one != next)
        .count();
    match by_feed {
        WINDOW => Some(IntakeFault::NotReceiving),
        COMPETING.. if alternations >= PATCHES => Some(IntakeFault::SharedConsumerGroup),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verdict after changes that came by event (`e`), by the feed (`f`), or by the feed and
    /// later by event (`l`).
    fn verdict(ways: &str) -> Option<IntakeFault> {
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
        assert_eq!(verdict(&"f".repeat(64)), Some(IntakeFault::NotReceiving));
        assert_eq!(verdict(&format!("{}e", "f".repeat(64))), None);
        assert_eq!(
            verdict(&format!("{}{}", "e".repeat(64), "f".repeat(64))),
            Some(IntakeFault::NotReceiving),
            "what was is over"
        );
        assert_eq!(verdict(&"l".repeat(64)), None, "late is not never");
    }

    #[test]
    fn competing_means_a_patchwork() {
        assert_eq!(
            verdict(&"eef".repeat(30)),
            Some(IntakeFault::SharedConsumerGroup)
        );
        assert_eq!(
            verdict(&"eeeeef".repeat(20)),
            None,
            "one in six is bad luck"
        );
        assert_eq!(
            verdict(&format!("{}{}", "f".repeat(40), "e".repeat(24))),
            None,
            "an outage that is over"
        );
    }
}
