//! When changes are rendered: a change after a rest at once; those that follow it sooner after a time without
//! changes, but not later than a longer time after the first of them.

use std::time::{Duration, Instant};

use state::Root;

/// How long changes are gathered.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// The rest after which a change is rendered at once, and the time without changes that ends the gathering
    /// of others.
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
    /// When the last attempt ended.
    rendered_at: Option<Instant>,
}

impl Gathered {
    /// Takes notice of a state; another one than the last is a change.
    pub(crate) fn note(&mut self, root: &Root, now: Instant) {
        match &self.seen {
            // Nothing was rendered yet: there is nothing to gather.
            None => {}
            Some(seen) if root.changes_since(seen).is_empty() => {}
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
        let is_after_rest = |ended: Instant| first.duration_since(ended) >= pace.min;
        Some(match self.rendered_at.is_none_or(is_after_rest) {
            true => first,
            false => (last + pace.min).min(first + pace.max),
        })
    }

    /// An attempt that has rendered all of them ended.
    pub(crate) fn clear(&mut self, now: Instant) {
        self.waiting = None;
        self.rendered_at = Some(now);
    }
}
