//! The embedded store on real files: faults of disk and file, and readers that take their time.

use std::{collections::BTreeSet, fs, io::Write as _, path::Path, time::Duration};

use chrono::Utc;
use contract::{CanonicalJson, CollectionName, Document, Expected};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    decide::{Action, Command, Rules, Write, schemas::Schemas},
    store::{ServedCollections, Store, replicas::ReplicaRow},
};

mod children;
mod files;
mod lists;
mod repair;

const FILE: &str = "confcast.sqlite";

fn name() -> CollectionName {
    "A".parse().expect("a name")
}

fn names() -> BTreeSet<CollectionName> {
    BTreeSet::from([name()])
}

fn policy() -> Arc<PublisherPolicy> {
    let rules = Rules {
        schemas: Schemas::default(),
        document_limit: 10_000,
        secrets: Default::default(),
    };
    Arc::new(PublisherPolicy {
        collections: ServedCollections::fixed(names()),
        rules,
        broadcast: crate::policy::Broadcast::all(),
    })
}

async fn open(folder: &Path) -> anyhow::Result<Embedded> {
    Embedded::open(folder, policy()).await
}

/// The words with which a folder is refused.
async fn refusal(folder: &Path) -> String {
    let error = open(folder).await.expect_err("it is refused");
    format!("{error:#}")
}

/// Creates a document if `number` is 0, else replaces its value.
fn put(id: &str, number: usize, bytes: usize) -> Command {
    let text = format!(r#"{{"filler":"{}","number":{number}}}"#, "x".repeat(bytes));
    let config = CanonicalJson::parse(text.as_bytes()).expect("json");
    Command::Single(Write {
        collection: name(),
        id: id.parse().expect("an id"),
        action: match number {
            0 => Action::Create(config),
            _ => Action::Put(config),
        },
        expected: Expected::Any,
        context: contract::Context::default(),
        checked: None,
        origin: crate::decide::Origin::default(),
    })
}

/// Puts `count` documents in groups of 64. All of them have to become changes.
async fn fill(store: &Embedded, count: usize, number: usize, bytes: usize) {
    let commands: Vec<_> = (0..count)
        .map(|document| put(&format!("d{document:05}"), number, bytes))
        .collect();
    for group in commands.chunks(64) {
        let committed = store.commit(Arc::from(group)).await.expect("committed");
        assert_eq!(committed.changes.len(), group.len());
    }
}

/// All documents of the collection.
async fn list(store: &Embedded) -> anyhow::Result<Vec<Document>> {
    let mut cursor = store.documents(&names()).await?;
    let mut documents = Vec::new();
    while let Some(chunk) = cursor.next().await? {
        documents.extend(chunk.documents);
    }
    Ok(documents)
}

fn replica() -> ReplicaRow {
    let row = r#"{"instance":"a","bootId":"b","intervalMs":1,"collections":{},"seen":"2026-01-01T00:00:00Z","gone":false}"#;
    serde_json::from_str(row).expect("a row")
}

/// Leaves the store this many pages, or as many as it has.
async fn limit(store: &Embedded, pages: u32) {
    let lease = store.0.connections.writer().await.expect("the writer");
    lease.set_max_page_count(pages);
}

/// A line of the test, also for the process that runs it.
fn say(line: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "{line}").expect("written");
    out.flush().expect("flushed");
}
