//! `GET /metrics`: what the replica says of itself, as Prometheus and OpenMetrics scrapers read it.
//!
//! Everything is read from the status when it is asked for; nothing is counted here.

use std::fmt;

use actix_web::{HttpResponse, web};
use contract::{fleet::IntakeFault, status::ReplicaState};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use replica::Replica;

use super::AppState;

/// OpenMetrics 1.0, which Prometheus reads as it is.
pub(crate) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// `GET /metrics`.
pub async fn metrics(state: web::Data<AppState>) -> HttpResponse {
    let mut registry = Registry::with_prefix("confcast_subscriber");
    registry.register_collector(Box::new(Scrape(state.replica.clone())));
    let mut body = String::new();
    match text::encode(&mut body, &registry) {
        Ok(()) => HttpResponse::Ok().content_type(MEDIA_TYPE).body(body),
        Err(fmt::Error) => HttpResponse::InternalServerError().finish(),
    }
}

#[derive(Debug)]
struct Scrape(Replica);

/// One sample: the value of its label, if it has one, and the number.
type Sample = (Option<String>, u64);

impl Collector for Scrape {
    fn encode(&self, mut out: DescriptorEncoder<'_>) -> fmt::Result {
        let status = self.0.status();
        let rows = || status.collections.iter();
        let by_row = |number: fn(&contract::status::CollectionStatus) -> u64| {
            rows()
                .map(|row| (Some(row.collection.to_string()), number(row)))
                .collect::<Vec<Sample>>()
        };
        gauges(
            &mut out,
            "revision",
            "Watermark: every revision up to it was seen",
            "collection",
            by_row(|r| r.revision),
        )?;
        gauges(
            &mut out,
            "known_revision",
            "Highest revision heard of",
            "collection",
            by_row(|r| r.known),
        )?;
        gauges(
            &mut out,
            "documents",
            "Live documents",
            "collection",
            by_row(|r| r.count),
        )?;
        gauges(
            &mut out,
            "staged",
            "Changes that wait for a change set",
            "collection",
            by_row(|r| r.staged),
        )?;

        let states = [
            ReplicaState::Loading,
            ReplicaState::Behind,
            ReplicaState::Stale,
            ReplicaState::Current,
        ];
        let states = states.map(|state| {
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
        let intakes = IntakeFault::ALL.map(|one| {
            (
                Some(one.as_str().to_owned()),
                u64::from(status.intake == Some(one)),
            )
        });
        gauges(
            &mut out,
            "intake_fault",
            "1 when events do not come as they should",
            "fault",
            intakes,
        )?;
        let age = status.confirmed_ms_ago.map(|ms| (None, ms / 1_000));
        gauges(
            &mut out,
            "confirmed_age_seconds",
            "Since a publisher confirmed what is held",
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
            ("early", events.early),
            ("ignored", events.ignored),
            ("without-revision", events.without_revision),
            ("expired", events.expired),
            ("retried", events.retried),
            ("dropped", events.dropped),
        ];
        let events = events.map(|(end, number)| (Some(end.to_owned()), number));
        counters(
            &mut out,
            "events",
            "Events, by what became of them",
            "end",
            events,
        )?;
        let healing = &status.sync;
        counters(
            &mut out,
            "fetched_values",
            "Values that did not come along",
            "",
            [(None, status.events.fetched)],
        )?;
        counters(
            &mut out,
            "loads",
            "Snapshots that were installed",
            "",
            [(None, healing.loads)],
        )?;
        counters(
            &mut out,
            "feed_pages",
            "Pages of the change feed that were applied",
            "",
            [(None, healing.pages)],
        )?;
        counters(
            &mut out,
            "healed_changes",
            "Changes that came by the feed first",
            "",
            [(None, healing.changes)],
        )?;
        counters(
            &mut out,
            "resets",
            "Collections that had diverged: an alarm",
            "",
            [(None, healing.resets)],
        )
    }
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
        let labels: Vec<_> = of.map(|of| (label, of)).into_iter().collect();
        metric.encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}
