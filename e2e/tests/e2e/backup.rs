//! A drill: a store is backed up while it is written, lost, and restored into the other kind of store.

use std::{process::Output, time::Duration};

use anyhow::{Context, ensure};
use contract::{Digest, status::ReplicaState};
use e2e::{
    client::Api,
    testbed::{
        FREE, SCHEMA_FREE, Store, StoreKind, dependencies,
        process::folder,
        services::Service,
        wait::{eventually, within},
    },
};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    process::{Child, Command},
    task::JoinSet,
};

mod refused;

type Outcome = anyhow::Result<()>;

/// Made for these tests.
const RECIPIENT: &str = "age1sva55g4rxxnyjukxsp3j8gp963cuw3s65ry76c59etqrmfk6jdvsy4vlyy";
const IDENTITY: &str = "AGE-SECRET-KEY-1URR8GKQHE2N9DKRLSUCJFED48FKNFQ7V65CJ3ZRLMQ7WR8GUUU7Q9EXLR6";
const OTHER: &str = "FreeFormB";
/// Documents of the drill: a restore of them takes many change sets.
const DOCUMENTS: usize = 6_000;

/// `confcast`, which talks to this publisher.
fn command(publisher: &Service, arguments: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(dependencies::own_program("confcast")?);
    command
        .args(arguments)
        .env("AURA_CONFIGURATION_API_URL", publisher.url())
        .env("USER", "ada")
        .kill_on_drop(true);
    Ok(command)
}

/// Runs a command, and returns whether it succeeded and what it printed.
async fn run(publisher: &Service, arguments: &[&str]) -> anyhow::Result<(bool, String)> {
    Ok(printed(&command(publisher, arguments)?.output().await?))
}

fn printed(output: &Output) -> (bool, String) {
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

async fn confcast(publisher: &Service, arguments: &[&str]) -> anyhow::Result<String> {
    let (succeeded, text) = run(publisher, arguments).await?;
    ensure!(succeeded, "{arguments:?}: {text}");
    Ok(text)
}

/// What a command says that has to fail.
async fn refused(publisher: &Service, arguments: &[&str]) -> anyhow::Result<String> {
    let (succeeded, text) = run(publisher, arguments).await?;
    ensure!(!succeeded, "{arguments:?} was not refused: {text}");
    Ok(text)
}

async fn change(api: &Api, changes: &[Value]) -> Outcome {
    let body = json!({ "changes": changes }).to_string();
    let answer = api.send(Method::POST, "/v1/changes", &[], body).await?;
    answer.expect(200).map(drop)
}

fn created(collection: &str, id: &str, value: &Value) -> Value {
    json!({"collection": collection, "op": "Create", "id": id, "configData": value})
}

async fn fill(api: &Api) -> Outcome {
    let numbers: Vec<usize> = (0..DOCUMENTS).collect();
    for part in numbers.chunks(256) {
        let documents = part
            .iter()
            .map(|number| created(FREE, &format!("d{number:05}"), &json!({ "number": number })));
        change(api, &documents.collect::<Vec<_>>()).await?;
    }
    let pair = [FREE, OTHER].map(|name| created(name, "pair", &json!({ "number": 0 })));
    change(api, &pair).await
}

/// Writes two documents of two collections together, with the same number, until it is dropped.
async fn write(api: Api) -> Outcome {
    for number in 1_u64.. {
        let pair = [FREE, OTHER].map(|name| {
            json!({"collection": name, "op": "Replace", "id": "pair", "configData": {"number": number}})
        });
        change(&api, &pair).await?;
    }
    Ok(())
}

async fn value(service: &Service, collection: &str, id: &str) -> anyhow::Result<Value> {
    let document = service.api().document(collection, id).await?.expect(200)?;
    Ok(document.json()?["configData"].clone())
}

async fn state(replica: &Service) -> anyhow::Result<(ReplicaState, Option<String>)> {
    let status = replica.api().get("/v1/status").await?.expect(200)?.json()?;
    let state = serde_json::from_value(status["state"].clone())?;
    let reason = status["collections"][0]["reason"].as_str();
    Ok((state, reason.map(str::to_owned)))
}

/// The backup is the state of one moment: the log has the same digests at its revisions.
async fn ensure_of_one_moment(api: &Api, backup: &Value) -> Outcome {
    let heads = backup["heads"].as_array().context("heads")?;
    let mut revisions = Vec::new();
    for head in heads.iter().filter(|head| head["revision"] != 0) {
        let name = head["collection"].as_str().context("a name")?;
        let revision = head["revision"].as_u64().context("a revision")?;
        let path = format!(
            "/v1/collections/{name}/changes?since={}&limit=1",
            revision - 1
        );
        let page = api.get(&path).await?.expect(200)?.json()?;
        let record = &page["items"][0];
        ensure!(
            record["digest"] == head["digest"] && record["count"] == head["count"],
            "{record:#} {head:#}"
        );
        ensure!(head["digest"] != Digest::default().to_string(), "{head:#}");
        revisions.push(revision);
    }
    ensure!(revisions.len() == 2, "{backup:#}");
    Ok(())
}

#[tokio::test]
async fn a_lost_embedded_store_is_restored_into_mongodb() -> Outcome {
    drill(StoreKind::Embedded, StoreKind::Mongo).await
}

#[tokio::test]
async fn a_lost_mongodb_is_restored_into_the_embedded_store() -> Outcome {
    drill(StoreKind::Mongo, StoreKind::Embedded).await
}

/// Where a publisher finds a store that is blank yet.
fn blank(store: &Store, publisher: &Service, name: &str) -> String {
    match &store.0 {
        Some(mongod) => mongod.url(name),
        None => format!("file:{}", publisher.folder().join(name).display()),
    }
}

async fn drill(lost: StoreKind, new: StoreKind) -> Outcome {
    let files = folder()?;
    let path = |name: &str| files.path().join(name).display().to_string();
    let (file, key) = (path("monday.backup"), path("key.txt"));
    std::fs::write(&key, format!("# {RECIPIENT}\n{IDENTITY}\n"))?;
    let served = SCHEMA_FREE[..2].join(",");

    let lost = Store::start(lost).await?;
    let mut publisher = lost
        .publisher()?
        .with("AURA_CONFIGURATION_COLLECTIONS", &served);
    publisher.start().await?;
    let mut replica = Service::subscriber("replica", &[publisher.url()])?
        .with("AURA_CONFIGURATION_COLLECTIONS", &served)
        .with("AURA_CONFIGURATION_CHECK_IN_SECONDS", "1");
    fill(&publisher.api()).await?;
    replica.start().await?;

    // A backup while writers go on.
    let mut writer = JoinSet::new();
    writer.spawn(write(publisher.api()));
    let create = [
        "backup",
        "create",
        &file,
        "--recipient",
        RECIPIENT,
        "--json",
    ];
    let backup: Value = serde_json::from_str(&confcast(&publisher, &create).await?)?;
    let ended = writer.try_join_next();
    ensure!(ended.is_none(), "it writes all the time: {ended:?}");
    drop(writer);
    ensure!(backup["documents"] == DOCUMENTS + 2, "{backup:#}");
    ensure_of_one_moment(&publisher.api(), &backup).await?;
    let verify = ["backup", "verify", &file, "--identity", &key, "--json"];
    let verified: Value = serde_json::from_str(&confcast(&publisher, &verify).await?)?;
    ensure!(verified == backup, "{verified:#}");
    let replaced = refused(&publisher, &create).await?;
    ensure!(replaced.contains("exists already"), "{replaced}");

    // The store is lost. A blank one takes its place, and the replica keeps what it has.
    publisher.kill()?;
    drop(lost);
    let store = Store::start(new).await?;
    publisher.set(
        "AURA_CONFIGURATION_STORE_URL",
        blank(&store, &publisher, "new"),
    );
    publisher.start().await?;
    eventually("the replica refuses the blank store", async || {
        let state = state(&replica).await?;
        ensure!(
            state == (ReplicaState::Stale, Some("other-store".to_owned())),
            "{state:?}"
        );
        Ok(())
    })
    .await?;
    let restore = ["restore", &file, "--identity", &key, "--yes"];
    is_killed(&publisher, &restore, &path("half.backup")).await?;
    let restored = confcast(&publisher, &restore).await?;
    ensure!(
        restored.contains("a restore was not finished, and this one ends it"),
        "{restored}"
    );
    ensure!(restored.contains("1 replicas follow"), "{restored}");
    is_as_before(&publisher, &replica, &backup).await?;
    let again = confcast(&publisher, &restore).await?;
    ensure!(again.contains("nothing to restore"), "{again}");
    goes_back(&publisher, &replica, &restore).await
}

/// A restore is killed when it has written a part. Everybody can see that it was not finished.
async fn is_killed(publisher: &Service, restore: &[&str], other: &str) -> Outcome {
    let mut killed: Child = command(publisher, restore)?
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()?;
    eventually("a part is written", async || {
        ensure!(publisher.api().head(FREE).await?.revision > 0, "nothing");
        Ok(())
    })
    .await?;
    killed.kill().await?;
    let written = publisher.api().head(FREE).await?.count;
    ensure!(written < DOCUMENTS as u64, "it was killed too late");
    let status = refused(publisher, &["status"]).await?;
    ensure!(status.contains("a restore was not finished"), "{status}");
    let backup = refused(publisher, &["backup", "create", other]).await?;
    ensure!(backup.contains("unfinished-restore-"), "{backup}");
    // A part of another restore would leave the rest of this one.
    let part = [&[restore[0], restore[1], OTHER], &restore[2..]].concat();
    let part = refused(publisher, &part).await?;
    ensure!(part.contains("another restore was not finished"), "{part}");
    Ok(())
}

/// Store and replica have the documents of the backup, and nothing marks the store any more.
async fn is_as_before(publisher: &Service, replica: &Service, backup: &Value) -> Outcome {
    let pair = [
        value(publisher, FREE, "pair").await?,
        value(publisher, OTHER, "pair").await?,
    ];
    ensure!(pair[0] == pair[1], "of one moment: {pair:?}");
    ensure!(value(publisher, FREE, "d05999").await? == json!({"number": 5_999}));
    let count = publisher.api().head(FREE).await?.count;
    ensure!(count == DOCUMENTS as u64 + 1, "{count}");
    within(
        Duration::from_secs(60),
        "the replica has the same",
        async || {
            let (state, reason) = state(replica).await?;
            ensure!(state == ReplicaState::Current, "{state:?} {reason:?}");
            ensure!(value(replica, FREE, "pair").await? == pair[0]);
            Ok(())
        },
    )
    .await?;
    confcast(publisher, &["verify", "--wait", "30"]).await?;
    // The publisher knows it from the next check-in.
    let told = "the publisher lists the replica as current";
    within(Duration::from_secs(60), told, async || {
        confcast(publisher, &["status"]).await.map(drop)
    })
    .await?;
    let epoch = publisher.api().head(FREE).await?.epoch;
    let of_backup = backup["epoch"].as_str().context("an epoch")?;
    ensure!(
        of_backup.starts_with(&epoch.lineage_name().to_string()) && of_backup != epoch.to_string(),
        "{epoch} continues {of_backup}"
    );
    Ok(())
}

/// A restore over documents that were changed since keeps their state, to which a rollback goes back.
async fn goes_back(publisher: &Service, replica: &Service, restore: &[&str]) -> Outcome {
    let api = publisher.api();
    api.put(FREE, "d00001", &json!({"number": 70}))
        .await?
        .expect(200)?;
    api.delete(FREE, "d00002").await?.expect(200)?;
    change(&api, &[created(FREE, "extra", &json!({"number": 7}))]).await?;
    let dry = [&restore[..restore.len() - 1], &["--dry-run", "--json"]].concat();
    let plan: Value = serde_json::from_str(&confcast(publisher, &dry).await?)?;
    let mut all = plan["collections"].as_array().into_iter().flatten();
    let counts = all.find(|counts| counts["collection"] == FREE);
    let counts = counts.context("the collection")?;
    let counted = ["create", "update", "delete"].map(|member| counts[member].as_u64());
    ensure!(counted == [Some(1); 3], "{plan:#}");

    let only_other = [&[restore[0], restore[1], OTHER], &restore[2..]].concat();
    let other = confcast(publisher, &only_other).await?;
    ensure!(
        other.contains("stay as they are: ") && other.contains(FREE),
        "{other}"
    );
    api.document(FREE, "extra").await?.expect(200)?;

    confcast(publisher, restore).await?;
    api.document(FREE, "extra").await?.expect(404)?;
    ensure!(value(publisher, FREE, "d00001").await? == json!({"number": 1}));
    let snapshots = api.get("/v1/snapshots").await?.expect(200)?.json()?;
    let name = snapshots["items"][0]["name"].as_str().context("a name")?;
    ensure!(name.starts_with("before-restore-"), "{snapshots:#}");
    let back = ["rollback", FREE, "--to-snapshot", name, "--yes"];
    confcast(publisher, &back).await?;
    for service in [publisher, replica] {
        eventually("it is as before the restore", async || {
            ensure!(value(service, FREE, "extra").await? == json!({"number": 7}));
            ensure!(value(service, FREE, "d00001").await? == json!({"number": 70}));
            service
                .api()
                .document(FREE, "d00002")
                .await?
                .expect(404)
                .map(drop)
        })
        .await?;
    }
    Ok(())
}
