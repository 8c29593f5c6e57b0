//! Reads that ask for a revision: a client reads its own writes at a replica.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use contract::{Problem, ProblemKind, Written};
use e2e::{
    client::{Answer, Api, document_path},
    testbed::{FREE, StoreKind, Testbed, Transport, numbered},
};
use futures_util::future::try_join_all;
use serde_json::json;

type Outcome = anyhow::Result<()>;

const HEADER: &str = "Confcast-Min-Revision";

async fn put(api: &Api, number: u64) -> anyhow::Result<u64> {
    let answer = api.put(FREE, "a", &numbered(number)).await?.expect(200)?;
    let written: Written = serde_json::from_str(&answer.body)?;
    Ok(written.revision)
}

async fn read(api: &Api, query: &str, revision: u64) -> anyhow::Result<Answer> {
    let path = format!("{}{query}", document_path(FREE, "a"));
    api.get_with(&path, HEADER, &revision.to_string()).await
}

#[tokio::test]
async fn a_client_reads_what_it_has_just_written_at_every_replica() -> Outcome {
    for (store, transport) in [
        (StoreKind::Embedded, Transport::Local),
        (StoreKind::Mongo, Transport::PubSub),
        (StoreKind::Embedded, Transport::Feed),
    ] {
        let testbed = Testbed::start(store, transport).await?;
        let api = testbed.publisher.api();
        api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
        for number in 1..=100 {
            let revision = put(&api, number).await?;
            for subscriber in &testbed.subscribers {
                let answer = read(&subscriber.api(), "?timeout=20s", revision).await?;
                let answer = answer.expect(200)?;
                let shown = answer.header("confcast-revision").rsplit('-').next();
                ensure!(shown.and_then(|shown| shown.parse().ok()) >= Some(revision));
                ensure!(
                    answer.json()?["configData"] == numbered(number),
                    "{}",
                    answer.body
                );
            }
        }
    }
    Ok(())
}

/// No event comes, and the next check-in is an hour away: the replica asks because it is asked.
#[tokio::test]
async fn a_replica_whose_events_are_lost_asks_the_publisher_when_it_is_asked() -> Outcome {
    let mut testbed = Testbed::prepare(StoreKind::Embedded, Transport::Local).await?;
    let publisher = &mut testbed.publisher;
    publisher.set("AURA_CONFIGURATION_EVENTS_ENABLED", "false");
    publisher.start().await?;
    testbed.start_subscribers().await?;
    let api = testbed.publisher.api();
    api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
    for number in 1..=3 {
        let revision = put(&api, number).await?;
        let answer = read(&testbed.subscribers[0].api(), "?timeout=20s", revision).await?;
        ensure!(answer.expect(200)?.json()?["configData"] == numbered(number));
    }
    Ok(())
}

#[tokio::test]
async fn a_replica_without_a_publisher_says_what_it_has_and_recovers() -> Outcome {
    let mut testbed = Testbed::start(StoreKind::Embedded, Transport::Local).await?;
    let api = testbed.publisher.api();
    api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
    let held = put(&api, 1).await?;
    testbed.until_same(FREE, "a").await?;
    testbed.publisher.stop().await?;
    let replica = testbed.subscribers[0].api();
    read(&replica, "", held).await?.expect(200)?;
    let answer = read(&replica, "?timeout=300ms", held + 1).await?;
    let answer = answer.expect(504)?;
    ensure!(
        answer
            .header("confcast-revision")
            .ends_with(&format!("-{held}"))
    );
    let problem: Problem = serde_json::from_str(&answer.body)?;
    ensure!(problem.kind == ProblemKind::NotFresh, "{problem:?}");
    for part in [
        &format!("at revision {held} here"),
        "a publisher last confirmed it",
        "The last error",
        "ask again",
    ] {
        ensure!(problem.detail.contains(part), "{}", problem.detail);
    }
    testbed.publisher.start().await?;
    let revision = put(&api, 2).await?;
    let answer = read(&replica, "?timeout=20s", revision)
        .await?
        .expect(200)?;
    ensure!(answer.json()?["configData"] == numbered(2));
    Ok(())
}

/// Each waits for its time or is refused at once; meanwhile the replica serves and follows as ever,
/// and it stops at once.
#[tokio::test]
async fn many_callers_that_ask_for_a_huge_revision_harm_nobody() -> Outcome {
    let mut testbed = Testbed::prepare(StoreKind::Embedded, Transport::Local).await?;
    testbed.set_all("AURA_CONFIGURATION_LIMIT_STREAMS", "20");
    testbed.publisher.start().await?;
    testbed.start_subscribers().await?;
    let api = testbed.publisher.api();
    api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
    testbed.until_same(FREE, "a").await?;
    for service in [&testbed.publisher, &testbed.subscribers[0]] {
        let asked = service.api();
        let many = (0..60).map(|_| read(&asked, "?timeout=3s", 1 << 62));
        let begun = Instant::now();
        let served = async {
            let revision = put(&api, 1).await?;
            // Another replica has its own slots.
            let answer = read(&testbed.subscribers[1].api(), "?timeout=20s", revision).await?;
            answer.expect(200)?;
            asked.document(FREE, "a").await?.expect(200)
        };
        let (answers, _served) = tokio::try_join!(try_join_all(many), served)?;
        let count = |status| answers.iter().filter(|one| one.status == status).count();
        ensure!(
            count(504) >= 20 && count(503) > 0 && count(504) + count(503) == 60,
            "{:?}",
            answers
                .iter()
                .map(|answer| answer.status)
                .collect::<Vec<_>>()
        );
        ensure!(begun.elapsed() < Duration::from_secs(15));
    }
    // A request that waits does not hold up the end of the process.
    let replica = testbed.subscribers[0].api();
    let begun = Instant::now();
    let waits = read(&replica, "?timeout=60s", 1 << 62);
    let stop = async {
        let waiting = async { read(&replica, "?timeout=0s", 1 << 62).await?.expect(504) };
        waiting.await?;
        testbed.subscribers[0].stop().await
    };
    let (answer, stopped) = tokio::join!(waits, stop);
    stopped.context("the stop")?;
    ensure!(begun.elapsed() < Duration::from_secs(30));
    ensure!([503, 504].contains(&answer?.status));
    Ok(())
}
