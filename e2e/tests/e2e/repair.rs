//! `confcast repair` from end to end: rows that were spoilt by hand are refused by name, shown,
//! mended, and declared, and replicas hold the same as the store afterwards.

use std::process::Output;

use anyhow::{Context, ensure};
use contract::repair::RepairReport;
use e2e::testbed::{FREE, StoreKind, Testbed, Transport, dependencies};
use mongodb::bson::{Document, doc};
use rusqlite::Connection;
use serde_json::json;
use tokio::process::Command;

type Outcome = anyhow::Result<()>;

/// The document whose row is spoilt, and whose record the log still has.
const TOLD: &str = "told";
/// The document whose row is spoilt, and whose record is gone.
const LOST: &str = "lost";
/// The document that nobody touches.
const KEPT: &str = "kept";
/// The row that no publisher wrote.
const STRAY: &str = "stray";

#[tokio::test]
async fn spoilt_rows_are_refused_shown_mended_and_declared_mongo() -> Outcome {
    spoilt_rows_are_refused_shown_mended_and_declared(StoreKind::Mongo).await
}

#[tokio::test]
async fn spoilt_rows_are_refused_shown_mended_and_declared_embedded() -> Outcome {
    spoilt_rows_are_refused_shown_mended_and_declared(StoreKind::Embedded).await
}

async fn spoilt_rows_are_refused_shown_mended_and_declared(kind: StoreKind) -> Outcome {
    let mut testbed = Testbed::prepare(kind, Transport::Local).await?;
    for subscriber in &mut testbed.subscribers {
        subscriber.set("AURA_CONFIGURATION_CHECK_IN_SECONDS", "1");
    }
    testbed.publisher.start().await?;
    testbed.start_subscribers().await?;
    let api = testbed.publisher.api();
    for (number, id) in (1_u32..).zip([LOST, TOLD, KEPT]) {
        let document = json!({"id": id, "number": number});
        api.create(FREE, &document).await?.expect(201)?;
    }
    testbed.until_converged(FREE).await?;
    let before = api.head(FREE).await?;
    let told = api.document(FREE, TOLD).await?.expect(200)?.body;

    spoil(&testbed).await?;
    refuses(&testbed, &told).await?;

    // A dry run names all of it and writes nothing.
    let dry = confcast(&testbed, &["repair"]).await?;
    let text = String::from_utf8_lossy(&dry.stdout);
    ensure!(dry.status.code() == Some(1), "{dry:?}");
    for (id, what) in [
        (TOLD, "from the log"),
        (LOST, "lost"),
        // A row that the log does not tell may have been a document while another one is lost.
        (STRAY, "lost"),
    ] {
        let line = format!("{FREE} \"{id}\": {what}");
        ensure!(text.contains(&line), "no {line}\n{text}");
    }
    ensure!(!text.contains(KEPT), "{text}");
    refuses(&testbed, &told).await?;

    // What the log tells is mended. What nothing tells stays refused.
    let mended = report(&testbed, &["--yes"], 1).await?;
    let row = in_report(&mended)?;
    ensure!(
        row.from_log.count == 1 && row.unrecoverable.count == 2 && mended.epoch.is_none(),
        "{mended:?}"
    );
    ensure!(api.document(FREE, TOLD).await?.expect(200)?.body == told);
    api.document(FREE, LOST).await?.expect(500)?;

    // What is moved aside is told to the replicas with a new epoch.
    let discarded = report(&testbed, &["--yes", "--discard"], 0).await?;
    let epoch = discarded.epoch.context("a new epoch")?;
    ensure!(epoch > before.epoch, "{epoch} after {}", before.epoch);
    ensure!(aside(&testbed).await? == 2, "the rows are kept");
    let after = api.head(FREE).await?;
    ensure!((after.epoch, after.count) == (epoch, 2), "{after:?}");
    api.document(FREE, LOST).await?.expect(404)?;
    for id in [TOLD, LOST, KEPT] {
        testbed.until_same(FREE, id).await?;
    }
    testbed.until_converged(FREE).await?;

    let again = json!({"id": LOST, "number": 9});
    api.create(FREE, &again).await?.expect(201)?;
    testbed.until_same(FREE, LOST).await?;
    testbed.until_converged(FREE).await?;
    let whole = confcast(&testbed, &["repair"]).await?;
    ensure!(whole.status.success(), "{whole:?}");
    let ready = api.get("/readyz").await?;
    ensure!(ready.status == 204, "{} {}", ready.status, ready.body);
    let subscribers: Vec<_> = testbed.subscribers.iter().map(|one| one.url()).collect();
    let equal = confcast(
        &testbed,
        &["verify", "--subscriber", &subscribers.join(",")],
    )
    .await?;
    ensure!(equal.status.success(), "{equal:?}");
    Ok(())
}

/// Each spoilt row concerns its own document, and none becomes a wrong or an absent one.
async fn refuses(testbed: &Testbed, told: &str) -> Outcome {
    let api = testbed.publisher.api();
    ensure!(api.document(FREE, TOLD).await?.expect(200)?.body == told);
    api.document(FREE, KEPT).await?.expect(200)?;
    for path in [
        format!("/v1/collections/{FREE}/documents/{LOST}"),
        format!("/v1/collections/{FREE}/documents"),
        "/v1/snapshot".to_owned(),
    ] {
        let refused = api.get(&path).await?.expect(500)?;
        ensure!(
            refused.body.contains(":unreadable")
                && refused.body.contains(LOST)
                && refused.body.contains(FREE),
            "{path}: {}",
            refused.body
        );
    }
    let ready = api.get("/readyz").await?.expect(200)?;
    ensure!(ready.json()?["status"] == "degraded", "{}", ready.body);
    // Replicas go on with what was committed.
    for subscriber in &testbed.subscribers {
        let held = subscriber.api().document(FREE, LOST).await?.expect(200)?;
        ensure!(held.json()?["configData"]["number"] == 1, "{}", held.body);
    }
    Ok(())
}

/// What a person may do with the tools of the store.
async fn spoil(testbed: &Testbed) -> Outcome {
    let Some(mongod) = &testbed.store.0 else {
        let file = embedded(testbed)?;
        file.execute_batch(&format!(
            "UPDATE documents SET value = CAST('{{\"number\":666}}' AS BLOB)
               WHERE collection = '{FREE}' AND id IN ('{TOLD}', '{LOST}');
             INSERT INTO documents SELECT collection, '{STRAY}', revision, crc, value
               FROM documents WHERE collection = '{FREE}' AND id = '{KEPT}';
             DELETE FROM changes WHERE collection = '{FREE}' AND revision = 1;"
        ))?;
        return Ok(());
    };
    let database = mongod.database("confcast").await?;
    let rows = database.collection::<Document>(FREE);
    let both = doc! { "_id": { "$in": [TOLD, LOST] } };
    let spoilt = doc! { "$set": { "configData.number": 666_i64 } };
    let updated = rows.update_many(both, spoilt).await?;
    ensure!(updated.modified_count == 2);
    let kept = rows.find_one(doc! { "_id": KEPT }).await?;
    let mut stray = kept.context("the row")?;
    stray.insert("_id", STRAY);
    rows.insert_one(stray).await?;
    let log = database.collection::<Document>("_changes");
    let deleted = log.delete_one(doc! { "id": LOST }).await?;
    ensure!(deleted.deleted_count == 1);
    Ok(())
}

/// How many rows the repair moved aside.
async fn aside(testbed: &Testbed) -> anyhow::Result<u64> {
    Ok(match &testbed.store.0 {
        None => {
            embedded(testbed)?.query_row("SELECT count(*) FROM damaged", [], |row| row.get(0))?
        }
        Some(mongod) => {
            let database = mongod.database("confcast").await?;
            let aside = database.collection::<Document>("_damaged");
            aside.count_documents(doc! {}).await?
        }
    })
}

fn embedded(testbed: &Testbed) -> anyhow::Result<Connection> {
    let file = testbed.publisher.folder().join("data/confcast.sqlite");
    let file = Connection::open(file)?;
    file.busy_timeout(std::time::Duration::from_secs(5))?;
    Ok(file)
}

fn in_report(report: &RepairReport) -> anyhow::Result<&contract::repair::CollectionRepair> {
    let mut rows = report.collections.iter();
    rows.find(|row| row.collection.as_str() == FREE)
        .context("the collection is in the report")
}

/// Runs `confcast repair --json`, which must end with this code.
async fn report(testbed: &Testbed, flags: &[&str], code: i32) -> anyhow::Result<RepairReport> {
    let output = confcast(testbed, &[&["repair", "--json"], flags].concat()).await?;
    ensure!(output.status.code() == Some(code), "{output:?}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

async fn confcast(testbed: &Testbed, arguments: &[&str]) -> anyhow::Result<Output> {
    let mut command = Command::new(dependencies::own_program("confcast")?);
    command
        .args(arguments)
        .args(["--publisher", &testbed.publisher.url()])
        .kill_on_drop(true);
    Ok(command.output().await?)
}
