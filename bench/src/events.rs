//! The time from a commit until both replicas show it, one write at a time, compared with the
//! minimum that carries the same bytes as far.
//!
//! Our time starts when the commit has returned, that of a floor right before it sends. Both end
//! when the task that waits for the receivers is woken. Nothing else runs meanwhile.

use std::{fs::File, io::Write, sync::Arc, time::Instant};

use anyhow::{Context, anyhow};
use contract::signature::SigningKey;
use e2e::testbed::{Transport, process::folder};
use tokio::sync::mpsc;

use crate::{
    Bench,
    carrier::{Carrier, on_a_worker},
    figures::{Comparison, Durations, Row, Target, Unit},
    floor::{channel::Channel, posts::Posts, sidecars::Sidecars},
    pair::{GATHERED_MS, Pair},
};

/// Writes of a round, and of its warm-up.
const WRITES: usize = 1_000;
const WARM_UP: usize = 100;

/// Median and p99 of one round.
type Sample = [f64; 2];

/// Measure 1 is DAPR, measure 2 LOCAL and REDIS.
pub(crate) async fn measure(number: u8, bench: &Bench) -> anyhow::Result<Vec<Row>> {
    if number == 1 {
        return dapr(bench).await;
    }
    let rows = direct(bench, Transport::Local, Posts::start()?).await?;
    let more = Channel::start().await?;
    let rows = [rows, direct(bench, Transport::PubSub, more).await?].concat();
    // Our write follows a wait for the disk, in which the processors go to sleep. A floor has no
    // such wait.
    let mut waking = Comparison::new(
        2,
        Unit::Seconds,
        "one hand-over to another thread after a wait for the disk, median",
        "the same without such a wait",
    );
    for _round in 0..bench.rounds {
        let times = bench.sized(WRITES);
        waking.round(
            hand_overs(times, true).await?.at(50),
            hand_overs(times, false).await?.at(50),
        );
    }
    Ok(rows.into_iter().chain(waking.row()).collect())
}

/// One hand-over to another thread and back at a time; each sample is two hand-overs.
async fn hand_overs(times: usize, rested: bool) -> anyhow::Result<Durations> {
    let folder = folder()?;
    let file = Arc::new(File::create(folder.path().join("synced"))?);
    let (to, mut there) = mpsc::unbounded_channel::<()>();
    let (back, mut here) = mpsc::unbounded_channel();
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let thread = std::thread::spawn(move || {
        runtime.block_on(async {
            while there.recv().await.is_some_and(|()| back.send(()).is_ok()) {}
        });
    });
    let mut durations = Durations::default();
    for _each in 0..times {
        if rested {
            let mut file = Arc::clone(&file);
            tokio::task::spawn_blocking(move || {
                file.write_all(b"x").and_then(|()| file.sync_data())
            })
            .await??;
        }
        let begun = Instant::now();
        to.send(())?;
        here.recv().await.context("the thread ended")?;
        durations.add(begun.elapsed() / 2);
    }
    drop(to);
    thread
        .join()
        .map_err(|_panic| anyhow!("the thread panicked"))?;
    Ok(durations)
}

async fn dapr(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let key = SigningKey::from_seed(&[7; 32]);
    let (mut one, mut two) = Sidecars::start().await?;
    let mut replica_pair = Pair::start(Transport::Dapr, None).await?;
    let mut signed_pair = Pair::start(Transport::Dapr, Some(&key)).await?;
    let mut gathering_pair = Pair::start_gathering().await?;
    let mut pair = Vec::new();
    let mut both = Vec::new();
    let mut signatures = Vec::new();
    let mut gathered = Vec::new();
    for round in 0..bench.rounds {
        bench.say(&format!("events by DAPR, round {}", round + 1));
        let (ours, signed, gathering, beside_one, beside_two);
        // Our write is next to all that it is compared with, whichever runs first.
        if round % 2 == 0 {
            (one, beside_one) = sample(bench, one).await?;
            (replica_pair, ours) = sample(bench, replica_pair).await?;
            (signed_pair, signed) = sample(bench, signed_pair).await?;
            (gathering_pair, gathering) = sample(bench, gathering_pair).await?;
            (two, beside_two) = sample(bench, two).await?;
        } else {
            (two, beside_two) = sample(bench, two).await?;
            (gathering_pair, gathering) = sample(bench, gathering_pair).await?;
            (signed_pair, signed) = sample(bench, signed_pair).await?;
            (replica_pair, ours) = sample(bench, replica_pair).await?;
            (one, beside_one) = sample(bench, one).await?;
        }
        pair.push((ours, beside_one));
        both.push((ours, beside_two));
        signatures.push((signed, ours));
        gathered.push((gathering, ours));
    }
    let line = "commit to two replicas by DAPR";
    let name = named(line, &replica_pair, bench);
    replica_pair.end().await?;
    signed_pair.end().await?;
    gathering_pair.end().await?;
    let targets = [Some(Target::AtMost(1.1)), Some(Target::AtMost(1.3))];
    let none = [None, None];
    // The targets are of the same work: two receivers with a sidecar each. The second rows show what
    // waiting for both costs.
    Ok([
        rows(1, &name, "bare sidecars, two receivers", targets, &both),
        rows(1, &name, "bare sidecar pair", none, &pair),
        rows(
            1,
            &format!("{line}, signed"),
            "the same, unsigned",
            none,
            &signatures,
        ),
        rows(
            1,
            &format!("{line}, gathered for {GATHERED_MS} ms"),
            "the same, each event posted at once",
            none,
            &gathered,
        ),
    ]
    .concat())
}

async fn direct<F: Carrier>(
    bench: &Bench,
    transport: Transport,
    mut floor: F,
) -> anyhow::Result<Vec<Row>> {
    let mut replica_pair = Pair::start(transport, None).await?;
    let (name, beside) = match transport {
        Transport::Local => ("commit to two replicas by LOCAL", "bare POST to two"),
        _ => (
            "commit to two replicas by Redis Pub/Sub",
            "bare PUBLISH to two",
        ),
    };
    let mut taken = Vec::new();
    for round in 0..bench.rounds {
        bench.say(&format!("events by {transport:?}, round {}", round + 1));
        let (ours, floors);
        if round % 2 == 0 {
            (floor, floors) = sample(bench, floor).await?;
            (replica_pair, ours) = sample(bench, replica_pair).await?;
        } else {
            (replica_pair, ours) = sample(bench, replica_pair).await?;
            (floor, floors) = sample(bench, floor).await?;
        }
        taken.push((ours, floors));
    }
    let name = named(name, &replica_pair, bench);
    replica_pair.end().await?;
    Ok(rows(
        2,
        &name,
        beside,
        [Some(Target::AtMost(1.5)), None],
        &taken,
    ))
}

/// One round.
async fn sample<W: Carrier>(bench: &Bench, mut way: W) -> anyhow::Result<(W, Sample)> {
    let writes = bench.sized(WRITES);
    let warm_up = bench.sized(WARM_UP);
    on_a_worker(async move {
        let mut durations = Durations::default();
        for write in 0..warm_up + writes {
            let took = way.once().await?;
            if write >= warm_up {
                durations.add(took);
            }
        }
        Ok((way, [durations.at(50), durations.at(99)]))
    })
    .await
}

fn rows(
    measure: u8,
    ours: &str,
    beside: &str,
    targets: [Option<Target>; 2],
    taken: &[(Sample, Sample)],
) -> Vec<Row> {
    let row = |(at, target): (usize, Option<Target>)| {
        let what = ["median", "p99"][at];
        let comparison = Comparison::new(measure, Unit::Seconds, format!("{ours}, {what}"), beside);
        let mut comparison = match target {
            Some(target) => comparison.must(target),
            None => comparison,
        };
        taken
            .iter()
            .for_each(|(ours, floor)| comparison.round(ours[at], floor[at]));
        comparison.row()
    };
    targets.into_iter().enumerate().filter_map(row).collect()
}

/// Reports the share of changes that replicas showed before the commit returned: those count as
/// zero.
fn named(name: &str, replica_pair: &Pair, bench: &Bench) -> String {
    let writes = bench.rounds * (bench.sized(WRITES) + bench.sized(WARM_UP));
    match replica_pair.early * 100 / writes.max(1) {
        0 => name.to_owned(),
        percent => format!("{name} ({percent} % before the commit returned)"),
    }
}
