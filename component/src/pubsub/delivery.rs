//! When a message is sent, sent again and done: one message at a time, in order, until the subscriber
//! took it.
//!
//! A subscriber that refuses a message gets it again after a wait that grows; one that does not answer
//! gets it again at a deadline. While an earlier attempt of a message is still unanswered the next
//! message waits, for at most one more deadline: the application would handle both at the same time.
//! No clock and no I/O.

use std::{collections::BTreeSet, time::Duration};

use client::{RetryPolicy, retry::Waits};
use tokio::time::Instant;

/// The waits after a refusal.
const RETRY: RetryPolicy = RetryPolicy {
    first_wait: Duration::from_millis(100),
    longest_wait: Duration::from_secs(5),
    longest_retry_after: Duration::ZERO,
    retry_after_spread: 0.0,
    deadline: None,
};
/// The longest time to an attempt that follows an unanswered one.
const LONGEST_DEADLINE: Duration = Duration::from_secs(600);

/// One message on its way.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// Attempts so far.
    attempts: u64,
    /// Attempts that were not answered yet.
    unanswered: BTreeSet<u64>,
    /// Whether an attempt succeeded.
    taken: bool,
    /// When something has to be done if no answer comes.
    pub(crate) wake: Instant,
    /// Time to answer an attempt.
    deadline: Duration,
    waits: Waits,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Wait until [`Delivery::wake`] for an answer.
    Wait,
    /// Make another attempt.
    Send,
    /// The next message follows.
    Done,
}

impl Delivery {
    /// A message that was not sent yet.
    pub(crate) fn new(deadline: Duration, now: Instant) -> Self {
        Self {
            attempts: 0,
            unanswered: BTreeSet::new(),
            taken: false,
            wake: now,
            deadline,
            waits: RETRY.waits(),
        }
    }

    /// Notes an attempt, and returns its number, from 1.
    pub(crate) fn sent(&mut self, now: Instant) -> u64 {
        self.attempts += 1;
        self.unanswered.insert(self.attempts);
        self.wake = now + self.deadline;
        self.attempts
    }

    /// An attempt was answered. An answer to another message changes nothing.
    pub(crate) fn answered(&mut self, attempt: u64, taken: bool, now: Instant) -> Next {
        if !self.unanswered.remove(&attempt) {
            return Next::Wait;
        }
        self.taken |= taken;
        match (self.unanswered.is_empty(), self.taken) {
            (true, true) => return Next::Done,
            (true, false) => self.wake = now + self.waits.next_wait(),
            // The attempts before it should end first.
            (false, true) => self.wake = now + self.deadline,
            // The time of the later attempt runs.
            (false, false) => {}
        }
        Next::Wait
    }

    /// Nothing came until [`Delivery::wake`].
    pub(crate) fn woke(&mut self) -> Next {
        if self.taken {
            return Next::Done;
        }
        if !self.unanswered.is_empty() {
            // Each unanswered attempt stays open at the sidecar, so they become rare.
            self.deadline = (self.deadline * 2).min(LONGEST_DEADLINE.max(self.deadline));
        }
        Next::Send
    }

    /// Whether an attempt was not answered yet.
    pub(crate) fn is_unanswered(&self) -> bool {
        !self.unanswered.is_empty()
    }

    /// Attempts so far.
    pub(crate) fn attempts(&self) -> u64 {
        self.attempts
    }

    /// Whether a log line is due: attempts 1, 2, 4, 8 and so on.
    pub(crate) fn is_worth_a_line(&self) -> bool {
        self.attempts.is_power_of_two()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(60);

    fn begun() -> (Delivery, Instant) {
        let now = Instant::now();
        let mut delivery = Delivery::new(DEADLINE, now);
        assert_eq!(delivery.sent(now), 1);
        (delivery, now)
    }

    #[tokio::test]
    async fn a_message_that_was_taken_is_done_once() {
        let (mut delivery, now) = begun();
        assert_eq!(delivery.answered(7, true, now), Next::Wait);
        assert_eq!(delivery.answered(1, true, now), Next::Done);
        assert_eq!(delivery.answered(1, true, now), Next::Wait);
    }

    #[tokio::test]
    async fn a_refused_message_comes_again_after_waits_that_grow() {
        let (mut delivery, now) = begun();
        let mut longest = Duration::ZERO;
        for attempt in 2..20 {
            assert_eq!(delivery.answered(attempt - 1, false, now), Next::Wait);
            let wait = delivery.wake - now;
            assert!(wait >= RETRY.first_wait && wait <= RETRY.longest_wait * 2);
            longest = longest.max(wait);
            assert_eq!(delivery.woke(), Next::Send);
            assert_eq!(delivery.sent(now), attempt);
        }
        assert!(longest >= RETRY.longest_wait, "{longest:?}");
        assert_eq!(delivery.answered(19, true, now), Next::Done);
    }

    #[tokio::test]
    async fn a_message_without_an_answer_comes_again_and_the_next_one_waits_for_both() {
        let (mut delivery, now) = begun();
        assert_eq!(delivery.wake, now + DEADLINE);
        assert_eq!(delivery.woke(), Next::Send);
        assert_eq!(delivery.sent(now), 2);
        assert_eq!(delivery.wake, now + DEADLINE * 2);
        assert_eq!(delivery.answered(2, true, now), Next::Wait);
        // The attempt that hung is refused: the message was taken all the same.
        assert_eq!(delivery.answered(1, false, now), Next::Done);

        let (mut delivery, now) = begun();
        assert_eq!(delivery.woke(), Next::Send);
        delivery.sent(now);
        assert_eq!(delivery.answered(2, true, now), Next::Wait);
        assert_eq!(delivery.woke(), Next::Done);
    }
}
