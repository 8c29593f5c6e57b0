//! Both sides change while they are read, so they are read again until they were seen at the same
//! revision, or the time limit has passed.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Context;
use client::{ClientError, Endpoint, snapshot::SnapshotReader};
use contract::CollectionName;
use futures_util::future::{join, join_all};
use tokio::time::{Instant, sleep};

use super::{
    compare::compare,
    report::{Compared, Outcome},
    row::Row,
    snapshot::Reference,
};
use crate::progress::ProgressLine;

/// Pause after the first round. It doubles: a replica that is not equal soon needs time, and each
/// reading costs it some.
const PAUSE: Duration = Duration::from_millis(250);

/// A replica that is compared.
#[derive(Debug)]
pub(super) struct CheckedReplica {
    name: String,
    endpoint: Endpoint,
    outcome: Outcome,
    /// Collections that have to be read again; all of them when none was read.
    open: Option<BTreeSet<CollectionName>>,
}

impl CheckedReplica {
    pub(super) fn new(name: String, endpoint: Endpoint) -> Self {
        Self {
            name,
            endpoint,
            outcome: Outcome::Collections(vec![]),
            open: None,
        }
    }

    pub(super) fn compared(self) -> Compared {
        Compared {
            replica: self.name,
            url: Some(self.endpoint.base().to_owned()),
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
            // An empty answer must not count as equal.
            (Ok(new), Outcome::Collections(rows)) if new.is_empty() && rows.is_empty() => {
                self.outcome = Outcome::Error("it has nothing to compare".to_owned());
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
            // The first failure of a replica stays its result.
            (Ok(_), Outcome::Error(_) | Outcome::Skipped(_)) => {}
        }
        self.open = Some(open);
    }
}

/// Compares until every verdict is settled, but not for longer than `wait`.
pub(super) async fn verify(
    publisher: &Endpoint,
    replicas: &mut [CheckedReplica],
    wait: Duration,
    progress: &ProgressLine,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + wait;
    let mut pause = PAUSE;
    loop {
        let mut open: Vec<&mut CheckedReplica> = replicas
            .iter_mut()
            .filter(|replica| !replica.is_settled())
            .collect();
        round(publisher, &mut open, progress).await?;
        let now = Instant::now();
        if replicas.iter().all(CheckedReplica::is_settled) || now >= deadline {
            return Ok(());
        }
        sleep(pause.min(deadline - now)).await;
        pause *= 2;
    }
}

/// Reads the publisher and all given replicas once, and compares them.
async fn round(
    publisher: &Endpoint,
    replicas: &mut [&mut CheckedReplica],
    progress: &ProgressLine,
) -> anyhow::Result<()> {
    // The publisher is read for every collection that any replica needs; `None` stands for all.
    let mut all = Some(BTreeSet::new());
    for replica in &*replicas {
        all = all
            .zip(replica.open.as_ref())
            .map(|(all, open)| &all | open);
    }
    // All requests are sent at the same moment, so that all snapshots are of the same revision if
    // that is possible at all.
    let requests = replicas
        .iter()
        .map(|replica| snapshot(&replica.endpoint, replica.open.as_ref()));
    let (reference, answers) = join(snapshot(publisher, all.as_ref()), join_all(requests)).await;
    let reading = || format!("reading the publisher {}", publisher.base());
    let reference = Reference::read(reference.with_context(reading)?, progress)
        .await
        .with_context(reading)?;
    let compared = answers
        .into_iter()
        .map(async |answer| compare(answer?, &reference, progress).await);
    for (replica, rows) in replicas.iter_mut().zip(join_all(compared).await) {
        replica.take(rows);
    }
    Ok(())
}

/// Begins to read a snapshot of these collections, or of all.
async fn snapshot(
    endpoint: &Endpoint,
    collections: Option<&BTreeSet<CollectionName>>,
) -> Result<SnapshotReader, ClientError> {
    let names = collections.into_iter().flatten();
    Ok(endpoint.snapshot(names).await?.proven())
}
