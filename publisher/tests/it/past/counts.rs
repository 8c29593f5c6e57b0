//! Which requests the counter of writes counts.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::LIST;
use crate::{
    Outcome,
    testbed::{Testbed, with_publisher},
};

#[tokio::test]
async fn all_that_changes_configuration_counts_as_a_write_and_nothing_else() -> Outcome {
    with_publisher(&[], async |publisher| {
        let document = format!("{LIST}/a");
        let to_first = json!({"toRevision": 1, "dryRun": true});
        let nothing = Value::Null;
        let large = json!("x".repeat(9 << 20));
        let counted = [
            ("PUT", document.clone(), json!({"n": 1})),
            ("POST", LIST.to_owned(), json!({"id": "a"})),
            ("POST", format!("{document}/rollback"), to_first.clone()),
            (
                "POST",
                "/v1/collections/Skills/rollback".to_owned(),
                to_first,
            ),
            ("POST", "/v1/sets/none/rollback".to_owned(), json!({})),
            ("POST", "/v1/changes".to_owned(), json!({"changes": []})),
            ("PUT", "/v1/snapshots/one".to_owned(), nothing.clone()),
            ("DELETE", "/v1/snapshots/one".to_owned(), nothing.clone()),
            ("DELETE", document.clone(), nothing.clone()),
            // No handler sees it.
            ("PUT", document.clone(), large),
        ];
        for (number, (method, path, body)) in counted.iter().enumerate() {
            let answer = send(publisher, method, path, body).await?;
            let written = writes(publisher).await?;
            ensure!(
                written == number + 1,
                "{method} {path}, {answer}: {written}"
            );
        }
        let others = [
            ("GET", document.clone()),
            ("PUT", "/v1/replicas/r".to_owned()),
            ("POST", "/v1/dead-letters/none/replay".to_owned()),
            ("PUT", "/v1/nothing".to_owned()),
        ];
        for (method, path) in others {
            let answer = send(publisher, method, &path, &nothing).await?;
            let written = writes(publisher).await?;
            ensure!(
                written == counted.len(),
                "{method} {path}, {answer}: {written}"
            );
        }
        Ok(())
    })
    .await
}

async fn send(
    publisher: &Testbed,
    method: &str,
    path: &str,
    body: &Value,
) -> anyhow::Result<String> {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let (status, text) = publisher.send(method, path, &[], &body).await?;
    Ok(format!("{status} {text}"))
}

/// The sum of the counter over all statuses.
async fn writes(publisher: &Testbed) -> anyhow::Result<usize> {
    let (_status, text) = publisher.send("GET", "/metrics", &[], "").await?;
    let mut sum = 0;
    for line in text.lines() {
        if line.starts_with("confcast_writes_total{") {
            let (_name, number) = line.rsplit_once(' ').context("a number")?;
            sum += number.parse::<usize>()?;
        }
    }
    Ok(sum)
}
