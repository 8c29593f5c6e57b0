//! The connection that brings the events: whether it stands, for the status, and the log of its
//! changes. It decides nothing.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use contract::text::Escaped;

use super::Stats;
use crate::failure_log::{FailureLevel, FailureLog};

/// Notes and logs whether the source of the events can be reached.
#[derive(Debug)]
pub(crate) struct IntakeConnection {
    /// Where it is noted whether the source can be reached.
    stats: Arc<Stats>,
    /// What was logged of the current outage.
    failures: Mutex<FailureLog>,
}

impl IntakeConnection {
    /// The connection of a process that starts now: an outage in its first seconds is no warning.
    pub(crate) fn new(stats: Arc<Stats>) -> Self {
        Self {
            stats,
            failures: Mutex::new(FailureLog::new(Instant::now())),
        }
    }

    /// The source can be reached.
    /// The first connection of a process and one after an outage are logged in other words.
    pub(crate) fn connected(&self) {
        self.stats.connected();
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.succeeded() {
            tracing::info!("the source of events is connected again");
        } else {
            tracing::info!("the source of events is connected");
        }
    }

    /// The source cannot be reached; it is tried again.
    /// It is a warning once per outage, however often it is tried.
    pub(crate) fn disconnected(&self, error: &dyn fmt::Display) {
        self.stats.disconnected();
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let error = Escaped(error);
        // All errors of one outage count as the same failure: it is logged once.
        match failures.failed("disconnected", Instant::now()) {
            FailureLevel::Info => {
                tracing::info!(
                    "the source of events does not answer yet, the replica tries again: {error}"
                );
            }
            FailureLevel::Warn | FailureLevel::Error => {
                tracing::warn!(
                    "the source of events is disconnected, changes come with the check-ins until it answers: {error}"
                );
            }
            FailureLevel::Debug => {
                tracing::debug!("the source of events is still disconnected: {error}");
            }
        }
    }
}
