//! The audit log of a running publisher: what its API records, and that no write is without its record,
//! also after the process was killed.

use std::{collections::BTreeSet, os::unix::fs::PermissionsExt, process::Command, time::Duration};

use anyhow::{Context as _, ensure};
use contract::{
    FeedPage,
    audit::{
        AuditPage, AuditRecord, AuditedChange,
        verify::{Verifier, changes},
    },
};
use e2e::testbed::{ports::free_port, process::Process, wait::eventually};
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{
    Outcome,
    testbed::{SKILLS, Testbed, with_publisher},
};

const DOCUMENT: &str = "/v1/collections/Skills/documents/a";

async fn records(testbed: &Testbed) -> anyhow::Result<Vec<AuditRecord>> {
    let (status, page) = testbed.send("GET", "/v1/audit?limit=1000", &[], "").await?;
    ensure!(status == 200, "{page}");
    Ok(serde_json::from_str::<AuditPage>(&page)?.items)
}

#[tokio::test]
async fn writes_and_acts_of_operators_are_in_the_log_with_their_caller() -> Outcome {
    with_publisher(&["--audit", "on"], async |testbed| {
        let user = [("x-user-id", "ada"), ("x-correlation-id", "order-66")];
        let create = [("if-none-match", "*"), user[0], user[1]];
        testbed
            .send("PUT", DOCUMENT, &create, r#"{"password":"hunter2"}"#)
            .await?;
        testbed
            .send("PUT", DOCUMENT, &user, r#"{"password":"hunter3"}"#)
            .await?;
        let back = json!({"toRevision": 1}).to_string();
        let path = format!("{DOCUMENT}/rollback");
        let (status, answer) = testbed.send("POST", &path, &user, &back).await?;
        ensure!(status == 200, "{answer}");
        let (status, answer) = testbed
            .send("PUT", "/v1/snapshots/monday", &user, "")
            .await?;
        ensure!(status == 201, "{answer}");
        let (status, answer) = testbed
            .send("DELETE", "/v1/snapshots/monday", &[], "")
            .await?;
        ensure!(status == 204, "{answer}");
        // A page of another origin is refused, and asks again and again.
        for _ in 0..20 {
            let page = [("origin", "https://evil.example")];
            let (status, _answer) = testbed.send("DELETE", DOCUMENT, &page, "").await?;
            ensure!(status == 403);
        }
        let all = eventually("the refusal is recorded", async || {
            let records = records(testbed).await?;
            ensure!(records.iter().any(|record| record.kind == "refusal"));
            Ok(records)
        })
        .await?;
        let of = |kind: &str| {
            all.iter()
                .filter(|record| record.kind == kind)
                .collect::<Vec<_>>()
        };
        let (writes, rollbacks) = (of("write"), of("rollback"));
        ensure!((writes.len(), rollbacks.len()) == (2, 1), "{all:?}");
        ensure!(writes[0].actor == "anonymous" && writes[0].user.as_deref() == Some("ada"));
        ensure!(writes[0].correlation_id.as_deref() == Some("order-66"));
        ensure!(
            rollbacks[0].detail["reason"] == "rollback to revision 1",
            "{rollbacks:?}"
        );
        ensure!(of("snapshot-created").len() == 1 && of("snapshot-deleted").len() == 1);
        // A process that is killed before the record of what it did leaves this one.
        let place = |kind: &str, operation: &str| {
            let is_it = |record: &AuditRecord| {
                record.kind == kind
                    && (operation.is_empty() || record.detail["operation"] == operation)
            };
            all.iter().position(is_it)
        };
        let places = [
            place("requested", "create-snapshot"),
            place("snapshot-created", ""),
            place("requested", "delete-snapshot"),
            place("snapshot-deleted", ""),
        ];
        ensure!(
            places.is_sorted() && places[0].is_some(),
            "{places:?} {all:?}"
        );
        let refusals = of("refusal");
        ensure!(refusals.len() == 1, "{refusals:?}");
        ensure!(
            refusals[0].detail["reason"] == "foreign-origin",
            "{refusals:?}"
        );
        let text = serde_json::to_string(&all)?;
        ensure!(!text.contains("hunter"), "a value is in no record: {text}");
        for (query, status) in [
            ("kind=write&actor=anonymous&limit=1", 200),
            ("after=x", 400),
            ("chain=A", 400),
            ("from=yesterday", 400),
            ("limit=-1", 400),
        ] {
            let path = format!("/v1/audit?{query}");
            let (answered, answer) = testbed.send("GET", &path, &[], "").await?;
            ensure!(answered == status, "{query}: {answer}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn without_credentials_no_log_is_kept_unless_it_is_asked_for() -> Outcome {
    with_publisher(&[], async |testbed| {
        testbed
            .send("PUT", DOCUMENT, &[("if-none-match", "*")], "{}")
            .await?;
        ensure!(records(testbed).await?.is_empty());
        let (_status, tips) = testbed.send("GET", "/v1/audit/tips", &[], "").await?;
        ensure!(
            serde_json::from_str::<Value>(&tips)?
                == json!({"enabled": false, "tips": [], "oneChain": true})
        );
        Ok(())
    })
    .await
}

/// A publisher process that can be killed.
async fn start(folder: &std::path::Path, port: u16) -> anyhow::Result<Process> {
    let store = format!("file:{}", folder.join("data").display());
    let listen = format!("127.0.0.1:{port}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_publisher"));
    command.args([
        "--store-url",
        &store,
        "--listen",
        &listen,
        "--collections",
        SKILLS,
    ]);
    command.args(["--events-enabled", "false", "--audit", "on"]);
    let process = Process::start("publisher", folder, &mut command)?;
    eventually("the publisher is ready", async || {
        let client = e2e::http().build()?;
        let answer = client.get(format!("http://{listen}/readyz")).send().await?;
        ensure!(answer.status() == 204);
        Ok(())
    })
    .await?;
    Ok(process)
}

#[tokio::test]
async fn no_write_is_without_its_record_after_a_kill() -> Outcome {
    let folder = tempfile::tempdir()?;
    let port = free_port()?;
    let url = format!("http://127.0.0.1:{port}");
    let client = e2e::http().build().expect("a client");
    let mut acknowledged = 0;
    for round in 0..3 {
        let mut process = start(folder.path(), port).await?;
        let write_on = async |writer: u32| {
            let mut written = 0;
            for n in 0.. {
                let id = format!("{round}-{writer}-{n}");
                let path = format!("{url}/v1/collections/{SKILLS}/documents");
                let answer = client.post(path).json(&json!({"id": id})).send().await;
                if !answer.is_ok_and(|answer| answer.status() == 201) {
                    return written;
                }
                written += 1;
            }
            written
        };
        // At any point of any commit.
        let kill = async {
            tokio::time::sleep(Duration::from_millis(rand::random_range(100..400))).await;
            process.kill()
        };
        let (written, killed) = tokio::join!(join_all((0..4).map(write_on)), kill);
        killed?;
        acknowledged += written.iter().sum::<usize>();
    }
    let _process = start(folder.path(), port).await?;
    let mut log = Vec::new();
    loop {
        let path = format!("{url}/v1/collections/{SKILLS}/changes?since={}", log.len());
        let page: FeedPage = client.get(path).send().await?.json().await?;
        log.extend(page.items.iter().map(AuditedChange::of));
        if !page.more {
            break;
        }
    }
    let mut verifier = Verifier::default();
    let mut named = Vec::new();
    let mut after = String::new();
    loop {
        let path = format!("{url}/v1/audit?limit=1000{after}");
        let page: AuditPage<Value> = client.get(path).send().await?.json().await?;
        for item in page.items {
            let record = verifier
                .add(item.to_string().as_bytes())
                .context("a record")?;
            named.extend(changes(&record));
        }
        match page.next {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    ensure!(
        named == log,
        "each change has one record, and each record a change"
    );
    ensure!(
        log.len() >= acknowledged && acknowledged > 0,
        "{acknowledged}"
    );
    let report = verifier.finish();
    ensure!(report.faults.is_empty(), "{:?}", report.faults);
    let chains: BTreeSet<_> = report.tips.iter().map(|known| &known.tip.chain).collect();
    ensure!(chains.len() == 1, "one chain over all restarts: {chains:?}");
    Ok(())
}

/// With credentials a log is kept without being asked for, and says which ones are in force.
#[tokio::test]
async fn callers_are_named_and_refused_ones_too() -> Outcome {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("tokens.json");
    let token = auth::SecretToken::generate();
    let secret = token.expose().to_owned();
    let record = json!({
        "id": token.hash().id(), "name": "deploy", "hash": token.hash(),
        "grants": [{"role": "writer"}], "createdAt": "2026-11-28T09:00:00Z", "createdBy": "test",
    });
    std::fs::write(&file, format!("{record}\n"))?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
    let options = [
        "--anonymous",
        "loopback",
        "--tokens-file",
        file.to_str().context("a path")?,
    ];
    with_publisher(&options, async |testbed| {
        let bearer = format!("Bearer {secret}");
        let known = [("authorization", bearer.as_str()), ("if-none-match", "*")];
        let (status, answer) = testbed.send("PUT", DOCUMENT, &known, "{}").await?;
        ensure!(status == 201, "{answer}");
        let (status, _answer) = testbed.send("GET", "/v1/audit", &known[..1], "").await?;
        ensure!(status == 403);
        let unknown = [("authorization", "Bearer x.y.z")];
        let (status, _answer) = testbed.send("PUT", DOCUMENT, &unknown, "{}").await?;
        ensure!(status == 401);
        let all = eventually("both refusals are recorded", async || {
            let records = records(testbed).await?;
            let refusals = records.iter().filter(|record| record.kind == "refusal");
            ensure!(refusals.count() == 2, "{records:?}");
            Ok(records)
        })
        .await?;
        let of = |kind: &str| {
            all.iter()
                .find(|record| record.kind == kind)
                .context("a record")
        };
        ensure!(of("write")?.actor == "token:deploy", "{all:?}");
        ensure!(of("access-configured")?.detail["source"] == "tokens-file");
        let refusal = of("refusal")?;
        ensure!(refusal.actor == "token:deploy", "{refusal:?}");
        ensure!(refusal.detail["right"] == "audit", "{refusal:?}");
        ensure!(refusal.detail["target"] == "GET /v1/audit", "{refusal:?}");
        let text = serde_json::to_string(&all)?;
        ensure!(!text.contains(&secret), "a token is in no record");
        Ok(())
    })
    .await
}
