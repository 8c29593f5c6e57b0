//! The end of the relay: what is queued or in flight when no more changes come.
//!
//! It never waits longer than its two time limits, and never waits for a transport that fails: what
//! is left stays pending, and the sweep of a publisher finds it.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::{Instant, timeout, timeout_at};

use super::{Finished, IN_FLIGHT, Relay};

/// How long changes that are queued or in flight at the end are published; then they stay pending.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

impl Relay {
    /// Publishes what is queued, while that works and time is left. The rest stays pending.
    pub(super) async fn flush(mut self) {
        let deadline = Instant::now() + FLUSH_TIMEOUT;
        // Collections that failed before get one more chance.
        self.failing.clear();
        self.marks.retry_now();
        loop {
            // After a failure nothing more is taken from the queue: the transport is probably
            // unavailable, and the process should not wait for it.
            if self.failing.is_empty() {
                while self.in_flight < IN_FLIGHT
                    && let Ok(committed) = self.changes.try_recv()
                {
                    self.take(committed);
                }
            } else {
                self.forget_gathered();
            }
            // One call for all of them.
            if self.in_flight == 0 {
                self.mark();
            }
            match timeout_at(deadline, self.operations.next()).await {
                Ok(Some(finished)) => self.finish(finished),
                Ok(None) => return,
                Err(_elapsed) => break,
            }
        }
        // If marking fails or takes too long, the changes are published again: harmless.
        self.mark();
        // With a time limit of its own, because the deadline may have passed.
        drop(timeout(FLUSH_TIMEOUT, self.until_marked()).await);
    }

    /// Leaves changes that wait for a call pending.
    fn forget_gathered(&mut self) {
        for taken in self.gathered.take_all() {
            self.in_flight -= 1;
            self.swept_in_flight -= usize::from(taken.swept);
            let change = taken.change;
            self.known.remove(&(change.collection, change.revision));
        }
    }

    /// Waits until a call that marks changes has ended, or no operation is left.
    async fn until_marked(&mut self) {
        while let Some(finished) = self.operations.next().await {
            if matches!(finished, Finished::Mark { .. }) {
                return;
            }
        }
    }
}
