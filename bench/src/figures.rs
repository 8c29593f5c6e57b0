//! Figures and their targets. Pure: no clock, no input or output.
//!
//! Each round measures the floor and ours right after each other, so what disturbs the machine
//! disturbs both. The ratio of a row is the median of the ratios of its rounds, never a ratio of
//! medians of different moments.

use std::time::Duration;

use serde::Serialize;

/// The unit of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Unit {
    /// Seconds.
    Seconds,
    /// Operations per second.
    PerSecond,
    /// Bytes.
    Bytes,
}

/// Median, minimum and maximum of the rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    /// The median.
    pub(crate) median: f64,
    /// The minimum.
    pub(crate) least: f64,
    /// The maximum.
    pub(crate) most: f64,
}

/// The target of a ratio, or of a figure without a ratio.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Target {
    /// The upper limit.
    AtMost(f64),
    /// The lower limit.
    AtLeast(f64),
}

/// One row of the table.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    /// The number of its measure.
    pub(crate) measure: u8,
    /// The name of the figure.
    pub(crate) ours: String,
    /// The name of the floor or peer; empty when there is none.
    pub(crate) beside: String,
    /// The unit of the figures.
    pub(crate) unit: Unit,
    /// Our figures.
    pub(crate) figure: Spread,
    /// The figures of the floor or peer.
    pub(crate) floor: Option<Spread>,
    /// Our figures divided by those of the floor, round by round.
    pub(crate) ratio: Option<Spread>,
    /// The target of the ratio, or of the figure where there is no ratio.
    pub(crate) target: Option<Target>,
    /// Whether the target is reached.
    pub(crate) reached: Option<bool>,
}

/// The figures of one row, collected round by round.
#[derive(Debug)]
pub(crate) struct Comparison {
    measure: u8,
    ours: String,
    beside: String,
    unit: Unit,
    target: Option<Target>,
    rounds: Vec<(f64, Option<f64>)>,
}

impl Comparison {
    /// Our figure with a floor or peer. The target applies to the ratio.
    pub(crate) fn new(
        measure: u8,
        unit: Unit,
        ours: impl Into<String>,
        beside: impl Into<String>,
    ) -> Self {
        Self {
            measure,
            ours: ours.into(),
            beside: beside.into(),
            unit,
            target: None,
            rounds: Vec::new(),
        }
    }

    /// A figure without a floor. The target applies to the figure.
    pub(crate) fn alone(measure: u8, unit: Unit, ours: impl Into<String>) -> Self {
        Self::new(measure, unit, ours, "")
    }

    /// The same row with a target.
    #[must_use]
    pub(crate) fn must(self, target: Target) -> Self {
        Self {
            target: Some(target),
            ..self
        }
    }

    /// Adds the figures of one round.
    pub(crate) fn round(&mut self, ours: f64, floor: f64) {
        self.rounds.push((ours, Some(floor)));
    }

    /// Adds the figure of one round, where there is no floor.
    pub(crate) fn figure(&mut self, ours: f64) {
        self.rounds.push((ours, None));
    }

    /// The row of a figure that was summed up elsewhere, without a floor.
    pub(crate) fn spread(mut self, figure: Spread) -> Option<Row> {
        self.figure(figure.median);
        Some(Row {
            figure,
            ..self.row()?
        })
    }

    /// The row of the table. `None` when there was no round.
    pub(crate) fn row(self) -> Option<Row> {
        let figure = Spread::of(self.rounds.iter().map(|(ours, _floor)| *ours))?;
        let floor = Spread::of(self.rounds.iter().filter_map(|(_ours, floor)| *floor));
        let ratio = Spread::of(
            self.rounds
                .iter()
                .filter_map(|(ours, floor)| Some(ours / (*floor)?)),
        );
        let judged = ratio.unwrap_or(figure).median;
        Some(Row {
            measure: self.measure,
            ours: self.ours,
            beside: self.beside,
            unit: self.unit,
            figure,
            floor,
            ratio,
            target: self.target,
            reached: self.target.map(|target| target.reached_by(judged)),
        })
    }
}

impl Spread {
    /// `None` when there are no values.
    pub(crate) fn of(figures: impl Iterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.collect();
        sorted.sort_by(f64::total_cmp);
        let least = *sorted.first()?;
        let most = *sorted.last()?;
        let middle = sorted.len() / 2;
        let upper = *sorted.get(middle)?;
        let median = if sorted.len() % 2 == 1 {
            upper
        } else {
            (upper + sorted.get(middle - 1)?) / 2.0
        };
        Some(Self {
            median,
            least,
            most,
        })
    }
}

impl Target {
    fn reached_by(self, figure: f64) -> bool {
        match self {
            Self::AtMost(most) => figure <= most,
            Self::AtLeast(least) => figure >= least,
        }
    }
}

/// Durations of single operations.
#[derive(Debug, Default)]
pub(crate) struct Durations(Vec<Duration>);

impl Durations {
    /// Adds a duration.
    pub(crate) fn add(&mut self, duration: Duration) {
        self.0.push(duration);
    }

    /// A percentile in seconds, by the nearest rank; 0 when there are no durations.
    pub(crate) fn at(&mut self, percent: usize) -> f64 {
        self.0.sort_unstable();
        let rank = (self.0.len() * percent).div_ceil(100).max(1) - 1;
        self.0.get(rank).map_or(0.0, Duration::as_secs_f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_computed_from_its_rounds() {
        let mut comparison =
            Comparison::new(1, Unit::Seconds, "ours", "floor").must(Target::AtMost(2.0));
        // A slow minute slows both measurements down.
        for (ours, floor) in [(2.0, 1.0), (20.0, 10.0), (3.0, 1.0)] {
            comparison.round(ours, floor);
        }
        let row = comparison.row().expect("rounds");
        assert_eq!(
            row.ratio,
            Some(Spread {
                median: 2.0,
                least: 2.0,
                most: 3.0
            })
        );
        assert_eq!(
            (row.figure.median, row.floor.map(|floor| floor.median)),
            (3.0, Some(1.0))
        );
        assert_eq!(row.reached, Some(true));
    }

    #[test]
    fn a_figure_without_a_ratio_is_compared_with_its_target() {
        let mut comparison = Comparison::alone(10, Unit::Bytes, "idle").must(Target::AtLeast(5.0));
        assert!(
            Comparison::alone(10, Unit::Bytes, "nothing")
                .row()
                .is_none()
        );
        comparison.figure(4.0);
        comparison.figure(5.0);
        let row = comparison.row().expect("rounds");
        assert_eq!(
            (row.ratio, row.reached, row.figure.median),
            (None, Some(false), 4.5)
        );
    }

    #[test]
    fn percentiles_use_the_nearest_rank() {
        let mut durations = Durations::default();
        assert_eq!(durations.at(50).to_bits(), 0.0_f64.to_bits());
        (1..=100)
            .rev()
            .for_each(|seconds| durations.add(Duration::from_secs(seconds)));
        assert_eq!(
            [
                durations.at(50),
                durations.at(99),
                durations.at(100),
                durations.at(0)
            ],
            [50.0, 99.0, 100.0, 1.0]
        );
    }
}
