//! Callers and failures that the state store has to survive: requests that are too large or make no sense, a
//! publisher and a component that die in the middle of transactions, and sealed values.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use anyhow::bail;
use e2e::client::Api;

use super::{
    state::{State, expect, with_state},
    *,
};

/// Requests that are refused, with the reason, and that change nothing.
#[tokio::test]
async fn requests_that_make_no_sense_change_nothing() -> Outcome {
    let publisher = publisher().await?;
    let replica = with_state(&publisher).await?;
    let state = State::new(&replica.sidecar, "free")?;
    expect(
        state
            .post("", &json!([{"key": "a", "value": numbered(1)}]))
            .await?,
        204,
        "",
    )?;
    let head = publisher.api().head(FREE).await?;
    let text = |bytes: usize| json!({ "text": "x".repeat(bytes) });
    let keys = [
        "",
        " ",
        "a b",
        "a/b",
        "../a",
        "ä",
        "a\u{0}",
        "a\n",
        "%61",
        "a||b",
        ".",
        &"k".repeat(300),
    ];
    for key in keys {
        let (status, body) = state
            .post("", &json!([{"key": key, "value": text(1)}]))
            .await?;
        ensure!(
            (400..=500).contains(&status) && body.contains("key"),
            "{key:?}: {status} {body}"
        );
    }
    let etags = [
        "seven",
        "-1",
        "1-",
        "-",
        "1-zzzzzzzz",
        "1-00000000-0",
        "99999999999999999999",
        "0x1",
        "*",
        "1\n",
        &"9".repeat(10_000),
    ];
    for etag in etags {
        let item = json!([{"key": "a", "value": text(1), "etag": etag}]);
        let (status, body) = state.post("", &item).await?;
        ensure!(
            [400, 409].contains(&status) && body.contains("etag"),
            "{etag:.20?}: {status} {body}"
        );
    }
    // Of one document, of one request, and of a bulk.
    let (status, body) = state
        .post("", &json!([{"key": "a", "value": text(2 << 20)}]))
        .await?;
    ensure!(status >= 400 && body.contains("1048576"), "{status} {body}");
    let many = |number: usize, bytes: usize| {
        let items = (0..number).map(|at| json!({"key": format!("k{at}"), "value": text(bytes)}));
        Value::from(items.collect::<Vec<_>>())
    };
    for (items, words) in [(many(16, 1 << 20), ""), (many(1_001, 1), "at most 1000")] {
        let (status, body) = state.post("", &items).await?;
        ensure!(status >= 400 && body.contains(words), "{status} {body}");
    }
    let operations = (0..257).map(
        |at| json!({"operation": "upsert", "request": {"key": format!("k{at}"), "value": text(1)}}),
    );
    let operations = json!({ "operations": operations.collect::<Vec<_>>() });
    let (status, body) = state.post("/transaction", &operations).await?;
    ensure!(status >= 400 && body.contains("256"), "{status} {body}");
    let twice = json!({"operations": [
        {"operation": "upsert", "request": {"key": "a", "value": numbered(2)}},
        {"operation": "delete", "request": {"key": "a"}},
    ]});
    let (status, body) = state.post("/transaction", &twice).await?;
    ensure!(status >= 400, "{status} {body}");
    ensure!(
        publisher.api().head(FREE).await? == head,
        "something was written"
    );
    // It serves the next one.
    let last = json!([{"key": "a", "value": numbered(2)}]);
    expect(state.post("", &last).await?, 204, "")
}

/// The number that both documents have; 0 before they exist.
async fn number(publisher: &Api) -> anyhow::Result<u64> {
    let list = format!("/v1/collections/{FREE}/documents");
    let list = publisher.get(&list).await?.expect(200)?.json()?;
    let items = list["items"].as_array().context("items")?;
    let numbers: Vec<_> = (items.iter())
        .map(|item| item["configData"]["number"].as_u64())
        .collect();
    match numbers[..] {
        [] => Ok(0),
        [Some(one), Some(other)] if one == other => Ok(one),
        _ => bail!("a part of a transaction: {numbers:?}"),
    }
}

/// Writes both documents with growing numbers until a write fails. Returns the last number that was
/// confirmed.
async fn write(state: &State, mut number: u64, stop: &AtomicBool) -> anyhow::Result<u64> {
    let deadline = Instant::now() + LONG;
    while !stop.load(Ordering::Relaxed) {
        ensure!(Instant::now() < deadline, "nothing was killed");
        let operations = ["a", "b"].map(|key| {
            json!({"operation": "upsert", "request": {"key": key, "value": {"number": number + 1}}})
        });
        let answer = state
            .post("/transaction", &json!({ "operations": operations }))
            .await;
        // What a failed one did is seen afterwards.
        let Ok((204, _)) = answer else { break };
        number += 1;
    }
    Ok(number)
}

/// Kills a service when the documents have reached a number, and starts it again.
async fn kill(publisher: &Api, victim: &mut Service, at: u64, stop: &AtomicBool) -> Outcome {
    within(LONG, "transactions are written", async || {
        let number = number(publisher).await?;
        ensure!(number >= at, "{number}");
        Ok(())
    })
    .await?;
    victim.kill()?;
    victim.launch()?;
    stop.store(true, Ordering::Relaxed);
    Ok(())
}

/// A caller writes two documents together while the publisher and the component are killed. Both are always
/// equal, and what was confirmed is there.
#[tokio::test]
async fn a_transaction_is_whole_when_a_part_is_killed_in_the_middle() -> Outcome {
    let mut publisher = publisher().await?;
    let mut replica = with_state(&publisher).await?;
    let api = publisher.api();
    let mut last = 0;
    for round in 0..6 {
        let state = State::new(&replica.sidecar, "free")?;
        let stop = AtomicBool::new(false);
        let of_component = round % 2 == 1;
        let victim = match of_component {
            true => &mut replica.component,
            false => &mut publisher,
        };
        let (confirmed, killed) = tokio::join!(
            write(&state, last, &stop),
            kill(&api, victim, last + 20 + round, &stop)
        );
        killed?;
        let confirmed = confirmed?;
        publisher.until_ready().await?;
        if of_component {
            // It has forgotten the sidecar, which has to start again.
            let key = state.get("a").await?;
            ensure!(!key.status().is_success(), "{}", key.status());
            replica.sidecar.kill()?;
            replica.start_sidecar().await?;
            replica.component.until_ready().await?;
        }
        last = number(&api).await?;
        ensure!(
            last == confirmed || last == confirmed + 1,
            "{confirmed} was confirmed, and {last} is there"
        );
    }
    replica.until_equal(&publisher, FREE).await
}

/// Sealed values stay sealed: they are read and written back without a change, and one that is copied to
/// another document is refused.
#[tokio::test]
async fn a_sealed_value_is_of_its_document_alone() -> Outcome {
    const CANARY: &str = "canary-2c9e";
    let folder = folder()?;
    let schema = json!({
        "type": "object",
        "properties": {"id": {"type": "string"}, "n": {"type": "integer"}, "password": {"type": "string", "x-secret": true}},
    });
    std::fs::write(
        folder.path().join("Databases.schema.json"),
        schema.to_string(),
    )?;
    let keys =
        json!({"active": "a", "keys": {"a": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}});
    std::fs::write(folder.path().join("keys"), keys.to_string())?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let mut publisher = Service::publisher()?
        .with("AURA_CONFIGURATION_COLLECTIONS", "Databases")
        .with(
            "AURA_CONFIGURATION_SCHEMAS_DIR",
            folder.path().display().to_string(),
        )
        .with("AURA_CONFIGURATION_SECRET_KEYS_FILE", path("keys"));
    publisher.start().await?;
    let mut replica = Replica::new("sealed", "Databases", &publisher).await?;
    let file = dependencies::repository_root().join("components/confcast/state.yaml");
    let file = std::fs::read_to_string(file)?.replace("ChannelConfiguration", "Databases");
    replica.sidecar.add_component("channels", &file)?;
    replica.component.launch()?;
    replica.start_sidecar().await?;
    let state = State::new(&replica.sidecar, "channels")?;
    let item = json!([{"key": "a", "value": {"n": 1, "password": CANARY}}]);
    expect(state.post("", &item).await?, 204, "")?;
    let (mut sealed, _) = state.value("a").await?;
    ensure!(
        sealed["n"] == 1 && !sealed.to_string().contains(CANARY),
        "{sealed}"
    );
    let head = publisher.api().head("Databases").await?;
    expect(
        state
            .post("", &json!([{"key": "a", "value": sealed}]))
            .await?,
        204,
        "",
    )?;
    ensure!(
        publisher.api().head("Databases").await? == head,
        "it was sealed again"
    );
    let (status, body) = state
        .post("", &json!([{"key": "b", "value": sealed}]))
        .await?;
    ensure!(
        status >= 400 && body.contains("password"),
        "{status} {body}"
    );
    // Another member changes beside it.
    sealed["n"] = json!(2);
    expect(
        state
            .post("", &json!([{"key": "a", "value": sealed}]))
            .await?,
        204,
        "",
    )?;
    let (changed, _) = state.value("a").await?;
    ensure!(changed == sealed, "{changed}");
    let events = replica.node.events().await?;
    for text in [
        json!(events).to_string(),
        replica.component.output(),
        replica.sidecar.output(),
    ] {
        ensure!(!text.contains(CANARY), "the secret was shown");
    }
    Ok(())
}
