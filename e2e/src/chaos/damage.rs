//! Rows of the store that are changed by other means than a publisher: a value, a revision, the type
//! of a revision, and a row that nobody wrote. What readers get meanwhile is kept as probes.
//!
//! It records and never judges: [`super::validators`] decides whether a reader got something that
//! was never committed. It spoils documents only, so no epoch may follow of a repair.

use std::{path::Path, time::Duration};

use anyhow::{Context, ensure};
use contract::repair::{RepairReport, RepairState};
use mongodb::bson::{Bson, Document, doc};
use reqwest::Method;
use rusqlite::{Connection, OptionalExtension, params};
use tokio::time::timeout;

use super::{
    cluster::{Cluster, DATABASE},
    component::{Component, Program},
    driver::Driver,
    observations::SeenValue,
    reader::SnapshotParser,
    record::{DocumentKey, Probe, ProbeAnswer, SLOTS, SpoiltRow},
    schedule::Fault,
};
use crate::{
    client::{Answer, Api, document_path},
    testbed::wait::within,
};

/// Time limit of one request, and of the start of a publisher.
const TIMEOUT: Duration = Duration::from_secs(3);
const START: Duration = Duration::from_secs(10);
/// How long the repair may take to be accepted after all processes run again.
const REPAIR: Duration = Duration::from_secs(30);
/// Tokens from here on belong to no request.
const FOREIGN_TOKEN: u64 = 1 << 40;
/// No campaign reaches this revision.
const FOREIGN_REVISION: u64 = 1_000_003;
/// The file of the embedded store, in the folder of the service.
const FILE: &str = "data/confcast.sqlite";

/// What is done to a row.
#[derive(Debug, Clone, Copy)]
enum Spoiling {
    Value,
    Revision,
    RevisionType,
    StrayRow,
}

impl Spoiling {
    fn of(salt: u64) -> Self {
        match salt % 4 {
            0 => Self::Value,
            1 => Self::Revision,
            2 => Self::RevisionType,
            _ => Self::StrayRow,
        }
    }

    /// The value that a reader must never see instead of `stored`.
    fn wrong(self, stored: SeenValue, salt: u64) -> SeenValue {
        let token = FOREIGN_TOKEN | (salt & 0xffff_ffff);
        match self {
            Self::Value | Self::StrayRow => SeenValue { token, ..stored },
            Self::Revision => SeenValue {
                revision: stored.revision + FOREIGN_REVISION,
                ..stored
            },
            Self::RevisionType => stored,
        }
    }
}

/// Spoils a row of the database while publishers run, and reads it through all of them.
///
/// # Errors
/// When the database does not answer.
pub async fn in_database(
    cluster: &Cluster,
    driver: &Driver,
    component: &Component,
    fault: &Fault,
) -> anyhow::Result<()> {
    // No restore meanwhile.
    let mut program = component.program.lock().await;
    program.until_ready().await?;
    let Program::Mongod(mongod) = &*program else {
        anyhow::bail!("not a database")
    };
    let database = mongod.database(DATABASE).await?;
    for key in keys(fault.salt) {
        let rows = database.collection::<Document>(key.collection());
        let Some(row) = rows.find_one(doc! { "_id": key.id() }).await? else {
            continue;
        };
        let (Ok(revision), Ok(value)) = (row.get_i64("revision"), row.get_document("configData"))
        else {
            continue;
        };
        let token = value.get("token").and_then(|token| match token {
            Bson::Int32(token) => u64::try_from(*token).ok(),
            Bson::Int64(token) => u64::try_from(*token).ok(),
            _ => None,
        });
        let Some(token) = token else { continue };
        let stored = SeenValue {
            revision: revision.try_into()?,
            token,
        };
        let spoiling = Spoiling::of(fault.salt);
        let wrong = spoiling.wrong(stored, fault.salt);
        let set = match spoiling {
            Spoiling::Value => doc! { "configData.token": i64::try_from(wrong.token)? },
            Spoiling::Revision => doc! { "revision": i64::try_from(wrong.revision)? },
            Spoiling::RevisionType => doc! { "revision": revision.to_string() },
            Spoiling::StrayRow => {
                let mut stray = row.clone();
                stray.insert("_id", stray_id(fault.salt));
                rows.insert_one(stray).await?;
                note(driver, key, spoiling, stored, wrong);
                break;
            }
        };
        // The row may have been written meanwhile. Then another one is tried.
        let same = doc! { "_id": key.id(), "revision": revision };
        let updated = rows.update_one(same, doc! { "$set": set }).await?;
        if updated.matched_count == 1 {
            note(driver, key, spoiling, stored, wrong);
            break;
        }
    }
    probe_last(cluster, driver).await;
    Ok(())
}

/// Kills a publisher with an embedded store, spoils a row of its file, and starts it again.
///
/// # Errors
/// When the file cannot be changed, or the publisher not be started.
pub async fn in_file(
    cluster: &Cluster,
    driver: &Driver,
    component: &Component,
    fault: &Fault,
) -> anyhow::Result<()> {
    let mut program = component.program.lock().await;
    program.kill()?;
    let file = program.service()?.folder().join(FILE);
    spoil_file(driver, &file, fault.salt)?;
    component.launch(&mut program)?;
    if let Ok(Ok(())) = timeout(START, program.until_ready()).await {
        probe_last(cluster, driver).await;
    }
    Ok(())
}

fn spoil_file(driver: &Driver, file: &Path, salt: u64) -> anyhow::Result<()> {
    let file = Connection::open(file)?;
    for key in keys(salt) {
        let row = params![key.collection(), key.id()];
        let found = file
            .query_row(
                "SELECT revision, value FROM documents WHERE collection = ?1 AND id = ?2
                 AND typeof(revision) = 'integer'",
                row,
                |row| Ok((row.get::<_, u64>(0)?, row.get::<_, Vec<u8>>(1)?)),
            )
            .optional()?;
        let Some((revision, value)) = found else {
            continue;
        };
        let mut value: serde_json::Value = serde_json::from_slice(&value)?;
        let token = value["token"].as_u64().context("a value has a token")?;
        let stored = SeenValue { revision, token };
        let spoiling = Spoiling::of(salt);
        let wrong = spoiling.wrong(stored, salt);
        value["token"] = wrong.token.into();
        let value = value.to_string().into_bytes();
        let changed = match spoiling {
            Spoiling::Value => file.execute(
                "UPDATE documents SET value = ?3 WHERE collection = ?1 AND id = ?2",
                params![key.collection(), key.id(), value],
            ),
            Spoiling::Revision => file.execute(
                "UPDATE documents SET revision = ?3 WHERE collection = ?1 AND id = ?2",
                params![key.collection(), key.id(), wrong.revision],
            ),
            Spoiling::RevisionType => file.execute(
                "UPDATE documents SET revision = 'r' || revision
                 WHERE collection = ?1 AND id = ?2",
                row,
            ),
            Spoiling::StrayRow => file.execute(
                "INSERT INTO documents (collection, id, revision, crc, value)
                 SELECT collection, ?3, revision, crc, ?4 FROM documents
                 WHERE collection = ?1 AND id = ?2",
                params![key.collection(), key.id(), stray_id(salt), value],
            ),
        }?;
        ensure!(changed == 1, "{key} was read and could not be spoilt");
        note(driver, key, spoiling, stored, wrong);
        break;
    }
    // The write-ahead log is copied into the file.
    file.close().map_err(|(_file, error)| error)?;
    Ok(())
}

/// All documents, from another one on for each salt.
fn keys(salt: u64) -> impl Iterator<Item = DocumentKey> {
    let first = (salt / 4) as usize % SLOTS;
    let all: Vec<_> = DocumentKey::all().collect();
    (0..SLOTS).map(move |place| all[(first + place) % SLOTS])
}

fn stray_id(salt: u64) -> String {
    format!("stray-{salt}")
}

fn note(
    driver: &Driver,
    key: DocumentKey,
    spoiling: Spoiling,
    stored: SeenValue,
    wrong: SeenValue,
) {
    let at = driver.now();
    let wrong = (wrong != stored).then_some(wrong);
    let what = format!("{spoiling:?}");
    driver.record().spoilt.push(SpoiltRow {
        key,
        at,
        what,
        wrong,
    });
}

/// Reads the row that was spoilt last through every publisher: by id, and in a snapshot.
async fn probe_last(cluster: &Cluster, driver: &Driver) {
    let last = driver.record().spoilt.last().map(|row| row.key);
    let Some(key) = last else { return };
    for publisher in &cluster.publishers {
        let api = Api::new(publisher.url.clone());
        let by_id = document_path(key.collection(), &key.id());
        for path in [by_id.as_str(), "/v1/snapshot"] {
            let sent = driver.now();
            let Ok(Ok(answer)) = timeout(TIMEOUT, api.get(path)).await else {
                continue;
            };
            let Some(answer) = seen(key, path == by_id, &answer) else {
                continue;
            };
            let got = driver.now();
            driver.record().probes.push(Probe {
                key,
                sent,
                got,
                path: path.to_owned(),
                answer,
            });
        }
    }
}

/// What an answer says of a document; `None` when the publisher has no answer now.
fn seen(key: DocumentKey, by_id: bool, answer: &Answer) -> Option<ProbeAnswer> {
    let other = || ProbeAnswer::Other(format!("{} {}", answer.status, answer.body));
    match answer.status {
        408 | 503 => None,
        404 if by_id => Some(ProbeAnswer::Value(None)),
        // A list names the row that it cannot tell, which may be one that was spoilt earlier.
        500 if answer.body.contains(":unreadable")
            && (!by_id || answer.body.contains(&key.id())) =>
        {
            Some(ProbeAnswer::Named)
        }
        200 if by_id => {
            let value = answer.json().ok().and_then(|document| {
                Some(SeenValue {
                    revision: document["revision"].as_u64()?,
                    token: document["configData"]["token"].as_u64()?,
                })
            });
            Some(value.map_or_else(other, |value| ProbeAnswer::Value(Some(value))))
        }
        200 => Some(match SnapshotParser::default().read(&answer.body) {
            Ok(view) => ProbeAnswer::Value(view.held[key.slot()]),
            Err(error) => ProbeAnswer::Other(format!("{error:#}")),
        }),
        _ => Some(other()),
    }
}

/// Repairs the store if a row was spoilt, and writes what no log tells again, as an operator does.
/// No client may write meanwhile.
///
/// # Errors
/// When the repair is not accepted in time, or leaves something damaged.
pub async fn repair(cluster: &Cluster, driver: &Driver) -> anyhow::Result<()> {
    if driver.record().spoilt.is_empty() {
        return Ok(());
    }
    let api = cluster.publisher(0);
    within(REPAIR, "the store is repaired", async || {
        let headers = [("content-type", "application/json")];
        let path = "/v1/repair";
        let answer = api.send(Method::POST, path, &headers, r#"{"apply": true}"#);
        let report = answer.await?.expect(200)?.body;
        let report: RepairReport = serde_json::from_str(&report)?;
        for row in &report.collections {
            for lost in &row.unrecoverable.named {
                let key = DocumentKey::parse(row.collection.as_str(), &lost.id)
                    .with_context(|| format!("{} is damaged for good", lost.id))?;
                driver.replace(&api, key).await;
            }
            let state = row.state;
            ensure!(
                matches!(state, RepairState::Whole | RepairState::Repaired),
                "the repair left {} {state:?}: {report:?}",
                row.collection
            );
        }
        Ok(())
    })
    .await
}
