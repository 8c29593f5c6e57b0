//! Writes per second that reach both replicas by DAPR in continuous operation, compared with bare
//! sidecars with as many events in flight.
//!
//! Our time runs from the first write until both replicas hold all of them. The writers of both
//! sides wait while too many events are in flight. Without that wait events would fall behind, replicas
//! would read the changes from the feed, and this measure is about events. Separate rows show, without that
//! wait, how late readers see a write while events fall behind.

use std::{
    convert::Infallible,
    pin::pin,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use anyhow::Context;
use chrono::Utc;
use e2e::testbed::{FREE, Transport};
use futures_util::{StreamExt, stream::FuturesUnordered};
use publisher::embed::ChangeRequest;
use replica::Replica;
use tokio::time::timeout;

use crate::{
    Bench,
    carrier::{TIMEOUT, on_a_worker},
    figures::{Comparison, Durations, Row, Spread, Target, Unit},
    floor::{payload::document, sidecars::Sidecars},
    pair::{GATHERED_MS, Pair},
};

/// Concurrent writers; also the events that our relay has in flight, and so those of the floor.
const WRITERS: usize = 64;
const LASTING: Duration = Duration::from_secs(5);
/// The lead of writes over a receiver. An event that is further behind comes later than the feed: a
/// replica waits 200 ms for a missing revision, and then reads what there is.
const AHEAD: u64 = 4 * WRITERS as u64;

/// The result of one round of ours.
struct Flood {
    /// Writes per second.
    rate: f64,
    /// The share of changes that reached the replicas by events first, in percent.
    by_events: f64,
    /// The time from a commit until both replicas show it, in seconds: median and p99.
    visible: [f64; 2],
}

/// Measure 14. The sidecars of the target gather events (bulk subscribe); ours posts each alone as
/// well.
pub(crate) async fn measure(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let (_one, mut floor) = Sidecars::start().await?;
    let mut single = Pair::start(Transport::Dapr, None).await?;
    let mut gathering = Pair::start_gathering().await?;
    let lasting = bench.lasting(LASTING);
    let mut taken = Vec::new();
    // Warms up connections, pools and the documents of the writers.
    let warm_up = lasting / 5;
    (floor, _) = on_a_worker(floor.flood(WRITERS, AHEAD, warm_up)).await?;
    (single, _) = on_a_worker(flood(single, AHEAD, warm_up)).await?;
    (gathering, _) = on_a_worker(flood(gathering, AHEAD, warm_up)).await?;
    for round in 0..bench.rounds {
        bench.say(&format!("sustained by DAPR, round {}", round + 1));
        let (ours, alone, both);
        // The floor is next to both of ours, whichever runs first.
        if round % 2 == 0 {
            (single, alone) = on_a_worker(flood(single, AHEAD, lasting)).await?;
            (floor, both) = on_a_worker(floor.flood(WRITERS, AHEAD, lasting)).await?;
            (gathering, ours) = on_a_worker(flood(gathering, AHEAD, lasting)).await?;
        } else {
            (gathering, ours) = on_a_worker(flood(gathering, AHEAD, lasting)).await?;
            (floor, both) = on_a_worker(floor.flood(WRITERS, AHEAD, lasting)).await?;
            (single, alone) = on_a_worker(flood(single, AHEAD, lasting)).await?;
        }
        taken.push((ours, alone, both));
    }
    drop(floor);
    let name = "sustained to two replicas by DAPR";
    let beside = "bare sidecars, two receivers, 64 in flight";
    let row = |name: &str, share: Option<Spread>| {
        let share = share.map_or(0.0, |share| share.median);
        let name = format!("{name} ({share:.0} % came by events)");
        Comparison::new(14, Unit::PerSecond, name, beside)
    };
    let by_events = Spread::of(taken.iter().map(|(ours, ..)| ours.by_events));
    let mut target = row(&format!("{name}, gathered for {GATHERED_MS} ms"), by_events)
        .must(Target::AtLeast(1.2));
    let by_events = Spread::of(taken.iter().map(|(_, alone, _)| alone.by_events));
    let mut each_alone = row(name, by_events);
    for (ours, alone, both) in &taken {
        target.round(ours.rate, *both);
        each_alone.round(alone.rate, *both);
    }
    gathering.end().await?;
    // Once, and last: the pending events that it leaves would disturb later rounds.
    let (single, ours) = on_a_worker(flood(single, u64::MAX, lasting)).await?;
    single.end().await?;
    let free = "writers that wait for no replica: a write until both replicas show it";
    let free = format!("{free} ({:.0} % came by events)", ours.by_events);
    let [median, late] = ours.visible;
    let mut visible = Comparison::alone(14, Unit::Seconds, format!("{free}, median"));
    visible.figure(median);
    let mut p99 = Comparison::alone(14, Unit::Seconds, format!("{free}, p99"));
    p99.figure(late);
    Ok([target, each_alone, visible, p99]
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
    let mut visible = Durations::default();
    {
        let mut watch = pin!(watch_visible(&replica_pair, &newest, &mut visible));
        loop {
            tokio::select! {
                writer = writing.next() => match writer {
                    Some(writer) => written += writer?,
                    None => break,
                },
                never = watch.as_mut() => match never? {},
            }
        }
    }
    drop(writing);
    let all = replica_pair.until_all(newest.load(Relaxed));
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
        visible: [visible.at(50), visible.at(99)],
    };
    Ok((replica_pair, flood))
}

/// Waits until both replicas have reached the newest revision, again and again, and notes how long
/// each time took.
async fn watch_visible(
    replica_pair: &Pair,
    newest: &AtomicU64,
    visible: &mut Durations,
) -> anyhow::Result<Infallible> {
    let mut pause = tokio::time::interval(Duration::from_millis(5));
    let mut moved = replica_pair.replicas.each_ref().map(Replica::feed_changed);
    loop {
        pause.tick().await;
        let revision = newest.load(Relaxed);
        let committed = Instant::now();
        for (replica, moved) in replica_pair.replicas.iter().zip(&mut moved) {
            while replica_pair.watermark(replica) < revision {
                timeout(TIMEOUT, moved.changed())
                    .await
                    .context("the replicas do not follow")??;
            }
        }
        visible.add(committed.elapsed());
    }
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
