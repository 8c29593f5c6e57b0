//! The output for a new user: stores the samples, and prints commands that show what Confcast does.

use std::{
    fs,
    path::{Display, Path},
};

use anyhow::Context;
use contract::Heads;
use e2e::{client::Api, testbed::dependencies::repository_root};
use serde_json::{Value, json};

use crate::{
    run_file::{App, RunFile, beside_us},
    say,
};

const SUFFIX: &str = ".sample.json";
/// The sample that the commands use.
const SAMPLE: &str = "/v1/collections/ChannelConfiguration/documents/whatsapp-es";

/// Stores the samples in a store that never held a document, and prints the commands.
pub(crate) async fn welcome(file: &RunFile, logs: &Path) -> anyhow::Result<()> {
    let (publisher, subscribers) = file.publisher_and_subscribers()?;
    let api = Api::new(publisher.url());
    let seeded = match seed(&api).await.context("storing the samples")? {
        0 => String::new(),
        samples => format!(", {samples} samples stored"),
    };
    let subscribers: Vec<String> = subscribers.into_iter().map(App::url).collect();
    say(format_args!(
        "\nConfcast is up: publisher {}, subscribers {}{seeded}",
        publisher.url(),
        subscribers.join(" and ")
    ));
    if api.get(SAMPLE).await?.status == 200 {
        say("\nChange a channel at the publisher, and read it from the memory of each subscriber:");
        say(format_args!(
            "  curl -X PATCH {}{SAMPLE} -H 'Content-Type: application/merge-patch+json' -d '{{\"name\": \"Hello\"}}'",
            publisher.url()
        ));
        for subscriber in &subscribers {
            say(format_args!("  curl {subscriber}{SAMPLE}"));
        }
    }
    say("\nWhere every collection and every replica stands:");
    say(format_args!("  curl {}/v1/collections", publisher.url()));
    say(format_args!(
        "  {} status --publisher {} --subscriber {}",
        from_here(&beside_us("confcast")?),
        publisher.url(),
        subscribers.join(",")
    ));
    say(format_args!(
        "\nLogs: {}. Ctrl-C stops everything.",
        from_here(logs)
    ));
    Ok(())
}

async fn seed(publisher: &Api) -> anyhow::Result<usize> {
    let heads = publisher.get("/v1/collections").await?.expect(200)?;
    let Heads { heads } = serde_json::from_str(&heads.body)?;
    if heads.iter().any(|head| head.revision > 0) {
        return Ok(0);
    }
    let mut changes = Vec::new();
    for entry in fs::read_dir(repository_root().join("schemas"))? {
        let path = entry?.path();
        let Some(collection) = path
            .file_name()
            .and_then(|name| name.to_str()?.strip_suffix(SUFFIX))
        else {
            continue;
        };
        let sample: Value = serde_json::from_slice(&fs::read(&path)?)
            .with_context(|| path.display().to_string())?;
        changes.push(json!({
            "collection": collection, "op": "Create", "id": sample["id"], "configData": sample,
        }));
    }
    let samples = changes.len();
    // One set, because they refer to each other.
    let set = json!({ "changes": changes });
    publisher
        .send("POST".parse()?, "/v1/changes", &[], set.to_string())
        .await?
        .expect(200)?;
    Ok(samples)
}

/// A path in its shortest form from the root of the repository.
fn from_here(path: &Path) -> Display<'_> {
    path.strip_prefix(repository_root())
        .unwrap_or(path)
        .display()
}
