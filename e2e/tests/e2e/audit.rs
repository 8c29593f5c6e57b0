//! `confcast audit verify` at a publisher: what was edited in the store is named, and an auditor who may
//! not read everything is told nothing false.

use std::{
    path::{Path, PathBuf},
    process::Output,
};

use anyhow::{Context, ensure};
use e2e::{
    client::{Answer, Api},
    testbed::{dependencies, services::Service},
};
use reqwest::Method;
use rusqlite::{Connection, params};
use serde_json::{Value, json};
use tokio::process::Command;

type Outcome = anyhow::Result<()>;

const READABLE: &str = "Doors";
const OTHER: &str = "Windows";

/// A publisher that asks for tokens, and keeps an audit log of its embedded store.
struct Bed {
    publisher: Service,
    /// The token of a caller with every right.
    token: String,
}

impl Bed {
    async fn start() -> anyhow::Result<Self> {
        let publisher = Service::publisher()?;
        let file = publisher.folder().join("tokens");
        let record = file.display().to_string();
        let mut create = vec!["token", "create", "--offline", "--record-file", &record];
        create.extend(["--name", "ops", "--role", "operator", "--role", "publisher"]);
        let created = confcast(publisher.folder(), None, &create).await?;
        ensure!(created.status.success(), "{created:?}");
        let token = String::from_utf8(created.stdout)?.trim().to_owned();
        let mut publisher = publisher
            .with(
                "AURA_CONFIGURATION_COLLECTIONS",
                format!("{READABLE},{OTHER}"),
            )
            .with("AURA_CONFIGURATION_TOKENS_FILE", record);
        publisher.start().await?;
        Ok(Self { publisher, token })
    }

    fn api(&self) -> Api {
        self.publisher.api()
    }

    async fn send(&self, method: Method, path: &str, body: &Value) -> anyhow::Result<Answer> {
        let bearer = format!("Bearer {}", self.token);
        let headers = [("authorization", bearer.as_str())];
        self.api()
            .send(method, path, &headers, body.to_string())
            .await
    }

    /// Runs `confcast audit verify` with a token. The exit code, and all that it prints.
    async fn verify(&self, token: &str) -> anyhow::Result<(i32, String)> {
        let folder = self.publisher.folder();
        let url = self.publisher.url();
        let arguments = ["audit", "verify", "--publisher", &url];
        let output = confcast(folder, Some(token), &arguments).await?;
        let shown = [output.stdout, output.stderr].concat();
        let shown = String::from_utf8_lossy(&shown).into_owned();
        Ok((output.status.code().context("an exit code")?, shown))
    }

    fn file(&self) -> anyhow::Result<Connection> {
        let file = self.publisher.folder().join("data/confcast.sqlite");
        let file = Connection::open(file)?;
        file.busy_timeout(std::time::Duration::from_secs(5))?;
        Ok(file)
    }
}

async fn confcast(
    folder: &Path,
    token: Option<&str>,
    arguments: &[&str],
) -> anyhow::Result<Output> {
    let program: PathBuf = dependencies::own_program("confcast")?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(folder)
        .kill_on_drop(true);
    if let Some(token) = token {
        command.env("AURA_CONFIGURATION_TOKEN", token);
    }
    Ok(command.output().await?)
}

/// Changes a record of the change log as somebody with the file does who knows its form: the checksum of
/// the row fits.
fn edit_change(file: &Connection, from: &str, to: &str) -> Outcome {
    let at = params![READABLE];
    let sql = "SELECT record FROM changes WHERE collection = ?1 AND revision = 1";
    let record: String = file.query_row(sql, at, |row| row.get(0))?;
    let edited = record.replace(from, to);
    ensure!(edited != record, "{record}");
    let crc = crc32c::crc32c(format!("confcast-row-1\nchange\n{edited}").as_bytes());
    let sql = "UPDATE changes SET record = ?2, crc = ?3 WHERE collection = ?1 AND revision = 1";
    let updated = file.execute(sql, params![READABLE, edited, crc])?;
    ensure!(updated == 1, "{updated} rows");
    Ok(())
}

#[tokio::test]
async fn records_that_were_edited_in_the_store_are_found_also_in_the_change_log() -> Outcome {
    let bed = Bed::start().await?;
    let documents = format!("/v1/collections/{READABLE}/documents");
    for id in ["front", "back"] {
        let document = json!({"id": id, "colour": "red"});
        let created = bed.send(Method::POST, &documents, &document).await?;
        created.expect(201)?;
    }
    let (code, shown) = bed.verify(&bed.token).await?;
    let compared = "2 changes of the change log were compared";
    ensure!(code == 0 && shown.contains(compared), "{shown}");

    let file = bed.file()?;
    for (from, to) in [("token:ops", "token:eve"), ("\"red\"", "\"blue\"")] {
        edit_change(&file, from, to)?;
        let log = format!("/v1/collections/{READABLE}/changes?since=0");
        let log = bed.send(Method::GET, &log, &Value::Null).await?;
        ensure!(log.status != 200 || log.body.contains(to), "{}", log.body);
        let (code, shown) = bed.verify(&bed.token).await?;
        let edited = format!("revision 1 of {READABLE} in the change log is not what");
        ensure!(code == 1 && shown.contains(&edited), "{shown}");
        edit_change(&file, to, from)?;
    }
    let (code, shown) = bed.verify(&bed.token).await?;
    ensure!(code == 0, "what was put back is whole: {shown}");

    // The audit log itself, edited as the change log was.
    edit_change(&file, "token:ops", "token:eve")?;
    let sql = "UPDATE audit SET record = replace(record, 'token:ops', 'token:eve')
               WHERE record LIKE '%\"write\"%' AND record LIKE '%front%'";
    ensure!(file.execute(sql, [])? > 0, "no record was edited");
    let (code, shown) = bed.verify(&bed.token).await?;
    ensure!(code == 1 && shown.contains("was changed"), "{shown}");
    Ok(())
}

#[tokio::test]
async fn an_auditor_of_some_collections_gets_no_false_report_and_finds_what_it_can_read() -> Outcome
{
    let bed = Bed::start().await?;
    let auditor = json!({"name": "auditor", "grants": [
        {"role": "auditor"}, {"role": "reader", "collections": [READABLE]},
    ]});
    let created = bed.send(Method::POST, "/v1/tokens", &auditor).await?;
    let created = created.expect(201)?.json()?;
    let auditor = created["token"].as_str().context("a token")?;
    let front = json!({"id": "front", "colour": "red"});
    let documents = format!("/v1/collections/{READABLE}/documents");
    bed.send(Method::POST, &documents, &front)
        .await?
        .expect(201)?;
    let set = json!({"changes": [
        {"collection": READABLE, "id": "back", "op": "Create", "configData": {}},
        {"collection": OTHER, "id": "left", "op": "Create", "configData": {}},
    ]});
    bed.send(Method::POST, "/v1/changes", &set)
        .await?
        .expect(200)?;
    let (code, shown) = bed.verify(&bed.token).await?;
    let all = "3 changes of the change log were compared";
    ensure!(code == 0 && shown.contains(all), "{shown}");
    let (code, shown) = bed.verify(auditor).await?;
    let some = "1 changes of the change log were compared";
    ensure!(code == 0 && shown.contains(some), "{shown}");
    ensure!(!shown.contains(OTHER), "{shown}");

    edit_change(&bed.file()?, "\"red\"", "\"blue\"")?;
    let (code, shown) = bed.verify(auditor).await?;
    let edited = format!("revision 1 of {READABLE} in the change log is not what");
    ensure!(code == 1 && shown.contains(&edited), "{shown}");
    Ok(())
}
