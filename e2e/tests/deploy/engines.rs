//! The component files of the other brokers agree with those of Redis, and have no setting that a
//! component would ignore.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use contract::event::DEAD_LETTER_TOPIC;
use serde_json::Value;

use crate::{
    dapr::{duration, metadata, worst},
    manifests::{at, collections, file, items, read, the},
};

/// The folders with component files: one for each broker.
pub(crate) const COMPONENTS: [&str; 4] = [
    "components",
    "components/redis-cluster",
    "components/kafka",
    "components/nats",
];
const FILES: [&str; 2] = ["pubsub.yaml", "dead-letters.yaml"];
/// Read by the runtime, for every broker.
const RIGHTS: [&str; 4] = [
    "publishingScopes",
    "subscriptionScopes",
    "allowedTopics",
    "protectedTopics",
];
/// What `pubsub.kafka` and `pubsub.jetstream` read of the settings that we have. They ignore others
/// silently.
const KNOWN_KAFKA: [&str; 5] = [
    "brokers",
    "authType",
    "consumerID",
    "initialOffset",
    "consumeRetryEnabled",
];
const KNOWN_JETSTREAM: [&str; 9] = [
    "natsURL",
    "name",
    "durableName",
    "queueGroupName",
    "deliverPolicy",
    "concurrency",
    "maxAckPending",
    "ackPolicy",
    "ackWait",
];

fn component(folder: &str, name: &str) -> anyhow::Result<Value> {
    Ok(the(&file(&format!("{folder}/{name}"))?, "Component", None)?.clone())
}

#[test]
fn every_broker_has_the_components_of_redis_with_the_same_rights() -> anyhow::Result<()> {
    for name in FILES {
        let redis = component(COMPONENTS[0], name)?;
        for folder in &COMPONENTS[1..] {
            let other = component(folder, name)?;
            for pointer in ["/metadata/name", "/scopes"] {
                ensure!(
                    at(&other, pointer)? == at(&redis, pointer)?,
                    "{folder}/{name}"
                );
            }
            for right in RIGHTS {
                let [here, there] = [metadata(&other)?, metadata(&redis)?];
                ensure!(
                    here.get(right) == there.get(right),
                    "{right} in {folder}/{name}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn a_redis_cluster_differs_from_one_server_in_its_address_only() -> anyhow::Result<()> {
    for name in FILES {
        let [mut one, mut cluster] = [
            metadata(&component(COMPONENTS[0], name)?)?,
            metadata(&component("components/redis-cluster", name)?)?,
        ];
        ensure!(cluster.remove("redisType").as_deref() == Some("cluster"));
        ensure!(one.remove("redisHost") != cluster.remove("redisHost"));
        ensure!(one == cluster, "{name}");
    }
    Ok(())
}

#[test]
fn the_other_components_have_no_setting_that_is_ignored() -> anyhow::Result<()> {
    for (folder, known) in [
        ("components/kafka", KNOWN_KAFKA.as_slice()),
        ("components/nats", &KNOWN_JETSTREAM),
    ] {
        for name in FILES {
            for setting in metadata(&component(folder, name)?)?.keys() {
                let setting = setting.as_str();
                ensure!(
                    known.contains(&setting) || RIGHTS.contains(&setting),
                    "{setting}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn every_replica_has_consumers_of_its_own_and_publishers_share_one() -> anyhow::Result<()> {
    let kafka = metadata(&component("components/kafka", FILES[0])?)?;
    ensure!(kafka["consumerID"] == "{uuid}" && kafka["initialOffset"] == "oldest");
    let nats = metadata(&component("components/nats", FILES[0])?)?;
    ensure!(!nats.contains_key("durableName") && !nats.contains_key("queueGroupName"));
    let letters = metadata(&component("components/kafka", FILES[1])?)?;
    ensure!(letters["consumerID"] == e2e::testbed::sidecar::PUBLISHER);
    let letters = metadata(&component("components/nats", FILES[1])?)?;
    ensure!(letters["durableName"] == e2e::testbed::sidecar::PUBLISHER);
    ensure!(letters["queueGroupName"] == letters["durableName"]);
    Ok(())
}

#[test]
fn jetstream_delivers_again_only_after_the_attempts_of_the_sidecar() -> anyhow::Result<()> {
    let resiliency = file("dapr-config/resiliency.yaml")?;
    let resiliency = the(&resiliency, "Resiliency", None)?;
    for name in FILES {
        let component = component("components/nats", name)?;
        let metadata = metadata(&component)?;
        let ahead: u32 = metadata["maxAckPending"].parse()?;
        let last = worst(resiliency, &component, "inbound")? * ahead;
        ensure!(last < duration(&metadata["ackWait"])?, "{name}: {last:?}");
        ensure!(metadata["concurrency"] == "single");
    }
    Ok(())
}

/// A message with an id that the stream has seen in its window is dropped: a dead letter has the id of
/// its event, and so has an event that is sent again. So the window is the shortest that there is, and
/// letters have a stream of their own.
#[test]
fn the_streams_take_every_topic_and_drop_no_letter() -> anyhow::Result<()> {
    let stream = |name: &str| -> anyhow::Result<Value> {
        let path = format!("components/nats/streams/{name}.json");
        serde_json::from_str(&read(&path)?).context(path)
    };
    let subjects = |stream: &Value| -> BTreeSet<String> {
        let subjects = items(stream, "/subjects").filter_map(Value::as_str);
        subjects.map(str::to_owned).collect()
    };
    let [events, letters] = [stream("confcast")?, stream("dead-letters")?];
    ensure!(subjects(&events) == collections()?);
    ensure!(subjects(&letters) == BTreeSet::from([DEAD_LETTER_TOPIC.to_owned()]));
    for stream in [&events, &letters] {
        ensure!(
            stream["duplicate_window"] == 100_000_000,
            "100 ms: {stream}"
        );
        ensure!(stream["storage"] == "file" && stream["retention"] == "limits");
        ensure!(stream["discard"] == "old", "a full stream refuses events");
        ensure!(stream["max_bytes"].as_u64() > Some(0), "no bound");
    }
    // The server's own limit is 5 s. A sidecar tries for two minutes to connect again, and its consumers
    // are not made a second time.
    let away = &events["consumer_limits"]["inactive_threshold"];
    ensure!(away.as_u64() >= Some(120_000_000_000), "{away} ns");
    Ok(())
}
