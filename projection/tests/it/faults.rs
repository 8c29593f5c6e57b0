//! MongoDB that is away or slow, and several replicas with one projection.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use contract::status::ProjectionState;
use e2e::testbed::wait::eventually;
use mongodb::bson::doc;
use serde_json::json;
use tokio::time::sleep;

use super::testbed::{
    AGENTS, Outcome, SKILLS, create, delete, fifty, project, until, until_status, update,
    with_publisher,
};

#[tokio::test]
async fn while_mongodb_is_away_the_replica_goes_on_and_the_projection_comes_back() -> Outcome {
    with_publisher(async |testbed| {
        testbed
            .commit(vec![create(SKILLS, "a", &json!({"n": 0}))])
            .await?;
        let replica = testbed.replica("one")?;
        let url = testbed.mongod.url("views").parse()?;
        let config = projection::ProjectionConfig {
            url,
            verify_every: None,
        };
        project(&replica, config, async |projection| {
            testbed.until_equal(SKILLS).await?;
            testbed.mongod.kill()?;
            testbed
                .commit(vec![update(SKILLS, "a", &json!({"n": 1}))])
                .await?;
            eventually("the replica has it", async || {
                let status = replica.status();
                ensure!(status.collections[1].revision == 2, "{status:?}");
                Ok(())
            })
            .await?;
            until(projection, ProjectionState::Unavailable).await?;
            ensure!(projection.status().last_error.is_some());
            replica.readiness()?;
            testbed.mongod.restart().await?;
            testbed.until_equal(SKILLS).await?;
            until_status(projection, |status| status.last_error.is_none()).await
        })
        .await
    })
    .await
}

/// The replica keeps the last 1,024 changes. Those before them are told by the difference to what the
/// rows were, and no row is read.
#[tokio::test]
async fn changes_that_the_replica_keeps_no_more_are_told_by_the_difference() -> Outcome {
    with_publisher(async |testbed| {
        // The fail points of the tests are for this name.
        testbed.url_options = "&appName=confcast-publisher";
        testbed.commit(fifty(create, 0)).await?;
        testbed
            .projecting("one", None, async |projection| {
                testbed.until_equal(SKILLS).await?;
                until(projection, ProjectionState::Current).await?;
                let before = projection.status();
                let block = doc! { "blockConnection": true, "blockTimeMS": 4_000 };
                testbed.mongod.fail("update", 1, block).await?;
                for n in 1..=40 {
                    testbed.commit(fifty(update, n)).await?;
                }
                testbed.until_equal(SKILLS).await?;
                let after = projection.status();
                ensure!(after.failures == before.failures, "{after:?}");
                let rows = after.rows - before.rows;
                ensure!(
                    rows < 2_000,
                    "2,000 changes of 50 documents wrote {rows} rows"
                );
                Ok(())
            })
            .await
    })
    .await
}

/// A document that is created by one transaction and deleted before the next load is in no difference
/// of two moments of the replica.
#[tokio::test]
async fn a_document_that_came_and_went_between_two_loads_leaves_no_row() -> Outcome {
    with_publisher(async |testbed| {
        testbed.url_options = "&appName=confcast-publisher";
        testbed.commit(fifty(create, 0)).await?;
        testbed
            .projecting("one", None, async |projection| {
                testbed.until_equal(SKILLS).await?;
                until(projection, ProjectionState::Current).await?;
                let block = doc! { "blockConnection": true, "blockTimeMS": 2_000 };
                testbed.mongod.fail("commitTransaction", 2, block).await?;
                testbed
                    .commit(vec![create(SKILLS, "x", &json!({}))])
                    .await?;
                testbed.mongod.until_failed(1).await?;
                // So that the writer is not idle after its transaction.
                testbed
                    .commit(vec![create(SKILLS, "y", &json!({}))])
                    .await?;
                testbed.mongod.until_failed(2).await?;
                testbed.commit(vec![delete(SKILLS, "x")]).await?;
                for n in 1..=25 {
                    testbed.commit(fifty(update, n)).await?;
                }
                testbed.until_equal(SKILLS).await
            })
            .await
    })
    .await
}

/// Rows of changes that the replica did not have when another collection was loaded: they are not what
/// later differences are told from.
#[tokio::test]
async fn a_row_of_the_writer_before_is_removed_also_when_its_change_was_never_seen() -> Outcome {
    with_publisher(async |testbed| {
        testbed.url_options = "&appName=confcast-publisher";
        testbed.commit(fifty(create, 0)).await?;
        testbed
            .projecting("one", None, async |_projection| {
                testbed.until_equal(SKILLS).await?;
                testbed.until_equal(AGENTS).await
            })
            .await?;
        // The writer before had ten changes more; and a load of the other collection is to come.
        let table = testbed.table(SKILLS).await?;
        let mut ahead = table
            .find_one(doc! { "_id": "d0" })
            .await?
            .context("a row")?;
        ahead.insert("_id", "ahead");
        ahead.insert("revision", 55_i64);
        table.insert_one(ahead).await?;
        let positions = testbed.table("_projection").await?;
        for (name, members) in [
            (SKILLS, doc! { "revision": 60_i64, "count": 51_i64 }),
            (AGENTS, doc! { "reconciling": true }),
        ] {
            let position = doc! { "_id": name };
            positions
                .update_one(position, doc! { "$set": members })
                .await?;
        }
        testbed
            .projecting("two", None, async |projection| {
                testbed.until_equal(AGENTS).await?;
                let block = doc! { "blockConnection": true, "blockTimeMS": 4_000 };
                testbed.mongod.fail("update", 1, block).await?;
                for n in 1..=40 {
                    testbed.commit(fifty(update, n)).await?;
                }
                testbed.until_equal(SKILLS).await?;
                let status = projection.status();
                ensure!(status.mended == 0, "{status:?}");
                Ok(())
            })
            .await
    })
    .await
}

/// The transaction is committed or not, and no answer says which: the positions tell.
#[tokio::test]
async fn after_a_commit_without_an_answer_each_change_is_written_once() -> Outcome {
    with_publisher(async |testbed| {
        testbed.url_options = "&appName=confcast-publisher";
        testbed
            .commit(vec![create(SKILLS, "a", &json!({"n": 0}))])
            .await?;
        let not_committed = doc! { "closeConnection": true };
        let committed = doc! { "writeConcernError": { "code": 91, "errmsg": "shutting down" } };
        testbed
            .projecting("one", None, async |projection| {
                for (n, how) in [not_committed, committed].into_iter().enumerate() {
                    testbed.until_equal(SKILLS).await?;
                    until(projection, ProjectionState::Current).await?;
                    let failures = projection.status().failures;
                    // More often than the commit is sent again.
                    testbed.mongod.fail("commitTransaction", 6, how).await?;
                    testbed
                        .commit(vec![
                            update(SKILLS, "a", &json!({ "n": n + 1 })),
                            create(AGENTS, &format!("a{n}"), &json!({})),
                        ])
                        .await?;
                    until_status(projection, |status| status.failures > failures).await?;
                }
                testbed.until_equal(SKILLS).await?;
                testbed.until_equal(AGENTS).await?;
                let status = projection.status();
                ensure!(status.mended == 0, "{status:?}");
                Ok(())
            })
            .await
    })
    .await
}

#[tokio::test]
async fn of_two_replicas_one_writes_and_the_other_takes_over_and_nothing_goes_back() -> Outcome {
    with_publisher(async |testbed| {
        testbed
            .commit(vec![create(SKILLS, "a", &json!({"n": 0}))])
            .await?;
        let writes = async {
            for n in 1.. {
                testbed
                    .commit(vec![update(SKILLS, "a", &json!({ "n": n }))])
                    .await?;
                sleep(Duration::from_millis(20)).await;
            }
            anyhow::Ok(())
        };
        let never_back = async {
            let mut last = 0;
            loop {
                if let Ok(position) = testbed.position(SKILLS).await {
                    let revision = position.get_i64("revision")?;
                    ensure!(revision >= last, "{revision} after {last}");
                    last = revision;
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        let test = async {
            let second = async |survives: tokio::sync::oneshot::Receiver<()>| {
                testbed
                    .projecting("two", None, async |projection| {
                        until(projection, ProjectionState::Standby).await?;
                        ensure!(projection.status().rows == 0);
                        // A replica that stands by knows how far the projection is.
                        until_status(projection, |status| !status.collections.is_empty()).await?;
                        survives.await?;
                        until_status(projection, |status| status.rows > 10).await
                    })
                    .await
            };
            let (killed, survives) = tokio::sync::oneshot::channel();
            let first = async {
                testbed
                    .projecting("one", None, async |projection| {
                        until_status(projection, |status| status.rows > 100).await
                    })
                    .await?;
                killed
                    .send(())
                    .map_err(|()| anyhow::anyhow!("the second has ended"))
            };
            let later = async {
                // The first one is there before.
                eventually("a position", async || testbed.position(SKILLS).await).await?;
                second(survives).await
            };
            futures_util::try_join!(first, later).map(drop)
        };
        tokio::select! {
            ended = test => ended,
            ended = writes => ended,
            ended = never_back => ended,
        }
    })
    .await
}

/// A replica that stops as it should gives up its hold, and the next one need not wait.
#[tokio::test]
async fn a_replica_that_stops_gives_up_its_hold() -> Outcome {
    with_publisher(async |testbed| {
        let replica = testbed.replica("one")?;
        let config = projection::ProjectionConfig {
            url: testbed.mongod.url("views").parse()?,
            verify_every: None,
        };
        let projection = projection::Projection::new(config, replica.clone());
        let stop = tokio_util::sync::CancellationToken::new();
        let mut outcome = Ok(());
        replica
            .run(async {
                let stopped = async {
                    until(&projection, ProjectionState::Current).await?;
                    testbed.position("_writer").await?;
                    stop.cancel();
                    anyhow::Ok(())
                };
                let run = async {
                    projection.clone().run(stop.clone()).await;
                    Ok(())
                };
                outcome = futures_util::try_join!(run, stopped).map(drop);
            })
            .await;
        outcome?;
        ensure!(testbed.position("_writer").await.is_err());
        Ok(())
    })
    .await
}
