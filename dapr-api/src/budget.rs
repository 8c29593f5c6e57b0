//! Memory for the messages of subscriptions: one budget of bytes for all of them, whatever their readers
//! do.
//!
//! A message is read from the replica when there is memory for it, and its bytes are free again when its
//! reader has taken it. One subscription after the other reads its message, so that the messages that
//! wait for memory are one. A subscription that waits sends the newest values later.

use std::sync::Arc;

use tokio::sync::{Mutex, MutexGuard, OwnedSemaphorePermit, Semaphore};

use crate::api::MAX_ANSWER;

/// The budget. Cloning shares it.
#[derive(Clone)]
pub(crate) struct Budget(Arc<Shared>);

struct Shared {
    bytes: u32,
    free: Arc<Semaphore>,
    turn: Mutex<()>,
}

/// The right to read one message. Subscriptions get it in the order in which they ask.
pub(crate) struct Turn<'a> {
    budget: &'a Budget,
    _turn: MutexGuard<'a, ()>,
}

/// The bytes of one message. Dropping it frees them.
pub(crate) struct Reserved(#[expect(dead_code, reason = "held")] Option<OwnedSemaphorePermit>);

impl Budget {
    /// A budget of this size.
    pub(crate) fn new(bytes: u32) -> Self {
        Self(Arc::new(Shared {
            bytes,
            free: Arc::new(Semaphore::new(usize::try_from(bytes).unwrap_or(usize::MAX))),
            turn: Mutex::default(),
        }))
    }

    /// Whether a message waits for memory.
    pub(crate) fn is_short(&self) -> bool {
        let is_taken = self.0.turn.try_lock().is_err();
        // Reading alone takes a turn for a moment.
        is_taken && self.0.free.available_permits() < MAX_ANSWER
    }

    /// Waits for the turn to read a message.
    pub(crate) async fn turn(&self) -> Turn<'_> {
        Turn {
            budget: self,
            _turn: self.0.turn.lock().await,
        }
    }
}

impl Turn<'_> {
    /// Waits until so many bytes are free, and reserves them. A message that is larger than the whole
    /// budget is the only one.
    pub(crate) async fn reserve(self, bytes: usize) -> Reserved {
        let shared = &self.budget.0;
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(shared.bytes);
        let permit = Arc::clone(&shared.free).acquire_many_owned(bytes).await;
        // It is never closed.
        Reserved(permit.ok())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn messages_beyond_the_budget_wait_and_one_of_them_is_in_memory() {
        let budget = Budget::new(10);
        let first = budget.turn().await.reserve(6).await;
        let _second = budget.turn().await.reserve(4).await;
        let read = std::cell::Cell::new(0);
        let next = async || {
            let turn = budget.turn().await;
            read.set(read.get() + 1);
            turn.reserve(6).await
        };
        let (mut third, mut fourth) = (Box::pin(next()), Box::pin(next()));
        assert!((&mut third).now_or_never().is_none());
        assert!((&mut fourth).now_or_never().is_none());
        assert_eq!(read.get(), 1, "the fourth is not even read");
        assert!(budget.is_short());
        drop(first);
        let third = (&mut third).now_or_never().expect("its bytes are free");
        assert!((&mut fourth).now_or_never().is_none());
        drop(third);
        (&mut fourth).now_or_never().expect("its bytes are free");
        assert!(!budget.is_short());
    }

    #[tokio::test]
    async fn a_message_beyond_the_whole_budget_is_the_only_one() {
        let budget = Budget::new(10);
        let large = budget.turn().await.reserve(11).await;
        assert!(budget.turn().await.reserve(1).now_or_never().is_none());
        drop(large);
        budget.turn().await.reserve(1).await;
    }
}
