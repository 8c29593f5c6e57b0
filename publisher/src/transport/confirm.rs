//! Whether events ask the replicas that apply them to check in at once: they do while a request waits
//! until replicas have applied its write. Nothing here waits.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// How many requests wait. Clones share the number.
#[derive(Debug, Clone, Default)]
pub struct Confirmations(Arc<AtomicUsize>);

/// One request that waits, until this is dropped.
#[derive(Debug)]
pub struct ConfirmationWanted(Confirmations);

impl Confirmations {
    /// A request begins to wait. It has to begin before its write, whose event must ask.
    pub fn want(&self) -> ConfirmationWanted {
        self.0.fetch_add(1, Relaxed);
        ConfirmationWanted(self.clone())
    }

    /// Whether a request waits.
    pub fn are_wanted(&self) -> bool {
        self.0.load(Relaxed) > 0
    }
}

impl Drop for ConfirmationWanted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}
