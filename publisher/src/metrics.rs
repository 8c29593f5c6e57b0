//! What is counted, and its text for Prometheus. Labels come from short fixed lists, never from a
//! request.

use contract::fleet::{IntakeFault, ReplicaRecord};
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

type Label = [(&'static str, &'static str); 1];
type StatusLabel = [(&'static str, u16); 1];

/// All counters of this process. They begin at 0 with it.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Replicas whose digest was not the log's.
    pub diverged: Counter,
    /// Epochs declared by this publisher.
    pub epochs_declared: Counter,
    /// Snapshots refused because others were under way.
    pub loads_refused: Counter,
    /// Streams of the feed refused because there were too many.
    pub streams_refused: Counter,
    events: Family<Label, Counter>,
    writes: Family<StatusLabel, Counter>,
}

impl Metrics {
    /// An event was published, or an attempt failed.
    pub fn event(&self, published: bool) {
        self.events
            .get_or_create(&[("result", if published { "published" } else { "failed" })])
            .inc();
    }

    /// A write was answered with this status.
    pub fn write(&self, status: u16) {
        self.writes.get_or_create(&[("status", status)]).inc();
    }

    /// The text, with what the fleet is now; without it where the store does not tell.
    ///
    /// # Errors
    /// Never in practice: writing to a string does not fail.
    pub fn text(&self, members: Option<&[ReplicaRecord]>) -> Result<String, std::fmt::Error> {
        let mut registry = Registry::with_prefix("confcast");
        registry.register(
            "diverged",
            "Replicas found with a digest that is not the log's",
            self.diverged.clone(),
        );
        registry.register(
            "epochs_declared",
            "Epochs declared by this publisher",
            self.epochs_declared.clone(),
        );
        registry.register(
            "loads_refused",
            "Snapshots refused, others were under way",
            self.loads_refused.clone(),
        );
        registry.register(
            "streams_refused",
            "Streams of the feed refused, too many follow",
            self.streams_refused.clone(),
        );
        registry.register(
            "events",
            "Attempts to publish an event, by result",
            self.events.clone(),
        );
        registry.register(
            "writes",
            "Writes answered, by HTTP status",
            self.writes.clone(),
        );
        if let Some(members) = members {
            let (replicas, intakes) = count(members);
            registry.register(
                "replicas",
                "Replicas by their own account, or gone",
                replicas,
            );
            registry.register(
                "replicas_intake",
                "Replicas whose events do not come as they should",
                intakes,
            );
        }
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

fn count(members: &[ReplicaRecord]) -> (Family<Label, Gauge>, Family<Label, Gauge>) {
    let (replicas, intakes) = (
        Family::<Label, Gauge>::default(),
        Family::<Label, Gauge>::default(),
    );
    for state in ["current", "behind", "stale", "loading", "gone"] {
        replicas.get_or_create(&[("state", state)]).set(0);
    }
    for intake in IntakeFault::ALL {
        intakes.get_or_create(&[("intake", intake.as_str())]).set(0);
    }
    for member in members {
        // The worst of its collections; one that follows none lacks nothing.
        let worst = member
            .check_in
            .collections
            .values()
            .map(|report| report.state)
            .min_by_key(|state| *state as u8);
        let state = if member.gone {
            "gone"
        } else {
            worst.map_or("current", |state| state.as_str())
        };
        replicas.get_or_create(&[("state", state)]).inc();
        if let Some(intake) = member.check_in.intake.filter(|_intake| !member.gone) {
            intakes.get_or_create(&[("intake", intake.as_str())]).inc();
        }
    }
    (replicas, intakes)
}
