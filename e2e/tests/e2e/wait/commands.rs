//! `confcast put --wait` and the like: exit codes, and what is printed.

use anyhow::{Context, ensure};
use e2e::testbed::{
    FREE, StoreKind, Testbed, Transport, dependencies, services::Service, wait::eventually,
};
use serde_json::{Value, json};
use tokio::process::Command;

use super::Outcome;

/// The command line: the exit code, and what it prints on both outputs.
async fn confcast(
    publisher: &Service,
    token: Option<&str>,
    arguments: &[&str],
) -> anyhow::Result<(Option<i32>, String)> {
    let mut command = Command::new(dependencies::own_program("confcast")?);
    command
        .args(arguments)
        .env("AURA_CONFIGURATION_API_URL", publisher.url())
        .current_dir(publisher.folder());
    if let Some(token) = token {
        command.env("AURA_CONFIGURATION_TOKEN", token);
    }
    let output = command.output().await?;
    let outputs = [output.stdout, output.stderr];
    let text = outputs.map(|text| String::from_utf8_lossy(&text).into_owned());
    Ok((output.status.code(), text.concat()))
}

#[tokio::test]
async fn a_command_ends_when_replicas_have_applied_its_write_and_fails_where_they_have_not()
-> Outcome {
    let mut testbed = Testbed::start(StoreKind::Embedded, Transport::Local).await?;
    let folder = testbed.publisher.folder();
    std::fs::write(folder.join("value"), r#"{"number":1}"#)?;
    std::fs::write(folder.join("other"), r#"{"number":2}"#)?;
    let line = json!({"collection": FREE, "id": "b", "configData": {}});
    std::fs::write(folder.join("lines"), format!("{line}\n"))?;
    let patient = ["--wait", "--timeout", "60s"];
    for command in [
        &["put", FREE, "a", "value"][..],
        &["import", "lines"],
        &["delete", FREE, "b"],
        &["put", FREE, "a", "other"],
        &["rollback", FREE, "a", "--to-revision", "1", "--yes"],
        &["rollback", FREE, "--to-revision", "2", "--yes"],
    ] {
        let line = [command, &patient].concat();
        let (code, said) = confcast(&testbed.publisher, None, &line).await?;
        ensure!(
            code == Some(0) && said.contains("applied by 2 of 2 replicas after "),
            "{command:?}: {code:?}: {said}"
        );
    }
    // What a program reads stays JSON.
    let json = ["rollback", FREE, "--to-revision", "1", "--yes", "--json"];
    let line = [&json[..], &patient].concat();
    let (code, said) = confcast(&testbed.publisher, None, &line).await?;
    let rollback: Value = serde_json::from_str(said.trim()).with_context(|| said.clone())?;
    ensure!(
        code == Some(0) && rollback["applied"]["applied"] == 2,
        "{said}"
    );

    testbed.subscribers[0].pause()?;
    let put = ["put", FREE, "a", "other"];
    for (wait, reached) in [("all", false), ("3", false), ("50%", true)] {
        let waiting = format!("--wait={wait}");
        let line = [&put[..], &[&waiting, "--timeout", "1500ms"]].concat();
        let (code, said) = confcast(&testbed.publisher, None, &line).await?;
        let expected = if reached { 0 } else { 3 };
        ensure!(code == Some(expected), "{wait}: {said}");
        if !reached {
            for text in [
                "is committed and stays",
                "applied by 1 of 2 replicas",
                "replica-1",
                "behind",
            ] {
                ensure!(said.contains(text), "{wait}: {text}: {said}");
            }
        }
    }
    let undo = ["rollback", FREE, "a", "--to-revision", "1", "--yes"];
    let line = [&undo[..], &["--wait", "--timeout", "500ms"]].concat();
    let (code, said) = confcast(&testbed.publisher, None, &line).await?;
    ensure!(
        code == Some(3) && said.contains("was rolled back") && said.contains("replica-1"),
        "{code:?}: {said}"
    );
    // A long wait goes on in steps until the replica is back.
    let line = [&put[..], &patient].concat();
    let waits = confcast(&testbed.publisher, None, &line);
    let written = async {
        let api = testbed.publisher.api();
        eventually("the write is committed", async || {
            let document = api.document(FREE, "a").await?.expect(200)?.json()?;
            ensure!(document["configData"]["number"] == 2, "{document}");
            Ok(())
        })
        .await?;
        testbed.subscribers[0].resume()
    };
    let (waited, resumed) = tokio::join!(waits, written);
    resumed?;
    let (code, said) = waited?;
    ensure!(
        code == Some(0) && said.contains("applied by 2 of 2 replicas"),
        "{code:?}: {said}"
    );
    Ok(())
}

/// A script must not take a write for one that failed.
#[tokio::test]
async fn a_write_without_an_answer_has_an_exit_code_of_its_own() -> Outcome {
    let mut testbed = Testbed::prepare(StoreKind::Embedded, Transport::Feed).await?;
    testbed.publisher.start().await?;
    let folder = testbed.publisher.folder();
    std::fs::write(folder.join("value"), r#"{"number":1}"#)?;
    testbed.publisher.pause()?;
    let (code, said) = confcast(&testbed.publisher, None, &["put", FREE, "a", "value"]).await?;
    testbed.publisher.resume()?;
    ensure!(
        code == Some(4) && said.contains("it is not known whether this was written"),
        "{code:?}: {said}"
    );
    // Nothing was sent.
    testbed.publisher.kill()?;
    let (code, said) = confcast(&testbed.publisher, None, &["put", FREE, "a", "value"]).await?;
    ensure!(
        code == Some(1) && said.contains("is it running?"),
        "{code:?}: {said}"
    );
    Ok(())
}

#[tokio::test]
async fn a_writer_waits_for_replicas_without_learning_their_names() -> Outcome {
    let mut testbed = Testbed::prepare(StoreKind::Embedded, Transport::Feed).await?;
    let records = testbed.publisher.folder().join("tokens");
    let records = records.display().to_string();
    let mut tokens = Vec::new();
    for (name, more) in [
        ("replica", &[][..]),
        ("writer", &[]),
        ("writer", &["--collections", FREE, "--id-prefix", "team."]),
    ] {
        let create = ["token", "create", "--offline", "--record-file", &records];
        let who = format!("{name}-{}", tokens.len());
        let line = [&create[..], &["--name", &who, "--role", name], more].concat();
        let (code, token) = confcast(&testbed.publisher, None, &line).await?;
        ensure!(code == Some(0), "{token}");
        // What it says beside the token follows.
        let token = token.lines().next().context("a token")?;
        tokens.push(token.to_owned());
    }
    testbed
        .publisher
        .set("AURA_CONFIGURATION_TOKENS_FILE", &records);
    for subscriber in &mut testbed.subscribers {
        subscriber.set("AURA_CONFIGURATION_TOKEN", &tokens[0]);
    }
    testbed.publisher.start().await?;
    testbed.start_subscribers().await?;
    let file = testbed.publisher.folder().join("value");
    std::fs::write(file, r#"{"number":1}"#)?;
    let put = ["put", FREE, "team.a", "value"];
    for token in &tokens[1..] {
        let line = [&put[..], &["--wait", "--timeout", "60s"]].concat();
        let (code, said) = confcast(&testbed.publisher, Some(token), &line).await?;
        ensure!(
            code == Some(0) && said.contains("applied by 2 of 2 replicas"),
            "{code:?}: {said}"
        );
    }
    testbed.subscribers[0].pause()?;
    for token in &tokens[1..] {
        let line = ["delete", FREE, "team.a", "--wait", "--timeout", "1500ms"];
        let (code, said) = confcast(&testbed.publisher, Some(token), &line).await?;
        ensure!(
            code == Some(3)
                && said.contains("applied by 1 of 2 replicas")
                && said.contains("the right observe")
                && !said.contains("replica-1"),
            "{code:?}: {said}"
        );
        let line = ["put", FREE, "team.a", "value"];
        confcast(&testbed.publisher, Some(token), &line).await?;
    }
    Ok(())
}
