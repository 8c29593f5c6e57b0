//! A writer that goes on while programs are exchanged: what was confirmed to it must stay.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use anyhow::{Context, ensure};
use e2e::{
    client::Api,
    testbed::{
        FREE, numbered,
        services::Service,
        wait::{TIMEOUT, eventually},
    },
};
use reqwest::Method;
use serde_json::json;
use tokio::{task::JoinSet, time::timeout};

use super::{
    Outcome,
    fleet::{PAIRED, store},
};

/// Writes the same number into a document of two collections as one change set, and into a third
/// document alone, again and again. A write that gets no answer is sent again.
#[derive(Debug)]
pub(super) struct Writer {
    task: JoinSet<Outcome>,
    id: &'static str,
    progress: Arc<Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    /// The newest number that the publisher confirmed.
    confirmed: AtomicU64,
    /// No further number is written.
    ends: AtomicBool,
}

/// The last number that a writer wrote, with an answer to it.
#[derive(Debug)]
pub(super) struct Confirmed {
    id: &'static str,
    number: u64,
}

impl Writer {
    /// Starts to write to a publisher. Two writers have different ids.
    pub(super) fn start(api: Api, id: &'static str) -> Self {
        let progress = Arc::new(Progress::default());
        let mut task = JoinSet::new();
        task.spawn(write(api, id, Arc::clone(&progress)));
        Self { task, id, progress }
    }

    /// Waits until so many further numbers are confirmed.
    pub(super) async fn until_more(&self, numbers: u64) -> Outcome {
        let wanted = self.progress.confirmed.load(Ordering::SeqCst) + numbers;
        eventually("writes are confirmed", async || {
            let confirmed = self.progress.confirmed.load(Ordering::SeqCst);
            ensure!(confirmed >= wanted, "{confirmed} of {wanted}");
            Ok(())
        })
        .await
    }

    /// Ends the writer after the write that is under way.
    pub(super) async fn end(mut self) -> anyhow::Result<Confirmed> {
        self.progress.ends.store(true, Ordering::SeqCst);
        let ended = timeout(TIMEOUT, self.task.join_next()).await?;
        ended.context("the task of the writer")???;
        Ok(Confirmed {
            id: self.id,
            number: self.progress.confirmed.load(Ordering::SeqCst),
        })
    }
}

impl Confirmed {
    /// Nothing that was confirmed is lost, and nothing was written twice.
    pub(super) async fn is_at(&self, publisher: &Service) -> Outcome {
        let api = publisher.api();
        for (collection, id) in [
            (FREE, self.id.to_owned()),
            (PAIRED, self.id.to_owned()),
            (FREE, alone(self.id)),
        ] {
            let document = api.document(collection, &id).await?.expect(200)?;
            let number = &document.json()?["configData"]["number"];
            ensure!(
                *number == self.number,
                "{collection}/{id}: {number}, {self:?}"
            );
        }
        Ok(())
    }
}

fn alone(id: &str) -> String {
    format!("{id}-alone")
}

async fn write(api: Api, id: &str, progress: Arc<Progress>) -> Outcome {
    for collection in [FREE, PAIRED] {
        store(&api, collection, id, &numbered(0)).await?;
    }
    let alone = alone(id);
    for number in 1_u64.. {
        let value = numbered(number);
        let changes = [FREE, PAIRED].map(|collection| {
            json!({"collection": collection, "op": "Update", "id": id, "configData": value})
        });
        let set = json!({ "changes": changes }).to_string();
        eventually("a change set is committed", async || {
            let answer = api
                .send(Method::POST, "/v1/changes", &[], set.as_str())
                .await?;
            answer.expect(200).map(drop)
        })
        .await?;
        eventually("a document is committed", || {
            store(&api, FREE, &alone, &value)
        })
        .await?;
        progress.confirmed.store(number, Ordering::SeqCst);
        if progress.ends.load(Ordering::SeqCst) {
            return Ok(());
        }
    }
    Ok(())
}
