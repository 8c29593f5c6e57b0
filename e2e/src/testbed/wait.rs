//! Waits for conditions with a deadline. Nothing here waits for a fixed time.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};

/// How long an operation may take on a busy machine.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// Repeats a condition until it returns a value. The last error of the condition is the source of
/// the returned error.
///
/// # Errors
/// When there is no value before the deadline.
pub async fn eventually<T, F>(what: &str, condition: impl Fn() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    within(TIMEOUT, what, condition).await
}

/// As [`eventually`], with another time limit.
///
/// # Errors
/// When there is no value before the deadline.
pub async fn within<T, F>(
    limit: Duration,
    what: &str,
    condition: impl Fn() -> F,
) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let deadline = Instant::now() + limit;
    loop {
        let error = match tokio::time::timeout(limit, condition()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => error,
            Err(_elapsed) => anyhow!("no answer"),
        };
        if Instant::now() >= deadline {
            return Err(error).with_context(|| format!("{what}: not within {limit:?}"));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
