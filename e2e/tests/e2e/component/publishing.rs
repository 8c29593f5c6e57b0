//! Publishing through a sidecar is a write at the publisher.

use e2e::testbed::{CHANNELS, sample};

use super::*;

/// Publishes through the HTTP API of a sidecar; its answer.
async fn publish(
    sidecar: &Sidecar,
    topic: &str,
    query: &str,
    body: &Value,
) -> anyhow::Result<(u16, String)> {
    let port = sidecar.http_port();
    let url = format!("http://127.0.0.1:{port}/v1.0/publish/{PUBSUB}/{topic}{query}");
    let answer = e2e::http().build()?.post(url).json(body).send().await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

/// An event of the source document and a document by its id are written, received by every replica, and
/// refused by the schema.
#[tokio::test]
async fn what_is_published_is_written_and_received() -> Outcome {
    let publisher = publisher().await?;
    let topics = format!("{FREE},{CHANNELS}");
    let replica = Replica::start("writer", &topics, &publisher).await?;
    let sidecar = &replica.sidecar;
    let event = |op: &str, value: Value| json!({"collection": FREE, "op": op, "id": "a", "configData": value, "metadata": {"ttlInSeconds": "60"}, "pubSubName": PUBSUB});
    for number in [1, 1, 2] {
        let (status, body) = publish(sidecar, FREE, "", &event("Update", numbered(number))).await?;
        ensure!(status == 204, "{status} {body}");
    }
    let (status, body) = publish(sidecar, FREE, "?metadata.id=b", &numbered(7)).await?;
    ensure!(status == 204, "{status} {body}");
    // A document may have the members of an event. Without an envelope it is the value as it is.
    let like_an_event = json!({"specversion": "2", "data": {"n": 1}});
    for query in ["?metadata.id=c", "?metadata.id=c&metadata.rawPayload=true"] {
        let (status, body) = publish(sidecar, FREE, query, &like_an_event).await?;
        ensure!(status == 204, "{status} {body}");
        let document = publisher.api().document(FREE, "c").await?.expect(200)?;
        let document = document.json()?;
        ensure!(
            document["configData"] == like_an_event,
            "{query}: {document}"
        );
    }
    let head = publisher.api().head(FREE).await?;
    // The repetitions changed nothing.
    ensure!((head.revision, head.count) == (4, 3), "{head:?}");
    replica.until_equal(&publisher, FREE).await?;
    for _twice in 0..2 {
        let (status, body) = publish(sidecar, FREE, "", &event("Delete", Value::Null)).await?;
        ensure!(status == 204, "{status} {body}");
    }
    replica.until_equal(&publisher, FREE).await?;
    let events = replica.node.events().await?;
    let ops: Vec<_> = events
        .iter()
        .filter_map(|event| event["data"]["op"].as_str())
        .collect();
    ensure!(
        ops == ["Create", "Update", "Create", "Create", "Delete"],
        "{ops:?}"
    );

    let mut channel = sample(CHANNELS)?;
    channel["name"] = json!(7);
    let channel = json!({"op": "Create", "id": channel["id"], "configData": channel});
    for (topic, body, words) in [
        (CHANNELS, channel, "/name"),
        (FREE, event("Update", Value::Null), "configData"),
        (FREE, event("Upsert", numbered(1)), "Upsert"),
        (FREE, json!({"op": "Update", "id": "a b"}), "id"),
        (
            FREE,
            json!({"collection": CHANNELS, "op": "Delete", "id": "a"}),
            "collection",
        ),
        ("Nowhere", numbered(1), "AURA_CONFIGURATION_COLLECTIONS"),
    ] {
        let (status, answer) = publish(sidecar, topic, "", &body).await?;
        ensure!(
            status >= 400 && answer.contains(words),
            "{words}: {status} {answer}"
        );
    }

    let bulk = json!([
        {"entryId": "1", "event": {"op": "Update", "id": "x", "configData": {"n": 1}}, "contentType": "application/json"},
        {"entryId": "2", "event": {"op": "Update", "id": "y"}, "contentType": "application/json"},
    ]);
    let url = format!(
        "http://127.0.0.1:{}/v1.0-alpha1/publish/bulk/{PUBSUB}/{FREE}",
        sidecar.http_port()
    );
    let answer = e2e::http().build()?.post(url).json(&bulk).send().await?;
    let answer: Value = answer.json().await?;
    let failed = answer["failedEntries"]
        .as_array()
        .context("failed entries")?;
    ensure!(failed.len() == 1 && failed[0]["entryId"] == "2", "{answer}");
    ensure!(answer.to_string().contains("configData"), "{answer}");
    replica.until_equal(&publisher, FREE).await
}
