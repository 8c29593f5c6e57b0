//! Check-ins and their results: the list of replicas, diverged replicas, and replicas that receive
//! no events.

use std::process::Command;

use anyhow::{Context, ensure};
use contract::{
    fleet::{IntakeFault, ReplicaList, ReplicaRecord},
    status::{ReplicaState, ReplicaStatus},
};
use e2e::{
    client::Api,
    testbed::{
        COLLECTIONS, FREE, Store, StoreKind, Testbed, Transport, dependencies, numbered,
        services::Service,
        sidecar::{self, Sidecar},
        wait::eventually,
    },
};
use reqwest::Method;
use serde_json::{Value, json};

type Outcome = anyhow::Result<()>;

fn subscriber(name: &str, publishers: &[&Service]) -> anyhow::Result<Service> {
    let urls: Vec<_> = publishers.iter().map(|publisher| publisher.url()).collect();
    let subscriber = Service::subscriber(name, &urls)?.with("AURA_CONFIGURATION_COLLECTIONS", FREE);
    Ok(subscriber.with("AURA_CONFIGURATION_CHECK_IN_SECONDS", "1"))
}

async fn fleet(publisher: &Service) -> anyhow::Result<Vec<ReplicaRecord>> {
    let answer = publisher.api().get("/v1/replicas").await?.expect(200)?;
    Ok(serde_json::from_str::<ReplicaList>(&answer.body)?.replicas)
}

async fn status(subscriber: &Service) -> anyhow::Result<ReplicaStatus> {
    let answer = subscriber.api().get("/v1/status").await?.expect(200)?;
    Ok(serde_json::from_str(&answer.body)?)
}

/// All publishers list all replicas. A replica that dies is shown as gone and is forgotten later.
#[tokio::test]
async fn every_publisher_lists_all_replicas() -> Outcome {
    let store = Store::start(StoreKind::Mongo).await?;
    let publisher = || {
        anyhow::Ok(
            store
                .publisher()?
                .with("AURA_CONFIGURATION_FORGET_REPLICAS_SECONDS", "6"),
        )
    };
    let mut one = publisher()?;
    let mut other = publisher()?;
    one.start().await?;
    other.start().await?;
    let mut a = subscriber("a", &[&one])?;
    let mut b = subscriber("b", &[&other])?;
    a.start().await?;
    b.start().await?;
    one.api()
        .create(FREE, &json!({"id": "x"}))
        .await?
        .expect(201)?;
    for publisher in [&one, &other] {
        eventually("both are current at the head", async || {
            let fleet = fleet(publisher).await?;
            ensure!(fleet.len() == 2, "{fleet:?}");
            for member in fleet {
                let report = member
                    .check_in
                    .collections
                    .values()
                    .next()
                    .context("a collection")?;
                ensure!(
                    (report.revision, report.state, member.gone)
                        == (1, ReplicaState::Current, false),
                    "{member:?}"
                );
            }
            Ok(())
        })
        .await?;
    }
    a.kill()?;
    eventually("a is shown as gone", async || {
        let fleet = fleet(&other).await?;
        let a = fleet
            .iter()
            .find(|member| member.check_in.instance == "a")
            .context("forgotten too early")?;
        ensure!(a.gone, "not yet");
        Ok(())
    })
    .await?;
    eventually("a is forgotten", async || {
        let names: Vec<_> = fleet(&other)
            .await?
            .into_iter()
            .map(|member| member.check_in.instance)
            .collect();
        ensure!(names == ["b"], "{names:?}");
        Ok(())
    })
    .await
}

/// By its interval it would count as live for five minutes.
#[tokio::test]
async fn no_write_waits_for_a_replica_that_stopped_in_order() -> Outcome {
    let store = Store::start(StoreKind::Embedded).await?;
    let mut publisher = store.publisher()?;
    publisher.start().await?;
    let replica = |name| {
        let replica = subscriber(name, &[&publisher])?;
        anyhow::Ok(replica.with("AURA_CONFIGURATION_CHECK_IN_SECONDS", "100"))
    };
    let mut stays = replica("stays")?;
    let mut stops = replica("stops")?;
    stays.start().await?;
    stops.start().await?;
    stops.stop().await?;
    // After its last check-in, which would have reported it.
    let api = publisher.api();
    api.create(FREE, &json!({"id": "x"})).await?.expect(201)?;
    let path = format!("/v1/collections/{FREE}/applied?wait=all&timeout=20s");
    let answer = api.get(&path).await?.expect(200)?.json()?;
    ensure!(
        (&answer["replicas"], &answer["gone"]) == (&json!(1), &json!(1)),
        "{answer}"
    );
    Ok(())
}

/// LOCAL events reach a subscriber that no list names, through its check-in with another publisher.
/// With a token, only a subscriber that knows the token receives events.
#[tokio::test]
async fn a_subscriber_is_discovered_by_its_check_in() -> Outcome {
    let store = Store::start(StoreKind::Mongo).await?;
    let publisher = || anyhow::Ok(store.publisher()?.with("APP_API_TOKEN", "secret"));
    let mut one = publisher()?;
    let mut other = publisher()?;
    one.start().await?;
    other.start().await?;
    let mut found = subscriber("found", &[&other])?.with("APP_API_TOKEN", "secret");
    let mut unknown = subscriber("unknown", &[&other])?.with("APP_API_TOKEN", "guessed");
    found.start().await?;
    unknown.start().await?;
    let api = one.api();
    api.create(FREE, &json!({"id": "x"})).await?.expect(201)?;
    eventually("an event arrives", async || {
        api.put(FREE, "x", &json!({"at": api.head(FREE).await?.revision}))
            .await?
            .expect(200)?;
        ensure!(status(&found).await?.events.applied > 0, "none yet");
        Ok(())
    })
    .await?;
    ensure!(
        status(&unknown).await?.events.applied == 0 && !unknown.output().contains("401"),
        "the subscriber received events"
    );
    Ok(())
}

/// Runs `confcast verify` against a publisher. Returns whether it found everything equal, and its
/// output.
fn verify(publisher: &Service) -> anyhow::Result<(bool, String)> {
    let output = Command::new(dependencies::own_program("confcast")?)
        .args(["verify", "--wait", "2", "--publisher", &publisher.url()])
        .output()?;
    let text = [output.stdout, output.stderr].concat();
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    ))
}

/// A replica received a wrong value under a correct revision. The digest reveals it, and the
/// replica loads again.
#[tokio::test]
async fn a_diverged_replica_is_detected_and_resynchronised() -> Outcome {
    let store = Store::start(StoreKind::Embedded).await?;
    let mut publisher = store.publisher()?;
    publisher.start().await?;
    let mut replica =
        subscriber("r", &[&publisher])?.with("AURA_CONFIGURATION_CHECK_IN_SECONDS", "3600");
    replica.start().await?;
    let api = publisher.api();
    api.create(FREE, &numbered(1)).await?.expect(201)?;
    let head = api.head(FREE).await?;
    let held = replica.api();
    let send_event = async |data: Value| {
        let event = json!({"specversion": "1.0", "id": "x", "source": "test", "type": "com.dapr.event.sent",
            "datacontenttype": "application/json", "data": data});
        let headers = [("content-type", "application/cloudevents+json")];
        let sent = held.send(
            Method::POST,
            "/dapr/processConfigurationEvents",
            &headers,
            event.to_string(),
        );
        sent.await?.expect(200).map(drop)
    };
    send_event(
        json!({"collection": FREE, "op": "Create", "id": "lie", "configData": {"a": "lie"},
        "revision": head.revision + 1, "epoch": head.epoch.to_string(), "lastSet": 0}),
    )
    .await?;
    held.document(FREE, "lie").await?.expect(200)?;
    api.create(FREE, &json!({"id": "true", "a": "truth"}))
        .await?
        .expect(201)?;
    eventually("verify finds the lie", async || {
        let (equal, output) = verify(&publisher)?;
        ensure!(
            !equal && output.contains("lie"),
            "verify found nothing: {output}"
        );
        Ok(())
    })
    .await?;

    // An event without a revision says only that something changed. The replica then checks in.
    send_event(json!({"collection": FREE, "op": "Update", "id": "true"})).await?;
    eventually("the replica loads again", async || {
        let status = status(&replica).await?;
        ensure!(
            (status.sync.resets, status.state) == (1, ReplicaState::Current),
            "{status:?}"
        );
        Ok(())
    })
    .await?;
    replica.api().document(FREE, "lie").await?.expect(404)?;
    replica.api().document(FREE, "true").await?.expect(200)?;
    let (equal, output) = verify(&publisher)?;
    ensure!(equal, "{output}");
    Ok(())
}

/// Two sidecars with one consumer group share the events between them. Both replicas report it, and
/// both hold the correct data.
#[tokio::test]
async fn replicas_in_a_shared_consumer_group_report_it() -> Outcome {
    let mut testbed = Testbed::prepare(StoreKind::Embedded, Transport::Dapr).await?;
    let redis = testbed.redis.as_ref().context("a redis")?;
    let shared: anyhow::Result<Vec<_>> = testbed
        .subscribers
        .iter()
        .map(|each| {
            Sidecar::new(sidecar::SUBSCRIBER, each.port(), "same", redis)?.sharing_a_group("shared")
        })
        .collect();
    testbed.sidecars = shared?;
    testbed.subscribers = std::mem::take(&mut testbed.subscribers)
        .into_iter()
        .map(|each| each.with("AURA_CONFIGURATION_CHECK_IN_SECONDS", "1"))
        .collect();
    testbed.publisher.start().await?;
    testbed.start_subscribers().await?;
    testbed
        .publisher_sidecar
        .as_mut()
        .context("a sidecar")?
        .start()
        .await?;
    let api = testbed.publisher.api();
    api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
    for number in 0..200 {
        api.put(FREE, "a", &numbered(number)).await?.expect(200)?;
    }
    for subscriber in &testbed.subscribers {
        until_intake(subscriber, Some(IntakeFault::SharedConsumerGroup)).await?;
        eventually("the log names the remedy", async || {
            ensure!(subscriber.output().contains("consumerID"), "not yet");
            Ok(())
        })
        .await?;
        let metrics = subscriber.api().get("/metrics").await?.expect(200)?.body;
        ensure!(
            metrics
                .contains(r#"confcast_subscriber_intake_fault{fault="shared-consumer-group"} 1"#),
            "{metrics}"
        );
    }
    let seen = fleet(&testbed.publisher).await?;
    ensure!(
        seen.iter()
            .all(|member| member.check_in.intake == Some(IntakeFault::SharedConsumerGroup)),
        "{seen:?}"
    );
    testbed.until_converged(FREE).await
}

/// A subscriber whose sidecar never started receives all changes through its check-ins, and reports
/// that it receives no events.
#[tokio::test]
async fn a_replica_that_receives_no_events_reports_it() -> Outcome {
    let mut testbed = Testbed::prepare(StoreKind::Embedded, Transport::Local).await?;
    testbed.publisher.start().await?;
    let mut isolated = Service::subscriber("isolated", &[testbed.publisher.url()])?
        .with("AURA_CONFIGURATION_COLLECTIONS", COLLECTIONS)
        .with("AURA_CONFIGURATION_EVENTS_MANAGER", "DAPR")
        .with("AURA_CONFIGURATION_BASE_URL", "http://192.0.2.1:8080") // unreachable for LOCAL
        .with("AURA_CONFIGURATION_CHECK_IN_SECONDS", "1");
    isolated.start().await?;
    let api = testbed.publisher.api();
    api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
    for number in 0..100 {
        api.put(FREE, "a", &numbered(number)).await?.expect(200)?;
    }
    until_intake(&isolated, Some(IntakeFault::NotReceiving)).await?;
    eventually("it still holds everything", async || {
        same(&api, &isolated.api()).await
    })
    .await
}

async fn same(publisher: &Api, subscriber: &Api) -> Outcome {
    let truth = publisher.document(FREE, "a").await?;
    let held = subscriber.document(FREE, "a").await?;
    ensure!(
        truth.body == held.body,
        "{} instead of {}",
        held.body,
        truth.body
    );
    Ok(())
}

async fn until_intake(subscriber: &Service, expected: Option<IntakeFault>) -> Outcome {
    eventually("the replica reports its intake", async || {
        let status = status(subscriber).await?;
        ensure!(
            status.intake == expected,
            "{:?} instead of {expected:?}: {:?}",
            status.intake,
            status.events
        );
        Ok(())
    })
    .await
}
