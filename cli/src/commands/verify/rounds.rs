//! Both sides move while they are read, so they are read again until they were seen at the same
//! revision, or time is up.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Context;
use contract::CollectionName;
use futures_util::future::{join, join_all};
use reqwest::Response;
use tokio::time::{Instant, sleep};

use super::{
    compare::compare,
    report::{Compared, Outcome},
    row::Row,
    snapshot::Held,
};
use crate::{client::Api, progress::Progress};

/// Pause after the first round. It doubles: what is not equal soon needs time more than it needs
/// reading.
const PAUSE: Duration = Duration::from_millis(250);

/// A replica that is compared.
#[derive(Debug)]
pub(super) struct Replica {
    name: String,
    api: Api,
    outcome: Outcome,
    /// Collections that have to be read again; all of them when none was read.
    open: Option<BTreeSet<CollectionName>>,
}

impl Replica {
    pub(super) fn new(name: String, api: Api) -> Self {
        Self {
            name,
            api,
            outcome: Outcome::Collections(vec![]),
            open: None,
        }
    }

    pub(super) fn compared(self) -> Compared {
        Compared {
            replica: self.name,
            url: Some(self.api.base().to_owned()),
            outcome: self.outcome,
        }
    }

    fn is_settled(&self) -> bool {
        self.open.as_ref().is_some_and(BTreeSet::is_empty)
    }

    /// Takes the rows of a round.
    fn take(&mut self, round: anyhow::Result<Vec<Row>>) {
        let mut open = BTreeSet::new();
        match (round, &mut self.outcome) {
            (Err(error), outcome) => *outcome = Outcome::Error(format!("{error:#}")),
            (Ok(new), Outcome::Collections(rows)) if new.is_empty() && rows.is_empty() => {
                self.outcome = Outcome::Error("it holds nothing to compare".to_owned());
            }
            (Ok(new), Outcome::Collections(rows)) => {
                for row in new {
                    let before = rows
                        .iter_mut()
                        .find(|before| before.collection == row.collection);
                    if !row.is_settled(before.as_deref()) {
                        open.insert(row.collection.clone());
                    }
                    match before {
                        Some(before) => *before = row,
                        None => rows.push(row),
                    }
                }
            }
            (Ok(_), Outcome::Error(_) | Outcome::Skipped(_)) => {}
        }
        self.open = Some(open);
    }
}

/// Compares until every verdict is settled, but not for longer than `patience`.
pub(super) async fn verify(
    publisher: &Api,
    replicas: &mut [Replica],
    patience: Duration,
    progress: &Progress,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    let mut pause = PAUSE;
    loop {
        let mut open: Vec<&mut Replica> = replicas
            .iter_mut()
            .filter(|replica| !replica.is_settled())
            .collect();
        round(publisher, &mut open, progress).await?;
        let now = Instant::now();
        if replicas.iter().all(Replica::is_settled) || now >= deadline {
            return Ok(());
        }
        sleep(pause.min(deadline - now)).await;
        pause *= 2;
    }
}

async fn round(
    publisher: &Api,
    replicas: &mut [&mut Replica],
    progress: &Progress,
) -> anyhow::Result<()> {
    let mut all = Some(BTreeSet::new());
    for replica in &*replicas {
        all = all
            .zip(replica.open.as_ref())
            .map(|(all, open)| &all | open);
    }
    // All are asked at the same moment, so that they are at the same revision if ever they are.
    let asked = replicas
        .iter()
        .map(|replica| snapshot(&replica.api, replica.open.as_ref()));
    let (held, answers) = join(snapshot(publisher, all.as_ref()), join_all(asked)).await;
    let reading = || format!("reading the publisher {}", publisher.base());
    let held = Held::read(held.with_context(reading)?, progress)
        .await
        .with_context(reading)?;
    let compared = answers
        .into_iter()
        .map(async |answer| compare(answer?, &held, progress).await);
    for (replica, rows) in replicas.iter_mut().zip(join_all(compared).await) {
        replica.take(rows);
    }
    Ok(())
}

async fn snapshot(
    api: &Api,
    collections: Option<&BTreeSet<CollectionName>>,
) -> anyhow::Result<Response> {
    let Some(collections) = collections else {
        return api.get("/v1/snapshot").await;
    };
    let names: Vec<&str> = collections.iter().map(CollectionName::as_str).collect();
    api.get(&format!("/v1/snapshot?collections={}", names.join(",")))
        .await
}
