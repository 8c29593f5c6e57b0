//! The supervisor: it spawns every background task of a process and awaits each of them.
//!
//! A task that panics, or that ends before the process stops, ends the process: a process with a
//! dead task must never look healthy. Nothing else in the services spawns a task, except that a task
//! may move its work to a thread with [`on_thread`] and awaits its result: a thread whose task was
//! dropped ends by itself, and nobody awaits that.

use std::{future::Future, time::Duration};

use anyhow::{Context, anyhow};
pub use stop_signals::StopSignals;
use tokio::{runtime::Handle, sync::oneshot, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

/// How long tasks may take to finish after the stop token is cancelled.
const GRACE: Duration = Duration::from_secs(10);

/// Owns the background tasks of a process. Dropping it aborts them.
#[derive(Debug, Default)]
pub struct Supervisor {
    /// Each task gives its name back, to name it in errors.
    tasks: JoinSet<(&'static str, anyhow::Result<()>)>,
    /// Cancelled when the process stops.
    stop: CancellationToken,
}

impl Supervisor {
    /// The token that is cancelled when tasks must stop. A task ends soon afterwards, at a point
    /// that it chooses.
    pub fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Starts a task. Errors name it by `name`. It must run until the stop token is cancelled: an
    /// earlier end stops the process.
    pub fn spawn(
        &mut self,
        name: &'static str,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        self.tasks.spawn(async move { (name, task.await) });
    }

    /// Runs until `shutdown` resolves or a task ends, then stops the other tasks and awaits them.
    ///
    /// # Errors
    /// When a task failed, panicked, ended before the stop, or did not end within 10 s after it.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
        let first = tokio::select! {
            () = shutdown => Ok(()),
            Some(ended) = self.tasks.join_next() => match ended {
                Ok((name, result)) => result
                    .with_context(|| format!("{name} failed"))
                    .and_then(|()| Err(anyhow!("{name} ended before the process stopped"))),
                Err(panic) => Err(panic).context("a task panicked"),
            },
        };
        // The first error counts; the others are often a consequence of it.
        self.stop.cancel();
        let rest = timeout(GRACE, self.finish())
            .await
            .unwrap_or_else(|_elapsed| {
                Err(anyhow!(
                    "tasks were still running {} s after the stop",
                    GRACE.as_secs()
                ))
            });
        first.and(rest)
    }

    /// Awaits all tasks; the first error counts.
    async fn finish(&mut self) -> anyhow::Result<()> {
        let mut all = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            let result = match ended {
                Ok((name, result)) => {
                    result.with_context(|| format!("{name} failed while it stopped"))
                }
                Err(panic) => Err(panic).context("a task panicked while it stopped"),
            };
            all = all.and(result);
        }
        all
    }
}

/// Runs a task on a thread of its own, for work that blocks: no other task waits for its thread, and it
/// is woken without a worker of the runtime in between. The thread begins at once. When the future is
/// dropped the task is dropped too, as soon as it waits for something.
///
/// # Errors
/// As the task; when the thread cannot be started, or the task panicked.
pub fn on_thread<T: Send + 'static>(
    name: &'static str,
    task: impl Future<Output = anyhow::Result<T>> + Send + 'static,
) -> impl Future<Output = anyhow::Result<T>> {
    let runtime = Handle::current();
    let (mut done, ended) = oneshot::channel();
    let thread = std::thread::Builder::new().name(name.to_owned());
    let started = thread.spawn(move || {
        let result = runtime.block_on(async {
            tokio::select! {
                biased;
                result = task => Some(result),
                () = done.closed() => None,
            }
        });
        // The task is dropped with all that it holds before its result is there.
        if let Some(result) = result {
            drop(done.send(result));
        }
    });
    async move {
        started.with_context(|| format!("the thread of the {name} cannot be started"))?;
        ended
            .await
            .with_context(|| format!("the thread of the {name} panicked"))?
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::BoxFuture;

    use super::*;

    #[tokio::test]
    async fn all_tasks_are_stopped_and_awaited() {
        let mut supervisor = Supervisor::default();
        let stop = supervisor.stop();
        supervisor.spawn("waits", async move {
            stop.cancelled().await;
            Ok(())
        });
        supervisor.run(async {}).await.expect("a clean end");
    }

    #[tokio::test]
    async fn a_task_that_ends_early_ends_the_process() {
        let mut supervisor = Supervisor::default();
        supervisor.spawn("ends early", async { Ok(()) });
        let error = supervisor
            .run(std::future::pending())
            .await
            .expect_err("an early end");
        assert!(error.to_string().contains("ends early"), "{error}");
    }

    #[tokio::test]
    async fn a_task_on_a_thread_gives_its_result_and_its_panic() {
        let here = std::thread::current().id();
        let there = on_thread("it", async { Ok(std::thread::current().id()) });
        assert_ne!(there.await.expect("a result"), here);
        let task: BoxFuture<'static, anyhow::Result<()>> = Box::pin(async { panic!("on purpose") });
        let error = on_thread("it", task).await.expect_err("a panic");
        assert!(error.to_string().contains("the it panicked"), "{error}");
    }

    #[tokio::test]
    async fn a_task_on_a_thread_is_dropped_with_its_future() {
        let (alive, dropped) = oneshot::channel::<()>();
        let running = on_thread("it", async move {
            let _until_dropped = alive;
            std::future::pending::<anyhow::Result<()>>().await
        });
        drop(running);
        dropped.await.expect_err("nothing is sent");
    }

    #[tokio::test]
    async fn a_panic_ends_the_process() {
        let mut supervisor = Supervisor::default();
        supervisor.spawn("panics", async { panic!("on purpose") });
        assert!(supervisor.run(std::future::pending()).await.is_err());
    }
}
