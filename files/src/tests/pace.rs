//! When changes are rendered.

use std::time::{Duration, Instant};

use super::*;
use crate::{Pace, pace::Gathered};

const PACE: Pace = Pace {
    min: Duration::from_millis(100),
    max: Duration::from_millis(250),
};

/// A state that changes, and what was gathered of it. Times are in milliseconds.
struct Changes {
    machine: Machine,
    gathered: Gathered,
    start: Instant,
    number: u64,
}

impl Changes {
    /// The first state was rendered at 0.
    fn rendered() -> Self {
        let mut changes = Self {
            machine: Machine::new(&BTreeSet::from([name()])),
            gathered: Gathered::default(),
            start: Instant::now(),
            number: 0,
        };
        changes.change(0);
        assert_eq!(changes.due(), None, "the first state is no change");
        changes.render(0);
        changes
    }

    fn at(&self, time: u64) -> Instant {
        self.start + Duration::from_millis(time)
    }

    fn look(&mut self, time: u64) {
        let now = self.at(time);
        self.gathered.note(self.machine.root(), now);
    }

    fn change(&mut self, time: u64) {
        self.number += 1;
        let value = CanonicalJson::parse(self.number.to_string().as_bytes()).expect("JSON");
        let id: DocumentId = "a".parse().expect("an id");
        self.machine.replace_unversioned(&name(), vec![(id, value)]);
        self.look(time);
    }

    fn render(&mut self, time: u64) {
        let now = self.at(time);
        self.gathered.clear(now);
    }

    fn due(&self) -> Option<u64> {
        let due = self.gathered.due(&PACE)? - self.start;
        Some(u64::try_from(due.as_millis()).expect("short"))
    }
}

fn name() -> CollectionName {
    "Site".parse().expect("a name")
}

#[test]
fn a_change_after_a_rest_is_rendered_at_once() {
    let mut changes = Changes::rendered();
    changes.look(500);
    assert_eq!(changes.due(), None, "nothing changed");
    changes.change(1_000);
    assert_eq!(changes.due(), Some(1_000));
    // Still at once, where it could not be rendered yet.
    changes.change(1_010);
    assert_eq!(changes.due(), Some(1_000));
}

#[test]
fn changes_that_follow_are_gathered_until_a_rest_or_the_longest_time() {
    let mut changes = Changes::rendered();
    changes.change(1_000);
    changes.render(1_020);
    assert_eq!(changes.due(), None);
    changes.change(1_030);
    assert_eq!(changes.due(), Some(1_130));
    changes.look(1_060);
    assert_eq!(changes.due(), Some(1_130), "the same state is no change");
    changes.change(1_090);
    assert_eq!(changes.due(), Some(1_190));
    changes.change(1_180);
    assert_eq!(changes.due(), Some(1_280), "not later, however many come");
    changes.render(1_285);
    // An attempt that takes long, as with a slow check, is no rest.
    changes.change(1_290);
    assert_eq!(changes.due(), Some(1_390));
}
