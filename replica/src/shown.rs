//! What readers see, swapped in one step by whoever writes. No reader waits for the writer, and
//! none clears away what was there before.
//!
//! Whoever lets go of the last reference to a moment frees all that only it had. Were that a
//! reader, it would do the writer's work, and meet the writer at the allocator's lock.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};

/// Moments that readers still hold and that are kept for them. One who holds more clears away by
/// itself.
const MOST: usize = 16;

#[derive(Debug)]
pub(crate) struct Shown<T> {
    now: ArcSwap<T>,
    before: Mutex<Vec<Arc<T>>>,
}

impl<T> Shown<T> {
    pub(crate) fn new(first: T) -> Self {
        Self {
            now: ArcSwap::from_pointee(first),
            before: Mutex::default(),
        }
    }

    /// A short look.
    pub(crate) fn look(&self) -> Guard<Arc<T>> {
        self.now.load()
    }

    /// This moment, to be kept.
    pub(crate) fn get(&self) -> Arc<T> {
        self.now.load_full()
    }

    /// Shows the next moment. What comes back are those before it that nobody holds any more, to be
    /// freed by the caller when it holds nobody up.
    pub(crate) fn show(&self, next: T) -> Vec<Arc<T>> {
        let old = self.now.swap(Arc::new(next));
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        before.push(old);
        // Nobody comes to hold it any more, so a count of one stays one.
        let mut freed: Vec<_> = before
            .extract_if(.., |old| Arc::strong_count(old) == 1)
            .collect();
        if before.len() > MOST {
            freed.push(before.remove(0));
        }
        freed
    }
}

impl<T: Default> Default for Shown<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_reader_held_is_freed_by_the_next_write() {
        let shown = Shown::new("first".to_owned());
        let (looking, kept) = (shown.look(), shown.get());
        let first = Arc::downgrade(&kept);
        shown.show("second".to_owned());
        drop((looking, kept));
        assert!(first.upgrade().is_some(), "the reader did not free it");
        shown.show("third".to_owned());
        assert!(first.upgrade().is_none());
        assert_eq!(*shown.get(), "third");
    }

    #[test]
    fn a_reader_that_keeps_many_moments_keeps_them_alone() {
        let shown = Shown::new(0);
        let held: Vec<_> = (1..=2 * MOST)
            .map(|number| {
                let held = shown.get();
                shown.show(number);
                held
            })
            .collect();
        assert_eq!(shown.before.lock().expect("unharmed").len(), MOST);
        assert_eq!(
            held.iter().map(|number| **number).collect::<Vec<_>>(),
            (0..2 * MOST).collect::<Vec<_>>()
        );
    }
}
