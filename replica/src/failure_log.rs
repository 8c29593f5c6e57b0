//! At which level a failure is logged that is tried again and again.
//!
//! A failure is logged as a warning when it is new, as an error when only a person can end it, and at
//! debug level while it lasts. In the first
//! seconds of a process a failure is normal, because its peers start too: it is logged as
//! information then, and as a warning only when it outlasts these seconds.
//!
//! A line that each event or request of a peer can cause has a rate ([`LogRate`]), because the
//! service that embeds a replica may have none. Nothing here logs.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How long the peers of a process may take to start.
const START_PERIOD: Duration = Duration::from_secs(10);

/// The rate of one kind of line. A `static` next to the line holds it.
#[derive(Debug)]
pub(crate) struct LogRate {
    period: Duration,
    lines: Mutex<Lines>,
}

#[derive(Debug)]
struct Lines {
    last: Option<Instant>,
    left_out: u64,
}

/// How many lines of a kind were left out since the last one. It is shown at the end of a line:
/// nothing when there are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeftOut(u64);

impl LogRate {
    /// At most one line in 5 s.
    pub(crate) const fn new() -> Self {
        Self::every(Duration::from_secs(5))
    }

    /// At most one line in this time.
    pub(crate) const fn every(period: Duration) -> Self {
        Self {
            period,
            lines: Mutex::new(Lines {
                last: None,
                left_out: 0,
            }),
        }
    }

    /// Whether the line is logged now.
    pub(crate) fn due(&self) -> Option<LeftOut> {
        self.due_at(Instant::now())
    }

    fn due_at(&self, now: Instant) -> Option<LeftOut> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = |last: Instant| now.saturating_duration_since(last) < self.period;
        if lines.last.is_some_and(recent) {
            lines.left_out += 1;
            return None;
        }
        lines.last = Some(now);
        Some(LeftOut(std::mem::take(&mut lines.left_out)))
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            count => write!(f, " ({count} such lines were left out since the last one)"),
        }
    }
}

/// The level of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureLevel {
    /// It may be over soon: the process has just started.
    Info,
    /// It is new, or it outlasted the start.
    Warn,
    /// It is new, and lasts until a person acts.
    Error,
    /// It was logged before.
    Debug,
}

/// What was logged of one kind of failure.
#[derive(Debug)]
pub(crate) struct FailureLog {
    /// When the process started.
    started: Instant,
    /// Whether any attempt has succeeded: the start is over then.
    succeeded: bool,
    /// The failure that lasts; `None` after a success.
    last: Option<Logged>,
}

/// The last failure, while it lasts.
#[derive(Debug)]
struct Logged {
    /// Its text: another text is another failure.
    error: String,
    /// Whether it was logged as a warning.
    warned: bool,
}

impl FailureLog {
    /// The log of a process that started at `started`.
    pub(crate) fn new(started: Instant) -> Self {
        Self {
            started,
            succeeded: false,
            last: None,
        }
    }

    /// An attempt failed with this error. Returns the level that it is logged at.
    pub(crate) fn failed(&mut self, error: &str, now: Instant) -> FailureLevel {
        let starting =
            !self.succeeded && now.saturating_duration_since(self.started) < START_PERIOD;
        self.level(error, starting)
    }

    /// As [`FailureLog::failed`], for an error that lasts until a person acts.
    pub(crate) fn failed_until_changed(&mut self, error: &str) -> FailureLevel {
        match self.level(error, false) {
            FailureLevel::Warn => FailureLevel::Error,
            level => level,
        }
    }

    fn level(&mut self, error: &str, starting: bool) -> FailureLevel {
        let known = self.last.as_ref().filter(|last| last.error == error);
        let level = match known {
            // Known, and either warned of or not old enough to warn of.
            Some(last) if last.warned || starting => FailureLevel::Debug,
            None if starting => FailureLevel::Info,
            // New after the start, or old enough to outlast it.
            Some(_) | None => FailureLevel::Warn,
        };
        let warned = level == FailureLevel::Warn || known.is_some_and(|last| last.warned);
        self.last = Some(Logged {
            error: error.to_owned(),
            warned,
        });
        level
    }

    /// An attempt succeeded. Returns whether the one before it had failed.
    pub(crate) fn succeeded(&mut self) -> bool {
        self.succeeded = true;
        self.last.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_a_warning_only_when_it_is_new_after_the_start_or_outlasts_it() {
        let start = Instant::now();
        let mut log = FailureLog::new(start);
        assert_eq!(log.failed("away", start), FailureLevel::Info);
        assert_eq!(log.failed("away", start), FailureLevel::Debug);
        let later = start + START_PERIOD;
        assert_eq!(log.failed("away", later), FailureLevel::Warn);
        assert_eq!(log.failed("away", later), FailureLevel::Debug);
        assert_eq!(log.failed("damaged", later), FailureLevel::Warn);
        assert!(log.succeeded());
        assert!(!log.succeeded());
    }

    #[test]
    fn a_flood_is_one_line_in_a_period_which_counts_the_others() {
        let rate = LogRate::new();
        let start = Instant::now();
        assert_eq!(rate.due_at(start), Some(LeftOut(0)));
        for _ in 0..1_000 {
            assert_eq!(rate.due_at(start), None);
        }
        let next = rate.due_at(start + rate.period).expect("it is due");
        assert!(next.to_string().contains("1000"), "{next}");
    }

    #[test]
    fn a_failure_that_lasts_until_it_is_changed_is_an_error_also_at_the_start() {
        let start = Instant::now();
        let mut log = FailureLog::new(start);
        assert_eq!(log.failed("away", start), FailureLevel::Info);
        assert_eq!(log.failed_until_changed("unknown"), FailureLevel::Error);
        assert_eq!(log.failed_until_changed("unknown"), FailureLevel::Debug);
    }

    #[test]
    fn a_failure_after_a_success_is_a_warning() {
        let start = Instant::now();
        let mut log = FailureLog::new(start);
        assert!(!log.succeeded());
        assert_eq!(log.failed("away", start), FailureLevel::Warn);
    }
}
