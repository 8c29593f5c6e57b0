//! The turns of requests that are beyond the rate of their caller (429).
//!
//! Such a request was not done, and may be sent again after the time that the service names. A command
//! may have many requests in flight. Once one was refused, they go one after the other in the order in
//! which they came, so that none is refused again and again while others pass. Nothing here knows what
//! a request is.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{
    sync::RwLock,
    time::{Instant, sleep_until},
};

/// How long a request whose turn it is waits at most, over all its attempts. Nobody before it in this
/// process takes its capacity, so it waits only for other processes of the same caller.
const LONGEST_TURN: Duration = Duration::from_secs(30);

/// Time between two attempts at least.
const SHORTEST_WAIT: Duration = Duration::from_millis(100);

/// The turns at one service. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Turns(
    /// Shared by requests that were not refused yet; exclusive for one that was. Both kinds are let in
    /// in the order in which they ask.
    Arc<RwLock<()>>,
);

impl Turns {
    /// Makes attempts until the answer of one is not a refusal, or the turn has lasted too long; then the
    /// last refusal is the answer. `due` is when a refused request may be sent again, `None` for any
    /// other answer.
    pub(crate) async fn send<T, E, F>(
        &self,
        attempt: impl Fn() -> F,
        due: impl Fn(&T) -> Option<Instant>,
    ) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
    {
        let mut answer = {
            let _with_others = self.0.read().await;
            attempt().await?
        };
        let Some(mut at) = due(&answer) else {
            return Ok(answer);
        };
        let _alone = self.0.write().await;
        let end = Instant::now() + LONGEST_TURN;
        while at <= end {
            // However soon a service names: a turn is no loop without a rest.
            sleep_until(at.max(Instant::now() + SHORTEST_WAIT)).await;
            answer = attempt().await?;
            match due(&answer) {
                Some(next) => at = next,
                None => break,
            }
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        future::ready,
        sync::atomic::{AtomicU32, Ordering::Relaxed},
    };

    use futures_util::future::join_all;
    use tokio::sync::Mutex;

    use super::*;

    /// Takes one request in each period.
    struct Limited {
        period: Duration,
        free_at: Mutex<Instant>,
        refused: AtomicU32,
    }

    impl Limited {
        async fn answer(&self) -> Result<Option<Instant>, Infallible> {
            let mut free_at = self.free_at.lock().await;
            let now = Instant::now();
            if now < *free_at {
                self.refused.fetch_add(1, Relaxed);
                return Ok(Some(*free_at));
            }
            *free_at = now + self.period;
            Ok(None)
        }
    }

    #[tokio::test]
    async fn every_request_passes_and_few_attempts_are_refused() {
        let limited = Limited {
            period: Duration::from_millis(5),
            free_at: Mutex::new(Instant::now()),
            refused: AtomicU32::new(0),
        };
        let turns = Turns::default();
        let requests = (0..50).map(|_| turns.send(|| limited.answer(), |at| *at));
        for answer in join_all(requests).await {
            assert_eq!(answer, Ok(None));
        }
        // The first attempt of each, and one more for each whose turn came too early.
        let refused = limited.refused.load(Relaxed);
        assert!(refused <= 2 * 50, "{refused}");
    }

    #[tokio::test]
    async fn a_wait_that_would_last_too_long_is_not_begun() {
        let attempts = AtomicU32::new(0);
        let turns = Turns::default();
        let answer = turns.send(
            || {
                attempts.fetch_add(1, Relaxed);
                ready(Ok::<_, Infallible>(()))
            },
            |()| Some(Instant::now() + 2 * LONGEST_TURN),
        );
        assert_eq!(answer.await, Ok(()));
        assert_eq!(attempts.load(Relaxed), 1);
    }
}
