//! `GET /metrics`: the status of the replica for Prometheus and OpenMetrics scrapers.
//!
//! Every number is read at the time of the scrape, most of them from the status; nothing is counted
//! here.

use std::fmt;

use actix_web::{HttpRequest, HttpResponse, web};
use contract::{
    fleet::IntakeFault,
    status::{CollectionStatus, ProjectionState, ProjectionStatus, ReplicaState, ReplicaStatus},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use replica::CopyOnDisk;
use service::http::{health, histograms::DelayHistogram, problem::ProblemError};

use super::Api;

/// `GET /metrics`.
pub async fn metrics(
    request: HttpRequest,
    api: web::Data<Api>,
) -> Result<HttpResponse, ProblemError> {
    let mut registry = Registry::with_prefix("confcast_subscriber");
    api.refusals.register(&mut registry);
    api.streams.register(&mut registry);
    DelayHistogram(api.replica.apply_delays()).register(&mut registry);
    registry.register_collector(Box::new(Scrape {
        status: api.status(),
        copy: api.replica.copy_on_disk(),
    }));
    let mut body = String::new();
    let encoded = text::encode(&mut body, &registry);
    health::metrics(&request, encoded.map(|()| body))
}

#[derive(Debug)]
struct Scrape {
    status: ReplicaStatus,
    copy: Option<CopyOnDisk>,
}

/// One sample: the value of its label, if it has one, and the number.
type Sample = (Option<String>, u64);

/// One sample per followed collection.
fn per_collection(
    rows: &[CollectionStatus],
    number: impl Fn(&CollectionStatus) -> u64,
) -> Vec<Sample> {
    rows.iter()
        .map(|row| (Some(row.collection.to_string()), number(row)))
        .collect()
}

impl Collector for Scrape {
    fn encode(&self, mut out: DescriptorEncoder<'_>) -> fmt::Result {
        let status = &self.status;
        let rows = &status.collections;
        gauges(
            &mut out,
            "revision",
            "Watermark: every revision up to it was seen",
            "collection",
            per_collection(rows, |row| row.revision),
        )?;
        gauges(
            &mut out,
            "known_revision",
            "Highest revision that a message named",
            "collection",
            per_collection(rows, |row| row.known),
        )?;
        gauges(
            &mut out,
            "lag_revisions",
            "Revisions that the replica knows of and has not seen",
            "collection",
            per_collection(rows, |row| row.known.saturating_sub(row.revision)),
        )?;
        gauges(
            &mut out,
            "documents",
            "Live documents",
            "collection",
            per_collection(rows, |row| row.count),
        )?;
        gauges(
            &mut out,
            "staged",
            "Changes that wait for the rest of their change set",
            "collection",
            per_collection(rows, |row| row.staged),
        )?;

        gauges(
            &mut out,
            "refused_values",
            "Values that do not fit the type of the service",
            "collection",
            per_collection(rows, |row| row.refused_values),
        )?;
        let failing = status
            .handlers
            .iter()
            .filter(|handler| handler.is_failing());
        let failing = failing.count() as u64;
        gauges(
            &mut out,
            "failing_handlers",
            "Failing handlers of the service",
            "",
            [(None, failing)],
        )?;
        gauges(
            &mut out,
            "last_error",
            "1 while the last load or check-in failed, or a collection is not served",
            "",
            [(None, u64::from(status.last_error.is_some()))],
        )?;

        let unserved = |row: &CollectionStatus| row.reason.as_deref() == Some("unknown-collection");
        gauges(
            &mut out,
            "unserved",
            "1 while no publisher serves the collection",
            "collection",
            per_collection(rows, |row| u64::from(unserved(row))),
        )?;
        gauges(
            &mut out,
            "stale",
            "1 while no publisher confirms the collection, unless none serves it",
            "collection",
            per_collection(rows, |row| {
                u64::from(row.state == ReplicaState::Stale && !unserved(row))
            }),
        )?;
        let failed = self.copy.map(|copy| (None, u64::from(copy.failed)));
        gauges(
            &mut out,
            "copy_failed",
            "1 while the copy on disk could not be written at the last attempt",
            "",
            failed,
        )?;
        let age = self.copy.and_then(|copy| copy.age);
        gauges(
            &mut out,
            "copy_age_seconds",
            "Seconds since the copy on disk had all that the replica held",
            "",
            age.map(|age| (None, age.as_secs())),
        )?;

        let states = ReplicaState::ALL.map(|state| {
            (
                Some(state.as_str().to_owned()),
                u64::from(status.state == state),
            )
        });
        gauges(
            &mut out,
            "state",
            "1 for the worst state of all collections",
            "state",
            states,
        )?;
        let faults = IntakeFault::ALL.map(|fault| {
            (
                Some(fault.as_str().to_owned()),
                u64::from(status.intake == Some(fault)),
            )
        });
        gauges(
            &mut out,
            "intake_fault",
            "1 while the intake of events has this fault",
            "fault",
            faults,
        )?;
        gauges(
            &mut out,
            "events_behind",
            "Revisions that the feed brought beyond the newest that an event brought",
            "",
            [(None, status.events_behind)],
        )?;
        let age = status.confirmed_ms_ago.map(|ms| (None, ms / 1_000));
        gauges(
            &mut out,
            "confirmed_age_seconds",
            "Seconds since a publisher confirmed the content",
            "",
            age,
        )?;

        let events = &status.events;
        let events = [
            ("applied", events.applied),
            ("duplicate", events.duplicate),
            ("superseded", events.superseded),
            ("staged", events.staged),
            ("other_epoch", events.other_epoch),
            ("unconfirmed", events.unconfirmed),
            ("early", events.early),
            ("ignored", events.ignored),
            ("without-revision", events.without_revision),
            ("expired", events.expired),
            ("retried", events.retried),
            ("dropped", events.dropped),
        ];
        let events = events.map(|(outcome, number)| (Some(outcome.to_owned()), number));
        counters(&mut out, "events", "Events, by outcome", "end", events)?;
        let unproven = [
            ("unsigned", status.events.unsigned),
            ("unknown-key", status.events.unknown_key),
            ("wrong-signature", status.events.wrong_signature),
        ];
        let unproven = unproven.map(|(cause, number)| (Some(cause.to_owned()), number));
        counters(
            &mut out,
            "unproven_events",
            "Events that were dropped because no publisher has signed them, by cause",
            "cause",
            unproven,
        )?;
        let sync = &status.sync;
        counters(
            &mut out,
            "fetched_values",
            "Values that were fetched because the event was without them",
            "",
            [(None, status.events.fetched)],
        )?;
        counters(
            &mut out,
            "loads",
            "Snapshots that were installed",
            "",
            [(None, sync.loads)],
        )?;
        counters(
            &mut out,
            "feed_pages",
            "Pages of the change feed that were applied",
            "",
            [(None, sync.pages)],
        )?;
        counters(
            &mut out,
            "feed_changes",
            "Changes that the feed brought before an event did",
            "",
            [(None, sync.changes)],
        )?;
        counters(
            &mut out,
            "resets",
            "Collections that had diverged and were loaded again: raise an alarm",
            "",
            [(None, sync.resets)],
        )?;
        match &status.projection {
            Some(projection) => self::projection(&mut out, projection),
            None => Ok(()),
        }
    }
}

/// The metrics of a projection, where there is one.
fn projection(out: &mut DescriptorEncoder<'_>, status: &ProjectionStatus) -> fmt::Result {
    let states = ProjectionState::ALL.map(|state| {
        (
            Some(state.as_str().to_owned()),
            u64::from(status.state == state),
        )
    });
    gauges(
        out,
        "projection_state",
        "1 for the state of the projection into another database",
        "state",
        states,
    )?;
    let revisions = status
        .collections
        .iter()
        .map(|row| (Some(row.collection.to_string()), row.revision));
    gauges(
        out,
        "projection_revision",
        "Revision whose documents are in the database of the projection",
        "collection",
        revisions,
    )?;
    counters(
        out,
        "projection_transactions",
        "Transactions of the projection that were committed",
        "",
        [(None, status.transactions)],
    )?;
    counters(
        out,
        "projection_rows",
        "Rows that the projection wrote or removed",
        "",
        [(None, status.rows)],
    )?;
    counters(
        out,
        "projection_mended_rows",
        "Rows that somebody else had changed and that were written again",
        "",
        [(None, status.mended)],
    )?;
    counters(
        out,
        "projection_failures",
        "Attempts of the projection that failed",
        "",
        [(None, status.failures)],
    )
}

fn gauges(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &str,
    samples: impl IntoIterator<Item = Sample>,
) -> fmt::Result {
    let number = |number| ConstGauge::new(i64::try_from(number).unwrap_or(i64::MAX));
    encode(
        out,
        name,
        help,
        MetricType::Gauge,
        label,
        samples.into_iter().map(|(of, n)| (of, number(n))),
    )
}

fn counters(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &str,
    samples: impl IntoIterator<Item = Sample>,
) -> fmt::Result {
    let samples = samples
        .into_iter()
        .map(|(of, number)| (of, ConstCounter::new(number)));
    encode(out, name, help, MetricType::Counter, label, samples)
}

fn encode<M: EncodeMetric>(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    kind: MetricType,
    label: &str,
    samples: impl Iterator<Item = (Option<String>, M)>,
) -> fmt::Result {
    let mut family = out.encode_descriptor(name, help, None, kind)?;
    for (of, metric) in samples {
        match of {
            Some(of) => metric.encode(family.encode_family(&[(label, of)])?)?,
            // A metric without a label has one sample. As a family it would get empty braces.
            None => return metric.encode(family),
        }
    }
    Ok(())
}
