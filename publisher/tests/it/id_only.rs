//! Id-only events, and collections without a topic (requirement D1 to D5, D8).

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::{
    Outcome,
    testbed::{AGENTS, SKILLS, Testbed, with_publisher},
};

/// All that an id-only event has, with what a sidecar adds.
const MEMBERS: [&str; 10] = [
    "data",
    "datacontenttype",
    "expiration",
    "id",
    "pubsubname",
    "source",
    "specversion",
    "time",
    "topic",
    "type",
];

/// Headers of a request that names its user, its correlation and its trace.
const CONTEXT: [(&str, &str); 4] = [
    ("X-User-Id", "ada"),
    ("X-Organisation-Id", "hectare"),
    ("X-Correlation-Id", "order-66"),
    (
        "traceparent",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ),
];

async fn send(testbed: &Testbed, op: &str, collection: &str, id: &str, body: &str) -> Outcome {
    let path = format!("/v1/collections/{collection}/documents/{id}");
    let mut headers = CONTEXT.to_vec();
    let method = match op {
        "Create" => {
            headers.push(("If-None-Match", "*"));
            "PUT"
        }
        "Update" => "PUT",
        _ => "DELETE",
    };
    let (status, answer) = testbed.send(method, &path, &headers, body).await?;
    ensure!(status < 300, "{method} {path}: {status} {answer}");
    Ok(())
}

/// What a consumer does with an id-only event (requirement D5): a GET by id, where 404 means that
/// there is nothing.
async fn consume(testbed: &Testbed, event: &Value) -> anyhow::Result<Option<Value>> {
    let topic = event["topic"].as_str().context("a topic")?;
    let id = event["data"]["id"].as_str().context("an id")?;
    testbed.read(topic, id).await
}

#[tokio::test]
async fn an_id_only_event_has_the_id_and_no_more_and_a_consumer_reads_by_it() -> Outcome {
    with_publisher(&["--id-only-collections", SKILLS], async |testbed| {
        let mut names = BTreeSet::new();
        let steps = [
            ("Create", r#"{"secret":"s3cret-1"}"#, Some("s3cret-1")),
            ("Update", r#"{"secret":"s3cret-2"}"#, Some("s3cret-2")),
            ("Delete", "", None),
        ];
        for (op, body, expected) in steps {
            send(testbed, op, SKILLS, "cook", body).await?;
            let event = testbed.event().await?;
            ensure!(event["topic"] == SKILLS, "{event}");
            ensure!(event["data"] == json!({"id": "cook"}), "{event}");
            let mut members: Vec<_> = event.as_object().context("an object")?.keys().collect();
            members.sort();
            ensure!(members == MEMBERS, "{members:?}");
            let text = event.to_string();
            for word in ["s3cret", "ada", "hectare", "order-66", "4bf92f35"] {
                ensure!(!text.contains(word), "{word}: {text}");
            }
            names.insert(event["id"].as_str().context("an id")?.to_owned());
            // The event came after the commit, so the read finds what it tells of.
            let read = consume(testbed, &event).await?;
            let read = read
                .as_ref()
                .map(|document| &document["configData"]["secret"]);
            ensure!(read == expected.map(Value::from).as_ref(), "{read:?}");
        }
        // Each event has a name of its own, from which no revision can be read.
        ensure!(names.len() == 3, "{names:?}");
        ensure!(names.iter().all(|name| name.len() == 36), "{names:?}");

        // Another collection has whole events.
        send(testbed, "Create", AGENTS, "smith", "{}").await?;
        let event = testbed.event().await?;
        ensure!(event["data"]["revision"] == 1, "{event}");
        ensure!(event["data"]["userId"] == "ada", "{event}");
        Ok(())
    })
    .await
}

/// Also under load no event leaves before its commit: every consumer that reads by the id finds the
/// document, and a write that was refused has no event.
#[tokio::test]
async fn no_id_only_event_is_before_its_commit_or_of_a_refused_write() -> Outcome {
    with_publisher(&["--id-only-collections", "*"], async |testbed| {
        let writes = (0..200).map(async |number| {
            let id = format!("n{number}");
            // The last of each ten is refused: it is there already.
            let path = format!("/v1/collections/{SKILLS}/documents");
            let body = json!({"id": id}).to_string();
            let (status, answer) = testbed.send("POST", &path, &[], &body).await?;
            ensure!(status == 201, answer);
            let (status, answer) = testbed.send("POST", &path, &[], &body).await?;
            ensure!(status == 409, answer);
            anyhow::Ok(())
        });
        for written in futures_util::future::join_all(writes).await {
            written?;
        }
        let mut seen = BTreeSet::new();
        for _event in 0..200 {
            let event = testbed.event().await?;
            ensure!(consume(testbed, &event).await?.is_some(), "{event}");
            seen.insert(event["data"]["id"].to_string());
        }
        ensure!(seen.len() == 200, "{} documents had events", seen.len());
        ensure!(testbed.another_event().is_none(), "a refused write has one");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_collection_without_a_topic_has_no_event_and_nothing_pending() -> Outcome {
    with_publisher(&["--no-topic-collections", AGENTS], async |testbed| {
        send(testbed, "Create", AGENTS, "smith", "{}").await?;
        send(testbed, "Update", AGENTS, "smith", r#"{"n":1}"#).await?;
        send(testbed, "Delete", AGENTS, "smith", "").await?;
        // An event that comes after theirs would have come.
        send(testbed, "Create", SKILLS, "cook", "{}").await?;
        let event = testbed.event().await?;
        ensure!(event["topic"] == SKILLS, "{event}");
        ensure!(testbed.another_event().is_none());
        ensure!(testbed.log(AGENTS).await?.len() == 3, "the log has them");
        // Replicas learn that no event is missing.
        let check_in =
            json!({"instance": "r", "bootId": "b", "intervalMs": 1000, "collections": {}});
        let (status, answer) = testbed
            .send("PUT", "/v1/replicas/r", &[], &check_in.to_string())
            .await?;
        let answer: Value = serde_json::from_str(&answer)?;
        ensure!(
            status == 200
                && answer["withoutTopic"] == json!([AGENTS])
                && answer["idOnly"] == json!([]),
            "{answer}"
        );
        Ok(())
    })
    .await
}

/// Unset and empty are the same for every setting: each collection has a topic and whole events.
#[tokio::test]
async fn an_empty_list_of_either_setting_changes_nothing() -> Outcome {
    let options = ["--no-topic-collections", "", "--id-only-collections", ""];
    with_publisher(&options, async |testbed| {
        send(testbed, "Create", AGENTS, "smith", "{}").await?;
        let event = testbed.event().await?;
        ensure!(event["data"]["op"] == "Create", "{event}");
        Ok(())
    })
    .await
}
