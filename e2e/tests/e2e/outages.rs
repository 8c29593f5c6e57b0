//! What goes on, and what says that it does not, while a part is down: the cells of
//! `docs/operations/outages.md` that no other test shows.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use contract::{
    ProblemKind,
    status::{ReplicaState, ReplicaStatus},
};
use e2e::{
    chaos::proxy::{Mode, Proxy},
    client::{Answer, Api},
    testbed::{
        FREE, Store, StoreKind, mongod::Mongod, numbered, process::folder, services::Service,
        wait::within,
    },
};
use serde_json::json;

type Outcome = anyhow::Result<()>;

/// With a check-in every second: 2.5 intervals, and what a busy machine takes.
const STALE: Duration = Duration::from_secs(10);
/// From the return of a part until everything is as before.
const HEALED: Duration = Duration::from_secs(20);
/// Longest answer to a write, whatever the store does.
const ANSWERED: Duration = Duration::from_secs(12);

async fn status(subscriber: &Service) -> anyhow::Result<ReplicaStatus> {
    let answer = subscriber.api().get("/v1/status").await?.expect(200)?;
    Ok(serde_json::from_str(&answer.body)?)
}

/// A subscriber of these publishers that has loaded. Its events come by the feed, so all it hears comes
/// from its publishers.
async fn subscriber(publishers: &[String]) -> anyhow::Result<Service> {
    let mut subscriber = Service::subscriber("replica", publishers)?
        .with("AURA_CONFIGURATION_COLLECTIONS", FREE)
        .with("AURA_CONFIGURATION_EVENTS_MANAGER", "FEED")
        .with("AURA_CONFIGURATION_CHECK_IN_SECONDS", "1");
    subscriber.start().await?;
    Ok(subscriber)
}

/// Waits until it says that it is stale. It serves the document, and is ready, at every look.
async fn serves_and_becomes_stale(subscriber: &Service) -> Outcome {
    let api = subscriber.api();
    // A failure inside of the wait would be tried again: what it saw is judged outside.
    let seen: Result<(), String> = within(STALE, "the replica says that it is stale", async || {
        let held = api.document(FREE, "a").await?;
        let ready = api.status_of("/readyz").await?;
        if held.status != 200 || ready != 204 {
            return Ok(Err(format!("/readyz {ready}, {held:?}")));
        }
        ensure!(held.header("confcast-state") == "stale", "{held:?}");
        Ok(Ok(()))
    })
    .await?;
    seen.map_err(anyhow::Error::msg)
}

/// Waits until it has this value and is current. It has not loaded again.
async fn has_healed(subscriber: &Service, number: u64) -> Outcome {
    within(HEALED, "the replica is current", async || {
        let held = subscriber.api().document(FREE, "a").await?.expect(200)?;
        ensure!(held.json()?["configData"] == numbered(number), "{held:?}");
        let status = status(subscriber).await?;
        ensure!(
            status.state == ReplicaState::Current && status.sync.loads == 1,
            "{status:?}"
        );
        Ok(())
    })
    .await
    .with_context(|| subscriber.output())
}

fn is(answer: &Answer, kinds: &[ProblemKind]) -> anyhow::Result<bool> {
    let problem: contract::Problem = serde_json::from_str(&answer.body)?;
    Ok(answer.status == 503 && kinds.contains(&problem.kind))
}

async fn put(api: &Api, number: u64) -> Outcome {
    let written = api.put(FREE, "a", &numbered(number)).await?;
    written.expect(200).map(drop)
}

#[tokio::test]
async fn replicas_serve_and_say_that_they_are_stale_while_no_publisher_answers() -> Outcome {
    let store = Store::start(StoreKind::Embedded).await?;
    let mut publisher = store.publisher()?;
    publisher.start().await?;
    let api = publisher.api();
    api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
    let replica = subscriber(&[publisher.url()]).await?;
    publisher.kill()?;
    ensure!(
        api.put(FREE, "a", &numbered(1)).await.is_err(),
        "nobody can take a write"
    );
    serves_and_becomes_stale(&replica).await?;
    publisher.start().await?;
    put(&api, 2).await?;
    has_healed(&replica, 2).await
}

#[tokio::test]
async fn replicas_serve_and_publishers_refuse_while_mongodb_is_away() -> Outcome {
    let mut store = Store::start(StoreKind::Mongo).await?;
    let mut publisher = store.publisher()?;
    publisher.start().await?;
    let api = publisher.api();
    api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
    let replica = subscriber(&[publisher.url()]).await?;
    store.0.as_mut().context("a mongod")?.kill()?;
    let begun = Instant::now();
    let refused = api.put(FREE, "a", &numbered(1)).await?;
    ensure!(is(&refused, &[ProblemKind::NotCommitted])?, "{refused:?}");
    ensure!(begun.elapsed() < ANSWERED, "{:?}", begun.elapsed());
    let unread = api.document(FREE, "a").await?;
    ensure!(is(&unread, &[ProblemKind::StoreUnavailable])?, "{unread:?}");
    serves_and_becomes_stale(&replica).await?;
    store.0.as_mut().context("a mongod")?.restart().await?;
    within(HEALED, "writes succeed again", async || put(&api, 2).await).await?;
    has_healed(&replica, 2).await
}

/// One publisher loses the database, another one does not; then a replica loses its only publisher.
#[tokio::test]
async fn a_link_that_lets_nothing_through_holds_up_what_depends_on_it_and_nothing_else() -> Outcome
{
    let store = Store::start(StoreKind::Mongo).await?;
    let mongod = store.0.as_ref().context("a mongod")?;
    let to_store = Proxy::start("publisher→mongod", mongod.port()).await?;
    let url = format!(
        "mongodb://127.0.0.1:{}/confcast?directConnection=true",
        to_store.port()
    );
    let mut cut_off = store.publisher()?.with("AURA_CONFIGURATION_STORE_URL", url);
    let mut other = store.publisher()?;
    cut_off.start().await?;
    other.start().await?;
    let api = other.api();
    api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
    let to_publisher = Proxy::start("replica→publisher", other.port()).await?;
    let replica = subscriber(&[format!("http://127.0.0.1:{}", to_publisher.port())]).await?;

    to_store.set(Mode::BlackHole);
    let begun = Instant::now();
    let unsure = cut_off.api().put(FREE, "a", &numbered(1)).await?;
    let kinds = [ProblemKind::NotCommitted, ProblemKind::OutcomeUnknown];
    ensure!(is(&unsure, &kinds)?, "{unsure:?}");
    ensure!(begun.elapsed() < ANSWERED, "{:?}", begun.elapsed());
    within(HEALED, "it is not ready", async || {
        ensure!(cut_off.api().status_of("/readyz").await? == 503);
        Ok(())
    })
    .await?;
    within(HEALED, "the other one writes", async || put(&api, 2).await).await?;
    to_store.set(Mode::Open);
    within(HEALED, "it is ready again", async || {
        ensure!(cut_off.api().status_of("/readyz").await? == 204);
        put(&cut_off.api(), 3).await
    })
    .await?;

    to_publisher.set(Mode::BlackHole);
    put(&api, 4).await?;
    serves_and_becomes_stale(&replica).await?;
    to_publisher.set(Mode::Open);
    has_healed(&replica, 4).await
}

/// The folder of its file is no folder any more; a full disk gives it another error in the same place.
#[tokio::test]
async fn a_replica_that_cannot_write_to_its_disk_serves_and_logs_it() -> Outcome {
    let store = Store::start(StoreKind::Embedded).await?;
    let mut publisher = store.publisher()?;
    publisher.start().await?;
    let api = publisher.api();
    api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
    let disk = folder()?;
    let snapshots = disk.path().join("snapshots");
    std::fs::create_dir(&snapshots)?;
    let mut replica = Service::subscriber("replica", &[publisher.url()])?
        .with("AURA_CONFIGURATION_COLLECTIONS", FREE)
        .with(
            "AURA_CONFIGURATION_SNAPSHOT_DIR",
            snapshots.display().to_string(),
        );
    replica.start().await?;
    std::fs::remove_dir_all(&snapshots)?;
    std::fs::write(&snapshots, "no folder")?;
    put(&api, 1).await?;
    has_healed(&replica, 1).await?;
    let metrics = replica.api().get("/metrics").await?.expect(200)?.body;
    ensure!(
        metrics.contains("confcast_subscriber_copy_failed 0\n"),
        "{metrics}"
    );
    // It writes at the stop at the latest, and the failure is no failure of the process.
    let log = {
        let process = replica.process()?;
        let status = process.stop().await?;
        ensure!(status.success(), "{status}");
        process.output()
    };
    ensure!(
        log.contains("cannot be written") && log.contains("AURA_CONFIGURATION_SNAPSHOT_DIR"),
        "{log}"
    );
    Ok(())
}

/// Every request and every task finds it out, and one of them says it.
#[tokio::test]
async fn a_replica_set_that_is_not_initiated_is_one_error_in_the_log() -> Outcome {
    let mongod = Mongod::start_standalone(&["--replSet", "rs0"]).await?;
    let mut publisher = Service::publisher()?
        .with("AURA_CONFIGURATION_STORE_URL", mongod.url("confcast"))
        .with("AURA_CONFIGURATION_COLLECTIONS", FREE)
        .with("AURA_CONFIGURATION_PROBE", format!("{FREE}/probe"));
    publisher.launch()?;
    let api = publisher.api();
    within(HEALED, "the publisher says why it waits", async || {
        let answer = api.get("/readyz").await?;
        ensure!(
            answer.status == 503 && answer.body.contains("rs.initiate()"),
            "{answer:?}"
        );
        Ok(())
    })
    .await?;
    for path in ["/v1/collections", "/v1/snapshot", "/metrics", "/readyz"] {
        api.get(path).await?;
    }
    let log = {
        let process = publisher.process()?;
        let status = process.stop().await?;
        ensure!(status.success(), "{status}");
        process.output()
    };
    let lines: Vec<_> = log
        .lines()
        .filter(|line| line.contains("not open yet") && line.contains("rs.initiate()"))
        .collect();
    ensure!(lines.len() == 1 && lines[0].contains("ERROR"), "{log}");
    Ok(())
}
