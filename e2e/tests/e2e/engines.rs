//! Every broker below the sidecars, by its component files alone: the statements of `delivery`, dead
//! letters, and a broker that is killed under load.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, ensure};
use contract::dead_letter::DeadLetterList;
use e2e::{
    client::Api,
    testbed::{
        FREE, StoreKind, Testbed,
        brokers::{Broker, BrokerKind},
        numbered,
        wait::eventually,
    },
};
use futures_util::future::try_join;
use serde_json::json;

use crate::delivery::each_replica_receives_every_change;

type Outcome = anyhow::Result<()>;

/// Writes that are acknowledged while there is no broker.
const WITHOUT_BROKER: u64 = 50;

#[tokio::test]
async fn redis_cluster_delivers_as_redis_does_and_heals_after_a_node_dies() -> Outcome {
    delivers_and_heals(BrokerKind::RedisCluster).await
}

#[tokio::test]
async fn kafka_delivers_as_redis_does_and_heals_after_the_broker_dies() -> Outcome {
    delivers_and_heals(BrokerKind::Kafka).await
}

#[tokio::test]
async fn jetstream_delivers_as_redis_does_and_heals_after_the_server_dies() -> Outcome {
    delivers_and_heals(BrokerKind::JetStream).await
}

async fn delivers_and_heals(kind: BrokerKind) -> Outcome {
    let mut testbed = Testbed::start_on(StoreKind::Embedded, kind).await?;
    each_replica_receives_every_change(&testbed).await?;
    what_no_replica_takes_becomes_a_dead_letter(&testbed).await?;
    a_broker_that_dies_under_load_is_survived(&mut testbed).await?;
    testbed.publisher.stop().await?;
    for subscriber in &mut testbed.subscribers {
        subscriber.stop().await?;
    }
    Ok(())
}

/// The letter passes two topics: that of the collection, and that of the letters.
async fn what_no_replica_takes_becomes_a_dead_letter(testbed: &Testbed) -> Outcome {
    let sidecar = testbed.publisher_sidecar.as_ref().context("a sidecar")?;
    sidecar.until_subscribed().await?;
    let poison = json!({"collection": FREE, "op": "Create", "id": 7}).to_string();
    let status = sidecar.publish(FREE, Some(60), "application/json", poison);
    ensure!(status.await? == 204);
    let api = testbed.publisher.api();
    eventually("both replicas refused it", async || {
        let answer = api.get("/v1/dead-letters").await?.expect(200)?;
        let list: DeadLetterList = serde_json::from_str(&answer.body)?;
        let [letter] = list.items.as_slice() else {
            anyhow::bail!("{} letters", list.items.len());
        };
        // Each replica reports it, and at least one sidecar moved it.
        ensure!(letter.count > 2, "{letter:?}");
        Ok(())
    })
    .await
}

/// Writers are not slower than the store while there is no broker. What they wrote then arrives once
/// it is there again, in sidecars that were not restarted.
async fn a_broker_that_dies_under_load_is_survived(testbed: &mut Testbed) -> Outcome {
    let mut broker = testbed.broker.take().context("a broker")?;
    let api = testbed.publisher.api();
    let replicas: Vec<_> = testbed.subscribers.iter().map(|one| one.api()).collect();
    let (written, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let load = async {
        while !is_over.load(Ordering::Relaxed) {
            let number = written.fetch_add(1, Ordering::Relaxed);
            api.put(FREE, "one", &numbered(number)).await?.expect(200)?;
        }
        anyhow::Ok(())
    };
    let fault = async {
        let healed = dies_and_returns(&mut broker, &written, &replicas).await;
        is_over.store(true, Ordering::Relaxed);
        healed
    };
    try_join(load, fault).await?;
    testbed.broker = Some(broker);
    testbed.until_converged(FREE).await
}

async fn dies_and_returns(broker: &mut Broker, written: &AtomicU64, replicas: &[Api]) -> Outcome {
    broker.kill().await?;
    let before = written.load(Ordering::Relaxed);
    eventually("writes go on", async || {
        let now = written.load(Ordering::Relaxed) - before;
        ensure!(now > WITHOUT_BROKER, "{now} writes");
        Ok(())
    })
    .await?;
    broker.restart().await?;
    for replica in replicas {
        let received = received(replica).await?;
        eventually("the replica receives events again", async || {
            let now = self::received(replica).await?;
            ensure!(now > received + 10, "{now} after {received}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// How many events a replica received in its life.
async fn received(replica: &Api) -> anyhow::Result<u64> {
    let status = replica.get("/v1/status").await?.json()?;
    let count = |name: &str| status["events"][name].as_u64().unwrap_or_default();
    Ok(count("applied") + count("superseded") + count("duplicate"))
}
