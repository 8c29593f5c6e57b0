//! Measure 11: a replica that missed many changes and catches up by a delta, compared with one that
//! loads everything.
//!
//! It misses them because it does not run meanwhile; then it runs again and checks in at once. The
//! measured time is the time until its service is ready, so it includes the grace period before
//! each catch-up.

use std::time::Instant;

use anyhow::ensure;
use e2e::{client::Api, testbed::StoreKind};
use futures_util::{TryStreamExt, stream};
use replica::Replica;

use super::{
    BYTES, DOCUMENTS,
    testbed::{LARGE, LoadTestbed, follower, until_at, until_current},
};
use crate::{
    Bench,
    figures::{Comparison, Row, Target, Unit},
    prepare::id,
    values::value,
};

/// Missed changes, each of another document.
const MISSED: usize = 10_000;
/// Concurrent clients that write them.
const CLIENTS: usize = 64;

pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let documents = bench.sized(DOCUMENTS);
    let missed = bench.sized(MISSED);
    let mut rows = Vec::new();
    for (kind, store) in [
        (StoreKind::Mongo, "MongoDB"),
        (StoreKind::Embedded, "the embedded store"),
    ] {
        bench.say(&format!(
            "measure 11, {store}, filling it with {documents} documents"
        ));
        let stand = LoadTestbed::filled(kind, documents).await?;
        let api = stand.publisher.api();
        let line = format!("gap of {missed} changes healed, {documents} × 1 KiB, {store}");
        let mut comparison =
            Comparison::new(11, Unit::Seconds, line, "full load").must(Target::AtMost(0.25));
        let replica = follower(&stand.publisher, LARGE, 1)?;
        replica.run(until_current(&replica, documents)).await?;
        for round in 0..bench.rounds {
            bench.say(&format!("measure 11, {store}, round {}", round + 1));
            change(&api, round, missed, documents).await?;
            let (healed, loaded);
            if round % 2 == 0 {
                loaded = stand.cold_start().await?;
                healed = heal(&replica, &api, missed).await?;
            } else {
                healed = heal(&replica, &api, missed).await?;
                loaded = stand.cold_start().await?;
            }
            comparison.round(healed, loaded);
        }
        rows.extend(comparison.row());
    }
    Ok(rows)
}

/// Writes the changes, each with its own PUT: missed changes rarely come in change sets.
async fn change(api: &Api, round: usize, missed: usize, documents: usize) -> anyhow::Result<()> {
    let numbers = (0..missed).map(|number| Ok::<_, anyhow::Error>(round * missed + number));
    let write = async |number: usize| {
        // All values differ, also from those of the prepared documents.
        let value = value((documents + number) as u64, BYTES);
        api.put(LARGE, &id((number % documents) as u64), &value)
            .await?
            .expect(200)
            .map(drop)
    };
    stream::iter(numbers)
        .try_for_each_concurrent(CLIENTS, write)
        .await
}

/// Seconds from `run` until the replica holds all commits. All of them must have come by the feed.
async fn heal(replica: &Replica, api: &Api, missed: usize) -> anyhow::Result<f64> {
    let before = replica.status().sync;
    let head = api.head(LARGE).await?;
    let begun = Instant::now();
    let there = replica.run(until_at(replica, head.revision)).await?;
    let after = replica.status().sync;
    ensure!(
        (after.loads, after.changes) == (before.loads, before.changes + missed as u64),
        "it was to heal {missed} changes by the feed: {before:?}, then {after:?}"
    );
    Ok((there - begun).as_secs_f64())
}
