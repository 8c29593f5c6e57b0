//! How long committed changes took until a replica had applied them: counts by fixed bounds, as a
//! check-in carries them.
//!
//! Both clocks are of others: that of the publisher is in the change, that of the replica measured.
//! Nothing here reads a clock, and nothing is decided by a delay.

use serde::{Deserialize, Serialize};

/// The upper bounds of the counts, in milliseconds, in order. Commit times have no finer unit.
pub const BOUNDS_MS: [u64; 16] = [
    1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000,
];

/// Delays of changes from their commit until readers of a replica saw them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ApplyDelays {
    /// Changes whose delay is at most 1, 2, 5, 10, 25, 50, 100, 250 and 500 ms, 1, 2.5, 5, 10, 30,
    /// 60 and 300 s; the last number is of all others. Each change is in one of them.
    #[cfg_attr(feature = "utoipa", schema(value_type = Vec<u64>, min_items = 17, max_items = 17))]
    pub counts: [u64; BOUNDS_MS.len() + 1],
    /// Sum of the delays, in milliseconds.
    pub sum_ms: u64,
    /// How many of the changes had a commit time after the moment at which they were applied: their
    /// delay counts as 0.
    #[serde(default)]
    pub clock_ahead: u64,
}

impl ApplyDelays {
    /// Adds a change. A negative delay is that of a clock which is ahead.
    pub fn note(&mut self, delay_ms: i64) {
        let clamped = u64::try_from(delay_ms).unwrap_or(0);
        let bucket = BOUNDS_MS.partition_point(|bound| *bound < clamped);
        self.counts[bucket] += 1;
        self.sum_ms = self.sum_ms.saturating_add(clamped);
        self.clock_ahead += u64::from(delay_ms < 0);
    }

    /// Adds those of another measurement.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count = count.saturating_add(more);
        }
        self.sum_ms = self.sum_ms.saturating_add(other.sum_ms);
        self.clock_ahead = self.clock_ahead.saturating_add(other.clock_ahead);
    }

    /// What came since an earlier state of the same measurement.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut since = self.clone();
        for (count, before) in since.counts.iter_mut().zip(earlier.counts) {
            *count = count.saturating_sub(before);
        }
        since.sum_ms = since.sum_ms.saturating_sub(earlier.sum_ms);
        since.clock_ahead = since.clock_ahead.saturating_sub(earlier.clock_ahead);
        since
    }

    /// Makes each number at most `most`, and no more clocks ahead than changes.
    pub fn limit(&mut self, most: u64) {
        for count in &mut self.counts {
            *count = most.min(*count);
        }
        self.sum_ms = self.sum_ms.min(most);
        self.clock_ahead = self.clock_ahead.min(self.changes());
    }

    /// The number of changes.
    pub fn changes(&self) -> u64 {
        self.counts.iter().copied().fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_counted_once_below_its_bound_and_a_clock_that_is_ahead_is_named() {
        let mut delays = ApplyDelays::default();
        for delay_ms in [-5, 0, 1, 2, 3, 300_000, 300_001, i64::MAX] {
            delays.note(delay_ms);
        }
        let expected = [3, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2];
        assert_eq!((delays.counts, delays.clock_ahead), (expected, 1));
        assert_eq!(delays.changes(), 8);
        let before = delays.clone();
        delays.note(7);
        let new = delays.since(&before);
        assert_eq!((new.changes(), new.sum_ms, new.clock_ahead), (1, 7, 0));
        let mut both = before;
        both.add(&new);
        assert_eq!(both, delays);
    }

    #[test]
    fn numbers_that_cannot_be_are_cut_off() {
        let mut delays = ApplyDelays {
            counts: [3; BOUNDS_MS.len() + 1],
            sum_ms: u64::MAX,
            clock_ahead: u64::MAX,
        };
        delays.limit(2);
        assert_eq!((delays.changes(), delays.sum_ms), (34, 2));
        assert_eq!(delays.clock_ahead, 34);
    }
}
