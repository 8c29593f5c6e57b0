//! The past over HTTP, on both stores: history, documents as they were, rollbacks and snapshots.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use e2e::testbed::mongod::Mongod;
use serde_json::{Value, json};

use super::{
    Outcome,
    testbed::{Testbed, with_publisher},
};

mod counts;
mod history;
mod rollback;

const LIST: &str = "/v1/collections/Skills/documents";

/// Runs a test with the embedded store and with MongoDB.
async fn with_both_stores(test: impl AsyncFn(&mut Testbed) -> Outcome) -> Outcome {
    with_publisher(&[], &test)
        .await
        .context("the embedded store")?;
    let server = Mongod::start().await?;
    with_publisher(&["--store-url", &server.url("past")], &test)
        .await
        .context("MongoDB")
}

impl Testbed {
    /// Sends a request with a body and gives the answer as JSON, which must have this status.
    async fn json(
        &self,
        (method, path): (&str, &str),
        headers: &[(&str, &str)],
        body: &Value,
        status: u16,
    ) -> anyhow::Result<Value> {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let (found, text) = self.send(method, path, headers, &body).await?;
        ensure!(
            found == status,
            "{method} {path} {body} was answered {found}: {text}"
        );
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.json(("GET", path), &[], &Value::Null, 200).await
    }

    async fn put(&self, id: &str, value: Value) -> anyhow::Result<Value> {
        let path = format!("{LIST}/{id}");
        let exact = [("confcast-write", "exact")];
        let (status, _text) = self.send("GET", &path, &[], "").await?;
        if status == 404 {
            let create = [("if-none-match", "*")];
            return self.json(("PUT", &path), &create, &value, 201).await;
        }
        self.json(("PUT", &path), &exact, &value, 200).await
    }

    async fn delete(&self, id: &str) -> anyhow::Result<Value> {
        let path = format!("{LIST}/{id}");
        self.json(("DELETE", &path), &[], &Value::Null, 200).await
    }

    async fn set(&self, changes: Value) -> anyhow::Result<Value> {
        let body = json!({"changes": changes});
        self.json(("POST", "/v1/changes"), &[], &body, 200).await
    }

    async fn roll_back(&self, path: &str, body: Value, status: u16) -> anyhow::Result<Value> {
        self.json(("POST", &format!("{path}/rollback")), &[], &body, status)
            .await
    }

    /// The values of all documents of `Skills`, now or with parameters of the past.
    async fn state(&self, query: &str) -> anyhow::Result<BTreeMap<String, Value>> {
        let list = self.get(&format!("{LIST}{query}")).await?;
        let items = list["items"].as_array().context("items")?;
        let value = |item: &Value| {
            let id = item["id"].as_str().unwrap_or_default().to_owned();
            (id, item["configData"].clone())
        };
        Ok(items.iter().map(value).collect())
    }

    async fn revision(&self) -> anyhow::Result<u64> {
        let head = self.get("/v1/collections/Skills").await?;
        head["revision"].as_u64().context("a revision")
    }

    /// All pages of a history.
    async fn pages(&self, path: &str, query: &str) -> anyhow::Result<Vec<Value>> {
        let mut items = Vec::new();
        let mut before = String::new();
        loop {
            let mut page = self.get(&format!("{path}?{query}{before}")).await?;
            if let Some(found) = page["items"].as_array_mut() {
                items.append(found);
            }
            match page["next"].as_str() {
                Some(next) => before = format!("&before={next}"),
                None => return Ok(items),
            }
        }
    }
}
