//! The metrics of a publisher, and their text for Prometheus. Labels come from short fixed lists,
//! never from a request. Nothing is stored: counters begin at 0 when the process starts.

use contract::{
    dead_letter::DeadLetterReason,
    fleet::{CheckIn, EventBacklog, IntakeFault, ReplicaRecord},
    status::ReplicaState,
};
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use service::http::refusals::Refusals;

use crate::store::{damage::DamageSummary, dead_letters::LetterCounts};

type Label = [(&'static str, &'static str); 1];
type StatusLabel = [(&'static str, u16); 1];

/// All counters of this process.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Check-ins whose digest was not the digest of the change log.
    pub diverged: Counter,
    /// Epochs that this publisher declared.
    pub epochs_declared: Counter,
    /// Reports of replicas that were ahead of the store without a valid proof.
    pub unproven_claims: Counter,
    /// Snapshots that were refused because the limit of snapshots was reached.
    pub snapshots_refused: Counter,
    /// Lists that were refused because the limit of lists was reached.
    pub lists_refused: Counter,
    /// Feed streams that were refused because the limit of streams was reached.
    pub streams_refused: Counter,
    /// Dead letters that had to go for newer ones.
    pub dead_letters_evicted: Counter,
    /// Dead letters whose event was sent again.
    pub dead_letters_replayed: Counter,
    /// Requests that were refused.
    pub refusals: Refusals,
    /// Documents whose secrets are not wrapped by the active key.
    pub secrets_to_rewrap: Gauge,
    dead_letters_added: Family<Label, Counter>,
    dead_letters_unproven: Family<Label, Counter>,
    events: Family<Label, Counter>,
    writes: Family<StatusLabel, Counter>,
}

impl Metrics {
    /// Counts an attempt to publish an event.
    pub fn event(&self, published: bool) {
        let result = if published { "published" } else { "failed" };
        self.events.get_or_create(&[("result", result)]).inc();
    }

    /// Counts a new dead letter by its reason.
    pub fn dead_letter(&self, reason: DeadLetterReason) {
        let reason = reason.as_str();
        self.dead_letters_added
            .get_or_create(&[("reason", reason)])
            .inc();
    }

    /// Counts an event that is not kept as a dead letter, because no publisher has signed it.
    pub fn dead_letter_unproven(&self, cause: &'static str) {
        self.dead_letters_unproven
            .get_or_create(&[("cause", cause)])
            .inc();
    }

    /// Counts a write by the HTTP status of its answer.
    pub fn write(&self, status: u16) {
        self.writes.get_or_create(&[("status", status)]).inc();
    }

    /// The text in the OpenMetrics format, with the replicas by state. `replicas`, `letters` and
    /// `backlog` are `None` when the store does not answer; their metrics are then omitted.
    ///
    /// # Errors
    /// Never in practice: writing to a string does not fail.
    pub fn text(
        &self,
        replicas: Option<&[ReplicaRecord]>,
        damage: &DamageSummary,
        letters: Option<LetterCounts>,
        backlog: Option<EventBacklog>,
    ) -> Result<String, std::fmt::Error> {
        let mut registry = Registry::with_prefix("confcast");
        registry.register(
            "replicas_diverged",
            "Check-ins whose digest was not the digest of the change log",
            self.diverged.clone(),
        );
        registry.register(
            "epochs_declared",
            "Epochs that this publisher declared after a restore",
            self.epochs_declared.clone(),
        );
        registry.register(
            "claims_unproven",
            "Reports of replicas that were ahead of the store without a valid proof, and were ignored",
            self.unproven_claims.clone(),
        );
        registry.register(
            "snapshots_refused",
            "Snapshots refused because the limit of concurrent snapshots was reached",
            self.snapshots_refused.clone(),
        );
        registry.register(
            "lists_refused",
            "Lists refused because the limit of concurrent lists was reached",
            self.lists_refused.clone(),
        );
        registry.register(
            "streams_refused",
            "Feed streams refused because the limit of concurrent streams was reached",
            self.streams_refused.clone(),
        );
        self.refusals.register(&mut registry);
        registry.register(
            "events",
            "Attempts to publish an event, by result: published or failed",
            self.events.clone(),
        );
        registry.register(
            "writes",
            "Writes that were answered, by HTTP status",
            self.writes.clone(),
        );
        registry.register(
            "damaged_rows",
            "Damaged rows of the store that this publisher knows of, by what readers get",
            by_outcome(damage),
        );
        registry.register(
            "secrets_to_rewrap",
            "Documents whose secrets are not yet wrapped by the active key",
            self.secrets_to_rewrap.clone(),
        );
        registry.register(
            "dead_letters_added",
            "New dead letters, by reason",
            self.dead_letters_added.clone(),
        );
        registry.register(
            "dead_letters_unproven",
            "Events that are not kept as dead letters because no publisher has signed them, by cause",
            self.dead_letters_unproven.clone(),
        );
        registry.register(
            "dead_letters_evicted",
            "Dead letters that were removed because the store keeps no more",
            self.dead_letters_evicted.clone(),
        );
        registry.register(
            "dead_letters_replayed",
            "Dead letters whose event was sent again",
            self.dead_letters_replayed.clone(),
        );
        if let Some(letters) = letters {
            registry.register(
                "dead_letters",
                "Dead letters that the store keeps, by state: open or replayed",
                by_letter_state(letters),
            );
        }
        if let Some(EventBacklog { pending, oldest_ms }) = backlog {
            registry.register(
                "events_pending",
                "Changes whose events are not published yet, counted up to 10,000",
                gauge(pending),
            );
            registry.register(
                "events_pending_age_seconds",
                "Seconds since the oldest of them was committed",
                gauge(oldest_ms / 1_000),
            );
        }
        if let Some(replicas) = replicas {
            registry.register(
                "replicas",
                "Replicas by the worst state of their collections, or gone",
                by_state(replicas),
            );
            registry.register(
                "replicas_intake_fault",
                "Live replicas that report a fault in the delivery of events, by fault",
                by_intake_fault(replicas),
            );
            registry.register(
                "replicas_refused_values",
                "Values that do not fit the type of a service, over all live replicas",
                over_live(replicas, CheckIn::refused_values),
            );
            registry.register(
                "replicas_failing_handlers",
                "Failing handlers of services, over all live replicas",
                over_live(replicas, CheckIn::failing_handlers),
            );
            registry.register(
                "replicas_last_error",
                "Live replicas whose last load or check-in failed",
                over_live(replicas, |check_in| {
                    u64::from(check_in.last_error.is_some())
                }),
            );
        }
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

fn gauge(number: u64) -> Gauge {
    let gauge = Gauge::default();
    gauge.set(i64::try_from(number).unwrap_or(i64::MAX));
    gauge
}

fn by_outcome(damage: &DamageSummary) -> Family<Label, Gauge> {
    let family = Family::<Label, Gauge>::default();
    for (outcome, rows) in [
        ("from_log", damage.from_log),
        ("ignored", damage.ignored),
        ("refused", damage.refused),
    ] {
        let rows = i64::try_from(rows).unwrap_or(i64::MAX);
        family.get_or_create(&[("outcome", outcome)]).set(rows);
    }
    family
}

fn by_letter_state(letters: LetterCounts) -> Family<Label, Gauge> {
    let family = Family::<Label, Gauge>::default();
    let replayed = letters.kept.saturating_sub(letters.open);
    for (state, count) in [("open", letters.open), ("replayed", replayed)] {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        family.get_or_create(&[("state", state)]).set(count);
    }
    family
}

fn by_state(replicas: &[ReplicaRecord]) -> Family<Label, Gauge> {
    let family = Family::<Label, Gauge>::default();
    // A state without a replica is 0 and not absent, so that an alert can compare it.
    let states = ReplicaState::ALL.map(ReplicaState::as_str);
    for state in states.into_iter().chain(["gone"]) {
        family.get_or_create(&[("state", state)]).set(0);
    }
    for replica in replicas {
        let worst = replica
            .check_in
            .collections
            .values()
            .map(|report| report.state)
            .min();
        let state = match worst {
            _ if replica.gone => "gone",
            Some(state) => state.as_str(),
            // A replica without collections misses nothing.
            None => "current",
        };
        family.get_or_create(&[("state", state)]).inc();
    }
    family
}

/// The sum of a number that live replicas report.
fn over_live(replicas: &[ReplicaRecord], number: impl Fn(&CheckIn) -> u64) -> Gauge {
    let live = replicas.iter().filter(|replica| !replica.gone);
    let sum = live
        .map(|replica| number(&replica.check_in))
        .fold(0, u64::saturating_add);
    let gauge = Gauge::default();
    gauge.set(i64::try_from(sum).unwrap_or(i64::MAX));
    gauge
}

fn by_intake_fault(replicas: &[ReplicaRecord]) -> Family<Label, Gauge> {
    let family = Family::<Label, Gauge>::default();
    for fault in IntakeFault::ALL {
        family.get_or_create(&[("fault", fault.as_str())]).set(0);
    }
    for replica in replicas.iter().filter(|replica| !replica.gone) {
        if let Some(fault) = replica.check_in.intake {
            family.get_or_create(&[("fault", fault.as_str())]).inc();
        }
    }
    family
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_services_cannot_use_is_summed_over_live_replicas() {
        let replica = |extra: &str, gone: bool| -> ReplicaRecord {
            let refusal = r#"{"id":"x","revision":1,"pointer":"","error":"e"}"#;
            let text = format!(
                r#"{{"instance":"a","bootId":"b","intervalMs":1,"seen":"2026-01-01T00:00:00Z","gone":{gone},
                "collections":{{"A":{{"revision":1,"known":1,"state":"partial","refusals":[{refusal}]{extra}}}}},
                "handlers":[{{"name":"A","collection":"A","state":"failing","revision":1}}],"lastError":"e"}}"#
            );
            serde_json::from_str(&text).expect("a record")
        };
        // The first one is of an older version, which has no exact numbers.
        let replicas = [
            replica("", false),
            replica(r#","refusedValues":1002"#, false),
            replica("", true),
        ];
        let text = Metrics::default()
            .text(Some(&replicas), &DamageSummary::default(), None, None)
            .expect("text");
        for line in [
            "confcast_replicas_refused_values 1003\n",
            "confcast_replicas_failing_handlers 2\n",
            "confcast_replicas_last_error 2\n",
            "confcast_replicas{state=\"partial\"} 2\n",
        ] {
            assert!(text.contains(line), "{line} {text}");
        }
    }
}
