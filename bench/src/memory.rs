//! Measure 10: resident memory of a subscriber process: with an empty collection, and with 100,000
//! documents of 1 KiB compared with the bytes of their values alone.
//!
//! It is read when the subscriber has reached the head of its publisher, without time for the
//! allocator to return memory. The subscriber follows the live feed, so the last updates take the
//! path of events.

use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::testbed::{
    FREE,
    services::Service,
    wait::{eventually, within},
};

use crate::{
    Bench, documents,
    figures::{Comparison, Row, Target, Unit},
};

/// Documents.
const DOCUMENTS: usize = 100_000;
/// Bytes of a value.
const BYTES: usize = 1_024;
/// Updates after the load.
const UPDATES: usize = 10_000;
/// Memory varies little: more rounds would give the same result.
const ROUNDS: usize = 2;
/// The limit of an idle subscriber.
const IDLE: f64 = 12.0 * 1_048_576.0;
/// The limit of a subscriber that holds documents, as a multiple of their values.
const HELD: f64 = 1.4;
/// The time limit of a load, and of the updates.
const TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) async fn measure(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let rounds = bench.rounds.min(ROUNDS);
    let alone = |ours| Comparison::alone(10, Unit::Bytes, ours);
    let mut idle = alone("resident, one empty collection").must(Target::AtMost(IDLE));
    let mut shares = alone("the same, its share of what is shared (PSS)");
    let mut publisher = documents::publisher()?;
    publisher.start().await?;
    for _round in 0..rounds {
        let mut subscriber = started(&publisher).await?;
        let id = subscriber.process()?.id();
        idle.figure(kibibytes(&format!("/proc/{id}/status"), "VmRSS:")?);
        shares.figure(kibibytes(&format!("/proc/{id}/smaps_rollup"), "Pss:")?);
    }
    publisher.stop().await?;

    let documents = bench.sized(DOCUMENTS);
    bench.say("filling a publisher");
    let (publisher, _head) = documents::filled(documents, BYTES).await?;
    let payload = (documents * BYTES) as f64;
    let held = |ours: &str| {
        let row = Comparison::new(10, Unit::Bytes, ours, "their values alone");
        row.must(Target::AtMost(HELD))
    };
    let mut loaded = held("resident, 100,000 documents of 1 KiB");
    let mut updated = held("the same after 10,000 updates");
    for round in 1..=rounds {
        bench.say(&format!("round {round}"));
        let mut subscriber = started(&publisher).await?;
        let status = format!("/proc/{}/status", subscriber.process()?.id());
        loaded.round(kibibytes(&status, "VmRSS:")?, payload);
        let updates = 0..bench.sized(UPDATES).min(documents);
        // Each round has new values, because an equal value is no change.
        let config = |number| documents::config(number + round, BYTES);
        documents::write(&publisher.api(), "Update", updates, config).await?;
        until_same(&publisher, &subscriber).await?;
        updated.round(kibibytes(&status, "VmRSS:")?, payload);
    }
    Ok([idle, shares, loaded, updated]
        .into_iter()
        .filter_map(Comparison::row)
        .collect())
}

/// Starts a subscriber and waits until it has reached the head of its publisher.
async fn started(publisher: &Service) -> anyhow::Result<Service> {
    let mut subscriber =
        documents::subscriber(publisher)?.with("AURA_CONFIGURATION_EVENTS_MANAGER", "FEED");
    subscriber.launch()?;
    let api = subscriber.api();
    eventually("it listens", async || api.status_of("/healthz").await).await?;
    until_same(publisher, &subscriber).await?;
    Ok(subscriber)
}

async fn until_same(publisher: &Service, subscriber: &Service) -> anyhow::Result<()> {
    let truth = publisher.api().head(FREE).await?;
    let api = subscriber.api();
    within(
        TIMEOUT,
        "the subscriber stands where its publisher stands",
        async || {
            let head = api.head(FREE).await?;
            ensure!(
                (head.revision, head.digest) == (truth.revision, truth.digest),
                "it is at {}",
                head.revision
            );
            Ok(())
        },
    )
    .await
    .with_context(|| subscriber.output())
}

/// A value in KiB from a file in /proc, in bytes.
fn kibibytes(file: &str, name: &str) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {file}"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .with_context(|| format!("{file} has no {name}"))?;
    let number: f64 = line
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .with_context(|| format!("{name}{line}"))?;
    Ok(number * 1_024.0)
}
