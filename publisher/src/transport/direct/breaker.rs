//! The circuit breaker of a subscriber: one that does not take events must not slow down the
//! others.
//!
//! - *closed*: events are delivered, with retries.
//! - *open*: the subscriber did not take an event. The next delivery is let through as a trial.
//! - *half-open*: a trial has begun. All other events are skipped and counted.
//!
//! A delivery that succeeds closes the breaker, whenever it began. A delivery that fails opens it
//! only if the breaker was closed when it began and has not changed since: a late failure says
//! nothing about a subscriber that has recovered in between. Nothing here logs or sends.

use std::sync::{Mutex, MutexGuard};

/// The breaker; it begins closed.
#[derive(Debug, Default)]
pub(super) struct CircuitBreaker(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: State,
    /// How often the breaker was opened or closed.
    generation: u64,
    /// Events that the subscriber did not take since the breaker opened.
    missed: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Closed,
    Open,
    HalfOpen,
}

/// The right to deliver one event. A trial that is dropped without a result leaves the breaker
/// open.
#[derive(Debug)]
pub(super) struct Permit<'a> {
    breaker: &'a CircuitBreaker,
    generation: u64,
    is_trial: bool,
}

impl CircuitBreaker {
    /// A permit for one delivery. `None` during a trial: the event is then counted as
    /// missed.
    pub(super) fn acquire(&self) -> Option<Permit<'_>> {
        let mut inner = self.lock();
        let is_trial = match inner.state {
            State::Closed => false,
            // The event itself is the trial: a subscriber needs no route for health checks.
            State::Open => {
                inner.state = State::HalfOpen;
                true
            }
            State::HalfOpen => {
                inner.missed += 1;
                return None;
            }
        };
        Some(Permit {
            breaker: self,
            generation: inner.generation,
            is_trial,
        })
    }

    /// Whether the breaker is not closed, so that nothing is tried twice.
    pub(super) fn is_open(&self) -> bool {
        self.lock().state != State::Closed
    }

    /// Counts an event that was given up without a result.
    pub(super) fn missed(&self) {
        self.lock().missed += 1;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no holder of this lock can panic")
    }
}

impl Permit<'_> {
    /// The subscriber took the event. The number of events that it missed, when this closed the
    /// breaker.
    pub(super) fn succeeded(self) -> Option<u64> {
        let mut inner = self.breaker.lock();
        if inner.state == State::Closed {
            // Nothing changed. A success after the breaker closed does not count anything.
            return None;
        }
        inner.state = State::Closed;
        inner.generation += 1;
        Some(std::mem::take(&mut inner.missed))
    }

    /// The subscriber did not take the event. `true` when this opened the breaker.
    pub(super) fn failed(self) -> bool {
        let mut inner = self.breaker.lock();
        inner.missed += 1;
        // A trial that fails leaves the breaker half-open; dropping its permit makes it open again.
        let opens = inner.state == State::Closed && inner.generation == self.generation;
        if opens {
            inner.state = State::Open;
            inner.generation += 1;
        }
        opens
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let mut inner = self.breaker.lock();
        // Not when the breaker closed and opened since: its present trial is of another delivery.
        if self.is_trial && inner.state == State::HalfOpen && inner.generation == self.generation {
            inner.state = State::Open;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permit(breaker: &CircuitBreaker) -> Permit<'_> {
        breaker.acquire().expect("a permit")
    }

    #[test]
    fn one_trial_at_a_time_until_a_delivery_succeeds() {
        let breaker = CircuitBreaker::default();
        let concurrent = permit(&breaker);
        assert!(permit(&breaker).failed(), "the breaker opens once");
        assert!(!concurrent.failed() && breaker.is_open());
        let trial = permit(&breaker);
        assert!(breaker.acquire().is_none(), "half-open");
        assert!(!trial.failed());
        // A trial without a result is followed by another one.
        drop(permit(&breaker));
        let trial = permit(&breaker);
        assert!(breaker.acquire().is_none());
        assert_eq!(trial.succeeded(), Some(5));
        assert!(!breaker.is_open());
        assert_eq!(permit(&breaker).succeeded(), None, "it was closed before");
    }

    #[test]
    fn a_late_failure_does_not_open_a_breaker_that_closed_since() {
        let breaker = CircuitBreaker::default();
        let late = permit(&breaker);
        assert!(permit(&breaker).failed());
        assert!(permit(&breaker).succeeded().is_some());
        assert!(!late.failed() && !breaker.is_open());
    }

    #[test]
    fn a_late_success_closes_and_the_trial_of_before_ends_nothing() {
        let breaker = CircuitBreaker::default();
        let late = permit(&breaker);
        assert!(permit(&breaker).failed());
        let trial = permit(&breaker);
        assert_eq!(late.succeeded(), Some(1));
        assert!(permit(&breaker).failed());
        let next = permit(&breaker);
        drop(trial);
        assert!(breaker.acquire().is_none(), "the next trial has begun");
        drop(next);
        assert!(breaker.acquire().is_some());
    }
}
