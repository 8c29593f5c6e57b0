//! Writes per second that reach both replicas by DAPR in continuous operation, compared with bare
//! sidecars with as many events in flight.
//!
//! Our time runs from the first write until both replicas hold all of them. The writers of both
//! sides wait while too many events are in flight. Without that wait the stream of the broker would
//! lose unread events and the queue of our relay would overflow. Replicas would then read the
//! missing changes from the feed, and this measure is about events. A separate row shows our figure
//! without that wait.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use anyhow::Context;
use chrono::Utc;
use e2e::testbed::{FREE, Transport};
use futures_util::{StreamExt, stream::FuturesUnordered};
use publisher::{bench_support::RELAY_QUEUE, embed::ChangeRequest};
use replica::Replica;
use tokio::time::timeout;

use crate::{
    Bench,
    carrier::{TIMEOUT, on_a_worker},
    figures::{Comparison, Row, Spread, Target, Unit},
    floor::{payload::document, sidecars::Sidecars},
    pair::Pair,
};

/// Concurrent writers; also the events that our relay has in flight, and so those of the floor.
const WRITERS: usize = 64;
const LASTING: Duration = Duration::from_secs(5);
/// The lead of writes over a receiver: half of the relay's queue, and of the length of a stream, so
/// that neither overflows.
const AHEAD: u64 = RELAY_QUEUE as u64 / 2;

/// The result of one round of ours.
struct Flood {
    /// Writes per second.
    rate: f64,
    /// The share of changes that reached the replicas by events first, in percent.
    by_events: f64,
}

/// Measure 14.
pub(crate) async fn measure(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let ((mut one, mut two), mut replica_pair) = (
        Sidecars::start().await?,
        Pair::start(Transport::Dapr, None).await?,
    );
    let lasting = bench.lasting(LASTING);
    let mut taken = Vec::new();
    // Warms up connections, pools and the documents of the writers.
    let warm_up = lasting / 5;
    (one, _) = on_a_worker(one.flood(WRITERS, AHEAD, warm_up)).await?;
    (two, _) = on_a_worker(two.flood(WRITERS, AHEAD, warm_up)).await?;
    (replica_pair, _) = on_a_worker(flood(replica_pair, AHEAD, warm_up)).await?;
    for round in 0..bench.rounds {
        bench.say(&format!("sustained by DAPR, round {}", round + 1));
        let (ours, pair, both);
        // Our round is next to both floors, whichever runs first.
        if round % 2 == 0 {
            (one, pair) = on_a_worker(one.flood(WRITERS, AHEAD, lasting)).await?;
            (replica_pair, ours) = on_a_worker(flood(replica_pair, AHEAD, lasting)).await?;
            (two, both) = on_a_worker(two.flood(WRITERS, AHEAD, lasting)).await?;
        } else {
            (two, both) = on_a_worker(two.flood(WRITERS, AHEAD, lasting)).await?;
            (replica_pair, ours) = on_a_worker(flood(replica_pair, AHEAD, lasting)).await?;
            (one, pair) = on_a_worker(one.flood(WRITERS, AHEAD, lasting)).await?;
        }
        taken.push((ours, pair, both));
    }
    let by_events =
        Spread::of(taken.iter().map(|(ours, ..)| ours.by_events)).map_or(0.0, |share| share.median);
    let pair = "bare sidecar pair, 64 in flight";
    let name = "sustained to two replicas by DAPR";
    let name = format!("{name} ({by_events:.0} % came by events)");
    let mut target = Comparison::new(14, Unit::PerSecond, &name, pair).must(Target::AtLeast(0.8));
    let mut same = Comparison::new(
        14,
        Unit::PerSecond,
        &name,
        "bare sidecars, two receivers, 64 in flight",
    );
    for (ours, pair, both) in &taken {
        target.round(ours.rate, *pair);
        same.round(ours.rate, *both);
    }
    // Once, and last: the pending events that it leaves would disturb later rounds.
    let (one, beside) = on_a_worker(one.flood(WRITERS, AHEAD, lasting)).await?;
    let (replica_pair, ours) = on_a_worker(flood(replica_pair, u64::MAX, lasting)).await?;
    drop((one, two));
    replica_pair.end().await?;
    let name = format!(
        "the same with writers that wait for no replica ({:.0} % came by events)",
        ours.by_events
    );
    let mut free = Comparison::new(14, Unit::PerSecond, name, pair);
    free.round(ours.rate, beside);
    Ok([target, same, free]
        .into_iter()
        .filter_map(Comparison::row)
        .collect())
}

/// Writes for a duration, and waits until both replicas hold all changes.
async fn flood(
    mut replica_pair: Pair,
    ahead: u64,
    lasting: Duration,
) -> anyhow::Result<(Pair, Flood)> {
    let before = arrivals(&replica_pair);
    let newest = AtomicU64::new(0);
    let began = Instant::now();
    let writers = (0..WRITERS).map(|writer| {
        write(&replica_pair, writer, ahead, &newest, || {
            began.elapsed() < lasting
        })
    });
    let mut writing: FuturesUnordered<_> = writers.collect();
    let mut written = 0;
    while let Some(writer) = writing.next().await {
        written += writer?;
    }
    drop(writing);
    let all = replica_pair.until_all(newest.into_inner());
    timeout(TIMEOUT, all)
        .await
        .context("the replicas do not hold all of it")??;
    let took = began.elapsed();
    let after = arrivals(&replica_pair);
    let [events, healed] = [after[0] - before[0], after[1] - before[1]];
    #[expect(clippy::cast_precision_loss, reason = "counts of writes")]
    let flood = Flood {
        rate: written as f64 / took.as_secs_f64(),
        by_events: events as f64 * 100.0 / (events + healed).max(1) as f64,
    };
    Ok((replica_pair, flood))
}

/// One writer with its own document, one write after the other. Returns the number of writes.
async fn write(
    replica_pair: &Pair,
    writer: usize,
    ahead: u64,
    newest: &AtomicU64,
    goes_on: impl Fn() -> bool,
) -> anyhow::Result<u64> {
    let id = format!("w-{writer}");
    let mut moved = replica_pair.replicas.each_ref().map(Replica::feed_changed);
    let mut written = 0;
    while goes_on() {
        // A new value each time, because an equal value is no change.
        let change = ChangeRequest::update(
            FREE,
            &id,
            &document(u64::try_from(Utc::now().timestamp_micros())?),
        )?;
        let change = if written > 0 || replica_pair.has(&id.parse()?) {
            change
        } else {
            change.expecting(0)
        };
        let done = replica_pair
            .changes
            .unit(contract::Context::default())
            .publish(change)
            .await?;
        newest.fetch_max(done.revision, Relaxed);
        written += 1;
        for (replica, moved) in replica_pair.replicas.iter().zip(&mut moved) {
            while replica_pair.watermark(replica).saturating_add(ahead) < done.revision {
                timeout(TIMEOUT, moved.changed())
                    .await
                    .context("the replicas do not follow")??;
            }
        }
    }
    Ok(written)
}

/// The numbers of changes that reached the replicas first by an event, and first by the feed.
fn arrivals(replica_pair: &Pair) -> [u64; 2] {
    let status = replica_pair.replicas.each_ref().map(Replica::status);
    let by_event = status
        .iter()
        .map(|status| status.events.applied + status.events.superseded)
        .sum();
    [
        by_event,
        status.iter().map(|status| status.sync.changes).sum(),
    ]
}
