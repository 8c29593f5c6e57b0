//! The one retry policy: which errors are worth another attempt, how long to wait before it, and
//! when to stop.
//!
//! Waits grow exponentially and are spread at random, so that clients that failed together do not
//! come back together. A wait that the service asks for (`Retry-After`) is obeyed up to a limit,
//! and never shortened.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::sleep;

use crate::ClientError;

/// How attempts follow each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    /// Shortest first wait. The random part adds up to as much again.
    pub first_wait: Duration,
    /// Longest wait without its random part.
    pub longest_wait: Duration,
    /// Longest wait that a service can ask for.
    pub longest_retry_after: Duration,
    /// How much longer than the service asked for a client waits at most, as a share of that time.
    /// Clients that were refused together with the same `Retry-After` come back apart.
    pub retry_after_spread: f64,
    /// Time after the first attempt at which no other attempt begins; `None` = no end.
    pub deadline: Option<Duration>,
}

/// The waits of one sequence of attempts.
#[derive(Debug)]
pub struct Waits {
    /// Limits and spread of the waits.
    policy: RetryPolicy,
    /// The waits that follow; it never ends.
    backoff: ExponentialBackoff,
}

impl RetryPolicy {
    /// For one request of a command: a person waits for the result.
    pub const COMMAND: Self = Self {
        first_wait: Duration::from_millis(250),
        longest_wait: Duration::from_secs(1),
        longest_retry_after: Duration::from_secs(2),
        retry_after_spread: 0.0,
        deadline: Some(Duration::from_secs(5)),
    };

    /// For a service that was just started: it is asked often, for half a minute.
    pub const START: Self = Self {
        first_wait: Duration::from_millis(20),
        longest_wait: Duration::from_millis(50),
        longest_retry_after: Duration::from_secs(1),
        retry_after_spread: 0.0,
        deadline: Some(Duration::from_secs(30)),
    };

    /// For a live feed that a command follows until the user ends it.
    pub const FOLLOW: Self = Self {
        first_wait: Duration::from_millis(200),
        longest_wait: Duration::from_secs(5),
        longest_retry_after: Duration::from_secs(5),
        retry_after_spread: 0.0,
        deadline: None,
    };

    /// For a live feed that brings the events of a replica.
    pub const REPLICA_FEED: Self = Self {
        first_wait: Duration::from_millis(100),
        longest_wait: Duration::from_secs(1),
        longest_retry_after: Duration::from_secs(2),
        retry_after_spread: 0.0,
        deadline: None,
    };

    /// For the requests that keep a replica in step. Every wait is between 0.5 s and 1 s: the
    /// replica has other publishers, and its readers see values that grow old.
    pub const REPLICA_SYNC: Self = Self {
        first_wait: Duration::from_millis(500),
        longest_wait: Duration::from_millis(500),
        longest_retry_after: Duration::from_secs(2),
        retry_after_spread: 0.5,
        deadline: None,
    };

    /// For the report of a dropped event: all replicas drop an event at the same time.
    pub const DROP_REPORT: Self = Self {
        first_wait: Duration::from_secs(1),
        longest_wait: Duration::from_secs(8),
        longest_retry_after: Duration::from_secs(8),
        retry_after_spread: 0.5,
        deadline: None,
    };

    /// For a handler of a replica that failed: it is notified again, however long that takes.
    pub const REPLICA_HANDLER: Self = Self {
        first_wait: Duration::from_millis(100),
        longest_wait: Duration::from_secs(30),
        longest_retry_after: Duration::ZERO,
        retry_after_spread: 0.0,
        deadline: None,
    };

    /// For files that cannot be written, or of which an application cannot be notified: a check, a disk or the
    /// application may need a person.
    pub const FILES: Self = Self {
        first_wait: Duration::from_secs(1),
        longest_wait: Duration::from_secs(30),
        longest_retry_after: Duration::ZERO,
        retry_after_spread: 0.0,
        deadline: None,
    };

    /// The waits of a new sequence of attempts.
    pub fn waits(&self) -> Waits {
        Waits {
            policy: *self,
            backoff: self.backoff(),
        }
    }

    /// Makes attempts until one succeeds, its error is not worth another attempt by
    /// `is_worth_retrying`, or the deadline has passed.
    ///
    /// # Errors
    /// The error of the last attempt.
    pub async fn run<T, F>(
        &self,
        is_worth_retrying: impl Fn(&ClientError) -> bool,
        attempt: impl Fn() -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let begun = Instant::now();
        let mut waits = self.waits();
        loop {
            let error = match attempt().await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let wait = waits.after(&error);
            // A wait that would end after the deadline is not begun.
            let is_late = self
                .deadline
                .is_some_and(|deadline| begun.elapsed() + wait > deadline);
            if is_late || !is_worth_retrying(&error) {
                return Err(error);
            }
            sleep(wait).await;
        }
    }

    /// The waits of this policy from the first one.
    fn backoff(&self) -> ExponentialBackoff {
        ExponentialBuilder::new()
            .with_jitter()
            .without_max_times()
            .with_min_delay(self.first_wait)
            .with_max_delay(self.longest_wait)
            .build()
    }
}

impl Waits {
    /// The next wait, with its random part.
    pub fn next_wait(&mut self) -> Duration {
        self.backoff.next().unwrap_or(self.policy.longest_wait)
    }

    /// The next wait after an error: at least what the service asked for.
    pub fn after(&mut self, error: &ClientError) -> Duration {
        let requested = error
            .retry_after()
            .unwrap_or_default()
            .min(self.policy.longest_retry_after);
        let spread = self.policy.retry_after_spread;
        // A wait that was requested is only made longer, never shorter.
        let requested = requested.mul_f64(1.0 + spread * rand::random::<f64>());
        self.next_wait().max(requested)
    }

    /// Begins again with short waits: an attempt went well for a while.
    pub fn reset(&mut self) {
        self.backoff = self.policy.backoff();
    }
}

/// Whether another attempt can succeed without any change by a person: the service was silent, the
/// answer broke off, or the status says that the cause is temporary (408, 429, 5xx).
pub fn is_transient(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { .. }
        | ClientError::NoAnswer { .. }
        | ClientError::BrokenOff { .. } => true,
        ClientError::Refused(refusal) => {
            matches!(refusal.status, 408 | 429) || refusal.status >= 500
        }
        ClientError::Unusable { .. } | ClientError::NoPublisher => false,
    }
}

/// Whether the service answered that it cannot do this right now: 503, or 429 for a caller that sends
/// more than a limit allows.
pub fn is_busy(error: &ClientError) -> bool {
    matches!(error.status(), Some(429 | 503))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::RefusedError;

    fn refused(status: u16, retry_after: Option<Duration>) -> ClientError {
        ClientError::Refused(Box::new(RefusedError {
            publisher: "http://p:1".to_owned(),
            status,
            retry_after,
            problem: None,
            excerpt: String::new(),
        }))
    }

    #[test]
    fn an_error_of_the_caller_is_not_worth_another_attempt() {
        for status in [400, 404, 409, 412, 422] {
            assert!(!is_transient(&refused(status, None)), "{status}");
        }
        for status in [408, 429, 500, 502, 503] {
            assert!(is_transient(&refused(status, None)), "{status}");
        }
    }

    #[test]
    fn waits_obey_the_service_up_to_a_limit() {
        let policy = RetryPolicy::COMMAND;
        let mut waits = policy.waits();
        let second = Duration::from_secs(1);
        assert!(waits.after(&refused(503, Some(second))) >= second);
        let longest = waits.after(&refused(503, Some(second * 3600)));
        assert!(longest <= policy.longest_retry_after.max(policy.longest_wait * 2));
    }

    #[test]
    fn a_replica_waits_between_half_a_second_and_one() {
        let mut waits = RetryPolicy::REPLICA_SYNC.waits();
        let range = Duration::from_millis(500)..=Duration::from_secs(1);
        for _attempt in 0..1_000 {
            let wait = waits.next_wait();
            assert!(range.contains(&wait), "{wait:?}");
        }
        let requested = Duration::from_secs(2)..=Duration::from_secs(3);
        for _attempt in 0..1_000 {
            let wait = waits.after(&refused(503, Some(Duration::from_secs(60))));
            assert!(requested.contains(&wait), "{wait:?}");
        }
    }

    #[tokio::test]
    async fn attempts_end_with_success_or_at_the_deadline() {
        let policy = RetryPolicy {
            first_wait: Duration::from_millis(1),
            longest_wait: Duration::from_millis(1),
            deadline: Some(Duration::from_millis(50)),
            ..RetryPolicy::COMMAND
        };
        let attempts = Cell::new(0);
        let third = policy.run(is_busy, async || {
            attempts.set(attempts.get() + 1);
            if attempts.get() < 3 {
                Err(refused(if attempts.get() == 1 { 429 } else { 503 }, None))
            } else {
                Ok(())
            }
        });
        third.await.expect("the third attempt succeeds");
        assert_eq!(attempts.get(), 3);

        attempts.set(0);
        let never = policy.run(is_busy, async || {
            attempts.set(attempts.get() + 1);
            Err::<(), _>(refused(503, None))
        });
        never.await.expect_err("the deadline ends it");
        assert!(attempts.get() > 1, "{}", attempts.get());

        attempts.set(0);
        let refusal = policy.run(is_busy, async || {
            attempts.set(attempts.get() + 1);
            Err::<(), _>(refused(422, None))
        });
        refusal.await.expect_err("the document is wrong");
        assert_eq!(attempts.get(), 1);
    }
}
