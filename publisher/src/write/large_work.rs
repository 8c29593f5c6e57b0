//! Work on large values, kept apart from all other work.
//!
//! Parsing, merging and checking take time in proportion to the value, and more where a schema or
//! the nesting is unfavourable. Small work is done where it comes up. Large work is done by few
//! threads, so that a client that sends large values, valid or not, delays only other large values.

use std::{sync::Arc, thread::available_parallelism};

use tokio::sync::Semaphore;

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
    /// [`WriteError::NotCommitted`] when the work panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, WriteError> {
        if bytes <= IN_TRANSACTION_BYTES {
            return Ok(work());
        }
        // The semaphore is never closed.
        let permit = self.0.clone().acquire_owned().await;
        tokio::task::spawn_blocking(move || {
            let _until_done = permit;
            work()
        })
        .await
        .map_err(|panic| {
            tracing::error!(
                "the check of a large value failed, the write is answered 503: {panic}"
            );
            WriteError::NotCommitted
        })
    }
}
