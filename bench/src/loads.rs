//! Measures 9 and 11: the time until a replica has everything: with an empty start, as one of a
//! hundred, and with a gap.
//!
//! Events are off and check-ins are rare, at publishers and replicas alike: only the measured path
//! reaches a replica.

mod gap;
mod testbed;

use e2e::testbed::StoreKind;
use testbed::{LoadTestbed, SMALL, follower, until_current};
use tokio::task::JoinSet;

use crate::{
    Bench,
    figures::{Comparison, Row, Target, Unit},
    floor::driver,
    generator::processor_seconds,
    prepare::create_documents,
};

/// Documents of a collection.
const DOCUMENTS: usize = 100_000;
/// Documents of the collection that a hundred replicas load. Together they hold it a hundred times
/// in this process.
const DOCUMENTS_OF_A_HUNDRED: usize = 10_000;
/// Length of a value, in bytes.
const BYTES: usize = 1_024;
const REPLICAS: usize = 100;
/// Loads of which the mean is taken.
const ONE_BY_ONE: u32 = 20;

pub(crate) async fn measure(number: u8, bench: &Bench) -> anyhow::Result<Vec<Row>> {
    match number {
        9 => Ok([
            cold_starts(bench).await?,
            hundreds(bench, StoreKind::Embedded).await?,
            hundreds(bench, StoreKind::Mongo).await?,
        ]
        .concat()),
        _gap => gap::measure(bench).await,
    }
}

/// From `run` of a new replica until it is current. The floor reads the same rows without decoding
/// them, over an existing connection, which a new replica does not have.
async fn cold_starts(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let documents = bench.sized(DOCUMENTS);
    bench.say(&format!(
        "measure 9, filling two stores with {documents} documents"
    ));
    let mongo = LoadTestbed::filled(StoreKind::Mongo, documents).await?;
    let embedded = LoadTestbed::filled(StoreKind::Embedded, documents).await?;
    let database = mongo.database().await?;
    let beside = format!("the driver reads {documents} rows");
    let row = |store, target| {
        let line = format!("cold start, {documents} × 1 KiB, {store}");
        Comparison::new(9, Unit::Seconds, line, beside.as_str()).must(Target::AtMost(target))
    };
    let mut on_mongo = row("MongoDB", 1.8);
    let mut on_embedded = row("the embedded store", 1.2);
    // One additional round as a warm-up.
    for round in 0..=bench.rounds {
        bench.say(&format!("measure 9, round {round}"));
        let (read, from_mongo, from_embedded);
        if round % 2 == 0 {
            read = timed_reading(&database, documents).await?;
            from_mongo = mongo.cold_start().await?;
            from_embedded = embedded.cold_start().await?;
        } else {
            from_embedded = embedded.cold_start().await?;
            from_mongo = mongo.cold_start().await?;
            read = timed_reading(&database, documents).await?;
        }
        if round > 0 {
            on_mongo.round(from_mongo, read);
            on_embedded.round(from_embedded, read);
        }
    }
    Ok([on_mongo, on_embedded]
        .into_iter()
        .filter_map(Comparison::row)
        .collect())
}

async fn timed_reading(database: &mongodb::Database, documents: usize) -> anyhow::Result<f64> {
    let begun = std::time::Instant::now();
    let read = driver::read_all(database, testbed::LARGE).await?;
    let took = begun.elapsed().as_secs_f64();
    anyhow::ensure!(read == documents, "{read} of {documents} rows");
    Ok(took)
}

/// A hundred replicas at once compared with one, with the same publisher: the time until the last is
/// current, which the replicas need themselves, and the processor time of the publisher.
async fn hundreds(bench: &Bench, store: StoreKind) -> anyhow::Result<Vec<Row>> {
    let documents = bench.sized(DOCUMENTS_OF_A_HUNDRED);
    let replicas = bench.sized(REPLICAS);
    let mut testbed = LoadTestbed::filled(store, 0).await?;
    create_documents(&testbed.publisher.api(), SMALL, documents, BYTES).await?;
    let store = match store {
        StoreKind::Mongo => "MongoDB",
        StoreKind::Embedded => "the embedded store",
    };
    let line = format!("{replicas} cold starts at once, {documents} × 1 KiB, {store}");
    let publisher = format!("{line}: processor time of the publisher");
    let mut until_last = Comparison::new(9, Unit::Seconds, line, "one cold start");
    let mut processor =
        Comparison::new(9, Unit::Seconds, publisher, "of one cold start").must(Target::AtMost(5.0));
    together(&mut testbed, 1, documents).await?;
    for round in 0..bench.rounds {
        bench.say(&format!(
            "measure 9, {replicas} at once from {store}, round {}",
            round + 1
        ));
        let (all, one);
        if round % 2 == 0 {
            one = one_by_one(&mut testbed, documents).await?;
            all = together(&mut testbed, replicas, documents).await?;
        } else {
            all = together(&mut testbed, replicas, documents).await?;
            one = one_by_one(&mut testbed, documents).await?;
        }
        until_last.round(all.seconds, one.seconds);
        processor.round(all.processor, one.processor);
    }
    let refused = testbed.counter("confcast_snapshots_refused_total").await?;
    bench.say(&format!(
        "measure 9, {refused} loads were refused in all and came again"
    ));
    let rows = [until_last, processor];
    Ok(rows.into_iter().filter_map(Comparison::row).collect())
}

/// What loads take.
struct Loads {
    /// Until the last replica is current.
    seconds: f64,
    /// Processor time of the publisher, in seconds.
    processor: f64,
}

/// One load, as the mean of several.
async fn one_by_one(testbed: &mut LoadTestbed, documents: usize) -> anyhow::Result<Loads> {
    let mut sum = Loads {
        seconds: 0.0,
        processor: 0.0,
    };
    for _each in 0..ONE_BY_ONE {
        let one = together(testbed, 1, documents).await?;
        sum.seconds += one.seconds;
        sum.processor += one.processor;
    }
    Ok(Loads {
        seconds: sum.seconds / f64::from(ONE_BY_ONE),
        processor: sum.processor / f64::from(ONE_BY_ONE),
    })
}

/// From the start of `replicas` replicas until the last of them is current. Their content is freed
/// afterwards.
async fn together(
    testbed: &mut LoadTestbed,
    replicas: usize,
    documents: usize,
) -> anyhow::Result<Loads> {
    let publisher = testbed.publisher.process()?.id();
    let before = processor_seconds(publisher)?;
    let new = (0..replicas).map(|number| follower(&testbed.publisher, SMALL, number));
    let new: Vec<_> = new.collect::<Result<_, _>>()?;
    let begun = std::time::Instant::now();
    let mut loading = JoinSet::new();
    for replica in new {
        loading.spawn(async move {
            let current = replica.run(until_current(&replica, documents)).await?;
            anyhow::Ok((replica, current))
        });
    }
    let mut kept = Vec::new();
    let mut last = begun;
    while let Some(loaded) = loading.join_next().await {
        let (replica, current) = loaded??;
        kept.push(replica);
        last = last.max(current);
    }
    Ok(Loads {
        seconds: (last - begun).as_secs_f64(),
        processor: processor_seconds(publisher)? - before,
    })
}
