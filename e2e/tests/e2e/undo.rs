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

/// Runs a command that is refused, and returns what it printed.
fn refused(publisher: &Service, arguments: &[&str]) -> anyhow::Result<String> {
    match confcast(publisher, arguments) {
        Ok(printed) => anyhow::bail!("{arguments:?} was not refused: {printed}"),
        Err(refusal) => Ok(format!("{refusal:#}")),
    }
}

async fn change(publisher: &Service, user: &str, changes: Value) -> anyhow::Result<Value> {
    let headers = [("x-user-id", user), ("x-change-reason", "release 7")];
    let body = json!({"changes": changes}).to_string();
    let api = publisher.api();
    let answer = api.send(Method::POST, "/v1/changes", &headers, body);
    answer.await?.expect(200)?.json()
}

#[tokio::test]
async fn a_change_set_is_undone_together_unless_a_change_came_after_it() -> Outcome {
    let mut publisher = Service::publisher()?
        .with("AURA_CONFIGURATION_COLLECTIONS", FREE)
        .with("AURA_CONFIGURATION_EVENTS_ENABLED", "false");
    publisher.start().await?;
    let created = |id: &str| json!({"collection": FREE, "op": "Create", "id": id, "configData": {"name": "new"}});
    let set = change(&publisher, "grace", json!([created("a"), created("b")])).await?;
    let set = set["id"].as_str().unwrap_or_default().to_owned();
    changes(&publisher).await?;

    let undo = ["rollback", "--set", &set, "--yes"];
    let refusal = refused(&publisher, &undo)?;
    let names_the_change =
        refusal.contains("409") && refusal.contains(&format!("{FREE}/a was changed"));
    ensure!(names_the_change, "{refusal}");
    let back = ["rollback", FREE, "a", "--to-revision", "1"];
    let unconfirmed = refused(&publisher, &back)?;
    ensure!(unconfirmed.contains("nothing was done"), "{unconfirmed}");
    ensure!(value(&publisher).await?["metadata"]["added"] == true);

    // The user of the command and its reason are in the change.
    let back = [&back[..], &["--yes", "--reason", "undo release 7"]].concat();
    confcast(&publisher, &back)?;
    ensure!(value(&publisher).await? == json!({"name": "new"}));
    let history = confcast(&publisher, &["history", FREE, "a", "--limit", "1"])?;
    let says_who = history.contains("ada") && history.contains("undo release 7");
    ensure!(says_who, "{history}");

    let tag = "1-00000000";
    let file = folder()?;
    let path = file.path().join("a.json").display().to_string();
    std::fs::write(&path, "{}")?;
    let put = ["put", FREE, "a", &path, "--expect", tag];
    let refusal = refused(&publisher, &put)?;
    let shows_what_is_there = refusal.contains("there is now, at revision 4")
        && refusal.contains(r#""name": "new""#)
        && refusal.contains("was changed by ada");
    ensure!(shows_what_is_there, "{refusal}");
    Ok(())
}

#[tokio::test]
async fn more_documents_than_a_change_set_has_are_rolled_back_in_parts() -> Outcome {
    const DOCUMENTS: usize = 300;
    let mut publisher = Service::publisher()?
        .with("AURA_CONFIGURATION_COLLECTIONS", FREE)
        .with("AURA_CONFIGURATION_EVENTS_ENABLED", "false");
    publisher.start().await?;
    for (op, value) in [("Create", 1), ("Replace", 2)] {
        let all: Vec<_> = (0..DOCUMENTS)
            .map(|number| json!({"collection": FREE, "op": op, "id": format!("d{number}"), "configData": {"value": value}}))
            .collect();
        for part in all.chunks(256) {
            change(&publisher, "grace", json!(part)).await?;
        }
    }
    let then = DOCUMENTS.to_string();
    let at = format!("{FREE}@{then}");
    let different = refused(&publisher, &["diff", &at])?;
    ensure!(
        different.contains("300 documents are different"),
        "{different}"
    );

    let back = ["rollback", FREE, "--to-revision", &then, "--yes"];
    let printed = confcast(&publisher, &back)?;
    ensure!(
        printed.contains("300 documents change in 2 parts"),
        "{printed}"
    );
    confcast(&publisher, &["diff", &at])?;
    let again = confcast(&publisher, &back)?;
    ensure!(again.contains("nothing to roll back"), "{again}");
    Ok(())
}
