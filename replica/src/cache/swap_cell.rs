//! A value that one writer swaps in a single step and any number of readers load.
//!
//! No reader waits for the writer, and no reader frees an old value: dropping the last reference to
//! a view frees everything that only this view had, which would be the writer's work on a reader's
//! thread, and contention at the allocator.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};

/// Old values that are kept until their readers are done. A reader that holds more values frees the
/// oldest ones itself.
const MAX_RETAINED: usize = 16;

/// See the head of the module.
#[derive(Debug)]
pub(crate) struct SwapCell<T> {
    /// What [`SwapCell::load`] gives.
    current: ArcSwap<T>,
    /// Old values that readers may still hold.
    retained: Mutex<Vec<Arc<T>>>,
}

impl<T> SwapCell<T> {
    /// A cell that holds `first`.
    pub(crate) fn new(first: T) -> Self {
        Self {
            current: ArcSwap::from_pointee(first),
            retained: Mutex::default(),
        }
    }

    /// The current value for a short read. It counts no references.
    pub(crate) fn load(&self) -> Guard<Arc<T>> {
        self.current.load()
    }

    /// The current value, to be kept.
    pub(crate) fn load_full(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// Publishes the next value. Returns the old values that no reader holds any more: the caller
    /// frees them when nothing waits for it.
    pub(crate) fn publish(&self, next: T) -> Vec<Arc<T>> {
        let old = self.current.swap(Arc::new(next));
        let mut retained = self.retained.lock().unwrap_or_else(PoisonError::into_inner);
        retained.push(old);
        // No reader can take a new reference to an old value, so a count of one stays one.
        let mut freed: Vec<_> = retained
            .extract_if(.., |old| Arc::strong_count(old) == 1)
            .collect();
        // A reader that keeps a value for long must not make this list grow without end.
        if retained.len() > MAX_RETAINED {
            freed.push(retained.remove(0));
        }
        freed
    }
}

impl<T: Default> Default for SwapCell<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_a_reader_held_is_freed_by_the_next_publish() {
        let cell = SwapCell::new("first".to_owned());
        let guard = cell.load();
        let kept = cell.load_full();
        let first = Arc::downgrade(&kept);
        cell.publish("second".to_owned());
        drop(guard);
        drop(kept);
        assert!(first.upgrade().is_some(), "the reader did not free it");
        cell.publish("third".to_owned());
        assert!(first.upgrade().is_none());
        assert_eq!(*cell.load_full(), "third");
    }

    #[test]
    fn at_most_16_old_values_are_retained() {
        let cell = SwapCell::new(0);
        let held: Vec<_> = (1..=2 * MAX_RETAINED)
            .map(|number| {
                let held = cell.load_full();
                cell.publish(number);
                held
            })
            .collect();
        assert_eq!(cell.retained.lock().expect("unharmed").len(), MAX_RETAINED);
        assert_eq!(
            held.iter().map(|number| **number).collect::<Vec<_>>(),
            (0..2 * MAX_RETAINED).collect::<Vec<_>>()
        );
    }
}
