//! A rate for a log line that a peer or a fault can repeat without a limit.
//!
//! The first line is logged at once; within a period further ones are only counted, and the next
//! line says how many there were. Nothing here logs.

use std::{
    fmt,
    sync::Mutex,
    time::{Duration, Instant},
};

/// Time between two lines of one kind.
const PERIOD: Duration = Duration::from_secs(5);

/// The rate of one kind of line. A `static` next to the line holds it.
#[derive(Debug)]
pub struct LogRate(Mutex<Lines>);

#[derive(Debug)]
struct Lines {
    last: Option<Instant>,
    left_out: u64,
}

/// How many lines of the kind were left out since the last one. It is shown at the end of a line:
/// nothing when there are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeftOut(u64);

impl LogRate {
    /// No line yet.
    pub const fn new() -> Self {
        Self(Mutex::new(Lines {
            last: None,
            left_out: 0,
        }))
    }

    /// Whether the line is logged now.
    pub fn due(&self) -> Option<LeftOut> {
        self.due_at(Instant::now())
    }

    fn due_at(&self, now: Instant) -> Option<LeftOut> {
        let mut lines = self.0.lock().expect("no holder of this lock can panic");
        let is_due = lines
            .last
            .is_none_or(|last| now.saturating_duration_since(last) >= PERIOD);
        if !is_due {
            lines.left_out += 1;
            return None;
        }
        lines.last = Some(now);
        Some(LeftOut(std::mem::take(&mut lines.left_out)))
    }
}

impl Default for LogRate {
    fn default() -> Self {
        Self::new()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_one_line_in_a_period_which_counts_the_others() {
        let rate = LogRate::new();
        let start = Instant::now();
        assert_eq!(rate.due_at(start), Some(LeftOut(0)));
        for number in 0..30_000 {
            assert_eq!(
                rate.due_at(start + Duration::from_micros(number * 100)),
                None
            );
        }
        let next = rate.due_at(start + PERIOD).expect("it is due");
        assert_eq!(next, LeftOut(30_000));
        assert!(next.to_string().contains("30000"));
        assert_eq!(rate.due_at(start + PERIOD * 3), Some(LeftOut(0)));
    }
}
