//! This version and the one before it side by side, under writes: publishers, replicas, both stores,
//! the copy of a replica on disk, and the command line. The version before is a real build
//! (`e2e/previous-version`).

use anyhow::{Context, ensure};
use contract::status::ReplicaStatus;
use e2e::testbed::{
    FREE, StoreKind, Transport,
    dependencies::Build::{Current, Previous},
    services::Service,
    wait::eventually,
};
use serde_json::json;

mod cli;
mod fleet;
mod writer;

use fleet::{Fleet, PAIRED, SECRETS};

type Outcome = anyhow::Result<()>;

async fn status(replica: &Service) -> anyhow::Result<ReplicaStatus> {
    let answer = replica.api().get("/v1/status").await?.expect(200)?;
    Ok(serde_json::from_str(&answer.body)?)
}

#[tokio::test]
async fn the_publisher_goes_first_embedded_local() -> Outcome {
    publisher_first(StoreKind::Embedded, Transport::Local).await
}

#[tokio::test]
async fn the_publisher_goes_first_mongodb_streams() -> Outcome {
    publisher_first(StoreKind::Mongo, Transport::Streams).await
}

#[tokio::test]
async fn the_replicas_go_first_embedded_pubsub() -> Outcome {
    replicas_first(StoreKind::Embedded, Transport::PubSub).await
}

#[tokio::test]
async fn the_replicas_go_first_mongodb_local() -> Outcome {
    replicas_first(StoreKind::Mongo, Transport::Local).await
}

#[tokio::test]
async fn the_publisher_goes_first_live_feed() -> Outcome {
    publisher_first(StoreKind::Embedded, Transport::Feed).await
}

/// The order that is recommended: publisher, replicas; and back, replicas first.
async fn publisher_first(store: StoreKind, transport: Transport) -> Outcome {
    let mut fleet = Fleet::start(store, transport, Previous, [Previous, Current]).await?;
    // A publisher of the version before, with a replica of each version.
    fleet.write_everything("before").await?;
    fleet.events_reach_all().await?;

    fleet.restart_publisher(Current).await?;
    fleet.write_everything("after").await?;
    fleet.events_reach_all().await?;
    fleet.a_wait_sees_both_replicas().await?;

    fleet.restart_replica(0, Current).await?;
    fleet.events_reach_all().await?;

    fleet.restart_replica(1, Previous).await?;
    fleet.crash_publisher(Previous).await?;
    fleet.write_everything("back").await?;
    fleet.events_reach_all().await?;

    fleet.restart_publisher(Current).await?;
    fleet.ends_well(&["before", "after", "back"]).await
}

/// The other order: a replica of this version follows a publisher of the version before.
async fn replicas_first(store: StoreKind, transport: Transport) -> Outcome {
    let mut fleet = Fleet::start(store, transport, Previous, [Previous, Previous]).await?;
    fleet.write_everything("before").await?;
    for replica in 0..2 {
        fleet.restart_replica(replica, Current).await?;
    }
    fleet.write_everything("between").await?;
    fleet.events_reach_all().await?;

    fleet.restart_publisher(Current).await?;
    fleet.write_everything("after").await?;
    fleet.events_reach_all().await?;

    // Back in the same order: a replica of the version before reads the copy of this one.
    fleet.restart_replica(0, Previous).await?;
    fleet.events_reach_all().await?;
    fleet.ends_well(&["before", "between", "after"]).await
}

/// Publishers of both versions write one store at the same time, and each replica follows both.
#[tokio::test]
async fn publishers_of_both_versions_write_one_mongodb() -> Outcome {
    let mut fleet = Fleet::start(
        StoreKind::Mongo,
        Transport::PubSub,
        Current,
        [Previous, Current],
    )
    .await?;
    let mut other = fleet.another_publisher(Previous)?;
    other.start().await?;
    let urls = [fleet.testbed.publisher.url(), other.url()].join(",");
    for replica in &mut fleet.testbed.subscribers {
        replica.set("AURA_CONFIGURATION_API_URL", urls.as_str());
    }
    fleet.restart_replica(0, Previous).await?;
    fleet.restart_replica(1, Current).await?;

    let second = writer::Writer::start(other.api(), "other");
    second.until_more(50).await?;
    fleet.writer().until_more(50).await?;
    second.end().await?.is_at(&fleet.testbed.publisher).await?;
    fleet.write_everything("both").await?;
    fleet.ends_well(&["both"]).await?;
    fleet::run(Previous, &["verify", "--wait", "20"], Some(&other)).await?;
    for id in ["pair", "other"] {
        for collection in [FREE, PAIRED] {
            fleet.testbed.until_same(collection, id).await?;
        }
    }
    other.stop().await
}

/// A replica may follow a replica instead of a publisher, whichever of them is newer.
#[tokio::test]
async fn a_replica_follows_a_replica_of_the_other_version() -> Outcome {
    let mut fleet = Fleet::start(
        StoreKind::Embedded,
        Transport::Local,
        Current,
        [Previous, Current],
    )
    .await?;
    for (leader, build) in [(0, Current), (1, Previous)] {
        let leader = fleet.testbed.subscribers[leader].url();
        let mut follower = Service::subscriber(&format!("follower-{build:?}"), &[leader])?
            .with("AURA_CONFIGURATION_EVENTS_MANAGER", "FEED")
            .with(
                "AURA_CONFIGURATION_COLLECTIONS",
                [FREE, PAIRED, SECRETS].join(","),
            )
            .with("AURA_CONFIGURATION_CHECK_IN_SECONDS", "2");
        follower.set_build(build);
        follower.start().await?;
        fleet.testbed.subscribers.push(follower);
    }
    fleet.write_everything("followed").await?;
    fleet.pause_writer().await?;
    for collection in [FREE, PAIRED, SECRETS] {
        fleet.testbed.until_converged(collection).await?;
    }
    Ok(())
}

/// Values at the edges of JSON are held by replicas of both versions, byte for byte.
#[tokio::test]
async fn a_replica_of_each_version_holds_the_same_bytes() -> Outcome {
    let fleet = Fleet::start(
        StoreKind::Embedded,
        Transport::Local,
        Current,
        [Previous, Current],
    )
    .await?;
    let api = fleet.testbed.publisher.api();
    for (id, value) in [
        ("integer", json!({"n": 9_007_199_254_740_993_i64})),
        ("text", json!({"é": "\u{1f600}", "$a.b": ""})),
        ("deep", json!({"a": [[[{"b": [1.5e300, -0.0, 1e-7]}]]]})),
        ("large", json!({"text": "x".repeat(200_000)})),
    ] {
        fleet::store(&api, FREE, id, &value).await?;
        fleet.testbed.until_same(FREE, id).await?;
    }
    let path = format!("/v1/collections/{SECRETS}/documents/before");
    let secret = json!({"password": "hidden"});
    fleet::store(&api, SECRETS, "before", &secret).await?;
    fleet.testbed.until_same(SECRETS, "before").await?;
    eventually("no replica shows it", async || {
        for replica in &fleet.testbed.subscribers {
            let shown = replica.api().get(&path).await?.expect(200)?;
            ensure!(!shown.body.contains("hidden"), "{}", shown.body);
        }
        Ok(())
    })
    .await
}

/// What this version cannot read it names with the remedy, and it is still there afterwards.
#[tokio::test]
async fn a_store_of_a_later_version_is_refused_in_words_and_stays() -> Outcome {
    let mut publisher = Service::publisher()?;
    publisher.start().await?;
    publisher.stop().await?;
    let file = publisher.folder().join("data/confcast.sqlite");
    let set_format = |format: u64| -> Outcome {
        let store = rusqlite::Connection::open(&file)?;
        store.execute("UPDATE store SET format = ?1", [format])?;
        Ok(())
    };
    set_format(contract::formats::STORE + 1)?;
    let before = std::fs::read(&file)?;
    publisher.launch()?;
    let ended = publisher
        .process()?
        .ended(std::time::Duration::from_secs(30))
        .await?;
    ensure!(!ended.success(), "{ended}");
    let log = publisher.output();
    ensure!(log.contains("written by a later version"), "{log}");
    ensure!(log.contains("restore a backup"), "{log}");
    ensure!(std::fs::read(&file)? == before, "the file was changed");
    set_format(contract::formats::STORE)?;
    publisher.start().await.context("the same file again")
}

/// A replica that goes back finds the copy of a later version: it says so, keeps the copy, and loads.
#[tokio::test]
async fn a_disk_copy_of_a_later_version_is_kept_aside() -> Outcome {
    let mut fleet = Fleet::start(
        StoreKind::Embedded,
        Transport::Local,
        Current,
        [Current, Current],
    )
    .await?;
    fleet.write_everything("a").await?;
    let replica = &mut fleet.testbed.subscribers[0];
    replica.stop().await?;
    let file = fleet::copy(replica).join("last-known-good");
    let text = std::fs::read_to_string(&file)?;
    let own = format!("\"format\":{}", contract::formats::IMAGE);
    let later = format!("\"format\":{}", contract::formats::IMAGE + 1);
    let text = text.replacen(&own, &later, 1);
    std::fs::write(&file, &text)?;
    replica.start().await?;
    let log = replica.output();
    ensure!(log.contains("of another version"), "{log}");
    ensure!(!log.contains("is damaged"), "{log}");
    let aside = file.with_extension(format!("format-{}", contract::formats::IMAGE + 1));
    ensure!(std::fs::read_to_string(&aside)? == text, "it is kept");
    fleet.testbed.until_same(FREE, "a").await
}
