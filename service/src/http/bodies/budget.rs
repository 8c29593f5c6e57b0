//! The bytes of all bodies under way: one budget, of which a caller with a credential gets half, so
//! that its bodies never keep those of the others out.
//!
//! Callers without a credential have no bound of their own: behind a sidecar or a proxy all of them
//! have one address. Nothing here reads a body.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// The budget.
#[derive(Debug)]
pub(super) struct Budget {
    /// In bytes.
    size: usize,
    all: Arc<Semaphore>,
    /// Half of the budget for each caller with bodies under way, by name.
    callers: Mutex<HashMap<Arc<str>, Weak<Semaphore>>>,
}

/// A share of the budget, of the caller and of all. It is free again when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    _of_caller: Option<OwnedSemaphorePermit>,
    _of_all: OwnedSemaphorePermit,
}

impl Budget {
    pub(super) fn new(size: usize) -> Self {
        Self {
            size,
            all: Arc::new(Semaphore::new(size)),
            callers: Mutex::default(),
        }
    }

    /// A share, when it is free within the time for it. `caller` is the name of a caller with a
    /// credential.
    pub(super) async fn share(
        &self,
        bytes: usize,
        caller: Option<&Arc<str>>,
        within: Duration,
    ) -> Option<Share> {
        let taken = async {
            // Its own share first: a caller that has too much waits without a part of the budget.
            let of_caller = match caller {
                Some(caller) => {
                    let bytes = bytes.min(self.half());
                    Some(take(self.of_caller(caller), bytes).await?)
                }
                None => None,
            };
            let bytes = bytes.min(self.size);
            Some(Share {
                _of_caller: of_caller,
                _of_all: take(Arc::clone(&self.all), bytes).await?,
            })
        };
        timeout(within, taken).await.ok().flatten()
    }

    fn half(&self) -> usize {
        self.size.div_ceil(2)
    }

    /// What the bodies of a caller may have together.
    fn of_caller(&self, caller: &Arc<str>) -> Arc<Semaphore> {
        let mut callers = self.callers.lock().expect("no holder of this lock panics");
        if let Some(known) = callers.get(caller).and_then(Weak::upgrade) {
            return known;
        }
        // Those of callers without a body are gone.
        callers.retain(|_name, known| known.strong_count() > 0);
        let new = Arc::new(Semaphore::new(self.half()));
        callers.insert(Arc::clone(caller), Arc::downgrade(&new));
        new
    }
}

/// `None` for more bytes than a semaphore counts; it is never closed.
async fn take(budget: Arc<Semaphore>, bytes: usize) -> Option<OwnedSemaphorePermit> {
    let bytes = u32::try_from(bytes).ok()?;
    budget.acquire_many_owned(bytes).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_bodies_of_one_caller_have_half_of_the_budget() {
        let budget = Budget::new(8);
        let wait = Duration::from_millis(10);
        let (one, other): (Arc<str>, Arc<str>) = ("one".into(), "other".into());
        let is_busy =
            async |caller: Option<&Arc<str>>| budget.share(1, caller, wait).await.is_none();
        let held = [
            budget.share(2, Some(&one), wait).await,
            budget.share(2, Some(&one), wait).await,
        ];
        assert!(held.iter().all(Option::is_some));
        assert!(is_busy(Some(&one)).await);
        assert!(!is_busy(Some(&other)).await && !is_busy(None).await);
        drop(held);
        // One that is larger than half is the only one of its caller.
        let large = budget.share(6, Some(&one), wait).await;
        assert!(large.is_some() && is_busy(Some(&one)).await && !is_busy(Some(&other)).await);
        let known = budget.callers.lock().expect("not poisoned").len();
        assert!(known <= 2, "callers without a body are forgotten");
    }
}
