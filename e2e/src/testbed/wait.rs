//! Waiting for a condition, with a deadline; never for a time.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};

/// How long things may take on a busy machine.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// Asks again and again until the answer is a value; what it last complained of is in the error.
///
/// # Errors
/// When there is no value before the deadline.
pub async fn eventually<T, F>(what: &str, condition: impl Fn() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    within(TIMEOUT, what, condition).await
}

/// As [`eventually`], with a deadline of its own.
///
/// # Errors
/// When there is no value before the deadline.
pub async fn within<T, F>(
    patience: Duration,
    what: &str,
    condition: impl Fn() -> F,
) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let deadline = Instant::now() + patience;
    loop {
        let error = match tokio::time::timeout(patience, condition()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => error,
            Err(_elapsed) => anyhow!("no answer"),
        };
        if Instant::now() >= deadline {
            return Err(error).with_context(|| format!("waited {patience:?} in vain: {what}"));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
