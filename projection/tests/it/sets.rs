//! Change sets are whole to a reader of a snapshot, also when the writer is killed.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use contract::status::ProjectionState;
use mongodb::{Client, bson::doc};
use serde_json::json;
use tokio::time::sleep;

use super::testbed::{
    AGENTS, Outcome, SKILLS, Testbed, create, until, until_status, update, with_publisher,
};

/// Documents of each collection that a set changes together.
const WIDTH: usize = 5;

/// One set: the same number in all documents of both collections.
async fn write(testbed: &Testbed, number: u64) -> Outcome {
    let value = json!({ "number": number });
    let ids = (0..WIDTH).map(|id| format!("d{id}"));
    let changes = ids.flat_map(|id| {
        [SKILLS, AGENTS].map(|collection| match number {
            0 => create(collection, &id, &value),
            _ => update(collection, &id, &value),
        })
    });
    testbed.commit(changes.collect()).await
}

/// The number that all documents have in one snapshot; `None` while a load is marked.
async fn number(client: &Client) -> anyhow::Result<Option<(i64, i64)>> {
    let mut session = client.start_session().snapshot(true).await?;
    let views = client.database("views");
    let mut numbers = Vec::new();
    let mut revision = 0;
    for collection in [SKILLS, AGENTS] {
        let position = views
            .collection::<mongodb::bson::Document>("_projection")
            .find_one(doc! { "_id": collection })
            .session(&mut session)
            .await?
            .context("a position")?;
        revision += position.get_i64("revision")?;
        if position.contains_key("reconciling") {
            return Ok(None);
        }
        let mut rows = views
            .collection::<mongodb::bson::Document>(collection)
            .find(doc! {})
            .session(&mut session)
            .await?;
        while let Some(row) = rows.next(&mut session).await.transpose()? {
            numbers.push(row.get_document("configData")?.get_i64("number")?);
        }
    }
    ensure!(numbers.len() == 2 * WIDTH, "{numbers:?}");
    numbers.dedup();
    let [number] = numbers[..] else {
        anyhow::bail!("a part of a change set: {numbers:?}");
    };
    // Each set is one revision of each document.
    ensure!(
        revision == 2 * WIDTH as i64 * (number + 1),
        "{revision} {number}"
    );
    Ok(Some((number, revision)))
}

#[tokio::test]
async fn a_reader_of_a_snapshot_sees_whole_sets_also_of_a_writer_that_is_killed() -> Outcome {
    with_publisher(async |testbed| {
        let client = Client::with_uri_str(testbed.mongod.url("views")).await?;
        write(testbed, 0).await?;
        testbed
            .projecting("one", None, async |projection| {
                until(projection, ProjectionState::Current).await
            })
            .await?;
        let (written, killed_all) = (AtomicU64::new(0), AtomicBool::new(false));
        let writes = async {
            for set in 1.. {
                write(testbed, set).await?;
                written.store(set, Ordering::SeqCst);
                if killed_all.load(Ordering::SeqCst) {
                    break;
                }
                sleep(Duration::from_millis(30)).await;
            }
            anyhow::Ok(())
        };
        let reads = async {
            let mut last = (0, 0);
            let mut seen = 0;
            let all = |last: i64| {
                killed_all.load(Ordering::SeqCst) && last as u64 == written.load(Ordering::SeqCst)
            };
            while !all(last.0) {
                if let Some(now) = number(&client).await? {
                    ensure!(now >= last, "{now:?} after {last:?}");
                    seen += usize::from(now > last);
                    last = now;
                }
            }
            anyhow::Ok(seen)
        };
        // Each time after another number of transactions, while the next one is under way.
        let rounds = [2, 5, 3, 4];
        let killed = async {
            for transactions in rounds {
                testbed
                    .projecting("one", None, async |projection| {
                        until_status(projection, |status| status.transactions >= transactions).await
                    })
                    .await?;
            }
            killed_all.store(true, Ordering::SeqCst);
            testbed
                .projecting("one", None, async |_projection| {
                    std::future::pending().await
                })
                .await
        };
        tokio::select! {
            both = async { futures_util::try_join!(writes, reads) } => {
                let ((), seen) = both?;
                ensure!(seen >= rounds.len(), "{seen} different sets were seen");
                Ok(())
            }
            ended = killed => ended,
        }
    })
    .await
}

/// The process that takes over compares, and writes what differs and no more.
#[tokio::test]
async fn the_next_process_goes_on_from_the_positions_without_writing_everything_again() -> Outcome {
    with_publisher(async |testbed| {
        let documents = (0..200).map(|id| create(SKILLS, &format!("d{id}"), &json!({"n": 0})));
        testbed.commit(documents.collect()).await?;
        let current = async |projection: &projection::Projection| {
            testbed.until_equal(SKILLS).await?;
            until(projection, ProjectionState::Current).await
        };
        testbed.projecting("one", None, current).await?;
        // Nothing has changed: nothing is written.
        testbed
            .projecting("one", None, async |projection| {
                current(projection).await?;
                ensure!(projection.status().rows == 0, "{:?}", projection.status());
                Ok(())
            })
            .await?;
        let three = ["d1", "d5", "d9"].map(|id| update(SKILLS, id, &json!({"n": 1})));
        testbed.commit(three.into()).await?;
        testbed
            .projecting("one", None, async |projection| {
                current(projection).await?;
                ensure!(projection.status().rows == 3, "{:?}", projection.status());
                Ok(())
            })
            .await
    })
    .await
}
