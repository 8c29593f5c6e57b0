//! Events that can never be applied: each is dropped once and does not block the next event.

use anyhow::{Context, ensure};
use e2e::testbed::{FREE, StoreKind, Testbed, Transport, wait::eventually};
use reqwest::Method;
use serde_json::{Value, json};

use super::{CLOUD_EVENT, DEAD_LETTERS, EVENTS, Outcome, stream};

/// An event that can never succeed is dropped and is not delivered again. The next valid event
/// still arrives.
#[tokio::test]
async fn an_invalid_event_is_dropped_once() -> Outcome {
    let testbed = Testbed::start(StoreKind::Embedded, Transport::Dapr).await?;
    let redis = testbed.redis.as_ref().context("a redis")?;
    let sidecar = testbed.publisher_sidecar.as_ref().context("a sidecar")?;
    let poison = [
        json!({"collection": FREE, "op": "Replace", "id": "a", "revision": 1, "epoch": "00000001-1"}),
        json!({"collection": FREE, "op": "Create", "id": 7}),
        json!({"collection": FREE, "op": "Create", "id": "a", "revision": "first", "epoch": "x"}),
        json!({"collection": FREE, "op": "Create", "id": "a", "configData": [1], "revision": 1, "epoch": "00000001-1"}),
        json!("not an object"),
    ];
    for body in &poison {
        ensure!(
            sidecar
                .publish(FREE, Some(60), "application/json", body.to_string())
                .await?
                == 204
        );
    }
    let not_json = sidecar.publish(FREE, Some(60), "text/plain", "<config/>".to_owned());
    ensure!(not_json.await? == 204);
    let dropped = poison.len() + 1;
    // Harmless: a collection that is not followed, or no collection at all, is only a warning
    // (requirement A25).
    for body in [
        json!({"collection": "Elsewhere", "op": "Create", "id": "a"}),
        json!({"op": "Create", "id": "a"}),
        // Without a revision an unknown op is a warning too (requirement A23).
        json!({"collection": FREE, "op": "Replace", "id": "a"}),
    ] {
        ensure!(
            sidecar
                .publish(FREE, Some(60), "application/json", body.to_string())
                .await?
                == 204
        );
    }
    testbed
        .publisher
        .api()
        .create(FREE, &json!({"id": "good"}))
        .await?
        .expect(201)?;
    testbed.until_same(FREE, "good").await?;
    eventually(
        "each replica's sidecar has put each of them into the dead letters",
        async || {
            let dead = stream(redis, DEAD_LETTERS).await?.len();
            ensure!(dead == 2 * dropped, "{dead} dead letters");
            Ok(())
        },
    )
    .await?;
    for subscriber in &testbed.subscribers {
        let status = subscriber.api().get("/v1/status").await?.json()?;
        ensure!(status["events"]["dropped"] == json!(dropped), "{status}");
        ensure!(
            status["events"]["ignored"] == json!(3) && status["events"]["retried"] == json!(0),
            "{status}"
        );
        ensure!(
            status["drops"]
                .as_array()
                .is_some_and(|drops| drops.len() == dropped),
            "{status}"
        );
    }
    Ok(())
}

/// Events that no sidecar would deliver, posted directly to the route: the status is always 200,
/// and the body decides.
#[tokio::test]
async fn every_invalid_event_body_has_its_documented_answer() -> Outcome {
    let testbed = Testbed::start(StoreKind::Embedded, Transport::Local).await?;
    let subscriber = testbed.subscribers[0].api();
    let event = |data: Value| {
        json!({"specversion": "1.0", "id": "1", "source": "test", "type": "com.dapr.event.sent",
               "datacontenttype": "application/json", "data": data})
        .to_string()
    };
    let large = event(
        json!({"collection": FREE, "op": "Create", "id": "a", "configData": {"x": "x".repeat(5 << 20)}}),
    );
    let good = json!({"collection": FREE, "op": "Create", "id": "a"});
    for (what, media_type, body, status) in [
        ("not JSON", CLOUD_EVENT, "{".to_owned(), "DROP"),
        ("not a CloudEvent", CLOUD_EVENT, good.to_string(), "DROP"),
        (
            "no CloudEvent at all",
            "application/json",
            good.to_string(),
            "DROP",
        ),
        ("an empty body", CLOUD_EVENT, String::new(), "DROP"),
        (
            "a batch",
            "application/cloudevents-batch+json",
            format!("[{}]", event(good.clone())),
            "DROP",
        ),
        (
            "wrong types",
            CLOUD_EVENT,
            event(json!({"collection": FREE, "op": "Create", "id": {}})),
            "DROP",
        ),
        ("5 MiB", CLOUD_EVENT, large, "DROP"),
        (
            "an unknown op",
            CLOUD_EVENT,
            event(json!({"collection": FREE, "op": "Upsert", "id": "a"})),
            "SUCCESS",
        ),
        (
            "an unknown op with a revision",
            CLOUD_EVENT,
            event(json!({"collection": FREE, "op": "Upsert", "id": "a", "revision": 1})),
            "DROP",
        ),
        ("no data", CLOUD_EVENT, event(Value::Null), "SUCCESS"),
        (
            "an unknown collection",
            CLOUD_EVENT,
            event(json!({"collection": "X", "op": "Create", "id": "a"})),
            "SUCCESS",
        ),
    ] {
        let answer = subscriber
            .send(Method::POST, EVENTS, &[("content-type", media_type)], body)
            .await;
        let answer = answer
            .with_context(|| what.to_owned())?
            .expect(200)
            .with_context(|| what.to_owned())?;
        ensure!(
            answer.json()?["status"] == status,
            "{what}: {}",
            answer.body
        );
        ensure!(
            status != "DROP" || answer.json()?["error"].is_string(),
            "{what}: {}",
            answer.body
        );
    }
    testbed
        .publisher
        .api()
        .create(FREE, &json!({"id": "good"}))
        .await?
        .expect(201)?;
    testbed.until_same(FREE, "good").await
}
