//! How ways that changes travel are driven: one at a time, on a worker of the runtime.

use std::time::Duration;

use anyhow::Context;
use tokio::task::JoinSet;

/// How long anything may take before a measure gives up.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// Something that carries one change at a time to all its receivers.
pub(crate) trait Carrier: Send + 'static {
    /// Carries one, and gives how long that took.
    fn once(&mut self) -> impl Future<Output = anyhow::Result<Duration>> + Send;
}

/// Drives something on a worker: what the main thread begins has to be handed over first, which
/// would make a floor slower than it is.
pub(crate) async fn on_a_worker<T: Send + 'static>(
    work: impl Future<Output = anyhow::Result<T>> + Send + 'static,
) -> anyhow::Result<T> {
    let mut worker = JoinSet::new();
    worker.spawn(work);
    worker.join_next().await.context("nothing was driven")??
}
