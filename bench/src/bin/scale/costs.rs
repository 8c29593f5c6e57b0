//! The measured costs that everything here is computed from, as `make bench` writes them. No figure
//! has a default: a cost that is missing is an error that names it.

use std::{collections::BTreeMap, path::Path};

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// What `bench.json` has of costs. Other members are ignored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Measured {
    /// The machine of the measures.
    pub(crate) machine: Machine,
    /// The curves; one of them is the time until all of N replicas on one machine have a change.
    pub(crate) curves: Vec<Curve>,
    /// The costs of single steps.
    pub(crate) costs: Vec<Cost>,
}

/// The machine of the measures.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// Its processors.
    pub(crate) processors: u32,
}

/// A figure at several sizes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Curve {
    /// Its name.
    pub(crate) name: String,
    /// Lines, each with its points.
    pub(crate) lines: Vec<(String, Vec<(f64, Spread)>)>,
}

/// A median and its range.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Spread {
    /// The median.
    pub(crate) median: f64,
    /// The minimum.
    pub(crate) least: f64,
    /// The maximum.
    pub(crate) most: f64,
}

/// The cost of one step.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Cost {
    /// Its name.
    pub(crate) name: String,
    /// Processor time, in seconds.
    pub(crate) seconds: Option<f64>,
    /// Bytes on the wire.
    pub(crate) bytes: Option<f64>,
    /// The measure that it comes from.
    pub(crate) source: String,
}

/// The costs of the model: seconds are processor time, bytes are on the wire in both directions.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Costs {
    /// Of the publisher, for one event on one live feed.
    pub(crate) publisher_event: f64,
    /// Of a subscriber, for one event on one live feed.
    pub(crate) subscriber_event: f64,
    /// Of a replica, for one event of a live feed.
    pub(crate) replica_event: f64,
    /// Bytes of one event on one live feed.
    pub(crate) event_bytes: f64,
    /// Of the publisher, for one load.
    pub(crate) publisher_load: f64,
    /// Of a subscriber, for one load.
    pub(crate) subscriber_load: f64,
    /// Of the replica that loads.
    pub(crate) replica_load: f64,
    /// Bytes of one load.
    pub(crate) load_bytes: f64,
    /// Of the publisher, for one check-in.
    pub(crate) publisher_check_in: f64,
    /// Of a subscriber, for one check-in.
    pub(crate) subscriber_check_in: f64,
    /// Bytes of one check-in.
    pub(crate) check_in_bytes: f64,
    /// The time that an event takes over one hop of a tree where nothing is queued.
    pub(crate) hop: f64,
}

/// The costs of one transport without a tree, for one replica and one change.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flat {
    /// Of everything before the replica.
    pub(crate) above: f64,
    /// Of the replica.
    pub(crate) replica: f64,
    /// The time of one change where nothing is queued.
    pub(crate) hop: f64,
}

impl Measured {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, or is not what `make bench` writes.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_slice(&text)
            .with_context(|| format!("{}: not the result of make bench", path.display()))
    }

    /// Whether it has costs. A run of a part of the measures has none.
    pub(crate) fn is_complete(&self) -> bool {
        self.costs().is_ok()
    }

    /// The costs of a tree of live feeds.
    ///
    /// # Errors
    /// When one is missing; its name is in the error.
    pub(crate) fn costs(&self) -> anyhow::Result<Costs> {
        Ok(Costs {
            publisher_event: self.seconds("publisher.event")?,
            subscriber_event: self.seconds("feed.subscriber.event")?,
            replica_event: self.seconds("feed.replica.event")?,
            event_bytes: self.bytes("subscriber.event")?,
            publisher_load: self.seconds("publisher.load")?,
            subscriber_load: self.seconds("subscriber.load")?,
            replica_load: self.seconds("subscriber.load.replica")?,
            load_bytes: self.bytes("subscriber.load")?,
            publisher_check_in: self.seconds("publisher.check-in")?,
            subscriber_check_in: self.seconds("subscriber.check-in")?,
            check_in_bytes: self.bytes("subscriber.check-in")?,
            // Two hops lie between a publisher and the replicas of its subscribers.
            hop: self.rest("feed")? / 2.0,
        })
    }

    /// The costs of a transport of the measured curve: `local`, `pubsub` or `feed`.
    ///
    /// # Errors
    /// When one is missing.
    pub(crate) fn flat(&self, transport: &str) -> anyhow::Result<Flat> {
        let parts = match transport {
            "local" => &["publisher"][..],
            "pubsub" => &["publisher", "redis"],
            _ => &["publisher", "subscriber"],
        };
        let seconds = |part: &&str| self.seconds(&format!("{transport}.{part}.event"));
        Ok(Flat {
            above: parts.iter().map(seconds).sum::<anyhow::Result<f64>>()?,
            replica: seconds(&"replica")?,
            hop: self.rest(transport)?,
        })
    }

    /// The points of the measured curve of a transport.
    ///
    /// # Errors
    /// When there is no such line.
    pub(crate) fn line(&self, transport: &str) -> anyhow::Result<&[(f64, Spread)]> {
        let prefix = line_of(transport);
        self.curves
            .iter()
            .filter(|curve| curve.name == "replicas")
            .flat_map(|curve| &curve.lines)
            .find(|(name, _points)| name.starts_with(prefix))
            .map(|(_name, points)| points.as_slice())
            .with_context(|| format!("the curve of measure 12 has no line {prefix}"))
    }

    /// The time of a change at the smallest size: almost nothing is queued there.
    fn rest(&self, transport: &str) -> anyhow::Result<f64> {
        let first = self.line(transport)?.first();
        Ok(first.context("a line without points")?.1.median)
    }

    fn seconds(&self, name: &str) -> anyhow::Result<f64> {
        let cost = self.cost(name)?.seconds;
        cost.with_context(|| format!("the cost {name} has no processor time"))
    }

    fn bytes(&self, name: &str) -> anyhow::Result<f64> {
        let cost = self.cost(name)?.bytes;
        cost.with_context(|| format!("the cost {name} has no bytes"))
    }

    fn cost(&self, name: &str) -> anyhow::Result<&Cost> {
        let cost = self.costs.iter().find(|cost| cost.name == name);
        cost.with_context(|| {
            let known: BTreeMap<_, _> = self.costs.iter().map(|cost| (&cost.name, ())).collect();
            format!(
                "no cost {name} was measured, only {:?}: run `make bench ONLY=12,17`",
                known.keys()
            )
        })
    }
}

/// The beginning of the name of a line.
fn line_of(transport: &str) -> &'static str {
    match transport {
        "local" => "LOCAL",
        "pubsub" => "Redis",
        _ => "FEED",
    }
}
