//! Work on large values, kept apart from all other work.
//!
//! Parsing, merging and checking take time in proportion to the value, and more where a schema or
//! the nesting is unfavourable. Small work is done where it comes up. Large work is done by few
//! threads, so that a client that sends large values, valid or not, delays only other large values.

use std::{sync::Arc, thread::available_parallelism};

use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};

use super::QUEUE_TIME;
use crate::decide::{IN_TRANSACTION_BYTES, WriteError};

/// Where large work is done. Clones share the threads.
#[derive(Debug, Clone)]
pub struct LargeWork(Arc<Semaphore>);

impl Default for LargeWork {
    /// Half of the processors, at least one.
    fn default() -> Self {
        let processors = available_parallelism().map_or(1, usize::from);
        Self(Arc::new(Semaphore::new((processors / 2).max(1))))
    }
}

impl LargeWork {
    /// Does the work on a value of `bytes`. Work that has begun ends, also when the caller is gone.
    ///
    /// # Errors
    /// [`WriteError::Busy`] when no thread is free [`QUEUE_TIME`] after `since`, the time at which its
    /// request began to wait; [`WriteError::NotCommitted`] when the work panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        since: Instant,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, WriteError> {
        if bytes <= IN_TRANSACTION_BYTES {
            return Ok(work());
        }
        let permit = timeout_at(since + QUEUE_TIME, self.0.clone().acquire_owned()).await;
        // The semaphore is never closed.
        let permit = permit.map_err(|_elapsed| WriteError::Busy)?;
        tokio::task::spawn_blocking(move || {
            let _until_done = permit;
            work()
        })
        .await
        .map_err(|panic| {
            tracing::error!(
                bytes,
                "the check of a large value failed, the write is answered 503: {panic}"
            );
            WriteError::NotCommitted
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn work_waits_for_a_thread_no_longer_than_a_command_in_the_queue() {
        let large_work = LargeWork::default();
        let bytes = IN_TRANSACTION_BYTES + 1;
        let at_the_end = Instant::now() - QUEUE_TIME;
        let run = async |bytes| {
            let work = large_work.run(at_the_end, bytes, || ());
            let answer = timeout(Duration::from_secs(60), work).await;
            answer.expect("an answer in time")
        };
        assert_eq!(run(bytes).await, Ok(()), "a free thread is not waited for");
        let threads = u32::try_from(large_work.0.available_permits()).expect("few");
        let _all = large_work.0.acquire_many(threads).await.expect("open");
        assert_eq!(run(bytes).await, Err(WriteError::Busy));
        assert_eq!(run(1).await, Ok(()), "small work needs no thread");
    }
}
