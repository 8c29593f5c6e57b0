//! Events and check-ins that nobody has a right to send: their revisions, change sets and epochs do
//! not exist.
//!
//! A target that does not answer has not been deceived, so a failure to send is no error. Whether a
//! service believed one is judged by the validators: no epoch may be declared, and no reader may see
//! the value.

use std::time::Duration;

use anyhow::Context;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    cluster::Cluster,
    record::DocumentKey,
    schedule::{Fault, FaultKind},
};
use crate::client::Api;

/// Time limit of one request.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Sends the forged event or check-in of a fault.
///
/// # Errors
/// When the target does not exist.
pub async fn send(cluster: &Cluster, fault: &Fault) -> anyhow::Result<()> {
    let target = cluster
        .publishers
        .iter()
        .chain(&cluster.replicas)
        .find(|service| cluster.components[service.component].name == fault.target)
        .context("no such target")?;
    let api = Api::new(target.url.clone());
    let sent = timeout(TIMEOUT, async {
        match fault.kind {
            FaultKind::ForgedEvent => event(&api, fault.salt).await,
            _ => check_in(&api, fault.salt).await,
        }
    });
    drop(sent.await);
    Ok(())
}

async fn event(api: &Api, salt: u64) -> anyhow::Result<()> {
    let status = api.get("/v1/status").await?.expect(200)?.json()?;
    let key = DocumentKey {
        collection: 0,
        number: 1,
    };
    let row = status["collections"].as_array().and_then(|rows| {
        rows.iter()
            .find(|row| row["collection"] == key.collection())
    });
    let held = row.map_or(0, |row| row["known"].as_u64().unwrap_or(0));
    // Far enough that no true event has this revision before the campaign ends.
    let far = held + 1_000_000 + salt % 1_000_000;
    let mut data = json!({
        "collection": key.collection(), "op": "Update", "id": key.id(), "epoch": status["epoch"],
        "revision": far, "configData": { "id": key.id(), "forged": salt },
    });
    match salt % 3 {
        0 => {}
        1 => data["revision"] = json!(u64::MAX),
        _ => {
            data["revision"] = json!(held + 1);
            data["lastSet"] = json!(far);
        }
    }
    let event = json!({
        "specversion": "1.0", "id": format!("forged-{salt}"), "source": "stranger",
        "type": "com.dapr.event.sent", "datacontenttype": "application/json", "data": data,
    });
    let path = "/dapr/processConfigurationEvents";
    post(
        api,
        Method::POST,
        path,
        "application/cloudevents+json",
        &event,
    )
    .await
}

async fn check_in(api: &Api, salt: u64) -> anyhow::Result<()> {
    let heads = api.get("/v1/collections").await?.expect(200)?.json()?;
    let head = &heads["heads"][0];
    let (collection, epoch) = (
        head["collection"].as_str().context("a collection")?,
        head["epoch"].as_str().context("an epoch")?,
    );
    let (lineage, _counter) = epoch.split_once('-').context("an epoch")?;
    let later = format!("{lineage}-{}", i64::MAX - 1);
    let revision = head["revision"].as_u64().unwrap_or(0) + 1 + salt % 1_000_000;
    let report = json!({
        "epoch": if salt.is_multiple_of(2) { epoch } else { &later },
        "revision": if salt % 4 < 2 { 0 } else { revision }, "known": revision,
        // A true proof of another revision.
        "proof": head["proof"], "state": "current",
    });
    let body = json!({
        "instance": "stranger", "bootId": "b", "intervalMs": 1_000,
        "collections": { collection: report },
    });
    let path = "/v1/replicas/stranger";
    post(api, Method::PUT, path, "application/json", &body).await
}

async fn post(
    api: &Api,
    method: Method,
    path: &str,
    media_type: &str,
    body: &Value,
) -> anyhow::Result<()> {
    let headers = [("content-type", media_type)];
    api.send(method, path, &headers, body.to_string())
        .await
        .map(drop)
}
