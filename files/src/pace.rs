//! When gathered changes are rendered: after a time without changes, but not later than a longer time after
//! the first one.

use std::time::{Duration, Instant};

use state::Root;

/// How long changes are gathered.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// The time without changes that ends the gathering.
    pub min: Duration,
    /// The longest gathering.
    pub max: Duration,
}

/// The changes that were gathered.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    /// The newest state that was seen.
    seen: Option<Root>,
    /// When the first and the last change came that no attempt has rendered.
    waiting: Option<(Instant, Instant)>,
}

impl Gathered {
    /// Takes notice of a state; another one than the last is a change.
    pub(crate) fn note(&mut self, root: &Root, now: Instant) {
        match &self.seen {
            // Nothing was rendered yet: there is nothing to gather.
            None => {}
            Some(seen) if root.changes_since(seen).is_empty() => {
                self.seen = Some(root.clone());
                return;
            }
            Some(_) => {
                let (first, _last) = self.waiting.unwrap_or((now, now));
                self.waiting = Some((first, now));
            }
        }
        self.seen = Some(root.clone());
    }

    /// When the changes are to be rendered; `None` while there are none.
    pub(crate) fn due(&self, pace: &Pace) -> Option<Instant> {
        let (first, last) = self.waiting?;
        Some((last + pace.min).min(first + pace.max))
    }

    /// All of them are rendered now.
    pub(crate) fn clear(&mut self) {
        self.waiting = None;
    }
}

/// The waits after failures.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_secs(1);

    pub(crate) fn up_to(longest: Duration) -> Self {
        Self {
            next: Self::FIRST,
            longest,
        }
    }

    pub(crate) fn after_failure(&mut self, now: Instant) -> Instant {
        let at = now + self.next;
        self.next = (self.next * 2).min(self.longest);
        at
    }

    pub(crate) fn reset(&mut self) {
        self.next = Self::FIRST;
    }
}
