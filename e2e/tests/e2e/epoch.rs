//! A restored database: check-ins of replicas reveal the restore, and the store continues under a
//! new epoch.

use std::time::Duration;

use anyhow::{Context, ensure};
use contract::{Digest, Epoch, FeedPage, Head};
use e2e::{
    client::{Answer, Api},
    testbed::{
        FREE, Store, StoreKind, Testbed, Transport, numbered, services::Service, wait::eventually,
    },
};
use futures_util::{TryStreamExt, future::join};
use mongodb::{
    Database,
    bson::{Document, doc},
    options::ReadConcern,
};
use reqwest::Method;
use serde_json::{Value, json};

mod check_ins;

type Outcome = anyhow::Result<()>;

/// The content of a dump of these collections.
struct Dump(Vec<(&'static str, Vec<Document>)>);

const TABLES: [&str; 4] = [FREE, "_changes", "_heads", "_meta"];

impl Dump {
    async fn of(database: &Database) -> anyhow::Result<Self> {
        let mut tables = Vec::new();
        for name in TABLES {
            tables.push((
                name,
                database
                    .collection(name)
                    .find(doc! {})
                    .await?
                    .try_collect()
                    .await?,
            ));
        }
        Ok(Self(tables))
    }

    /// Restores as mongorestore does: table by table, not all at once.
    async fn restore(&self, database: &Database, tables: &[&str]) -> Outcome {
        for (name, rows) in self.0.iter().filter(|(name, _rows)| tables.contains(name)) {
            let table = database.collection::<Document>(name);
            table.delete_many(doc! {}).await?;
            if !rows.is_empty() {
                table.insert_many(rows).await?;
            }
        }
        Ok(())
    }
}

async fn check_in(api: &Api, instance: &str, report: Value) -> anyhow::Result<Answer> {
    let body = json!({
        "instance": instance, "bootId": "b", "intervalMs": 10_000, "collections": { FREE: report },
    });
    let path = format!("/v1/replicas/{instance}");
    api.send(
        Method::PUT,
        &path,
        &[("content-type", "application/json")],
        body.to_string(),
    )
    .await
}

fn at(epoch: Epoch, revision: u64, digest: Digest) -> Value {
    let settled = json!({ "revision": revision, "digest": digest });
    json!({ "epoch": epoch, "revision": revision, "known": revision, "settled": settled, "state": "current" })
}

/// The report of a replica that has reached this head and holds its proof.
fn proven(head: &Head) -> Value {
    let mut report = at(head.epoch, head.revision, head.digest);
    report["proof"] = json!(head.proof);
    report
}

async fn stands(api: &Api, head: &Head) -> Outcome {
    check_in(api, "replica", proven(head))
        .await?
        .expect(200)
        .map(drop)
}

/// Waits for a later epoch of the same lineage.
async fn until_after(api: &Api, epoch: Epoch) -> anyhow::Result<Epoch> {
    eventually("the epoch is declared", async || {
        let head = api.head(FREE).await?;
        ensure!(follows(head.epoch, epoch), "{head:?}");
        Ok(head.epoch)
    })
    .await
}

fn follows(epoch: Epoch, other: Epoch) -> bool {
    epoch.lineage == other.lineage && epoch.counter > other.counter
}

async fn mongo() -> anyhow::Result<(Store, Service, Database)> {
    let store = Store::start(StoreKind::Mongo).await?;
    let mut publisher = store
        .publisher()?
        .with("AURA_CONFIGURATION_EVENTS_ENABLED", "false");
    publisher.start().await?;
    let database = store
        .0
        .as_ref()
        .context("a mongod")?
        .database("confcast")
        .await?;
    Ok((store, publisher, database))
}

#[tokio::test]
async fn a_restored_database_continues_in_a_new_epoch() -> Outcome {
    let (_store, publisher, database) = mongo().await?;
    let api = publisher.api();
    api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
    let old = api.head(FREE).await?;
    let dump = Dump::of(&database).await?;
    for number in 0..3 {
        api.put(FREE, "a", &numbered(number)).await?.expect(200)?;
    }
    api.create(FREE, &json!({"id": "b"})).await?.expect(201)?;
    let lost = api.head(FREE).await?;

    // The restore is half done: documents, heads and log are of three different times.
    dump.restore(&database, &[FREE]).await?;
    stands(&api, &lost).await?;
    dump.restore(&database, &[FREE, "_heads"]).await?;
    stands(&api, &lost).await?;
    eventually("the publisher waits", async || {
        let output = publisher.output();
        ensure!(
            output.contains("no epoch can be declared yet")
                && output.contains("is a restore under way?"),
            "{output}"
        );
        Ok(())
    })
    .await?;
    ensure!(
        api.head(FREE).await?.epoch == old.epoch,
        "declared too early"
    );
    dump.restore(&database, &TABLES).await?;
    let next = until_after(&api, old.epoch)
        .await
        .with_context(|| publisher.output())?;
    let declared = api.head(FREE).await?;
    ensure!(declared.revision == old.revision);
    api.put(FREE, "a", &numbered(9)).await?.expect(200)?;

    // After a restore to a time before that declaration, the publisher does not use the same epoch
    // number again.
    dump.restore(&database, &TABLES).await?;
    stands(&api, &declared).await?;
    until_after(&api, next)
        .await
        .with_context(|| publisher.output())
        .map(drop)
}

/// A publisher that keeps running remembers the revisions that it has seen committed. It writes
/// nothing into the old history and needs no report of a replica.
#[tokio::test]
async fn a_publisher_detects_a_restore_without_check_ins() -> Outcome {
    let (_store, publisher, database) = mongo().await?;
    let api = publisher.api();
    api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
    let old = api.head(FREE).await?;
    let dump = Dump::of(&database).await?;
    for number in 0..5 {
        api.put(FREE, "a", &numbered(number)).await?.expect(200)?;
    }
    dump.restore(&database, &TABLES).await?;
    let written = eventually("it can be written to again", async || {
        api.put(FREE, "a", &numbered(9)).await?.expect(200)?;
        api.head(FREE).await
    });
    let head = written.await.with_context(|| publisher.output())?;
    ensure!(
        follows(head.epoch, old.epoch) && head.revision == old.revision + 1,
        "{head:?} after {old:?}"
    );
    Ok(())
}

/// A log without the names of the snapshots that need it looks as if it could be trimmed.
#[tokio::test]
async fn retention_waits_while_a_dump_is_put_back() -> Outcome {
    let (_store, mut publisher, database) = mongo().await?;
    publisher.stop().await?;
    publisher.set("AURA_CONFIGURATION_LOG_KEEP_CHANGES", "1");
    publisher.set("AURA_CONFIGURATION_LOG_KEEP_HOURS", "0");
    publisher.set("AURA_CONFIGURATION_LOG_TRIM_SECONDS", "1");
    publisher.start().await?;
    let api = publisher.api();
    api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
    api.put(FREE, "a", &numbered(1)).await?.expect(200)?;
    let named = api.send(Method::PUT, "/v1/snapshots/one", &[], "");
    named.await?.expect(201)?;
    for number in 2..=9 {
        api.put(FREE, "a", &numbered(number)).await?.expect(200)?;
    }
    let old = api.head(FREE).await?;
    let dump = Dump::of(&database).await?;
    let names = database.collection::<Document>("_snapshots");
    let kept: Vec<_> = names.find(doc! {}).await?.try_collect().await?;
    ensure!(!kept.is_empty());
    for number in 10..=12 {
        api.put(FREE, "a", &numbered(number)).await?.expect(200)?;
    }
    // The names come last.
    names.delete_many(doc! {}).await?;
    dump.restore(&database, &["_changes"]).await?;
    let waits = async |reason: &str| {
        eventually("retention waits", async || {
            let output = publisher.output();
            ensure!(
                output.contains("is not trimmed for now") && output.contains(reason),
                "{output}"
            );
            Ok(())
        })
        .await
    };
    waits("does not end at its head").await?;
    dump.restore(&database, &TABLES).await?;
    until_after(&api, old.epoch).await?;
    waits("was declared").await?;
    names.insert_many(kept).await?;
    eventually("retention goes on", async || {
        let output = publisher.output();
        ensure!(
            output.contains("the change log is trimmed again"),
            "{output}"
        );
        Ok(())
    })
    .await?;
    let past = format!("/v1/collections/{FREE}/documents/a?snapshot=one");
    let past = api.get(&past).await?.expect(200)?.json()?;
    ensure!(past["configData"] == numbered(1), "{past}");
    Ok(())
}

#[tokio::test]
async fn a_blank_database_never_starts_a_new_epoch() -> Outcome {
    let (_store, publisher, database) = mongo().await?;
    let api = publisher.api();
    let virgin = Dump::of(&database).await?;
    api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
    let lost = api.head(FREE).await?;
    virgin.restore(&database, &TABLES).await?;
    stands(&api, &lost).await?;
    eventually("the log informs the operator", async || {
        ensure!(
            publisher.output().contains("the store is blank"),
            "{}",
            publisher.output()
        );
        Ok(())
    })
    .await?;
    ensure!(
        api.head(FREE).await?.epoch == lost.epoch,
        "a blank store was declared"
    );
    let declared = api
        .send(Method::POST, "/v1/epoch", &[], "")
        .await?
        .expect(200)?
        .json()?;
    ensure!(
        follows(
            declared["epoch"].as_str().unwrap_or_default().parse()?,
            lost.epoch
        ),
        "{declared}"
    );
    Ok(())
}

/// Writers that read the old epoch either commit before the declaration or conflict with it.
#[tokio::test]
async fn no_change_carries_the_old_epoch_after_a_declaration() -> Outcome {
    let (_store, publisher, _database) = mongo().await?;
    let api = publisher.api();
    api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
    let writes = async {
        for number in 0..200 {
            api.put(FREE, "a", &numbered(number)).await?.expect(200)?;
        }
        anyhow::Ok(())
    };
    let declarations = async {
        let mut heads = Vec::new();
        for _time in 0..3 {
            api.send(Method::POST, "/v1/epoch", &[], "")
                .await?
                .expect(200)?;
            heads.push(api.head(FREE).await?);
        }
        anyhow::Ok(heads)
    };
    let (written, heads) = join(writes, declarations).await;
    written?;
    let heads = heads?;
    let log = api
        .get(&format!("/v1/collections/{FREE}/changes?since=0"))
        .await?
        .expect(200)?;
    let log: FeedPage = serde_json::from_str(&log.body)?;
    ensure!(log.items.len() == 201, "{}", log.items.len());
    ensure!(
        log.items.is_sorted_by_key(|change| change.epoch),
        "an old epoch came back"
    );
    for head in heads {
        let after = log
            .items
            .iter()
            .filter(|change| change.revision > head.revision);
        ensure!(
            after.clone().all(|change| change.epoch >= head.epoch),
            "after {head:?}"
        );
    }
    Ok(())
}

/// One check-in of a stranger, or one forged event, declared a new epoch for the whole fleet.
#[tokio::test]
async fn forged_check_ins_and_events_change_no_epoch() -> Outcome {
    let mut testbed = Testbed::prepare(StoreKind::Embedded, Transport::Local).await?;
    testbed.publisher.start().await?;
    testbed.start_subscribers().await?;
    let api = testbed.publisher.api();
    api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
    let head = api.head(FREE).await?;
    let held = testbed.subscribers[0].api();
    eventually("the event is applied", async || {
        held.document(FREE, "a").await?.expect(200).map(drop)
    })
    .await?;

    let later = Epoch {
        counter: head.epoch.counter + 1,
        ..head.epoch
    };
    for mut claim in [
        at(head.epoch, 999_999, Digest(1)),
        at(later, head.revision, head.digest),
        at(
            Epoch {
                counter: (1 << 63) - 2,
                ..later
            },
            1,
            Digest(1),
        ),
    ] {
        claim["proof"] = json!(head.proof);
        check_in(&api, "stranger", claim).await?.expect(200)?;
    }
    let forged = json!({
        "specversion": "1.0", "id": "forged", "source": "stranger", "type": "com.dapr.event.sent",
        "datacontenttype": "application/json",
        "data": {
            "collection": FREE, "op": "Update", "id": "a", "revision": 999_999,
            "epoch": head.epoch, "configData": {"id": "a", "forged": true},
        },
    });
    held.send(
        Method::POST,
        "/dapr/processConfigurationEvents",
        &[("content-type", "application/cloudevents+json")],
        forged.to_string(),
    )
    .await?
    .expect(200)?;
    eventually("the replica drops the forged event", async || {
        let status = held.get("/v1/status").await?.json()?;
        ensure!(status["events"]["unconfirmed"] == 1, "{status}");
        ensure!(status["drops"][0]["reason"] == "unconfirmed", "{status}");
        ensure!(status["state"] == "current", "{status}");
        Ok(())
    })
    .await?;
    api.put(FREE, "a", &numbered(2)).await?.expect(200)?;
    let now = api.head(FREE).await?;
    ensure!(
        (now.epoch, now.revision) == (head.epoch, head.revision + 1),
        "{now:?} after {head:?}"
    );
    eventually("the replica follows", async || {
        let status = held.get("/v1/status").await?.json()?;
        let rows = status["collections"].as_array().context("collections")?;
        let row = rows.iter().find(|row| row["collection"] == FREE);
        ensure!(
            row.is_some_and(|row| row["revision"] == now.revision),
            "{status}"
        );
        Ok(())
    })
    .await?;
    let metrics = api.get("/metrics").await?.expect(200)?.body;
    ensure!(
        metrics.contains("confcast_epochs_declared_total 0\n"),
        "{metrics}"
    );
    ensure!(
        metrics.contains("confcast_claims_unproven_total 3\n"),
        "{metrics}"
    );
    Ok(())
}

/// Another publisher starts to serve one more collection in the middle of a declaration. The
/// declaration does not see the new head.
#[tokio::test]
async fn a_new_collection_does_not_bypass_an_epoch_declaration() -> Outcome {
    const FRESH: &str = "Fresh";
    let (store, publisher, database) = mongo().await?;
    let old = publisher.api().head(FREE).await?.epoch;
    let mut session = database.client().start_session().await?;
    session
        .start_transaction()
        .read_concern(ReadConcern::snapshot())
        .await?;
    let meta = database.collection::<Document>("_meta");
    let heads = database.collection::<Document>("_heads");
    meta.update_one(doc! {}, doc! { "$inc": { "counter": 1_i64 } })
        .session(&mut session)
        .await?;
    heads
        .update_many(doc! {}, doc! { "$set": { "declared": 1_i64 } })
        .session(&mut session)
        .await?;

    let mut late = store
        .publisher()?
        .with("AURA_CONFIGURATION_EVENTS_ENABLED", "false")
        .with("AURA_CONFIGURATION_COLLECTIONS", format!("{FREE},{FRESH}"));
    late.launch()?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    // The document may be missing, or its write may be refused. It must not be written in the old
    // epoch.
    drop(late.api().create(FRESH, &json!({"id": "early"})).await);
    session.commit_transaction().await?;
    late.until_ready().await?;
    late.api()
        .create(FRESH, &json!({"id": "a"}))
        .await?
        .expect(201)?;
    let log = late
        .api()
        .get(&format!("/v1/collections/{FRESH}/changes?since=0"))
        .await?
        .expect(200)?;
    let log: FeedPage = serde_json::from_str(&log.body)?;
    ensure!(
        !log.items.is_empty() && log.items.iter().all(|change| follows(change.epoch, old)),
        "{log:?}"
    );
    Ok(())
}

#[tokio::test]
async fn replicas_adopt_another_database_after_a_declaration() -> Outcome {
    let (_store, publisher, _database) = mongo().await?;
    let api = publisher.api();
    api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
    let ours = api.head(FREE).await?.epoch;
    let theirs = Epoch {
        lineage: ours.lineage ^ 1,
        counter: 3,
    };
    let adopt = async || {
        let body = json!({ "adopt": format!("{:08x}", theirs.lineage) });
        api.send(Method::POST, "/v1/epoch", &[], body.to_string())
            .await
    };
    ensure!(
        adopt()
            .await?
            .expect(409)?
            .body
            .contains("nothing to adopt")
    );
    check_in(&api, "replica", at(theirs, 7, Digest(1)))
        .await?
        .expect(200)?;
    let declared = adopt().await?.expect(200)?.json()?;
    let declared: Epoch = declared["epoch"].as_str().unwrap_or_default().parse()?;
    ensure!(
        follows(declared, theirs) && api.head(FREE).await?.epoch == declared,
        "{declared}"
    );
    Ok(())
}
