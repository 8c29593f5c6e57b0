//! Measure 15: the time from before a rollback of 256 documents is sent until both replicas show it.
//! It has no floor: etcd takes at most 128 operations in a transaction, and has no rollback.
//!
//! The parts are those of measure 13: one publisher with its embedded store, which posts to two
//! replicas in this process.

use std::time::Instant;

use anyhow::Context;
use contract::{
    CollectionName,
    rollback::Rollback,
    set::{ChangeRequest, ChangeSetRequest, MAX_OPERATIONS, RequestOperation},
};
use e2e::{
    client::Api,
    testbed::{FREE, ports::free_port, services::Service},
};
use replica::{Replica, ReplicaState};
use reqwest::Method;
use serde::Serialize;
use serde_json::json;
use tokio::{task::JoinSet, time::timeout, try_join};
use tokio_util::sync::CancellationToken;

use crate::{
    Bench,
    figures::{Comparison, Durations, Row, Target, Unit},
    prepare::{create_documents, id},
    values::value,
    visible::{TIMEOUT, serve, shows},
};

/// Rollbacks of a round.
const ROLLBACKS: usize = 20;
/// Length of a value, in bytes.
const BYTES: usize = 300;

pub(crate) async fn measure(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let ports = [free_port()?, free_port()?];
    let urls = ports.map(|port| format!("http://127.0.0.1:{port}"));
    let mut publisher = Service::publisher()?
        .with("AURA_CONFIGURATION_COLLECTIONS", FREE)
        .with("AURA_CONFIGURATION_EVENTS_MANAGER", "LOCAL")
        .with("AURA_CONFIGURATION_LOCAL_SUBSCRIBERS", urls.join(","));
    publisher.start().await?;
    let stop = CancellationToken::new();
    let mut running = JoinSet::new();
    let replicas = [
        serve(ports[0], &publisher, &stop, &mut running)?,
        serve(ports[1], &publisher, &stop, &mut running)?,
    ];
    let measured = rounds(bench, &publisher.api(), &replicas).await;
    stop.cancel();
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    measured
}

async fn rounds(
    bench: &Bench,
    publisher: &Api,
    replicas: &[Replica; 2],
) -> anyhow::Result<Vec<Row>> {
    for replica in replicas {
        let mut states = replica.states();
        let current = states.wait_for(|state| *state == ReplicaState::Current);
        let current = timeout(TIMEOUT, current).await;
        drop(current.context("a replica does not load")??);
    }
    let documents = bench.sized(MAX_OPERATIONS);
    create_documents(publisher, FREE, documents, BYTES).await?;
    let collection = FREE.parse()?;
    let line = format!("rollback of {documents} documents sent until visible in both replicas");
    let mut median = Comparison::alone(15, Unit::Seconds, format!("{line}, median"));
    median = median.must(Target::AtMost(1.0));
    let mut tail = Comparison::alone(15, Unit::Seconds, format!("{line}, p99"));
    let part = "of that, until the rollback is answered, median";
    let mut answered = Comparison::alone(15, Unit::Seconds, part);
    for round in 0..bench.rounds {
        bench.say(&format!("measure 15, round {}", round + 1));
        let mut visible = Durations::default();
        let mut answers = Durations::default();
        for each in 0..bench.sized(ROLLBACKS) {
            let then = publisher.head(FREE).await?.revision;
            let seed = (round * ROLLBACKS + each + 1) as u64 * 1_000_000;
            let changed = change_all(publisher, documents, seed).await?;
            visible_in_both(replicas, &collection, changed).await?;
            let sent = Instant::now();
            let path = format!("/v1/collections/{FREE}/rollback");
            let written: Rollback = post(publisher, &path, &json!({"toRevision": then})).await?;
            let answer = sent.elapsed();
            let last = written.items.iter().filter_map(|item| item.revision).max();
            let last = last.context("the rollback changed nothing")?;
            visible_in_both(replicas, &collection, last).await?;
            visible.add(sent.elapsed());
            answers.add(answer);
        }
        median.figure(visible.at(50));
        tail.figure(visible.at(99));
        answered.figure(answers.at(50));
    }
    let rows = [median, tail, answered];
    Ok(rows.into_iter().filter_map(Comparison::row).collect())
}

/// Gives all documents other values in one change set, and returns its last revision.
async fn change_all(publisher: &Api, documents: usize, seed: u64) -> anyhow::Result<u64> {
    let changes = (0..documents as u64).map(|number| {
        let change = ChangeRequest::update(FREE, &id(number), &value(seed + number, BYTES))?;
        anyhow::Ok(ChangeRequest {
            op: RequestOperation::Replace,
            ..change
        })
    });
    let set = ChangeSetRequest {
        changes: changes.collect::<Result<_, _>>()?,
    };
    let written: contract::set::ChangeSetWritten = post(publisher, "/v1/changes", &set).await?;
    let revisions = written.items.iter().map(|item| item.revision);
    revisions.max().context("an empty set")
}

async fn post<T: serde::de::DeserializeOwned>(
    publisher: &Api,
    path: &str,
    body: &impl Serialize,
) -> anyhow::Result<T> {
    let headers = [("content-type", "application/json")];
    let body = serde_json::to_vec(body)?;
    let answer = publisher.send(Method::POST, path, &headers, body).await?;
    Ok(serde_json::from_str(&answer.expect(200)?.body)?)
}

async fn visible_in_both(
    replicas: &[Replica; 2],
    collection: &CollectionName,
    revision: u64,
) -> anyhow::Result<()> {
    let [mut first, mut second] = replicas.each_ref().map(Replica::feed_changed);
    let both = async {
        try_join!(
            shows(&replicas[0], &mut first, collection, revision),
            shows(&replicas[1], &mut second, collection, revision)
        )
    };
    timeout(TIMEOUT, both).await.context("not visible")??;
    Ok(())
}
