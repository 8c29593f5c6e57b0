//! Injected faults: processes that are killed, frozen or late. Each acknowledged write arrives
//! once, and no client waits for a dead process.

use anyhow::{Context, ensure};
use contract::{DocumentId, FeedPage};
use e2e::{
    client::Api,
    testbed::{
        FREE, Store, StoreKind, Testbed, Transport, numbered, services::Service, wait::eventually,
    },
};
use futures_util::future::try_join_all;
use mongodb::bson::{Document, doc};
use serde_json::json;

mod two_publishers;

type Outcome = anyhow::Result<()>;

#[tokio::test]
async fn replicas_converge_after_a_sidecar_dies_between_two_writes() -> Outcome {
    let mut testbed = Testbed::start(StoreKind::Embedded, Transport::Dapr).await?;
    let api = testbed.publisher.api();
    api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
    testbed.until_same(FREE, "a").await?;

    let publishers = testbed.publisher_sidecar.as_mut().context("a sidecar")?;
    publishers.kill()?;
    for number in 0..100 {
        api.put(FREE, "a", &numbered(number)).await?.expect(200)?;
    }
    publishers.start().await?;
    testbed.until_same(FREE, "a").await?;
    testbed.until_converged(FREE).await?;

    testbed.sidecars[0].kill()?;
    api.put(FREE, "a", &numbered(1_000)).await?.expect(200)?;
    api.delete(FREE, "a").await?.expect(200)?;
    testbed.sidecars[0].start().await?;
    testbed.until_same(FREE, "a").await?;
    testbed.until_converged(FREE).await
}

#[tokio::test]
async fn an_event_is_sent_after_a_publisher_dies_between_commit_and_publish_embedded() -> Outcome {
    dies_between_commit_and_publish(StoreKind::Embedded).await
}

#[tokio::test]
async fn an_event_is_sent_after_a_publisher_dies_between_commit_and_publish_mongo() -> Outcome {
    dies_between_commit_and_publish(StoreKind::Mongo).await
}

/// Without its sidecar a publisher can commit but not publish. Then it is killed.
async fn dies_between_commit_and_publish(kind: StoreKind) -> Outcome {
    let mut testbed = Testbed::prepare(kind, Transport::Dapr).await?;
    testbed.publisher.start().await?;
    testbed.start_subscribers().await?;
    let api = testbed.publisher.api();
    for id in ["a", "b", "c"] {
        api.create(FREE, &json!({ "id": id })).await?.expect(201)?;
    }
    testbed.publisher.kill()?;
    ensure!(
        testbed.subscribers[0].api().head(FREE).await?.revision == 0,
        "nothing can have been sent yet"
    );
    testbed
        .publisher_sidecar
        .as_mut()
        .context("a sidecar")?
        .start()
        .await?;
    testbed.publisher.start().await?;
    for id in ["a", "b", "c"] {
        testbed.until_same(FREE, id).await?;
    }
    testbed.until_converged(FREE).await
}

/// The answer to the commit is lost or late: the write exists once, and the client did not receive
/// a contrary answer.
#[tokio::test]
async fn a_late_database_answer_does_not_repeat_the_write() -> Outcome {
    let store = Store::start(StoreKind::Mongo).await?;
    let mongod = store.0.as_ref().context("a mongod")?;
    let mut publisher = store
        .publisher()?
        .with("AURA_CONFIGURATION_EVENTS_ENABLED", "false");
    publisher.start().await?;
    let api = publisher.api();
    for (id, how) in [
        (
            "late",
            doc! { "blockConnection": true, "blockTimeMS": 3_500 },
        ),
        ("cut", doc! { "closeConnection": true }),
        (
            "undecided",
            doc! { "errorCode": 50, "errorLabels": ["UnknownTransactionCommitResult"] },
        ),
        (
            "gone",
            doc! { "errorCode": 251, "errorLabels": ["TransientTransactionError"] },
        ),
    ] {
        mongod.fail("commitTransaction", 1, how).await?;
        let answer = api.create(FREE, &json!({ "id": id })).await?;
        ensure!(
            answer.status == 201,
            "{id}: {} {}",
            answer.status,
            answer.body
        );
        ensure!(
            api.document(FREE, id).await?.json()?["revision"] == answer.json()?["revision"],
            "{id}"
        );
    }
    mongod
        .fail("insert", 2, doc! { "closeConnection": true })
        .await?;
    api.create(FREE, &json!({"id": "in the middle".replace(' ', "-")}))
        .await?
        .expect(201)?;
    ensure!(
        every_revision_once(&api).await? == 5,
        "each write made one change"
    );
    Ok(())
}

/// Without MongoDB writes are refused with 503 and leave nothing behind. When MongoDB is back, they
/// work.
#[tokio::test]
async fn writes_continue_after_the_database_returns() -> Outcome {
    let mut store = Store::start(StoreKind::Mongo).await?;
    let mut publisher = store
        .publisher()?
        .with("AURA_CONFIGURATION_EVENTS_ENABLED", "false");
    publisher.start().await?;
    let api = publisher.api();
    api.create(FREE, &json!({"id": "before"}))
        .await?
        .expect(201)?;
    store.0.as_mut().context("a mongod")?.kill()?;
    let refused = api
        .create(FREE, &json!({"id": "during"}))
        .await?
        .expect(503)?;
    ensure!(
        refused.header("retry-after") == "1"
            && serde_json::from_str::<contract::Problem>(&refused.body)?.kind
                == contract::ProblemKind::NotCommitted
    );
    ensure!(api.status_of("/healthz").await? < 300 && api.status_of("/readyz").await? == 503);
    store.0.as_mut().context("a mongod")?.restart().await?;
    eventually("writes work again", async || {
        api.create(FREE, &json!({"id": "after"}))
            .await?
            .expect(201)
            .map(drop)
    })
    .await?;
    api.document(FREE, "during").await?.expect(404)?;
    ensure!(every_revision_once(&api).await? == 2);
    Ok(())
}

/// The sidecar refuses a topic. The pending events of that topic do not delay other events, neither
/// new ones nor those of an earlier run.
#[tokio::test]
async fn an_unpublishable_event_does_not_delay_other_events() -> Outcome {
    const REFUSED: &str = "Aaa";
    let mut testbed = Testbed::prepare(StoreKind::Embedded, Transport::Dapr).await?;
    let publisher = std::mem::replace(&mut testbed.publisher, Service::publisher()?);
    testbed.publisher = publisher.with(
        "AURA_CONFIGURATION_COLLECTIONS",
        format!("{REFUSED},{FREE}"),
    );
    testbed.publisher.start().await?;
    testbed.start_subscribers().await?;
    let api = &testbed.publisher.api();
    try_join_all(
        (0..150).map(|n| async move { api.create(REFUSED, &numbered(n)).await?.expect(201) }),
    )
    .await?;
    api.create(FREE, &json!({"id": "left-behind"}))
        .await?
        .expect(201)?;
    testbed.publisher.kill()?;
    testbed
        .publisher_sidecar
        .as_mut()
        .context("a sidecar")?
        .start()
        .await?;
    testbed.publisher.start().await?;
    testbed.until_same(FREE, "left-behind").await?;
    testbed
        .publisher
        .api()
        .create(FREE, &json!({"id": "fresh"}))
        .await?
        .expect(201)?;
    testbed.until_same(FREE, "fresh").await
}

/// The operator edits documents in the database. The change log stays the truth for readers and for
/// writers.
#[tokio::test]
async fn manual_database_edits_do_not_reach_readers() -> Outcome {
    let store = Store::start(StoreKind::Mongo).await?;
    let mut publisher = store
        .publisher()?
        .with("AURA_CONFIGURATION_EVENTS_ENABLED", "false");
    publisher.start().await?;
    let api = publisher.api();
    for id in ["edited", "odd", "healed"] {
        api.create(FREE, &json!({"id": id, "n": 1}))
            .await?
            .expect(201)?;
    }
    let truth = api.document(FREE, "edited").await?.expect(200)?.body;
    let rows = store
        .0
        .as_ref()
        .context("a mongod")?
        .database("confcast")
        .await?
        .collection::<Document>(FREE);
    rows.update_one(
        doc! { "_id": "edited" },
        doc! { "$set": { "configData.n": 2_i64 } },
    )
    .await?;
    rows.update_one(
        doc! { "_id": "odd" },
        doc! { "$set": { "configData.n": mongodb::bson::DateTime::now() } },
    )
    .await?;
    rows.update_one(
        doc! { "_id": "healed" },
        doc! { "$unset": { "configData": "" } },
    )
    .await?;
    rows.insert_one(doc! { "_id": "foreign", "hello": "world" })
        .await?;

    ensure!(api.document(FREE, "edited").await?.expect(200)?.body == truth);
    // Whether it ever was a document is not known: it is refused by its name. No list has it.
    let refused = api.document(FREE, "foreign").await?.expect(500)?;
    ensure!(refused.body.contains("foreign"), "{}", refused.body);
    let list = api
        .get(&format!("/v1/collections/{FREE}/documents"))
        .await?
        .expect(200)?
        .json()?;
    ensure!(
        list["items"]
            .as_array()
            .is_some_and(|items| items.len() == 3),
        "{list}"
    );
    api.put(FREE, "healed", &numbered(2)).await?.expect(200)?;
    api.put(FREE, "edited", &json!({"id": "edited", "n": 1}))
        .await?
        .expect(200)?;
    api.delete(FREE, "odd").await?.expect(200)?;
    ensure!(api.head(FREE).await?.count == 2);
    every_revision_once(&api).await.map(drop)
}

/// Small patches of large documents make a large group. Arrays of small numbers are many times
/// larger in BSON than as text. Together they exceed one command; each fits alone.
#[tokio::test]
async fn a_large_write_group_is_split_to_fit_a_transaction() -> Outcome {
    let store = Store::start(StoreKind::Mongo).await?;
    let mut publisher = store
        .publisher()?
        .with("AURA_CONFIGURATION_EVENTS_ENABLED", "false");
    publisher.start().await?;
    let api = &publisher.api();
    let ids: Vec<_> = (0..24).map(|n| format!("large-{n}")).collect();
    let numbers = vec![7; 50_000];
    for id in &ids {
        api.create(FREE, &json!({"id": id, "numbers": numbers}))
            .await?
            .expect(201)?;
    }
    let patch = |id: &str| {
        let path = e2e::client::document_path(FREE, id);
        async move {
            api.send(reqwest::Method::PATCH, &path, &[], r#"{"small":true}"#)
                .await?
                .expect(200)
        }
    };
    try_join_all(ids.iter().map(|id| patch(id)))
        .await
        .with_context(|| publisher.output())?;
    ensure!(every_revision_once(api).await? == 48);
    Ok(())
}

/// Checks that the log holds every revision from 1 to the head exactly once. Returns their number.
async fn every_revision_once(api: &Api) -> anyhow::Result<u64> {
    Ok(every_change_once(api).await?.len() as u64)
}

/// The same. Returns the ids of the documents, in the order of the revisions.
pub(crate) async fn every_change_once(api: &Api) -> anyhow::Result<Vec<DocumentId>> {
    let head = api.head(FREE).await?;
    let mut ids = Vec::new();
    while (ids.len() as u64) < head.revision {
        let since = ids.len() as u64;
        let page: FeedPage = serde_json::from_str(
            &api.get(&format!("/v1/collections/{FREE}/changes?since={since}"))
                .await?
                .expect(200)?
                .body,
        )?;
        for change in page.items {
            let before = ids.len() as u64;
            ensure!(
                change.revision == before + 1,
                "{} follows {before}",
                change.revision
            );
            ids.push(change.id);
        }
    }
    Ok(ids)
}
