//! Items that arrive one by one and are decided together: each task leaves its item in a list, and
//! the first task that has the lock of what decides takes the whole list.
//!
//! No task waits for another one: a task whose item is not decided asks for the lock itself. So
//! an item is decided, or is still in the list, or its taker has poisoned the lock. Nothing here
//! knows what decides, and nothing is awaited under the lock of the list. The list has at most one
//! item for each task that waits.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// The items that nobody has taken yet, in the order of their arrival.
#[derive(Debug)]
pub(super) struct Arrivals<T, R>(Mutex<Vec<Arc<Arrival<T, R>>>>);

/// An item, and its result once it is decided.
#[derive(Debug)]
struct Arrival<T, R> {
    item: T,
    result: OnceLock<R>,
}

impl<T, R> Default for Arrivals<T, R> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T, R: Copy> Arrivals<T, R> {
    /// Leaves an item. When the result is dropped before anyone took the item, it is withdrawn.
    pub(super) fn leave(&self, item: T) -> Left<'_, T, R> {
        let arrival = Arc::new(Arrival {
            item,
            result: OnceLock::new(),
        });
        self.lock().push(Arc::clone(&arrival));
        Left {
            arrivals: self,
            arrival,
        }
    }

    /// Takes all items and decides each, in the order of arrival. The caller has the lock of what
    /// decides, and reports the results before it gives the lock back.
    pub(super) fn decide(&self, mut decide: impl FnMut(&T) -> R) -> Decided<T, R> {
        let taken = std::mem::take(&mut *self.lock());
        let decided = taken.into_iter().map(|arrival| {
            let result = decide(&arrival.item);
            (arrival, result)
        });
        Decided(decided.collect())
    }

    /// A list is whole at any time.
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Arrival<T, R>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Items that were decided, and whose tasks do not know it yet.
#[must_use]
pub(super) struct Decided<T, R>(Vec<(Arc<Arrival<T, R>>, R)>);

impl<T, R> Decided<T, R> {
    /// Lets the tasks see their results.
    pub(super) fn report(self) {
        for (arrival, result) in self.0 {
            // Each item is taken once, so there is no result yet.
            arrival.result.set(result).ok();
        }
    }
}

/// An item that was left.
pub(super) struct Left<'a, T, R: Copy> {
    arrivals: &'a Arrivals<T, R>,
    arrival: Arc<Arrival<T, R>>,
}

impl<T, R: Copy> Left<'_, T, R> {
    /// The result, once it was reported.
    pub(super) fn result(&self) -> Option<R> {
        self.arrival.result.get().copied()
    }
}

impl<T, R: Copy> Drop for Left<'_, T, R> {
    fn drop(&mut self) {
        // The task was cancelled, and nobody needs the result.
        if self.result().is_none() {
            let mut waiting = self.arrivals.lock();
            waiting.retain(|arrival| !Arc::ptr_eq(arrival, &self.arrival));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Barrier,
            atomic::{AtomicUsize, Ordering},
        },
        thread,
    };

    use super::*;

    const THREADS: usize = 4;
    const ITEMS: usize = 20_000;

    /// What decides: all items in the order in which they were decided, and how many of them readers
    /// see.
    #[derive(Default)]
    struct State {
        decided: Mutex<Vec<(usize, usize)>>,
        seen: AtomicUsize,
        arrivals: Arrivals<(usize, usize), usize>,
    }

    impl State {
        /// As a task does it that was not cancelled: leaves several items, and asks for each result.
        fn take(&self, items: &[(usize, usize)]) -> Vec<Option<usize>> {
            let left: Vec<_> = items
                .iter()
                .map(|item| self.arrivals.leave(*item))
                .collect();
            left.iter()
                .map(|left| left.result().or_else(|| self.decide(left)))
                .collect()
        }

        fn decide(&self, left: &Left<'_, (usize, usize), usize>) -> Option<usize> {
            let mut decided = self.decided.lock().ok()?;
            if left.result().is_none() {
                let results = self.arrivals.decide(|item| {
                    assert_ne!(item.1, usize::MAX, "a decision that panics");
                    decided.push(*item);
                    decided.len()
                });
                self.seen.store(decided.len(), Ordering::Release);
                results.report();
            }
            left.result()
        }
    }

    #[test]
    fn every_item_is_decided_once_in_the_order_of_its_thread_and_seen_before_its_result() {
        let (state, start) = (State::default(), Barrier::new(THREADS));
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let (state, start) = (&state, &start);
                scope.spawn(move || {
                    start.wait();
                    let items: Vec<_> = (0..ITEMS).map(|item| (thread, item)).collect();
                    // Some alone, some together, as tasks of one thread leave them.
                    for items in items.chunks(1 + thread * 3) {
                        for position in state.take(items) {
                            let position = position.expect("a result");
                            assert!(position <= state.seen.load(Ordering::Acquire));
                        }
                    }
                });
            }
        });
        let decided = state.decided.into_inner().expect("no panic");
        assert_eq!(decided.len(), THREADS * ITEMS);
        for thread in 0..THREADS {
            let of_thread = decided.iter().filter(|item| item.0 == thread);
            assert!(of_thread.map(|item| item.1).eq(0..ITEMS));
        }
    }

    #[test]
    fn an_item_whose_task_is_cancelled_is_withdrawn() {
        let state = State::default();
        drop(state.arrivals.leave((0, 7)));
        assert_eq!(state.take(&[(0, 8)]), [Some(1)]);
        assert_eq!(*state.decided.lock().expect("no panic"), [(0, 8)]);
        assert!(state.arrivals.lock().is_empty());
    }

    #[test]
    fn a_decision_that_panics_leaves_no_task_waiting() {
        let state = State::default();
        let waiting = state.arrivals.leave((0, 1));
        thread::scope(|scope| {
            let holder = scope.spawn(|| state.take(&[(1, usize::MAX)]));
            assert!(holder.join().is_err());
        });
        assert_eq!(waiting.result(), None, "it was decided and not reported");
        assert_eq!(
            state.decide(&waiting),
            None,
            "the lock says that it is poisoned"
        );
        assert_eq!(state.take(&[(0, 2)]), [None]);
    }
}
