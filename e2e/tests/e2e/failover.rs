//! MongoDB with three nodes that elect another primary while two publishers write.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{bail, ensure};
use contract::{Problem, ProblemKind};
use e2e::{
    client::Api,
    testbed::{FREE, StoreKind, Testbed, Transport, replica_set::ReplicaSet, wait::eventually},
};
use futures_util::future::{try_join, try_join_all};
use serde_json::json;

use crate::faults::every_change_once;

type Outcome = anyhow::Result<()>;

const WRITERS: usize = 8;
const STEP_DOWNS: usize = 2;
/// The publishers give up a group after 5 s and look for its outcome once more, 3 s; a write may wait
/// for the group before its own. Twice that are 16 s, and as much is for a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// One of the publishers as the writers see it.
struct Target {
    api: Api,
    acknowledged: AtomicU64,
}

/// What one writer was told about its documents.
#[derive(Default)]
struct Answers {
    written: BTreeSet<String>,
    not_written: BTreeSet<String>,
    slowest: Duration,
}

/// No acknowledged write is lost, no refused write is there, no revision is missing or used twice,
/// writers are answered in time, and the replicas end with the same documents.
#[tokio::test]
async fn writes_survive_elections_of_mongodb_under_load() -> Outcome {
    let mut set = ReplicaSet::start().await?;
    let url = set.url("confcast");
    let mut testbed = Testbed::prepare(StoreKind::Embedded, Transport::Feed).await?;
    let mut other = testbed.store.publisher()?;
    for publisher in [&mut testbed.publisher, &mut other] {
        publisher.set("AURA_CONFIGURATION_STORE_URL", &url);
        publisher.start().await?;
    }
    testbed.start_subscribers().await?;

    let targets = [&testbed.publisher, &other].map(|publisher| Target {
        api: publisher.api(),
        acknowledged: AtomicU64::new(0),
    });
    let is_over = AtomicBool::new(false);
    let load =
        try_join_all((0..WRITERS).map(|writer| write(&targets[writer % 2], writer, &is_over)));
    let elections = async {
        let done = elections(&mut set, &targets).await;
        is_over.store(true, Ordering::Relaxed);
        done
    };
    let (answers, ()) = try_join(load, elections).await?;

    let slowest = answers.iter().map(|one| one.slowest).max();
    ensure!(slowest < Some(DEADLINE), "an answer took {slowest:?}");
    let changes = every_change_once(&targets[1].api).await?;
    let there: BTreeSet<_> = changes.iter().map(|id| id.to_string()).collect();
    ensure!(there.len() == changes.len(), "a document was created twice");
    for one in &answers {
        let lost: Vec<_> = one.written.difference(&there).collect();
        ensure!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        let refused: Vec<_> = one.not_written.intersection(&there).collect();
        ensure!(refused.is_empty(), "refused and there: {refused:?}");
    }
    ensure!(targets[0].api.head(FREE).await?.count == there.len() as u64);
    testbed.until_converged(FREE).await
}

/// Creates documents, one after another, until it is over.
async fn write(target: &Target, writer: usize, is_over: &AtomicBool) -> anyhow::Result<Answers> {
    let mut answers = Answers::default();
    let mut number = 0;
    while !is_over.load(Ordering::Relaxed) {
        number += 1;
        let id = format!("{writer}-{number}");
        let sent = Instant::now();
        let answer = target.api.create(FREE, &json!({ "id": id })).await?;
        answers.slowest = answers.slowest.max(sent.elapsed());
        if answer.status == 201 {
            answers.written.insert(id);
            target.acknowledged.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let problem: Problem = serde_json::from_str(&answer.expect(503)?.body)?;
        match problem.kind {
            ProblemKind::NotCommitted => {
                answers.not_written.insert(id);
            }
            ProblemKind::OutcomeUnknown => {}
            _ => bail!("{problem:?}"),
        }
    }
    Ok(answers)
}

/// Primaries step down, then one is killed. Both publishers write again before the next election.
async fn elections(set: &mut ReplicaSet, targets: &[Target; 2]) -> Outcome {
    for _ in 0..STEP_DOWNS {
        both_write(targets).await?;
        set.step_down().await?;
    }
    both_write(targets).await?;
    set.kill_primary().await?;
    both_write(targets).await
}

/// Waits until each publisher acknowledged writes that were sent after this call.
async fn both_write(targets: &[Target; 2]) -> Outcome {
    for target in targets {
        let before = target.acknowledged.load(Ordering::Relaxed);
        eventually("a publisher writes", async || {
            let now = target.acknowledged.load(Ordering::Relaxed) - before;
            ensure!(now > WRITERS as u64, "{now} writes");
            Ok(())
        })
        .await?;
    }
    Ok(())
}
