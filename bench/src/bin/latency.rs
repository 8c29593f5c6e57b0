//! The time after the answer to a PUT until both replicas show its value, on real parts: median and
//! p99 per transport.
//!
//! Writes go out one at a time. Each replica is polled over HTTP as fast as it answers, so a figure
//! includes the request that saw the value. Run it from a release build with nothing else running:
//! `make latency`.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use e2e::{
    client::Api,
    testbed::{FREE, StoreKind, Testbed, Transport, numbered},
};
use serde_json::json;

const ROUNDS: u64 = 1_000;
const WARM_UP: u64 = 100;
const TIMEOUT: Duration = Duration::from_secs(10);

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "the figures are its result")]
async fn main() -> anyhow::Result<()> {
    println!(
        "{:<18}{:>12}{:>12}{:>12}",
        "events, store", "median", "p99", "PUT median"
    );
    let ways = [
        Transport::Local,
        Transport::Dapr,
        Transport::PubSub,
        Transport::Streams,
    ];
    for (transport, kind) in ways.into_iter().flat_map(|transport| {
        [
            (transport, StoreKind::Embedded),
            (transport, StoreKind::Mongo),
        ]
    }) {
        let testbed = Testbed::start(kind, transport).await?;
        let (mut visible, mut answered) = measure(&testbed).await?;
        let name = format!("{transport:?}, {kind:?}");
        println!(
            "{name:<18}{:>12.2?}{:>12.2?}{:>12.2?}",
            at(&mut visible, 50),
            at(&mut visible, 99),
            at(&mut answered, 50)
        );
    }
    Ok(())
}

async fn measure(testbed: &Testbed) -> anyhow::Result<(Vec<Duration>, Vec<Duration>)> {
    let publisher = testbed.publisher.api();
    let replicas = [testbed.subscribers[0].api(), testbed.subscribers[1].api()];
    publisher
        .create(FREE, &json!({"id": "n"}))
        .await?
        .expect(201)?;
    testbed.until_same(FREE, "n").await?;
    let mut visible = Vec::new();
    let mut answered = Vec::new();
    for round in 0..WARM_UP + ROUNDS {
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
    ensure!(visible.len() as u64 == ROUNDS);
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
