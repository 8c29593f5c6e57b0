//! An operator writes an older state back with `confcast`: the documents are then exactly as they
//! were, also where members of `metadata` came later, and the change says by whom and why.

use std::process::Command;

use anyhow::ensure;
use e2e::testbed::{FREE, dependencies, process::folder, services::Service};
use reqwest::Method;
use serde_json::{Value, json};

type Outcome = anyhow::Result<()>;

/// Runs a command of `confcast`, and returns what it printed.
fn confcast(publisher: &Service, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(dependencies::own_program("confcast")?)
        .args(arguments)
        .args(["--publisher", &publisher.url()])
        .env("USER", "ada")
        .output()?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{arguments:?}: {printed}");
    Ok(printed)
}

async fn value(publisher: &Service) -> anyhow::Result<Value> {
    let document = publisher.api().document(FREE, "a").await?.expect(200)?;
    Ok(document.json()?["configData"].clone())
}

/// Adds a member to `metadata` and changes the rest.
async fn changes(publisher: &Service) -> Outcome {
    let path = format!("/v1/collections/{FREE}/documents/a");
    let patch = json!({"name": "new", "metadata": {"added": true}}).to_string();
    let merge = [("content-type", "application/merge-patch+json")];
    let answer = publisher
        .api()
        .send(Method::PATCH, &path, &merge, patch)
        .await?;
    answer.expect(200).map(drop)
}

#[tokio::test]
async fn an_older_file_and_an_export_are_written_back_as_they_were() -> Outcome {
    let mut publisher = Service::publisher()?
        .with("AURA_CONFIGURATION_COLLECTIONS", FREE)
        .with("AURA_CONFIGURATION_EVENTS_ENABLED", "false");
    publisher.start().await?;
    let old = json!({"name": "old", "metadata": {"owner": "ada"}});
    let files = folder()?;
    let path = |name: &str| files.path().join(name).display().to_string();
    let (file, export) = (path("old.json"), path("export.ndjson"));
    std::fs::write(&file, old.to_string())?;
    confcast(&publisher, &["put", FREE, "a", &file])?;
    confcast(&publisher, &["export", "--output", &export])?;

    changes(&publisher).await?;
    let undo = ["put", FREE, "a", &file, "--exact", "--reason", "undo"];
    confcast(&publisher, &undo)?;
    ensure!(value(&publisher).await? == old, "put --exact");
    let again = confcast(&publisher, &undo)?;
    ensure!(again.contains("unchanged"), "{again}");

    changes(&publisher).await?;
    let imported = confcast(&publisher, &["import", &export, "--user", "grace"])?;
    ensure!(imported.contains("1 documents written"), "{imported}");
    ensure!(value(&publisher).await? == old, "import");
    let imported = confcast(&publisher, &["import", &export])?;
    ensure!(imported.contains("1 of them unchanged"), "{imported}");

    let log = publisher
        .api()
        .get(&format!("/v1/collections/{FREE}/changes?since=0&limit=100"))
        .await?
        .expect(200)?
        .json()?;
    let written_by: Vec<_> = (0..5)
        .map(|change| {
            (
                &log["items"][change]["userId"],
                &log["items"][change]["reason"],
            )
        })
        .map(|(user, reason)| (user.as_str(), reason.as_str()))
        .collect();
    let expected = [
        (Some("ada"), None),
        (None, None),
        (Some("ada"), Some("undo")),
        (None, None),
        (Some("grace"), None),
    ];
    ensure!(written_by == expected, "{log:#}");
    Ok(())
}
