//! Reads one replica repeatedly: its whole view of all collections, and the run that serves it.
//!
//! The status is read before and after each view. The view belongs to a run only if both name the
//! same run.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, ensure};
use contract::{
    snapshot::{SnapshotEnd, SnapshotStart},
    status::{ReplicaState, ReplicaStatus},
};
use serde::Deserialize;
use tokio::time::{sleep, timeout};

use super::{
    cluster::{Cluster, ServiceEndpoint},
    driver::Driver,
    observations::{DocumentTable, Observation, Observations, ProcessRun, SeenValue, ServedView},
    record::{DocumentKey, SLOTS},
};
use crate::client::{Answer, Api};

/// Pause between two readings.
const PAUSE: Duration = Duration::from_millis(30);
/// A frozen replica answers after the freeze; the reader does not wait for that.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Status of a replica for a request that did not finish because of a freeze.
const LATE: u16 = 408;

/// One view of a replica.
#[derive(Debug)]
pub struct View {
    /// The first line of the snapshot.
    pub start: SnapshotStart,
    /// Its documents.
    pub held: Box<DocumentTable>,
}

/// Parses views. A line that the previous view had is not parsed again.
#[derive(Debug, Default)]
pub struct SnapshotParser {
    lines: HashMap<String, (DocumentKey, SeenValue)>,
}

/// The members of a snapshot line that the campaign needs.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    collection: String,
    id: String,
    revision: u64,
    config_data: Token,
}

#[derive(Debug, Deserialize)]
struct Token {
    token: u64,
}

impl SnapshotParser {
    /// Parses a snapshot.
    ///
    /// # Errors
    /// When it is incomplete, or has a document that the campaign never writes.
    pub fn read(&mut self, body: &str) -> anyhow::Result<View> {
        let mut lines: Vec<_> = body.lines().collect();
        let end = lines.pop().context("an empty snapshot")?;
        let end: SnapshotEnd = serde_json::from_str(end).context("the snapshot has no end")?;
        ensure!(
            end.count + 1 == lines.len() as u64,
            "{} lines, and the end counts {}",
            lines.len(),
            end.count
        );
        let start: SnapshotStart =
            serde_json::from_str(lines[0]).context("the snapshot has no beginning")?;
        let mut held = Box::new([None; SLOTS]);
        let mut read = HashMap::with_capacity(lines.len());
        for line in &lines[1..] {
            let (key, seen) = match self.lines.remove_entry(*line) {
                Some((line, known)) => {
                    read.insert(line, known);
                    known
                }
                None => {
                    let known =
                        parse(line).with_context(|| format!("a foreign document: {line}"))?;
                    read.insert((*line).to_owned(), known);
                    known
                }
            };
            ensure!(held[key.slot()].replace(seen).is_none(), "{key} twice");
        }
        self.lines = read;
        Ok(View { start, held })
    }
}

fn parse(line: &str) -> anyhow::Result<(DocumentKey, SeenValue)> {
    let line: Line = serde_json::from_str(line)?;
    let key =
        DocumentKey::parse(&line.collection, &line.id).context("nobody writes this document")?;
    Ok((
        key,
        SeenValue {
            revision: line.revision,
            token: line.config_data.token,
        },
    ))
}

/// Reads without end.
pub async fn watch(
    cluster: &Cluster,
    member: &ServiceEndpoint,
    driver: &Driver,
    record: &Mutex<Observations>,
) -> Infallible {
    let api = Api::new(member.url.clone());
    let component = &cluster.components[member.component];
    let mut parser = SnapshotParser::default();
    let mut last = Box::new([None; SLOTS]);
    let mut before = None;
    let anchor = DocumentKey {
        collection: 0,
        number: 0,
    };
    loop {
        sleep(PAUSE).await;
        let sent = driver.now();
        let answer = timeout(TIMEOUT, api.get("/v1/snapshot")).await;
        let got = driver.now();
        let after = timeout(TIMEOUT, life(&api, component.lives()))
            .await
            .ok()
            .and_then(Result::ok);
        let whose = after.clone().filter(|life| before.as_ref() == Some(life));
        before = after;
        let document = timeout(TIMEOUT, api.document(anchor.collection(), &anchor.id())).await;
        if let Ok(Ok(answer)) = document
            && !matches!(answer.status, 200 | LATE | 503)
        {
            let what = format!(
                "{anchor}, which is never deleted, was answered {}: {}",
                answer.status, answer.body
            );
            let record = &mut record.lock().unwrap_or_else(PoisonError::into_inner);
            record.observations.push(Observation::Wrong {
                at: driver.now(),
                what,
            });
        }
        let (Ok(Ok(answer)), Some(life)) = (answer, whose) else {
            continue;
        };
        let record = &mut record.lock().unwrap_or_else(PoisonError::into_inner);
        match view(&mut parser, &answer) {
            Ok(None) => {}
            Ok(Some((state, view))) => {
                let changed = DocumentKey::all().map(|key| (key, view.held[key.slot()]));
                let changed = changed
                    .filter(|(key, seen)| last[key.slot()] != *seen)
                    .collect();
                last = view.held;
                let heads = crate::testbed::SCHEMA_FREE.map(|name| {
                    let head = view
                        .start
                        .heads
                        .iter()
                        .find(|head| head.collection.as_str() == name);
                    head.map_or(0, |head| head.revision)
                });
                let epoch = view.start.epoch.to_string();
                record.epochs.insert(epoch.clone());
                record.resets.insert(life.boot.clone(), life.resets);
                record.add(ServedView {
                    sent,
                    got,
                    last_sent: sent,
                    life,
                    epoch,
                    state,
                    heads,
                    changed,
                });
            }
            Err(error) => record.observations.push(Observation::Wrong {
                at: got,
                what: format!("{error:#}"),
            }),
        }
    }
}

/// The view in an answer; `None` while the replica reports that it has no data yet.
fn view(
    parser: &mut SnapshotParser,
    answer: &Answer,
) -> anyhow::Result<Option<(ReplicaState, View)>> {
    if matches!(answer.status, LATE | 503) {
        return Ok(None);
    }
    ensure!(
        answer.status == 200,
        "/v1/snapshot was answered {}: {}",
        answer.status,
        answer.body
    );
    let state = answer.header("confcast-state");
    let state = serde_json::from_value(serde_json::Value::String(state.to_owned()))
        .with_context(|| format!("Confcast-State is {state:?}"))?;
    Ok(Some((state, parser.read(&answer.body)?)))
}

async fn life(api: &Api, start: u32) -> anyhow::Result<ProcessRun> {
    let status: ReplicaStatus =
        serde_json::from_str(&api.get("/v1/status").await?.expect(200)?.body)?;
    Ok(ProcessRun {
        boot: status.boot_id,
        start,
        resets: status.sync.resets,
    })
}
