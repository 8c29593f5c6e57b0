//! How far a connection is, and until when its peer has to move. Pure: the time is an argument.

use std::time::Duration;

use tokio::time::Instant;

use super::{ConnectionLimits, incoming::Incoming};

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// For a request.
    Idle,
    /// For the rest of the head of a request.
    Head,
    /// For the body of a request.
    Body,
    /// For the service.
    Serving,
}

/// The progress of one connection.
#[derive(Debug)]
pub(super) struct Progress {
    /// What of a request the server may see.
    pub(super) incoming: Incoming,
    phase: Phase,
    /// Whether bytes of an answer of the service may be on their way to the socket. Nothing else is
    /// sent then.
    pub(super) is_answered: bool,
    /// Whether the task has to run after the answer: bytes of the next request were held back, or no timer
    /// is set that notices an idle peer.
    pub(super) wakes_at_end: bool,
    /// Since when it is in this phase.
    since: Instant,
    /// Since when a piece of an answer waits to be taken.
    blocked_since: Option<Instant>,
    /// How far the reader is behind the rate that it should have.
    debt: Duration,
    /// When the reader last took something.
    taken_at: Instant,
}

impl Progress {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            incoming: Incoming::default(),
            phase: Phase::Idle,
            is_answered: false,
            wakes_at_end: false,
            since: now,
            blocked_since: None,
            debt: Duration::ZERO,
            taken_at: now,
        }
    }

    pub(super) fn enter(&mut self, phase: Phase, now: Instant) {
        self.phase = phase;
        self.since = now;
    }

    /// The peer sent something: between requests it is the beginning of a head. More of it does not
    /// extend the time.
    pub(super) fn received(&mut self, now: Instant) {
        if self.phase == Phase::Idle {
            self.enter(Phase::Head, now);
        }
    }

    /// Until when the peer has to send a request; `None` when it has sent one.
    pub(super) fn request_deadline(&self, limits: &ConnectionLimits) -> Option<Instant> {
        match self.phase {
            Phase::Idle => Some(self.since + limits.idle),
            // The HTTP server answers the first late request 408 after `head`.
            Phase::Head => Some(self.since + limits.head + limits.head / 4),
            Phase::Body | Phase::Serving => None,
        }
    }

    /// Whether the head of a request is late, and not only the request.
    pub(super) fn in_head(&self) -> bool {
        self.phase == Phase::Head
    }

    /// The peer has no capacity for the next piece. Until when it has to take something.
    pub(super) fn blocked(&mut self, now: Instant, limits: &ConnectionLimits) -> Instant {
        let since = *self.blocked_since.get_or_insert(now);
        since + limits.stalled.saturating_sub(self.debt)
    }

    /// The peer took bytes. Time in which nothing waited for it makes up for time in which something
    /// did.
    pub(super) fn taken(&mut self, bytes: usize, now: Instant, limits: &ConnectionLimits) {
        match self.blocked_since.take() {
            Some(since) => self.debt += now - since,
            None => self.debt = self.debt.saturating_sub(now - self.taken_at),
        }
        let earned = bytes as f64 / f64::from(limits.rate);
        self.debt = self.debt.saturating_sub(Duration::from_secs_f64(earned));
        self.taken_at = now;
    }

    /// Everything that was to be sent is with the socket.
    pub(super) fn flushed(&mut self) {
        self.is_answered = matches!(self.phase, Phase::Body | Phase::Serving);
    }

    /// Whether a piece of an answer waits to be taken.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked_since.is_some()
    }

    /// Since when the connection waits for its peer; `None` while it waits for the service.
    pub(super) fn waits_for_peer(&self) -> Option<Instant> {
        match self.phase {
            Phase::Serving => self.blocked_since,
            Phase::Idle | Phase::Head | Phase::Body => Some(self.since),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limits() -> ConnectionLimits {
        ConnectionLimits {
            rate: 1_000,
            ..ConnectionLimits::with_max(1)
        }
    }

    #[test]
    fn more_bytes_of_a_head_do_not_extend_its_time() {
        let now = Instant::now();
        let mut progress = Progress::new(now);
        assert_eq!(
            progress.request_deadline(&limits()),
            Some(now + limits().idle)
        );
        progress.received(now + SECOND);
        let deadline = progress.request_deadline(&limits());
        assert_eq!(deadline, Some(now + SECOND + limits().head * 5 / 4));
        progress.received(now + SECOND * 3);
        assert_eq!(progress.request_deadline(&limits()), deadline);
        progress.enter(Phase::Serving, now + SECOND * 4);
        assert_eq!(progress.request_deadline(&limits()), None);
    }

    #[test]
    fn a_reader_below_the_rate_runs_out_of_time_and_one_above_it_never_does() {
        for (bytes, survives) in [(900, false), (1_100, true)] {
            let mut now = Instant::now();
            let mut progress = Progress::new(now);
            let survived = (0..1_000).all(|_second| {
                let deadline = progress.blocked(now, &limits());
                now += SECOND;
                progress.taken(bytes, now, &limits());
                now <= deadline
            });
            assert_eq!(survived, survives, "{bytes} bytes a second");
        }
    }

    #[test]
    fn a_reader_that_takes_each_frame_at_once_owes_nothing() {
        let mut now = Instant::now();
        let mut progress = Progress::new(now);
        for _frame in 0..100_000 {
            progress.blocked(now, &limits());
            now += SECOND / 10;
            progress.taken(3, now, &limits());
            now += SECOND * 5;
            progress.taken(3, now, &limits());
        }
        assert_eq!(progress.blocked(now, &limits()), now + limits().stalled);
    }
}
