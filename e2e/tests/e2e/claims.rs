//! What events and check-ins claim, and what is proven: a forged event beside the watermark, and a
//! lineage that is renewed.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, ensure};
use contract::{Epoch, fleet::EpochDeclared, status::ReplicaStatus};
use e2e::{
    client::{Answer, Api},
    testbed::{FREE, StoreKind, Testbed, Transport, numbered, wait::eventually},
};
use mongodb::bson::{Document, doc};
use reqwest::Method;
use serde_json::{Value, json};

type Outcome = anyhow::Result<()>;

const JSON: (&str, &str) = ("content-type", "application/json");
const EVENTS: &str = "/dapr/processConfigurationEvents";

async fn status(replica: &Api) -> anyhow::Result<ReplicaStatus> {
    let status = replica.get("/v1/status").await?.expect(200)?;
    Ok(serde_json::from_value(status.json()?)?)
}

async fn send_event(replica: &Api, data: Value) -> Outcome {
    let event = json!({
        "specversion": "1.0", "id": "forged", "source": "stranger", "type": "com.dapr.event.sent",
        "datacontenttype": "application/json", "data": data,
    });
    let media_type = ("content-type", "application/cloudevents+json");
    replica
        .send(Method::POST, EVENTS, &[media_type], event.to_string())
        .await?
        .expect(200)
        .map(drop)
}

/// Nobody committed the next revision, so the replica held it for as long as nobody wrote, and every
/// check-in failed.
#[tokio::test]
async fn a_forged_event_beside_the_watermark_is_corrected_within_one_check_in() -> Outcome {
    let mut testbed = Testbed::prepare(StoreKind::Embedded, Transport::Local).await?;
    testbed.publisher.start().await?;
    testbed.start_subscribers().await?;
    let api = testbed.publisher.api();
    api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
    testbed.until_converged(FREE).await?;
    let head = api.head(FREE).await?;
    let truth = api.document(FREE, "a").await?.body;
    for (replica, proof) in testbed.subscribers.iter().zip([None, head.proof]) {
        let held = replica.api();
        let before = status(&held).await?;
        let data = json!({
            "collection": FREE, "op": "Update", "id": "a", "revision": head.revision + 1,
            "epoch": head.epoch, "configData": {"id": "a", "forged": true}, "proof": proof,
        });
        send_event(&held, data).await?;
        eventually("the collection is loaded again", async || {
            let status = status(&held).await?;
            ensure!(status.sync.resets == before.sync.resets + 1, "{status:?}");
            Ok(())
        })
        .await
        .with_context(|| replica.output())?;
        ensure!(held.document(FREE, "a").await?.body == truth);
        let after = status(&held).await?;
        let dropped = after.drops.last().context("a drop")?;
        ensure!(
            dropped.reason == "unconfirmed" && dropped.error.contains("requests of 127.0.0.1"),
            "{dropped:?}"
        );
        ensure!(
            replica.output().contains("that was never committed"),
            "{}",
            replica.output()
        );
    }
    // True events still arrive: each waits for a check-in for a minute.
    api.put(FREE, "a", &numbered(2)).await?.expect(200)?;
    testbed.until_converged(FREE).await?;
    let metrics = api.get("/metrics").await?.expect(200)?.body;
    ensure!(
        metrics.contains("confcast_epochs_declared_total 0\n"),
        "{metrics}"
    );
    Ok(())
}

async fn declare(api: &Api, request: Value) -> anyhow::Result<Answer> {
    api.send(Method::POST, "/v1/epoch", &[JSON], request.to_string())
        .await
}

async fn declared(api: &Api, request: Value) -> anyhow::Result<Epoch> {
    let answer = declare(api, request).await?.expect(200)?.json()?;
    Ok(serde_json::from_value::<EpochDeclared>(answer)?.epoch)
}

/// A counter was edited by hand to its end. The operator renews the lineage: replicas that run and
/// one that was away follow, and readers miss no document at any moment.
#[tokio::test]
async fn replicas_follow_a_renewed_lineage() -> Outcome {
    let mut testbed = Testbed::prepare(StoreKind::Mongo, Transport::Local).await?;
    testbed.set_all("AURA_CONFIGURATION_CHECK_IN_SECONDS", "1");
    for subscriber in &mut testbed.subscribers {
        let folder = subscriber.folder().join("held").display().to_string();
        subscriber.set("AURA_CONFIGURATION_SNAPSHOT_DIR", folder);
    }
    testbed.publisher.start().await?;
    testbed.start_subscribers().await?;
    let api = testbed.publisher.api();
    for id in ["a", "b"] {
        api.create(FREE, &json!({"id": id})).await?.expect(201)?;
    }
    let server = testbed.store.0.as_ref().context("a mongod")?;
    let database = server.database("confcast").await?;
    let last_but_one = doc! { "$set": { "counter": i64::MAX - 1 } };
    let edited = database
        .collection::<Document>("_meta")
        .update_one(doc! { "counter": { "$exists": true } }, last_but_one)
        .await?;
    ensure!(edited.matched_count == 1, "{edited:?}");
    let last = declared(&api, json!({})).await?;
    ensure!(last.counter == i64::MAX as u64, "{last}");
    testbed.until_converged(FREE).await?;
    let before = api.head(FREE).await?;
    let refused = declare(&api, json!({})).await?.expect(409)?;
    ensure!(refused.body.contains("--renew"), "{}", refused.body);

    // One replica is away and starts from its disk later.
    testbed.subscribers[1].stop().await?;
    let held = testbed.subscribers[0].api();
    let renewed_everywhere = AtomicBool::new(false);
    let reading = async {
        let mut reads = 0;
        while !renewed_everywhere.load(Ordering::Relaxed) {
            for id in ["a", "b"] {
                held.document(FREE, id).await?.expect(200)?;
            }
            reads += 1;
        }
        anyhow::Ok(reads)
    };
    let renewing = async {
        let renewed = declared(&api, json!({"renew": true})).await;
        let followed = async {
            let renewed = renewed?;
            ensure!(renewed.lineage != last.lineage, "{renewed} after {last}");
            api.put(FREE, "a", &numbered(2)).await?.expect(200)?;
            testbed.until_converged_at(0, FREE).await?;
            Ok(renewed)
        };
        let followed = followed.await;
        renewed_everywhere.store(true, Ordering::Relaxed);
        followed
    };
    let (reads, renewed) = tokio::join!(reading, renewing);
    let (reads, renewed) = (reads?, renewed?);
    ensure!(reads > 0, "nobody read");
    testbed.subscribers[1].start().await?;
    testbed.until_converged(FREE).await?;
    testbed.until_same(FREE, "a").await?;
    for subscriber in &testbed.subscribers {
        let status = status(&subscriber.api()).await?;
        // No collection was wrong: a renewal is no reset.
        ensure!(
            (status.epoch, status.sync.resets) == (Some(renewed), 0),
            "{status:?}"
        );
    }

    // What the old lineage proved is no evidence in the new one, under either name.
    let now = api.head(FREE).await?;
    ensure!(now.revision == before.revision + 1 && now.replaces.includes(last));
    for epoch in [before.epoch, renewed] {
        let revision = 999_999;
        let settled = json!({"revision": revision, "digest": before.digest});
        let report = json!({
            "epoch": epoch, "revision": revision, "known": revision, "settled": settled,
            "state": "current", "proof": before.proof,
        });
        let body = json!({
            "instance": "stranger", "bootId": "b", "intervalMs": 10_000,
            "collections": { FREE: report },
        });
        let path = "/v1/replicas/stranger";
        api.send(Method::PUT, path, &[JSON], body.to_string())
            .await?
            .expect(200)?;
    }
    api.put(FREE, "b", &numbered(3)).await?.expect(200)?;
    ensure!(api.head(FREE).await?.epoch == renewed);
    testbed.until_converged(FREE).await?;
    let metrics = api.get("/metrics").await?.expect(200)?.body;
    ensure!(
        metrics.contains("confcast_epochs_declared_total 2\n")
            && metrics.contains("confcast_claims_unproven_total 1\n"),
        "{metrics}"
    );
    Ok(())
}
