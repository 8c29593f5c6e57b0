//! Measure 18: what a publisher spends on a write that waits until all replicas have applied it, with
//! a thousand replicas and with ten. Events go by Redis Pub/Sub, which costs a publisher the same for
//! any number of replicas, so the difference is the confirmations alone.
//!
//! One writer at a time shows the price of one wait. With many, one report of a replica confirms all
//! writes before it, which is how a busy publisher spends it.

use std::time::Instant;

use anyhow::{Context, ensure};
use contract::Written;
use e2e::{
    client::document_path,
    testbed::{FREE, Transport},
};
use futures_util::future::try_join_all;
use reqwest::Method;
use serde_json::json;

use super::{Crowd, raise_open_files};
use crate::{
    Bench,
    figures::{Comparison, Row, Target, Unit},
    floor::payload::document,
    generator::processor_seconds,
};

/// The number of the measure.
const NUMBER: u8 = 18;
/// Replicas, of the row and of what it is beside.
const REPLICAS: [usize; 2] = [1_000, 10];
/// Writers at the same time, with the writes of each in a round.
const WRITERS: [(usize, usize); 2] = [(1, 5), (64, 5)];
/// The most that many writers may cost with a thousand replicas, beside ten.
const LIMIT: f64 = 3.0;

/// What one write took.
struct Taken {
    processor: f64,
    time: f64,
}

pub(crate) async fn measure(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    raise_open_files()?;
    let [many, few] = REPLICAS.map(|replicas| bench.sized(replicas).max(2));
    bench.say(&format!("measure 18, {many} replicas"));
    let crowds = [
        Crowd::start(Transport::PubSub, many).await?,
        Crowd::start(Transport::PubSub, few).await?,
    ];
    for crowd in &crowds {
        for writer in 0..WRITERS[1].0 {
            let new = json!({ "id": id(writer) });
            crowd.served.api.create(FREE, &new).await?.expect(201)?;
        }
    }
    let mut rows = Vec::new();
    for (writers, writes) in WRITERS {
        let writes = bench.sized(writes);
        let row = |what: &str| {
            let ours = format!("PUT ?wait=all, {many} replicas, {writers} at a time, {what}");
            Comparison::new(NUMBER, Unit::Seconds, ours, format!("{few} replicas"))
        };
        let mut processor = row("processor time of the publisher");
        if writers > 1 {
            processor = processor.must(Target::AtMost(LIMIT));
        }
        let mut time = row("until all have it");
        for _round in 0..bench.rounds {
            let [with_many, with_few] = &crowds;
            let many = waiting(with_many, writers, writes).await?;
            let few = waiting(with_few, writers, writes).await?;
            processor.round(many.processor, few.processor);
            time.round(many.time, few.time);
        }
        rows.extend(processor.row());
        rows.extend(time.row());
    }
    Ok(rows)
}

fn id(writer: usize) -> String {
    format!("w-{writer}")
}

/// What each of these writes took, all of which wait until all replicas have applied them.
async fn waiting(crowd: &Crowd, writers: usize, writes: usize) -> anyhow::Result<Taken> {
    let publisher = crowd.served.id();
    let before = processor_seconds(publisher)?;
    let times = try_join_all((0..writers).map(async |writer| {
        let path = format!("{}?wait=all&timeout=20s", document_path(FREE, &id(writer)));
        let begun = Instant::now();
        for number in 0..writes {
            let body = document(number as u64).to_string();
            let api = &crowd.served.api;
            let answer = api.send(Method::PUT, &path, &[], body).await?.expect(200)?;
            let written: Written = serde_json::from_str(&answer.body)?;
            let applied = written.applied.context("the write did not wait")?;
            ensure!(applied.reached, "{applied:?}");
        }
        anyhow::Ok(begun.elapsed().as_secs_f64() / writes as f64)
    }))
    .await?;
    Ok(Taken {
        processor: (processor_seconds(publisher)? - before) / (writers * writes) as f64,
        time: times.iter().sum::<f64>() / writers as f64,
    })
}
