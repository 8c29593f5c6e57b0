//! The command line of one version with the publisher of the other, and `confcast doctor`.

use anyhow::{Context, ensure};
use contract::formats;
use e2e::testbed::{
    FREE, StoreKind, Transport,
    dependencies::Build::{self, Current, Previous},
    services::Service,
    wait::eventually,
};
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    Outcome,
    fleet::{Fleet, PAIRED, SECRETS, outcome, run},
};

/// Commands that both versions have, in an order in which each has what it needs. `FILE` is a file of
/// one document, `OUT` one that is written, and `SCHEMAS` the folder of schemas.
const COMMANDS: [&str; 17] = [
    "put FreeForm a FILE --reason first",
    "get FreeForm a --json",
    "snapshot create one",
    "put FreeForm a FILE --expect present",
    "list FreeForm --json",
    "history FreeForm a --diff",
    "diff FreeForm/a@snapshot:one --json",
    "rollback FreeForm a --to-snapshot one --dry-run --json",
    "rollback FreeForm --to-snapshot one --yes",
    "snapshot list --json",
    "export -o OUT",
    "import OUT",
    "status --json",
    "verify --wait 20",
    "schemas check --dir SCHEMAS --json",
    "audit verify",
    "delete FreeForm a",
];

async fn commands_work(cli: Build, publisher: Build) -> Outcome {
    let mut fleet = Fleet::start(
        StoreKind::Embedded,
        Transport::Local,
        publisher,
        [Previous, Current],
    )
    .await?;
    fleet.write_everything("before").await?;
    let publisher = &fleet.testbed.publisher;
    let file = publisher.folder().join("document.json");
    std::fs::write(&file, json!({"id": "a", "n": 1}).to_string())?;
    let out = publisher.folder().join("export.ndjson");
    for line in COMMANDS {
        // The writer would change what is compared.
        if line.starts_with("rollback") {
            fleet.pause_writer().await?;
        }
        let publisher = &fleet.testbed.publisher;
        let file = file.display().to_string();
        let out = out.display().to_string();
        let schemas = fleet.schemas().display().to_string();
        let arguments: Vec<&str> = line
            .split(' ')
            .map(|word| match word {
                "FILE" => file.as_str(),
                "OUT" => out.as_str(),
                "SCHEMAS" => schemas.as_str(),
                other => other,
            })
            .collect();
        run(cli, &arguments, Some(publisher)).await?;
    }
    for collection in [FREE, PAIRED, SECRETS] {
        fleet.testbed.until_converged(collection).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_command_line_before_works_with_this_publisher() -> Outcome {
    commands_work(Previous, Current).await
}

#[tokio::test]
async fn this_command_line_works_with_the_publisher_before() -> Outcome {
    commands_work(Current, Previous).await
}

/// What only this version has is refused in words by a publisher that lacks it, and changes nothing
/// unnoticed.
#[tokio::test]
async fn what_the_publisher_before_lacks_is_refused_in_words() -> Outcome {
    let fleet = Fleet::start(
        StoreKind::Embedded,
        Transport::Local,
        Previous,
        [Previous, Current],
    )
    .await?;
    let publisher = &fleet.testbed.publisher;
    let file = publisher.folder().join("document.json");
    std::fs::write(&file, "{}")?;
    let file = file.display().to_string();
    let put = ["put", FREE, "awaited", &file, "--wait"];
    let (succeeded, text) = outcome(Current, &put, Some(publisher)).await?;
    ensure!(
        !succeeded && text.contains("of an earlier version"),
        "{text}"
    );
    // A parameter is refused; of a header only a service that knows it takes notice.
    let document = format!("/v1/collections/{FREE}/documents/pair");
    for service in [publisher, &fleet.testbed.subscribers[0]] {
        let path = format!("{document}?min-revision=1");
        service.api().get(&path).await?.expect(400)?;
    }
    let wait = format!("{document}?wait=all");
    let answer = publisher.api().send(Method::PUT, &wait, &[], "{}").await?;
    ensure!(answer.expect(400)?.body.contains("wait"));
    let backup = publisher.folder().join("a.backup").display().to_string();
    run(Current, &["backup", "create", &backup], Some(publisher)).await?;
    run(Current, &["backup", "verify", &backup], None).await?;
    Ok(())
}

async fn doctor(publishers: &str, expected: bool) -> anyhow::Result<Value> {
    let arguments = ["doctor", "--json", "--publisher", publishers];
    let (succeeded, text) = outcome(Current, &arguments, None).await?;
    ensure!(succeeded == expected, "{text}");
    // What failed is said beside the result.
    let end = text.rfind("\n}").context("an object")?;
    Ok(serde_json::from_str(&text[..end + 2])?)
}

/// The findings of a check, as `verdict: found`.
fn of_check(report: &Value, check: &str) -> Vec<String> {
    let findings = report["findings"].as_array().into_iter().flatten();
    findings
        .filter(|finding| finding["check"] == check)
        .map(|finding| {
            let text = |member: &str| finding[member].as_str().unwrap_or_default();
            format!("{}: {}", text("verdict"), text("found"))
        })
        .collect()
}

/// Before, during and after an upgrade.
#[tokio::test]
async fn doctor_says_what_an_upgrade_meets() -> Outcome {
    let mut fleet = Fleet::start(
        StoreKind::Embedded,
        Transport::Local,
        Previous,
        [Previous, Current],
    )
    .await?;
    fleet.events_reach_all().await?;
    fleet.pause_writer().await?;
    let url = fleet.testbed.publisher.url();
    let before = doctor(&url, true).await?;
    ensure!(before["verdict"] == "warning", "{before:#}");
    ensure!(before["storeFormat"] == formats::STORE, "{before:#}");
    // The publisher before keeps no versions, so no replica has one.
    let versions = of_check(&before, "version");
    ensure!(versions.len() == 2, "{before:#}");
    ensure!(
        versions.iter().all(|line| line.starts_with("warning: ")),
        "{before:#}"
    );

    fleet
        .testbed
        .publisher
        .set("AURA_CONFIGURATION_STORE_ULR", "file:a-secret");
    fleet.testbed.publisher.restart_as(Current).await?;
    eventually("both check in", async || {
        let during = doctor(&url, true).await?;
        let versions = of_check(&during, "version");
        ensure!(
            versions.len() == 3 && versions.iter().any(|line| line.starts_with("ok: 1 of ")),
            "{during:#}"
        );
        let text = during.to_string();
        ensure!(text.contains("AURA_CONFIGURATION_STORE_ULR"), "{text}");
        ensure!(!text.contains("a-secret"), "{text}");
        Ok(())
    })
    .await?;

    fleet
        .testbed
        .publisher
        .unset("AURA_CONFIGURATION_STORE_ULR");
    fleet.testbed.publisher.restart_as(Current).await?;
    fleet.testbed.subscribers[0].restart_as(Current).await?;
    eventually("nothing is left to do", async || {
        let after = doctor(&url, true).await?;
        ensure!(after["verdict"] == "ok", "{after:#}");
        Ok(())
    })
    .await?;
    let (succeeded, table) = outcome(
        Current,
        &["doctor", "--strict"],
        Some(&fleet.testbed.publisher),
    )
    .await?;
    ensure!(succeeded && table.contains("Nothing blocks"), "{table}");
    // One that does not answer is a finding, and so is one that is no publisher.
    let other = format!(
        "{url},{},http://127.0.0.1:9",
        fleet.testbed.subscribers[1].url()
    );
    let blocked = doctor(&other, false).await?;
    ensure!(of_check(&blocked, "answer").len() == 1, "{blocked:#}");
    ensure!(
        of_check(&blocked, "service") == ["blocks: it is a subscriber"],
        "{blocked:#}"
    );
    Ok(())
}

/// The programs of the next version check the settings of those that run.
#[tokio::test]
async fn settings_are_checked_without_a_start() -> Outcome {
    let publisher = Service::publisher()?;
    let check = |value: &str| -> anyhow::Result<(Option<i32>, String)> {
        let mut command = std::process::Command::new(Current.program("publisher")?);
        let command = command
            .current_dir(publisher.folder())
            .arg("--check-settings");
        let output = command.env("AURA_CONFIGURATION_LOADS", value).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        Ok((output.status.code(), text))
    };
    let (code, text) = check("4")?;
    ensure!(code == Some(0) && text.contains("they are right"), "{text}");
    let (code, text) = check("many")?;
    ensure!(
        code == Some(64) && text.contains("AURA_CONFIGURATION_LOADS"),
        "{text}"
    );
    let made: Vec<_> = publisher.folder().read_dir()?.flatten().collect();
    ensure!(made.is_empty(), "nothing is opened: {made:?}");
    Ok(())
}
