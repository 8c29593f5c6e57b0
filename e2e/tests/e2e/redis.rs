//! Events directly through Redis: the format on the wire, the cost of outages, the access rights,
//! and every topology of Redis.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use contract::status::ReplicaStatus;
use e2e::{
    client::Api,
    testbed::{
        FREE, Testbed, Transport, numbered,
        redis::Redis,
        services::Service,
        wait::{eventually, within},
    },
};
use serde_json::json;

mod access;
mod dead_letters;
mod outages;
mod refusals;
mod shapes;
mod streams;
mod wire;

type Outcome = anyhow::Result<()>;

/// Both transports through Redis.
const BOTH: [Transport; 2] = [Transport::PubSub, Transport::Streams];

/// No write waits longer than this, whatever happens to Redis.
const QUICK: Duration = Duration::from_secs(1);

/// Changes that are made to see one of them come by an event.
const MAX_PROBES: usize = 5;

async fn status(subscriber: &Service) -> anyhow::Result<ReplicaStatus> {
    let answer = subscriber.api().get("/v1/status").await?.expect(200)?;
    Ok(serde_json::from_str(&answer.body)?)
}

fn redis_of(testbed: &Testbed) -> anyhow::Result<&Redis> {
    testbed.redis.as_ref().context("a redis")
}

/// One write, which must be answered as if Redis were not there.
async fn write_quickly(api: &Api, id: &str, number: u64) -> Outcome {
    let began = Instant::now();
    let mut answer = api.put(FREE, id, &numbered(number)).await?;
    if answer.status == 404 {
        answer = api
            .create(FREE, &json!({"id": id, "number": number}))
            .await?;
    }
    ensure!(
        matches!(answer.status, 200 | 201),
        "{} {}",
        answer.status,
        answer.body
    );
    ensure!(
        began.elapsed() < QUICK,
        "a write took {:?}",
        began.elapsed()
    );
    Ok(())
}

/// Writes for a while, and requires a quick answer each time.
async fn write_for(api: &Api, time: Duration) -> Outcome {
    let began = Instant::now();
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    let mut number = 0;
    while began.elapsed() < time {
        pace.tick().await;
        number += 1;
        write_quickly(api, "a", number).await?;
    }
    Ok(())
}

/// Writes that only an event can deliver in time: both replicas apply an event.
async fn events_arrive(testbed: &Testbed) -> Outcome {
    // A check-in, such as the one after a connection, may bring the change before its event. The
    // event arrived then and proves nothing of what it brought.
    for _probe in 0..MAX_PROBES {
        if probe(testbed).await? {
            return Ok(());
        }
    }
    bail!("a check-in was before the event of each of {MAX_PROBES} changes")
}

/// Makes a change and waits for its event at every subscriber: whether each was applied. One that
/// came after a check-in had brought its change is a duplicate.
async fn probe(testbed: &Testbed) -> anyhow::Result<bool> {
    let mut before = Vec::new();
    for subscriber in &testbed.subscribers {
        before.push(status(subscriber).await?.events);
    }
    testbed
        .publisher
        .api()
        .create(FREE, &json!({"probe": true}))
        .await?
        .expect(201)?;
    testbed.until_converged(FREE).await?;
    let mut applied = true;
    for (subscriber, before) in testbed.subscribers.iter().zip(before) {
        // The counter follows the value by a moment.
        applied &= within(
            Duration::from_secs(1),
            "the change came by an event",
            async || {
                let events = status(subscriber).await?.events;
                let applied = events.applied > before.applied;
                ensure!(applied || events.duplicate > before.duplicate, "{events:?}");
                Ok(applied)
            },
        )
        .await
        .with_context(|| subscriber.output())?;
    }
    Ok(applied)
}

/// Like [`events_arrive`], with a wait: connections that were closed may be restored only now.
async fn events_arrive_again(testbed: &Testbed) -> Outcome {
    eventually("events arrive again", async || events_arrive(testbed).await).await
}

/// Waits until every replica reports that Redis is disconnected, or that it is not.
async fn until_away(testbed: &Testbed, away: bool) -> Outcome {
    for subscriber in &testbed.subscribers {
        eventually(
            &format!("the replica reports that Redis is away: {away}"),
            async || {
                let status = subscriber
                    .api()
                    .get("/v1/status")
                    .await?
                    .expect(200)?
                    .json()?;
                ensure!((status["intake"] == "disconnected") == away, "{status}");
                Ok(())
            },
        )
        .await
        .with_context(|| subscriber.output())?;
    }
    Ok(())
}
