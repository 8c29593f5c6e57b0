//! Published changes that are not marked in the store yet.
//!
//! One call marks all that were published during the call before it. After a call that failed there
//! is a pause. Nothing is written here.

use std::time::Duration;

use service::runtime::log_rate::LogRate;
use tokio::time::Instant;
use tracing::warn;

use super::ChangeKey;

/// Pause after a call that could not mark changes.
const MARK_PAUSE: Duration = Duration::from_secs(1);

/// See the module. The relay bounds their number.
pub(super) struct Marks {
    published: Vec<ChangeKey>,
    /// Whether a call is under way.
    marking: bool,
    /// Nothing is marked before: the last call failed.
    after: Instant,
}

impl Marks {
    pub(super) fn new() -> Self {
        Self {
            published: Vec::new(),
            marking: false,
            after: Instant::now(),
        }
    }

    /// Adds a change that was published.
    pub(super) fn add(&mut self, key: ChangeKey) {
        self.published.push(key);
    }

    /// The changes of a call that begins now. `None` when there are none, or during a call or a pause.
    pub(super) fn begin(&mut self) -> Option<Vec<ChangeKey>> {
        if self.published.is_empty() || self.marking || Instant::now() < self.after {
            return None;
        }
        self.marking = true;
        Some(std::mem::take(&mut self.published))
    }

    /// Ends a call that marked its changes.
    pub(super) fn end(&mut self) {
        self.marking = false;
    }

    /// Ends a call that failed: its changes are marked by a later one.
    pub(super) fn fail(&mut self, keys: Vec<ChangeKey>, error: &anyhow::Error) {
        static FAILURES: LogRate = LogRate::new();
        if let Some(left_out) = FAILURES.due() {
            warn!(
                changes = keys.len(),
                "published changes could not be marked in the store and will be marked later: \
                 {error:#}{left_out}"
            );
        }
        self.marking = false;
        self.after = Instant::now() + MARK_PAUSE;
        self.published.extend(keys);
    }

    /// Ends the pause after a failure.
    pub(super) fn retry_now(&mut self) {
        self.after = Instant::now();
    }
}
