//! A replica while everything else is down, wrong, or replaced.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, ensure};
use contract::status::{ReplicaState, ReplicaStatus};
use e2e::testbed::{
    FREE, Store, StoreKind, Testbed, Transport, dependencies, numbered,
    services::Service,
    wait::{eventually, within},
};
use serde_json::json;

type Outcome = anyhow::Result<()>;

async fn status(subscriber: &Service) -> anyhow::Result<ReplicaStatus> {
    let answer = subscriber.api().get("/v1/status").await?.expect(200)?;
    Ok(serde_json::from_str(&answer.body)?)
}

/// A publisher, and a replica with a folder for its last known good state, which holds document
/// `a`.
async fn pair() -> anyhow::Result<(Store, Service, Service, tempfile::TempDir)> {
    let store = Store::start(StoreKind::Embedded).await?;
    let mut publisher = store.publisher()?;
    publisher.start().await?;
    publisher
        .api()
        .create(FREE, &json!({"id": "a", "value": 1}))
        .await?
        .expect(201)?;
    let folder = e2e::testbed::process::folder()?;
    let mut replica = Service::subscriber("replica", &[publisher.url()])?
        .with("AURA_CONFIGURATION_COLLECTIONS", FREE)
        .with("AURA_CONFIGURATION_CHECK_IN_SECONDS", "1")
        .with(
            "AURA_CONFIGURATION_SNAPSHOT_DIR",
            folder.path().display().to_string(),
        );
    replica.start().await?;
    replica.api().document(FREE, "a").await?.expect(200)?;
    Ok((store, publisher, replica, folder))
}

#[tokio::test]
async fn a_replica_starts_from_disk_with_everything_else_down() -> Outcome {
    let (_store, mut publisher, mut replica, _folder) = pair().await?;
    replica.stop().await?;
    publisher.kill()?;

    replica.start().await?;
    let held = replica.api().document(FREE, "a").await?.expect(200)?;
    ensure!(
        held.header("confcast-state") == "stale",
        "{:?}",
        held.headers
    );
    let from_disk = status(&replica).await?;
    let collection = from_disk.collections.first().context("a collection")?;
    ensure!(
        (from_disk.state, collection.reason.as_deref()) == (ReplicaState::Stale, Some("from-disk")),
        "{from_disk:?}"
    );
    ensure!(
        from_disk.confirmed_ms_ago.is_some_and(|age| age < 60_000),
        "the status has no age: {from_disk:?}"
    );

    publisher.start().await?;
    publisher
        .api()
        .put(FREE, "a", &numbered(2))
        .await?
        .expect(200)?;
    eventually("the replica catches up", async || {
        let status = status(&replica).await?;
        ensure!(
            status.state == ReplicaState::Current && status.collections[0].revision == 2,
            "{status:?}"
        );
        ensure!(
            status.sync.loads == 0,
            "a delta is enough: {:?}",
            status.sync
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_damaged_file_is_moved_aside() -> Outcome {
    let (_store, _publisher, mut replica, folder) = pair().await?;
    replica.stop().await?;
    let file: PathBuf = folder.path().join("last-known-good");
    let mut bytes = std::fs::read(&file)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, &bytes)?;
    replica.start().await?;
    eventually("it loads", async || {
        replica
            .api()
            .document(FREE, "a")
            .await?
            .expect(200)
            .map(drop)
    })
    .await?;
    ensure!(
        std::fs::read(folder.path().join("last-known-good.damaged"))? == bytes,
        "it is kept for a look"
    );
    Ok(())
}

/// A blank database in place of the real one harms no replica, not even one that restarts. The
/// operator may declare that it is correct.
#[tokio::test]
async fn a_blank_database_does_not_replace_the_data_of_replicas() -> Outcome {
    let (store, mut publisher, mut replica, _folder) = pair().await?;
    publisher.kill()?;
    let mut blank = store.publisher()?.with(
        "AURA_CONFIGURATION_LISTEN",
        format!("127.0.0.1:{}", publisher.port()),
    );
    blank.launch()?;
    let api = publisher.api();
    eventually("the blank one answers", async || {
        api.get("/readyz").await?.expect(204).map(drop)
    })
    .await?;
    eventually("it refuses the other store", async || {
        let status = status(&replica).await?;
        let reason = status
            .collections
            .first()
            .and_then(|row| row.reason.clone());
        ensure!(
            (status.state, reason.as_deref()) == (ReplicaState::Stale, Some("other-store")),
            "{status:?}"
        );
        Ok(())
    })
    .await?;
    replica.api().document(FREE, "a").await?.expect(200)?;
    replica.stop().await?;
    replica.start().await?;
    replica.api().document(FREE, "a").await?.expect(200)?;
    Ok(())
}

/// The operator declares that another store is correct: `confcast restore-epoch --adopt`.
#[tokio::test]
async fn another_store_is_adopted_when_the_operator_permits_it() -> Outcome {
    let (store, mut publisher, replica, _folder) = pair().await?;
    publisher.kill()?;
    let mut other = store.publisher()?.with(
        "AURA_CONFIGURATION_LISTEN",
        format!("127.0.0.1:{}", publisher.port()),
    );
    other.launch()?;
    let api = publisher.api();
    eventually("the other one answers", async || {
        api.get("/readyz").await?.expect(204).map(drop)
    })
    .await?;
    api.create(FREE, &json!({"id": "b"})).await?.expect(201)?;
    eventually("it refuses the other store", async || {
        ensure!(
            status(&replica).await?.state == ReplicaState::Stale,
            "not yet"
        );
        Ok(())
    })
    .await?;
    let held = status(&replica).await?.epoch.context("an epoch")?;
    let lineage = format!("{:08x}", held.lineage);
    let adopt = || {
        let mut confcast = std::process::Command::new(dependencies::own_program("confcast")?);
        let output = confcast
            .args([
                "restore-epoch",
                "--adopt",
                &lineage,
                "--yes",
                "--publisher",
                &publisher.url(),
            ])
            .output()?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    };
    eventually("it is adopted", async || adopt()).await?;
    eventually("the replica follows", async || {
        replica.api().document(FREE, "b").await?.expect(200)?;
        replica.api().document(FREE, "a").await?.expect(404)?;
        ensure!(
            status(&replica).await?.state == ReplicaState::Current,
            "not yet"
        );
        Ok(())
    })
    .await
}

/// Every event is lost. The replica catches up from the feed at its check-in, without a load.
#[tokio::test]
async fn replicas_catch_up_lost_events_by_delta() -> Outcome {
    let (_store, publisher, replica, _folder) = pair().await?;
    let lost = publisher.api();
    // LOCAL does not know the replica before its first check-in is stored, and a frozen replica
    // accepts no event.
    for number in 0..1_500 {
        lost.put(FREE, "a", &numbered(number)).await?.expect(200)?;
    }
    let loads = status(&replica).await?.sync.loads;
    eventually("the replica catches up", async || {
        let head = lost.head(FREE).await?;
        let status = status(&replica).await?;
        ensure!(
            status.collections[0].revision == head.revision
                && status.state == ReplicaState::Current,
            "{status:?}"
        );
        ensure!(
            status.sync.loads == loads,
            "a delta is enough: {:?}",
            status.sync
        );
        Ok(())
    })
    .await
}

/// Another publisher sends the pending events of the first one. The first one resumes and does no
/// harm.
#[tokio::test]
async fn another_publisher_sends_the_pending_events_of_a_frozen_one() -> Outcome {
    let mut testbed = Testbed::prepare(StoreKind::Mongo, Transport::Dapr).await?;
    let mut other = testbed
        .store
        .publisher()?
        .with("AURA_CONFIGURATION_EVENTS_MANAGER", "DAPR");
    let redis = testbed.redis.as_ref().context("a redis")?;
    let mut sidecar = e2e::testbed::sidecar::Sidecar::new(
        e2e::testbed::sidecar::PUBLISHER,
        other.port(),
        "other",
        redis,
    )?;
    other = other.with("DAPR_GRPC_PORT", sidecar.grpc_port().to_string());
    // The first publisher has no sidecar yet: the events of its commits stay pending.
    testbed.publisher.start().await?;
    testbed.start_subscribers().await?;
    let api = testbed.publisher.api();
    for number in 0..50 {
        let id = format!("n{number}");
        api.create(FREE, &json!({ "id": id })).await?.expect(201)?;
    }
    testbed.publisher.pause()?;
    sidecar.start().await?;
    other.start().await?;
    let held = testbed.subscribers[0].api();
    eventually("the other one sends them", async || {
        ensure!(held.head(FREE).await?.revision == 50, "not yet");
        Ok(())
    })
    .await?;
    other
        .api()
        .put(FREE, "n1", &numbered(1))
        .await?
        .expect(200)?;
    other.api().delete(FREE, "n2").await?.expect(200)?;
    testbed.publisher.resume()?;
    testbed
        .publisher_sidecar
        .as_mut()
        .context("a sidecar")?
        .start()
        .await?;
    api.put(FREE, "n3", &numbered(3)).await?.expect(200)?;
    for id in ["n1", "n2", "n3"] {
        testbed.until_same(FREE, id).await?;
    }
    testbed.until_converged(FREE).await
}

/// A replica whose first publisher hangs switches to the next one within seconds.
#[tokio::test]
async fn a_hung_publisher_delays_replicas_by_seconds_only() -> Outcome {
    let store = Store::start(StoreKind::Mongo).await?;
    let mut one = store.publisher()?;
    let mut other = store.publisher()?;
    one.start().await?;
    other.start().await?;
    let mut replica = Service::subscriber("replica", &[one.url(), other.url()])?
        .with("AURA_CONFIGURATION_COLLECTIONS", FREE)
        .with("AURA_CONFIGURATION_BASE_URL", "http://192.0.2.1:8080") // no events: it lives on its check-ins
        .with("AURA_CONFIGURATION_CHECK_IN_SECONDS", "1");
    replica.start().await?;
    one.pause()?;
    other
        .api()
        .create(FREE, &json!({"id": "a"}))
        .await?
        .expect(201)?;
    within(
        Duration::from_secs(15),
        "it receives the change from the other publisher",
        async || {
            replica
                .api()
                .document(FREE, "a")
                .await?
                .expect(200)
                .map(drop)
        },
    )
    .await?;
    one.resume()
}
