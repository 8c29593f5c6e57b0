//! Limits of a publisher that a client cannot reach for a chosen time: the test itself holds what
//! requests hold for a moment.

use std::time::{Duration, Instant};

use actix_web::test::TestRequest;
use anyhow::ensure;
use futures_util::future::try_join_all;
use serde_json::json;
use service::http::snapshot_slots::Client;
use tokio::task::yield_now;

use super::*;

#[tokio::test]
async fn as_much_of_the_past_is_read_as_the_setting_allows_and_the_next_request_is_refused()
-> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let store = format!("file:{}", folder.path().display());
    let mut options = vec!["--listen", "127.0.0.1:0", "--events-enabled", "false"];
    options.extend(["--store-url", &store, "--collections", "Skills"]);
    options.extend(["--audit", "on", "--limit-histories", "2"]);
    let publisher = Publisher::build(Settings::read(&options)?).await?;
    let address = publisher.address().context("an address")?;
    let slots = publisher.api.histories.clone();
    let client = e2e::http().build()?;
    let (client, slots) = (&client, &slots);
    let statuses = async || {
        let paths = [
            "history",
            "collections/Skills/history",
            "collections/Skills/documents/a/history",
            "audit",
        ];
        let reads = paths.map(|path| client.get(format!("http://{address}/v1/{path}")));
        let plan = client
            .post(format!("http://{address}/v1/collections/Skills/rollback"))
            .json(&serde_json::json!({"toRevision": 0, "dryRun": true}));
        try_join_all(reads.into_iter().chain([plan]).map(async |request| {
            let answer = request.send().await?;
            anyhow::Ok((answer.status().as_u16(), answer.text().await?))
        }))
        .await
    };
    let mut outcome = Ok(());
    publisher
        .run(async {
            outcome = async {
                let hold = async || {
                    let holder = Client::of(&TestRequest::default().to_http_request());
                    slots.open(holder).await.context("a slot")
                };
                let _first = hold().await?;
                for (status, text) in statuses().await? {
                    ensure!(status == 200, "one slot is free: {status} {text}");
                }
                let second = hold().await?;
                for (status, text) in statuses().await? {
                    let is_named = text.contains("urn:confcast:problem:loads-under-way")
                        && text.contains("AURA_CONFIGURATION_LIMIT_HISTORIES");
                    ensure!(
                        status == 503 && is_named,
                        "no slot is free: {status} {text}"
                    );
                }
                drop(second);
                for (status, text) in statuses().await? {
                    ensure!(status == 200, "a slot is free again: {status} {text}");
                }
                Ok(())
            }
            .await;
        })
        .await?;
    outcome
}

/// Loads wait for a slot, and a document changes. One of them reads the store, and the others join
/// what it reads; a second reading would keep the second slot, and the third load would be refused.
#[tokio::test]
async fn loads_that_wait_while_a_document_changes_share_one_reading() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let store = format!("file:{}", folder.path().display());
    let mut options = vec!["--listen", "127.0.0.1:0", "--events-enabled", "false"];
    options.extend(["--store-url", &store, "--collections", "Skills"]);
    options.extend(["--loads", "2"]);
    let publisher = Publisher::build(Settings::read(&options)?).await?;
    let address = publisher.address().context("an address")?;
    let slots = publisher.api.snapshots.clone();
    let client = &e2e::http().build()?;
    let base = &format!("http://{address}/v1");
    let documents = &format!("{base}/collections/Skills/documents");
    let mut outcome = Ok(());
    publisher
        .run(async {
            outcome = async {
                // More than the kernel keeps for a reader that takes nothing.
                for number in 0..16 {
                    let value = json!({"id": number.to_string(), "large": "x".repeat(900_000)});
                    let created = client.post(documents).json(&value).send().await?;
                    ensure!(created.status() == 201, "{created:?}");
                }
                let hold = async || {
                    let holder = Client::of(&TestRequest::default().to_http_request());
                    slots.open(holder).await.context("a slot")
                };
                let held = (hold().await?, hold().await?);
                // Answers begin, and nothing more of them is read.
                let loads = (0..3).map(|_load| client.get(format!("{base}/snapshot")).send());
                let write = async {
                    let begun = Instant::now();
                    while format!("{slots:?}").matches("Waiting {").count() < 3 {
                        assert!(begun.elapsed() < Duration::from_secs(20));
                        yield_now().await;
                    }
                    let value = json!({"large": ""});
                    let put = client.put(format!("{documents}/0")).json(&value);
                    let put = put.send().await?;
                    drop(held);
                    Ok(put)
                };
                let (loads, write) = tokio::try_join!(try_join_all(loads), write)?;
                ensure!(write.status() == 200, "{write:?}");
                for load in &loads {
                    ensure!(load.status() == 200, "{load:?}");
                }
                Ok(())
            }
            .await;
        })
        .await?;
    outcome
}
