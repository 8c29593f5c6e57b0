//! The projection of real subscribers that are killed, and what status, metrics and readiness say.

use anyhow::{Context, ensure};
use contract::status::{ProjectionState, ReplicaStatus};
use e2e::testbed::{
    FREE, StoreKind, Testbed, Transport, metric_reference::MetricReference, mongod::Mongod,
    numbered, services::Service, wait::eventually,
};
use mongodb::bson::{Document, doc};
use serde_json::json;

type Outcome = anyhow::Result<()>;

async fn status(subscriber: &Service) -> anyhow::Result<ReplicaStatus> {
    let answer = subscriber.api().get("/v1/status").await?.expect(200)?;
    Ok(serde_json::from_str(&answer.body)?)
}

/// Waits until the rows are the documents of the publisher.
async fn until_projected(testbed: &Testbed, mongod: &Mongod) -> Outcome {
    let head = testbed.publisher.api().head(FREE).await?;
    let views = mongod.database("views").await?;
    eventually("the rows are those of the publisher", async || {
        let positions = views.collection::<Document>("_projection");
        let position = positions.find_one(doc! { "_id": FREE }).await?;
        let position = position.context("a position")?;
        let rows = views.collection::<Document>(FREE);
        let count = rows.count_documents(doc! {}).await?;
        ensure!(
            position.get_i64("revision")? as u64 == head.revision
                && position.get_str("digest")? == head.digest.to_string()
                && count == head.count,
            "{position} and {count} rows instead of {head:?}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_projection_outlives_its_writer_and_its_database_and_readiness_ignores_it() -> Outcome {
    let mut mongod = Mongod::start().await?;
    let mut testbed = Testbed::prepare(StoreKind::Embedded, Transport::Local).await?;
    for subscriber in &mut testbed.subscribers {
        subscriber.set("AURA_CONFIGURATION_PROJECTION_URL", mongod.url("views"));
    }
    testbed.publisher.start().await?;
    testbed.start_subscribers().await?;
    let api = testbed.publisher.api();
    for number in 0..20 {
        let id = format!("d{number}");
        api.create(FREE, &json!({ "id": id })).await?.expect(201)?;
    }
    until_projected(&testbed, &mongod).await?;

    // The writer is killed while changes come; the other one takes over.
    let first = status(&testbed.subscribers[0]).await?.projection;
    let first = first.context("a projection")?.state;
    let writer = usize::from(first == ProjectionState::Standby);
    for number in 0..10 {
        api.put(FREE, "d1", &numbered(number)).await?.expect(200)?;
    }
    testbed.subscribers[writer].kill()?;
    for number in 10..20 {
        api.put(FREE, "d2", &numbered(number)).await?.expect(200)?;
    }
    until_projected(&testbed, &mongod).await?;
    let other = &testbed.subscribers[1 - writer];
    eventually("the other one writes", async || {
        let projection = status(other).await?.projection.context("a projection")?;
        ensure!(
            projection.state == ProjectionState::Current,
            "{projection:?}"
        );
        Ok(())
    })
    .await?;
    // The killed one comes back and stands by.
    testbed.subscribers[writer].start().await?;
    let back = &testbed.subscribers[writer];
    eventually("it stands by", async || {
        let projection = status(back).await?.projection.context("a projection")?;
        ensure!(
            projection.state == ProjectionState::Standby,
            "{projection:?}"
        );
        Ok(())
    })
    .await?;

    // Without the database the replicas serve on.
    mongod.kill()?;
    api.delete(FREE, "d3").await?.expect(200)?;
    testbed.until_converged(FREE).await?;
    let other = &testbed.subscribers[1 - writer];
    eventually("the status says so", async || {
        let projection = status(other).await?.projection.context("a projection")?;
        ensure!(
            projection.state == ProjectionState::Unavailable && projection.last_error.is_some(),
            "{projection:?}"
        );
        Ok(())
    })
    .await?;
    ensure!(other.api().status_of("/readyz").await? == 204);
    let metrics = other.api().get("/metrics").await?.body;
    MetricReference::read()?.check(&metrics)?;
    for line in [
        "confcast_subscriber_projection_state{state=\"unavailable\"} 1",
        "confcast_subscriber_projection_revision{collection=\"FreeForm\"} 40",
    ] {
        ensure!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    mongod.restart().await?;
    until_projected(&testbed, &mongod).await
}
