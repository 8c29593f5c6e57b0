//! Reads the past through the publishers without end: documents and collections at a revision, at a
//! time and in a named snapshot, and the history of documents.
//!
//! It records and never judges. A publisher that does not answer is asked again.

use std::{convert::Infallible, time::Duration};

use anyhow::{Context, ensure};
use contract::{
    Operation, Problem, ProblemKind,
    history::{COUNT_HEADER, HistoryItem, HistoryPage, REVISION_HEADER},
    snapshot::SnapshotEnd,
};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

use super::{
    cluster::Cluster,
    driver::Driver,
    observations::SeenValue,
    random::Random,
    record::{DOCUMENTS, DocumentKey, Millis},
};
use crate::{
    client::{Answer, Api, document_path},
    testbed::SCHEMA_FREE,
};

/// Concurrent readers: one that waits for a frozen publisher does not stop the others.
const READERS: usize = 4;
/// Pause between two readings of a reader.
const PAUSE: Duration = Duration::from_millis(60);
/// Time limit of one answer.
const TIMEOUT: Duration = Duration::from_secs(3);
/// How far beyond the kept log it asks.
const BEYOND: u64 = 20;
/// How long ago a time is at most that it asks for.
const AGO: Millis = 8_000;

/// One answer about the past.
#[derive(Debug, Clone, Serialize)]
pub struct PastReading {
    /// Path of the request.
    pub path: String,
    /// When it was sent.
    pub sent: Millis,
    /// When its answer arrived.
    pub got: Millis,
    /// Index of the collection in [`SCHEMA_FREE`].
    pub collection: u8,
    /// One document, or the whole collection.
    pub document: Option<DocumentKey>,
    /// Which moment was asked for.
    pub moment: Moment,
    /// The answer.
    pub answer: PastAnswer,
}

/// A moment that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Moment {
    /// After this revision.
    Revision(u64),
    /// At this time of the campaign.
    Time(Millis),
    /// Of the named snapshot.
    Snapshot(String),
    /// All of them: the history of a document.
    History,
}

/// What a publisher answered about the past.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum PastAnswer {
    /// The documents of a moment.
    State {
        /// The revision that the answer shows.
        revision: u64,
        /// Number of documents of the collection then, as the answer says.
        count: Option<u64>,
        /// The documents; at most one when one was asked for.
        held: Vec<(DocumentKey, SeenValue)>,
    },
    /// A page of history, the newest change first.
    History(Vec<PastChange>),
    /// The moment is no longer kept.
    NotKept {
        /// The revision of the head, read after the answer: what was removed meanwhile is no fault.
        newest: u64,
    },
    /// Not an answer about the past: the publisher is busy, or has not the moment.
    None,
    /// An answer that no publisher may give.
    Wrong(String),
}

/// A change in a history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PastChange {
    /// Its revision.
    pub revision: u64,
    /// Whether it deleted the document.
    pub deletes: bool,
    /// The token in its differences, when they have one.
    pub token: Option<u64>,
}

/// Reads without end.
pub async fn watch(cluster: &Cluster, driver: &Driver, random: &mut Random) -> Infallible {
    let readers = (0..READERS).map(|_| random.fork());
    join_all(readers.map(|random| read_without_end(cluster, driver, random))).await;
    unreachable!("readers read without end")
}

async fn read_without_end(cluster: &Cluster, driver: &Driver, mut random: Random) -> Infallible {
    loop {
        sleep(PAUSE).await;
        let api = cluster.publisher(random.below(2) as usize);
        let reading = timeout(TIMEOUT, read(&api, driver, &mut random)).await;
        if let Ok(Ok(reading)) = reading {
            driver.record().past.push(reading);
        }
    }
}

/// One reading of a random moment.
///
/// # Errors
/// When the publisher does not answer.
async fn read(api: &Api, driver: &Driver, random: &mut Random) -> anyhow::Result<PastReading> {
    let key = DocumentKey {
        collection: random.below(SCHEMA_FREE.len() as u64) as u8,
        number: random.below(u64::from(DOCUMENTS)) as u8,
    };
    let head = api.head(key.collection()).await?;
    let (moment, parameter) = moment(driver, random, head.oldest, head.revision);
    let whole = random.below(2) == 0 && moment != Moment::History;
    let path = match moment {
        Moment::History => format!("{}/history", document_path(key.collection(), &key.id())),
        _ if whole => format!("/v1/collections/{}/documents?{parameter}", key.collection()),
        _ => format!("{}?{parameter}", document_path(key.collection(), &key.id())),
    };
    let sent = driver.now();
    let answer = api
        .get_with(&path, "accept", "application/x-ndjson")
        .await?;
    let got = driver.now();
    let document = (!whole).then_some(key);
    if answer.status == 410 {
        let newest = api.head(key.collection()).await?.revision;
        return Ok(PastReading {
            path,
            sent,
            got,
            collection: key.collection,
            document,
            moment,
            answer: PastAnswer::NotKept { newest },
        });
    }
    let answer = match parsed(&answer, &moment, key.collection, document) {
        Ok(answer) => answer,
        Err(error) => PastAnswer::Wrong(format!("{error:#}: {} {}", answer.status, answer.body)),
    };
    Ok(PastReading {
        path,
        sent,
        got,
        collection: key.collection,
        document,
        moment,
        answer,
    })
}

/// A random moment and its parameter.
fn moment(driver: &Driver, random: &mut Random, oldest: u64, newest: u64) -> (Moment, String) {
    match random.below(10) {
        0..3 => (Moment::History, String::new()),
        3..5 => {
            let now = driver.now();
            let ago = random.below(AGO.min(now).max(1));
            let time = chrono::Utc::now() - chrono::Duration::milliseconds(ago as i64);
            let text = time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
            (Moment::Time(now - ago), format!("at={text}"))
        }
        5..7 => {
            let record = driver.record();
            let snapshots = record.snapshots.iter();
            let kept: Vec<_> = snapshots.filter(|it| it.deleting.is_none()).collect();
            if !kept.is_empty() {
                let name = &kept[random.below(kept.len() as u64) as usize].name;
                return (Moment::Snapshot(name.clone()), format!("snapshot={name}"));
            }
            (Moment::Revision(newest), format!("revision={newest}"))
        }
        _ => {
            let first = oldest.saturating_sub(BEYOND).max(1);
            let revision = random.between(first, newest.max(first));
            (Moment::Revision(revision), format!("revision={revision}"))
        }
    }
}

fn parsed(
    answer: &Answer,
    moment: &Moment,
    collection: u8,
    document: Option<DocumentKey>,
) -> anyhow::Result<PastAnswer> {
    match (answer.status, moment) {
        (200, Moment::History) => {
            let page: HistoryPage = serde_json::from_str(&answer.body)?;
            let changes = page.items.iter().map(PastChange::of).collect();
            Ok(PastAnswer::History(changes))
        }
        (200, _) => state(answer, collection, document.is_some()),
        // That a document did not exist is an answer as well.
        (404, Moment::Revision(_) | Moment::Time(_) | Moment::Snapshot(_))
            if is_absence(answer) =>
        {
            absence(answer, moment)
        }
        // Busy, damaged, or a moment that is not there.
        (404 | 408 | 500 | 503, _) => Ok(PastAnswer::None),
        _ => anyhow::bail!("an answer that no publisher may give"),
    }
}

fn is_absence(answer: &Answer) -> bool {
    serde_json::from_str::<Problem>(&answer.body)
        .is_ok_and(|problem| problem.kind == ProblemKind::NoData)
}

/// The state of a document that did not exist, if the answer says of which revision it is.
fn absence(answer: &Answer, moment: &Moment) -> anyhow::Result<PastAnswer> {
    let header = answer.header(REVISION_HEADER);
    let revision = match (header.rsplit_once('-'), moment) {
        (Some((_epoch, revision)), _) => revision.parse().context("the revision")?,
        (None, Moment::Revision(revision)) => *revision,
        (None, _) => return Ok(PastAnswer::None),
    };
    Ok(PastAnswer::State {
        revision,
        count: None,
        held: Vec::new(),
    })
}

fn state(answer: &Answer, collection: u8, is_document: bool) -> anyhow::Result<PastAnswer> {
    let revision = answer.header(REVISION_HEADER);
    let (_epoch, revision) = revision.rsplit_once('-').context("no revision")?;
    let mut held = Vec::new();
    if is_document {
        held.push(document(&answer.body, collection)?);
    } else {
        let mut lines: Vec<_> = answer.body.lines().collect();
        let end = lines.pop().context("no lines")?;
        let end: SnapshotEnd = serde_json::from_str(end).context("the list has no end")?;
        for line in lines {
            if !line.starts_with(r#"{"head""#) {
                held.push(document(line, collection)?);
            }
        }
        ensure!(
            end.count == held.len() as u64,
            "{} documents, and the end counts {}",
            held.len(),
            end.count
        );
    }
    Ok(PastAnswer::State {
        revision: revision.parse().context("the revision")?,
        count: Some(answer.header(COUNT_HEADER).parse().context("the count")?),
        held,
    })
}

fn document(json: &str, collection: u8) -> anyhow::Result<(DocumentKey, SeenValue)> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Line {
        id: String,
        revision: u64,
        config_data: Token,
    }

    #[derive(Deserialize)]
    struct Token {
        token: u64,
    }

    let line: Line = serde_json::from_str(json).with_context(|| format!("a document: {json}"))?;
    let name = SCHEMA_FREE[usize::from(collection)];
    let key = DocumentKey::parse(name, &line.id).context("nobody writes this document")?;
    let seen = SeenValue {
        revision: line.revision,
        token: line.config_data.token,
    };
    Ok((key, seen))
}

impl PastChange {
    fn of(item: &HistoryItem) -> Self {
        let differences = item.diff.iter().flatten();
        let mut token = differences.filter_map(|difference| {
            let after = difference.after.as_ref()?.to_value().ok()?;
            match difference.pointer.as_str() {
                "/token" => after.as_u64(),
                "" => after["token"].as_u64(),
                _ => None,
            }
        });
        Self {
            revision: item.change.revision,
            deletes: item.change.op == Operation::Delete,
            token: token.next_back(),
        }
    }
}
