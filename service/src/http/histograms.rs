//! Histograms of times, for `GET /metrics`. Their bounds are fixed, so that those of all processes can be
//! added.

use std::{
    fmt,
    future::Future,
    time::{Duration, Instant},
};

use contract::apply_delays::{ApplyDelays, BOUNDS_MS};
use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, family::Family, histogram::Histogram},
    registry::Registry,
};

/// Name of the metric of [`DelayHistogram`], without its prefix.
pub const COMMIT_TO_APPLIED: &str = "commit_to_applied_seconds";

/// Bounds of times within a process and to its store, in seconds.
const SHORT: [f64; 14] = [
    0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

/// The delays of changes as a histogram.
#[derive(Debug)]
pub struct DelayHistogram(pub ApplyDelays);

impl DelayHistogram {
    /// Adds the delays to a registry: the histogram, and how many of them are those of a clock that
    /// is ahead.
    pub fn register(self, registry: &mut Registry) {
        let ahead = prometheus_client::metrics::counter::ConstCounter::new(self.0.clock_ahead);
        registry.register(
            "commit_clock_ahead",
            "Changes whose commit time was after the moment at which they were applied; they count as 0 s",
            ahead,
        );
        registry.register(
            COMMIT_TO_APPLIED,
            "Seconds from the start of the commit of a change until readers of a replica saw it",
            self,
        );
    }
}

impl EncodeMetric for DelayHistogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        // Exact for all times below 285,000 years.
        let seconds = |ms: u64| Duration::from_millis(ms).as_secs_f64();
        let bounds = BOUNDS_MS.map(seconds).into_iter().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(self.0.counts).collect();
        let (sum, count) = (seconds(self.0.sum_ms), self.0.changes());
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

type Labels = [(&'static str, &'static str); 2];

/// The times of calls by operation and result. The operations are names in the code. Cloning shares
/// them.
#[derive(Debug, Clone)]
pub struct CallTimes(Family<Labels, Histogram, fn() -> Histogram>);

impl Default for CallTimes {
    fn default() -> Self {
        Self(Family::new_with_constructor(|| Histogram::new(SHORT)))
    }
}

impl CallTimes {
    /// Awaits a call and counts its time. One that is dropped before its end is not counted.
    ///
    /// # Errors
    /// As the call.
    pub async fn of<T, E>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let begun = Instant::now();
        let result = call.await;
        let outcome = if result.is_ok() { "ok" } else { "failed" };
        let labels = [("operation", operation), ("result", outcome)];
        self.0
            .get_or_create(&labels)
            .observe(begun.elapsed().as_secs_f64());
        result
    }

    /// Adds the times to a registry.
    pub fn register(&self, registry: &mut Registry, name: &str, help: &str) {
        registry.register(name, help, self.0.clone());
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn delays_are_written_as_a_cumulative_histogram_in_seconds() {
        let mut delays = ApplyDelays::default();
        for ms in [-3, 1, 40, 400_000] {
            delays.note(ms);
        }
        let mut registry = Registry::with_prefix("confcast");
        DelayHistogram(delays).register(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).expect("text");
        for line in [
            "# TYPE confcast_commit_to_applied_seconds histogram",
            "confcast_commit_to_applied_seconds_sum 400.041",
            "confcast_commit_to_applied_seconds_count 4",
            "confcast_commit_to_applied_seconds_bucket{le=\"0.001\"} 2",
            "confcast_commit_to_applied_seconds_bucket{le=\"0.05\"} 3",
            "confcast_commit_to_applied_seconds_bucket{le=\"300.0\"} 3",
            "confcast_commit_to_applied_seconds_bucket{le=\"+Inf\"} 4",
            "confcast_commit_clock_ahead_total 1",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}\n{text}");
        }
    }
}
