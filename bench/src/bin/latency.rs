//! The time after the answer to a PUT until both replicas show its value, on real parts: median and
//! p99 per transport, and per broker below the sidecars.
//!
//! Writes go out one at a time. Each replica is polled over HTTP as fast as it answers, so a figure
//! includes the request that saw the value. Run it from a release build with nothing else running:
//! `make latency`. `VIA=kafka,jetstream` measures the rows whose names contain one of these words,
//! `ROUNDS` is the number of writes of each.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use e2e::{
    client::Api,
    testbed::{
        FREE, StoreKind, Testbed, Transport, brokers::BrokerKind, environment::number_or, numbered,
    },
};
use serde_json::json;

const WARM_UP: u64 = 100;
const TIMEOUT: Duration = Duration::from_secs(10);

/// What is measured.
enum Row {
    /// A transport with a store, on Redis where it needs a broker.
    Transport(Transport, StoreKind),
    /// Sidecars on another broker, with the embedded store.
    Broker(BrokerKind),
}

impl Row {
    fn all() -> Vec<Self> {
        let transports = [
            Transport::Local,
            Transport::Dapr,
            Transport::PubSub,
            Transport::Streams,
        ];
        let with_both = |transport| {
            [StoreKind::Embedded, StoreKind::Mongo].map(|kind| Self::Transport(transport, kind))
        };
        let mut all: Vec<_> = transports.into_iter().flat_map(with_both).collect();
        let others = BrokerKind::ALL
            .into_iter()
            .filter(|one| *one != BrokerKind::Redis);
        all.extend(others.map(Self::Broker));
        all
    }

    fn name(&self) -> String {
        match self {
            Self::Transport(transport, kind) => format!("{transport:?}, {kind:?}"),
            Self::Broker(broker) => format!("Dapr {broker:?}, Embedded"),
        }
    }

    async fn start(&self) -> anyhow::Result<Testbed> {
        match self {
            Self::Transport(transport, kind) => Testbed::start(*kind, *transport).await,
            Self::Broker(broker) => Testbed::start_on(StoreKind::Embedded, *broker).await,
        }
    }
}

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "the figures are its result")]
async fn main() -> anyhow::Result<()> {
    let via = std::env::var("VIA").unwrap_or_default().to_lowercase();
    let rounds = number_or("ROUNDS", 1_000)?;
    println!(
        "{:<28}{:>12}{:>12}{:>12}",
        "events, store", "median", "p99", "PUT median"
    );
    let is_named = |row: &Row| {
        let name = row.name().to_lowercase();
        via.split(',').any(|word| name.contains(word))
    };
    let rows: Vec<_> = Row::all().into_iter().filter(is_named).collect();
    ensure!(!rows.is_empty(), "VIA={via} names no row");
    for row in rows {
        let name = row.name();
        let testbed = row.start().await?;
        let (mut visible, mut answered) = measure(&testbed, rounds).await?;
        println!(
            "{name:<28}{:>12.2?}{:>12.2?}{:>12.2?}",
            at(&mut visible, 50),
            at(&mut visible, 99),
            at(&mut answered, 50)
        );
    }
    Ok(())
}

async fn measure(testbed: &Testbed, rounds: u64) -> anyhow::Result<(Vec<Duration>, Vec<Duration>)> {
    let publisher = testbed.publisher.api();
    let replicas = [testbed.subscribers[0].api(), testbed.subscribers[1].api()];
    publisher
        .create(FREE, &json!({"id": "n"}))
        .await?
        .expect(201)?;
    testbed.until_same(FREE, "n").await?;
    let mut visible = Vec::new();
    let mut answered = Vec::new();
    for round in 0..WARM_UP + rounds {
        let sent = Instant::now();
        let answer = publisher
            .put(FREE, "n", &numbered(round))
            .await?
            .expect(200)?;
        let committed = Instant::now();
        let revision = answer.json()?["revision"].as_u64().context("a revision")?;
        futures_util::future::try_join(sees(&replicas[0], revision), sees(&replicas[1], revision))
            .await?;
        if round >= WARM_UP {
            visible.push(committed.elapsed());
            answered.push(committed - sent);
        }
    }
    ensure!(visible.len() as u64 == rounds);
    Ok((visible, answered))
}

async fn sees(replica: &Api, revision: u64) -> anyhow::Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    while Instant::now() < deadline {
        if replica.document(FREE, "n").await?.json()?["revision"].as_u64() >= Some(revision) {
            return Ok(());
        }
    }
    bail!("revision {revision} was not visible after {TIMEOUT:?}")
}

fn at(durations: &mut [Duration], percentile: usize) -> Duration {
    durations.sort_unstable();
    durations[(durations.len() * percentile / 100).min(durations.len() - 1)]
}
