//! Reads that ask for a revision: a publisher waits until it is committed, and never answers with less.

use anyhow::ensure;
use serde_json::{Value, json};

use super::{
    Outcome,
    testbed::{Answer, Testbed, with_publisher},
};

const LIST: &str = "/v1/collections/Skills/documents";
const HEAD: &str = "/v1/collections/Skills";

async fn asked(publisher: &Testbed, path: &str, revision: &str) -> anyhow::Result<Answer> {
    let header = format!("Confcast-Min-Revision: {revision}\r\n");
    publisher.ask(&format!("GET {path}"), &header, "").await
}

async fn put(publisher: &Testbed, number: u64) -> anyhow::Result<u64> {
    let path = format!("{LIST}/a");
    let create = [("if-none-match", "*")];
    let headers = if number == 1 { &create[..] } else { &[] };
    let body = json!({"n": number}).to_string();
    let (status, body) = publisher.send("PUT", &path, headers, &body).await?;
    ensure!(status < 300, "{status} {body}");
    let written: Value = serde_json::from_str(&body)?;
    Ok(written["revision"].as_u64().unwrap_or_default())
}

#[tokio::test]
async fn a_publisher_answers_from_a_committed_revision_on_and_refuses_one_that_is_not() -> Outcome {
    with_publisher(&[], async |publisher| {
        let revision = put(publisher, 1).await?;
        let document = format!("{LIST}/a");
        for path in [HEAD, LIST, &document] {
            let answer = asked(publisher, path, &revision.to_string()).await?;
            ensure!(answer.status == 200, "{path}: {answer:?}");
            let query = if path == HEAD {
                "?timeout=20ms"
            } else {
                "?timeout=0s"
            };
            let answer = asked(publisher, &format!("{path}{query}"), "4611686018427387904").await?;
            ensure!(answer.status == 504, "{path}: {answer:?}");
            let shown = answer.header("confcast-revision").unwrap_or_default();
            ensure!(shown.ends_with(&format!("-{revision}")), "{answer:?}");
            let problem: Value = serde_json::from_str(&answer.body)?;
            ensure!(
                problem["type"] == "urn:confcast:problem:not-fresh"
                    && problem["detail"]
                        .to_string()
                        .contains(&format!("newest is {revision},")),
                "{problem}"
            );
        }
        for (path, revision, field) in [
            (format!("{document}?revision=1"), "1", "min-revision"),
            (
                format!("{LIST}?at=2026-11-28T09:00:00Z"),
                "1",
                "min-revision",
            ),
            (document.clone(), "one", "Confcast-Min-Revision"),
            (format!("{document}?min-revision=2"), "1", "min-revision"),
            ("/v1/snapshot".to_owned(), "1", "Confcast-Min-Revision"),
        ] {
            let answer = asked(publisher, &path, revision).await?;
            let problem: Value = serde_json::from_str(&answer.body)?;
            ensure!(
                answer.status == 400 && problem["field"] == field,
                "{path}: {problem}"
            );
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_read_of_a_revision_that_is_about_to_be_committed_waits_for_it() -> Outcome {
    with_publisher(&[], async |publisher| {
        let next = put(publisher, 1).await? + 1;
        let path = format!("{LIST}/a?min-revision={next}&timeout=20s");
        let read = publisher.send("GET", &path, &[], "");
        let (read, written) = tokio::join!(read, put(publisher, 2));
        ensure!(written? == next);
        let (status, body) = read?;
        ensure!(status == 200, "{status} {body}");
        let document: Value = serde_json::from_str(&body)?;
        ensure!(document["configData"]["n"] == 2, "{document}");
        Ok(())
    })
    .await
}
