//! Many events at a time: a backlog is published in few calls, and sidecars that gather events post
//! them together.

use anyhow::{Context, ensure};
use e2e::testbed::{
    FREE, StoreKind, Testbed, Transport, numbered, services::Service, wait::eventually,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{Outcome, stream, time};

const DOCUMENTS: u64 = 40;

fn document(number: u64) -> Value {
    json!({"id": format!("d-{number}"), "number": number})
}

#[tokio::test]
async fn a_backlog_is_published_in_few_calls_and_each_event_expires() -> Outcome {
    let mut testbed = Testbed::prepare(StoreKind::Embedded, Transport::Dapr).await?;
    testbed.publisher.start().await?;
    testbed.start_subscribers().await?;
    let api = testbed.publisher.api();
    for number in 0..DOCUMENTS {
        api.create(FREE, &document(number)).await?.expect(201)?;
    }
    let sidecar = testbed.publisher_sidecar.as_mut().context("a sidecar")?;
    sidecar.add_flag("--enable-api-logging=true".to_owned());
    sidecar.start().await?;
    for number in 0..DOCUMENTS {
        testbed.until_same(FREE, &format!("d-{number}")).await?;
    }
    let redis = testbed.redis.as_ref().context("a redis")?;
    let events = eventually("all events are published", async || {
        let events = stream(redis, FREE).await?;
        ensure!(events.len() as u64 >= DOCUMENTS, "{} events", events.len());
        Ok(events)
    })
    .await?;
    let mut revisions = Vec::new();
    for event in &events {
        time(&event["expiration"]).with_context(|| event.to_string())?;
        ensure!(event["data"]["configData"]["number"].is_u64(), "{event}");
        revisions.extend(event["data"]["revision"].as_u64());
    }
    revisions.sort_unstable();
    revisions.dedup();
    assert_eq!(revisions, (1..=DOCUMENTS).collect::<Vec<_>>());
    let log = testbed
        .publisher_sidecar
        .as_ref()
        .context("a sidecar")?
        .output();
    ensure!(log.contains("BulkPublishEventAlpha1"), "{log}");
    Ok(())
}

/// A sidecar gathers for a tenth of a second.
#[tokio::test]
async fn events_that_sidecars_gather_arrive_each_once_and_a_poisonous_one_alone_is_dropped()
-> Outcome {
    let mut testbed = Testbed::prepare(StoreKind::Embedded, Transport::Dapr).await?;
    for subscriber in &mut testbed.subscribers {
        subscriber.set("AURA_DAPR_BULK_INTERVAL_MS", "100");
    }
    testbed.publisher.start().await?;
    testbed.start_subscribers().await?;
    let sidecar = testbed.publisher_sidecar.as_mut().context("a sidecar")?;
    sidecar.start().await?;
    let poison = json!({"collection": FREE, "op": "Create", "id": 7});
    let published = sidecar.publish(FREE, Some(60), "application/json", poison.to_string());
    ensure!(published.await? == 204);
    // As the source document has it: without a revision.
    let legacy = json!({"collection": FREE, "op": "Update", "id": "d-0"});
    let published = sidecar.publish(FREE, Some(60), "application/json", legacy.to_string());
    ensure!(published.await? == 204);
    let api = testbed.publisher.api();
    for number in 0..DOCUMENTS {
        api.create(FREE, &document(number)).await?.expect(201)?;
    }
    for number in 0..DOCUMENTS {
        testbed.until_same(FREE, &format!("d-{number}")).await?;
    }
    for subscriber in &testbed.subscribers {
        eventually("every event has arrived", async || {
            let status = subscriber.api().get("/v1/status").await?.json()?;
            let count = |name: &str| status["events"][name].as_u64().unwrap_or_default();
            let taken = count("applied") + count("superseded") + count("duplicate");
            ensure!(taken == DOCUMENTS, "{status}");
            ensure!((count("dropped"), count("retried")) == (1, 0), "{status}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// A sidecar that publishes nothing is the slowest one. Readers see every change within the check-in
/// interval, and the status says how far events are behind.
#[tokio::test]
async fn readers_see_changes_within_the_check_in_interval_while_events_are_behind() -> Outcome {
    let mut testbed = Testbed::prepare(StoreKind::Embedded, Transport::Dapr).await?;
    for subscriber in &mut testbed.subscribers {
        subscriber.set("AURA_CONFIGURATION_CHECK_IN_SECONDS", "1");
    }
    testbed.publisher.start().await?;
    testbed.start_subscribers().await?;
    let sidecar = testbed.publisher_sidecar.as_mut().context("a sidecar")?;
    sidecar.start().await?;
    let api = testbed.publisher.api();
    api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
    testbed.until_same(FREE, "a").await?;
    let backlog = async || {
        let list = api.get("/v1/replicas").await?.json()?;
        list["backlog"]["pending"].as_u64().context("a backlog")
    };
    let behind = async |subscriber: &Service| {
        let status = subscriber.api().get("/v1/status").await?.json()?;
        anyhow::Ok(status["eventsBehind"].as_u64().unwrap_or_default())
    };
    eventually("every event is published", async || {
        ensure!(backlog().await? == 0);
        Ok(())
    })
    .await?;

    let sidecar = testbed.publisher_sidecar.as_mut().context("a sidecar")?;
    sidecar
        .process()
        .context("it runs")?
        .signal(Signal::SIGSTOP)?;
    for number in 0..5 {
        api.put(FREE, "a", &numbered(number)).await?.expect(200)?;
        testbed.until_same(FREE, "a").await?;
    }
    ensure!(backlog().await? == 5, "none of them is published");
    for subscriber in &testbed.subscribers {
        ensure!(behind(subscriber).await? == 5, "none came by an event");
    }

    let sidecar = testbed.publisher_sidecar.as_mut().context("a sidecar")?;
    sidecar
        .process()
        .context("it runs")?
        .signal(Signal::SIGCONT)?;
    eventually("the events follow", async || {
        ensure!(backlog().await? == 0);
        for subscriber in &testbed.subscribers {
            ensure!(behind(subscriber).await? == 0);
        }
        Ok(())
    })
    .await
}
