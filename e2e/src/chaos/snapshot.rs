//! What is inspected in the pause between two rounds, and what is saved after a failure.
//!
//! It reads and writes; it judges nothing.

use std::{
    convert::Infallible,
    fs,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, ensure};
use contract::snapshot::SnapshotStart;
use futures_util::future::{join_all, try_join_all};
use tokio::time::{Instant, interval, sleep, timeout};

use super::{
    cluster::Cluster,
    component::Component,
    counts::CounterSums,
    driver::Driver,
    observations::Observations,
    validators::{Sample, grew},
};
use crate::{client::Api, testbed::dependencies::repository_root};

/// Time limit of one answer.
const TIMEOUT: Duration = Duration::from_secs(3);
/// How long a process may take to release what it needed during a fault.
const CALM: Duration = Duration::from_secs(5);
/// Pause between two readings of metrics.
const PAUSE: Duration = Duration::from_millis(500);
/// Successful and failed attempts to send an event.
pub const EVENTS: [&str; 2] = [
    "confcast_events_total{result=\"published\"}",
    "confcast_events_total{result=\"failed\"}",
];
/// Changes that a replica applied by an event, changes that it applied by the feed first, and
/// snapshots.
pub const ARRIVALS: [&str; 3] = [
    "confcast_subscriber_events_total{end=\"applied\"}",
    "confcast_subscriber_feed_changes_total",
    "confcast_subscriber_loads_total",
];

/// Checks that every replica holds the documents of the publisher, byte for byte.
///
/// # Errors
/// When a replica differs or a service does not answer.
pub async fn same(cluster: &Cluster) -> anyhow::Result<()> {
    let truth = documents(&cluster.publisher(0)).await?;
    try_join_all(cluster.replicas.iter().map(async |member| {
        let name = &cluster.components[member.component].name;
        let held = documents(&Api::new(member.url.clone()))
            .await
            .context(name.clone())?;
        ensure!(
            held.0 == truth.0,
            "{name} has epoch {} instead of {}",
            held.0,
            truth.0
        );
        let differs: Vec<_> = truth
            .1
            .iter()
            .filter(|line| !held.1.contains(line))
            .take(3)
            .collect();
        ensure!(differs.is_empty(), "{name} lacks {differs:?}");
        ensure!(
            held.1 == truth.1,
            "{name} has {} documents instead of {}",
            held.1.len(),
            truth.1.len()
        );
        Ok(())
    }))
    .await
    .map(drop)
}

/// The epoch and the lines of all documents of a service, sorted.
async fn documents(api: &Api) -> anyhow::Result<(String, Vec<String>)> {
    let body = timeout(TIMEOUT, api.get("/v1/snapshot"))
        .await
        .context("no answer")??
        .expect(200)?
        .body;
    let mut lines: Vec<_> = body.lines().map(str::to_owned).collect();
    ensure!(lines.len() >= 2, "an incomplete snapshot");
    lines.pop();
    let start: SnapshotStart = serde_json::from_str(&lines.remove(0))?;
    lines.sort();
    Ok((start.epoch.to_string(), lines))
}

/// The resources of a process, and the line of its output that reports a panic.
async fn sample(component: &Component) -> Option<(Sample, Option<String>)> {
    let mut program = component.program.lock().await;
    let folder = program.service().ok().map(|own| own.folder().join("data"));
    let process = program.process()?;
    let panicked = process
        .output()
        .lines()
        .find(|line| line.contains("panicked at "))
        .map(str::to_owned);
    Some((Sample::of(process.id(), folder.as_deref()).ok()?, panicked))
}

/// As `sample`. A process that uses more than at `first` is sampled again for a while: after a
/// freeze it has to close the connections that its clients gave up.
pub async fn calm(
    component: &Component,
    first: Option<Sample>,
) -> Option<(Sample, Option<String>)> {
    let deadline = Instant::now() + CALM;
    let mut again = interval(Duration::from_millis(100));
    loop {
        again.tick().await;
        let seen = sample(component).await?;
        let since = first.filter(|first| first.pid == seen.0.pid);
        if Instant::now() > deadline || since.is_none_or(|since| grew(since, seen.0).is_none()) {
            return Some(seen);
        }
    }
}

/// Adds the metrics of publishers and replicas without end. A service that does not answer is read
/// the next time.
pub async fn count(cluster: &Cluster, sums: &Mutex<CounterSums>) -> Infallible {
    let publishers = cluster
        .publishers
        .iter()
        .map(|member| (member, &EVENTS[..]));
    let replicas = cluster
        .replicas
        .iter()
        .map(|member| (member, &ARRIVALS[..]));
    join_all(publishers.chain(replicas).map(async |(member, counters)| {
        let api = Api::new(member.url.clone());
        let component = &cluster.components[member.component];
        loop {
            let life = component.lives();
            let answer = timeout(TIMEOUT, api.get("/metrics")).await;
            if let Ok(Ok(answer)) = answer
                && component.lives() == life
            {
                let mut sums = sums.lock().unwrap_or_else(PoisonError::into_inner);
                sums.read(&component.name, life, counters, &answer.body);
            }
            sleep(PAUSE).await;
        }
    }))
    .await;
    unreachable!("they count without end")
}

/// The output of each replica, over all its runs.
pub async fn said(cluster: &Cluster) -> Vec<String> {
    let mut said = Vec::new();
    for replica in &cluster.replicas {
        let mut program = cluster.components[replica.component].program.lock().await;
        said.push(
            program
                .process()
                .map(|process| process.output())
                .unwrap_or_default(),
        );
    }
    said
}

/// Saves logs, record and observations. Returns the folder.
///
/// # Errors
/// When a file cannot be written.
pub async fn keep(
    seed: u64,
    cluster: &Cluster,
    driver: &Driver,
    records: &[Mutex<Observations>],
) -> anyhow::Result<PathBuf> {
    let folder = repository_root().join(format!("target/chaos/{seed}"));
    fs::create_dir_all(&folder)?;
    for component in &cluster.components {
        let output = component
            .program
            .lock()
            .await
            .process()
            .map(|process| process.output())
            .unwrap_or_default();
        fs::write(folder.join(format!("{}.log", component.name)), output)?;
    }
    fs::write(
        folder.join("record.json"),
        serde_json::to_vec(&*driver.record())?,
    )?;
    for (member, record) in cluster.replicas.iter().zip(records) {
        let observations = serde_json::to_vec(
            &record
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .observations,
        )?;
        fs::write(
            folder.join(format!(
                "{}.seen.json",
                cluster.components[member.component].name
            )),
            observations,
        )?;
    }
    for follower in &cluster.followers {
        let observed = serde_json::to_vec(&follower.record().observed)?;
        fs::write(
            folder.join(format!("{}.seen.json", follower.name)),
            observed,
        )?;
    }
    Ok(folder)
}
