//! Drives the carriers of changes: one change at a time, on a worker of the runtime.

use std::time::Duration;

use anyhow::Context;
use tokio::task::JoinSet;

/// The time limit of each step, after which a measure fails.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// A transport that carries one change at a time to all its receivers.
pub(crate) trait Carrier: Send + 'static {
    /// Carries one change, and returns the time that it took.
    fn once(&mut self) -> impl Future<Output = anyhow::Result<Duration>> + Send;
}

/// Drives work on a worker thread. Work of the main thread must first be handed over to a worker,
/// which would make a floor slower than it is.
pub(crate) async fn on_a_worker<T: Send + 'static>(
    work: impl Future<Output = anyhow::Result<T>> + Send + 'static,
) -> anyhow::Result<T> {
    let mut worker = JoinSet::new();
    worker.spawn(work);
    worker.join_next().await.context("nothing was driven")??
}
