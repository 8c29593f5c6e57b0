//! Two publishers on one database: one of them dies, or both write at once.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use e2e::{
    client::Api,
    testbed::{FREE, Store, StoreKind, Testbed, Transport, services::Service, wait::eventually},
};
use futures_util::future::{join_all, try_join_all};
use mongodb::bson::doc;
use serde_json::json;

use super::{Outcome, every_revision_once};

/// A publisher that dies inside a transaction locks the head until the server ends the transaction.
#[tokio::test]
async fn writes_continue_after_a_publisher_dies_inside_a_transaction() -> Outcome {
    let (store, mut dying, other) = two_publishers().await?;
    let mongod = store.0.as_ref().context("a mongod")?;
    mongod
        .fail(
            "commitTransaction",
            1,
            doc! { "blockConnection": true, "blockTimeMS": 60_000 },
        )
        .await?;
    let doomed = dying.api();
    let hanging = async { doomed.create(FREE, &json!({"id": "doomed"})).await };
    let killing = async {
        mongod.until_failed(1).await?;
        dying.kill()
    };
    let (unanswered, killed) = futures_util::future::join(hanging, killing).await;
    killed?;
    ensure!(
        unanswered.is_err(),
        "the publisher answered before it was killed"
    );
    let began = Instant::now();
    let api = other.api();
    eventually("the other publisher continues to write", async || {
        api.create(FREE, &json!({"id": "next"}))
            .await?
            .expect(201)
            .map(drop)
    })
    .await?;
    // 3 s for the transaction, plus the interval at which the server looks for expired ones.
    ensure!(
        began.elapsed() < Duration::from_secs(15),
        "it took {:?}",
        began.elapsed()
    );
    every_revision_once(&api).await.map(drop)
}

/// Two publishers with 32 writers each and one collection: no acknowledged write is lost, and no
/// revision is skipped or used twice.
#[tokio::test]
async fn two_publishers_can_write_one_collection() -> Outcome {
    const WRITERS: usize = 32;
    const WRITES: usize = 10;
    let (_store, one, two) = two_publishers().await?;
    let write = async |api: Api, writer: usize| {
        let mut acknowledged = Vec::new();
        for number in 0..WRITES {
            let answer = api
                .create(FREE, &json!({"id": format!("{writer}-{number}")}))
                .await?;
            ensure!(matches!(answer.status, 201 | 503), "{}", answer.body);
            if answer.status == 201 {
                acknowledged.push(format!("{writer}-{number}"));
            }
        }
        Ok(acknowledged)
    };
    let apis = [one.api(), two.api()];
    let all = try_join_all((0..2 * WRITERS).map(|writer| write(apis[writer % 2].clone(), writer)))
        .await?;
    let acknowledged: Vec<_> = all.into_iter().flatten().collect();
    ensure!(
        acknowledged.len() > WRITERS * WRITES,
        "most writes succeed: {}",
        acknowledged.len()
    );
    let there = join_all(acknowledged.iter().map(|id| apis[0].document(FREE, id))).await;
    for answer in there {
        answer?.expect(200)?;
    }
    let revisions = every_revision_once(&apis[1]).await?;
    ensure!(
        revisions == acknowledged.len() as u64,
        "{revisions} changes for {} writes",
        acknowledged.len()
    );
    Ok(())
}

/// A publisher leaves pending events behind. Another one on the same database sends them.
#[tokio::test]
async fn another_publisher_sends_the_pending_events_of_a_dead_one() -> Outcome {
    let mut testbed = Testbed::prepare(StoreKind::Mongo, Transport::Dapr).await?;
    // This publisher has no sidecar, and dies.
    let nowhere = e2e::testbed::ports::free_port()?.to_string();
    let dapr = |publisher: Service| publisher.with("AURA_CONFIGURATION_EVENTS_MANAGER", "DAPR");
    let mut dying = dapr(testbed.store.publisher()?).with("DAPR_GRPC_PORT", nowhere);
    dying.start().await?;
    testbed.publisher.start().await?;
    testbed.start_subscribers().await?;
    dying
        .api()
        .create(FREE, &json!({"id": "pending"}))
        .await?
        .expect(201)?;
    dying.kill()?;
    testbed
        .publisher_sidecar
        .as_mut()
        .context("a sidecar")?
        .start()
        .await?;
    testbed.until_same(FREE, "pending").await
}

async fn two_publishers() -> anyhow::Result<(Store, Service, Service)> {
    let store = Store::start(StoreKind::Mongo).await?;
    let quiet = |publisher: Service| publisher.with("AURA_CONFIGURATION_EVENTS_ENABLED", "false");
    let mut one = quiet(store.publisher()?);
    let mut two = quiet(store.publisher()?);
    // Both start at once: each must survive the race to prepare the database.
    futures_util::future::try_join(one.start(), two.start()).await?;
    Ok((store, one, two))
}
