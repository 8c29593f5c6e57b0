//! Redis dies, hangs, hangs up and forgets: no write waits for it, and the return of it is enough
//! for everything to arrive. Nobody reads the heads on a schedule here.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use e2e::testbed::{FREE, StoreKind, Testbed, Transport, redis::Redis, wait::eventually};
use serde_json::json;

use super::{
    BOTH, Outcome, events_arrive_again, redis_of, status, until_away, write_for, write_quickly,
};

/// A stage that has seen one event arrive.
async fn warm(transport: Transport) -> anyhow::Result<Testbed> {
    let testbed = Testbed::start(StoreKind::Embedded, transport).await?;
    testbed
        .publisher
        .api()
        .create(FREE, &json!({"id": "a"}))
        .await?
        .expect(201)?;
    testbed.until_same(FREE, "a").await?;
    Ok(testbed)
}

async fn all_is_well(testbed: &Testbed) -> Outcome {
    testbed.until_converged(FREE).await?;
    events_arrive_again(testbed).await?;
    until_away(testbed, false).await
}

#[tokio::test]
async fn replicas_converge_after_redis_is_killed_and_restarts_empty() -> Outcome {
    for transport in BOTH {
        let mut testbed = warm(transport).await?;
        testbed.redis.as_mut().context("a redis")?.kill()?;
        write_for(&testbed.publisher.api(), Duration::from_secs(1)).await?;
        until_away(&testbed, true).await?;
        for subscriber in &testbed.subscribers {
            ensure!(
                subscriber.api().status_of("/readyz").await? < 300,
                "a replica serves on without Redis"
            );
        }
        testbed.redis.as_mut().context("a redis")?.restart().await?;
        all_is_well(&testbed)
            .await
            .with_context(|| format!("{transport:?}"))?;
    }
    Ok(())
}

/// Nothing was written while it was away: then nothing but its return ends what the status says.
#[tokio::test]
async fn a_reconnect_without_writes_ends_the_disconnected_state() -> Outcome {
    for transport in BOTH {
        let mut testbed = warm(transport).await?;
        testbed.redis.as_mut().context("a redis")?.kill()?;
        until_away(&testbed, true).await?;
        testbed.redis.as_mut().context("a redis")?.restart().await?;
        until_away(&testbed, false)
            .await
            .with_context(|| format!("{transport:?}"))?;
        all_is_well(&testbed)
            .await
            .with_context(|| format!("{transport:?}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn replicas_converge_when_redis_starts_last() -> Outcome {
    for transport in BOTH {
        let mut testbed = Testbed::prepare(StoreKind::Embedded, transport).await?;
        let redis = testbed.redis.as_mut().context("a redis")?;
        redis.kill()?;
        testbed.publisher.start().await?;
        for subscriber in &mut testbed.subscribers {
            subscriber.start().await?;
        }
        until_away(&testbed, true).await?;
        for number in 0..10 {
            write_quickly(&testbed.publisher.api(), "a", number).await?;
        }
        testbed.redis.as_mut().context("a redis")?.restart().await?;
        all_is_well(&testbed)
            .await
            .with_context(|| format!("{transport:?}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn replicas_converge_after_redis_closes_all_connections_during_writes() -> Outcome {
    for transport in BOTH {
        let testbed = warm(transport).await?;
        for _again in 0..5 {
            redis_of(&testbed)?.close_connections().await?;
            write_for(&testbed.publisher.api(), Duration::from_millis(300)).await?;
        }
        all_is_well(&testbed)
            .await
            .with_context(|| format!("{transport:?}"))?;
    }
    Ok(())
}

/// The write is committed while nobody listens, and nothing is written after it: the reconnect
/// alone brings it.
#[tokio::test]
async fn a_reconnect_brings_changes_without_events() -> Outcome {
    let mut testbed = Testbed::prepare(StoreKind::Embedded, Transport::PubSub).await?;
    testbed
        .publisher
        .set("AURA_CONFIGURATION_EVENTS_ENABLED", "false");
    testbed.publisher.start().await?;
    testbed.start_subscribers().await?;
    write_quickly(&testbed.publisher.api(), "a", 1).await?;
    for subscriber in &testbed.subscribers {
        ensure!(
            subscriber.api().head(FREE).await?.revision == 0,
            "nobody has told it"
        );
    }
    redis_of(&testbed)?.close_connections().await?;
    testbed.until_converged(FREE).await
}

#[tokio::test]
async fn replicas_converge_after_redis_is_paused() -> Outcome {
    for transport in BOTH {
        let testbed = warm(transport).await?;
        redis_of(&testbed)?
            .command(&["CLIENT", "PAUSE", "3000", "ALL"])
            .await?;
        write_for(&testbed.publisher.api(), Duration::from_secs(2)).await?;
        all_is_well(&testbed)
            .await
            .with_context(|| format!("{transport:?}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn replicas_converge_after_redis_is_frozen() -> Outcome {
    for transport in BOTH {
        let testbed = warm(transport).await?;
        let redis = redis_of(&testbed)?;
        redis.freeze()?;
        let written = write_for(&testbed.publisher.api(), Duration::from_secs(5)).await;
        redis.thaw()?;
        written?;
        all_is_well(&testbed)
            .await
            .with_context(|| format!("{transport:?}"))?;
    }
    Ok(())
}

/// Frozen for longer than anybody waits: that is told, though no connection broke.
#[tokio::test]
async fn a_frozen_redis_is_reported_as_disconnected() -> Outcome {
    for transport in BOTH {
        let testbed = warm(transport).await?;
        let redis = redis_of(&testbed)?;
        redis.freeze()?;
        let noticed = until_away(&testbed, true).await;
        redis.thaw()?;
        noticed.with_context(|| format!("{transport:?}"))?;
        all_is_well(&testbed)
            .await
            .with_context(|| format!("{transport:?}"))?;
    }
    Ok(())
}

/// Nobody waits for it at the end either, whatever is owed.
#[tokio::test]
async fn services_stop_in_time_while_redis_is_frozen() -> Outcome {
    for transport in BOTH {
        let mut testbed = warm(transport).await?;
        redis_of(&testbed)?.freeze()?;
        write_for(&testbed.publisher.api(), Duration::from_millis(500)).await?;
        for service in testbed
            .subscribers
            .iter_mut()
            .chain([&mut testbed.publisher])
        {
            let began = Instant::now();
            service
                .stop()
                .await
                .with_context(|| format!("{transport:?}"))?;
            ensure!(
                began.elapsed() < Duration::from_secs(10),
                "{transport:?}: it took {:?}",
                began.elapsed()
            );
        }
        redis_of(&testbed)?.thaw()?;
    }
    Ok(())
}

#[tokio::test]
async fn replicas_converge_after_redis_is_flushed() -> Outcome {
    for transport in BOTH {
        let testbed = warm(transport).await?;
        for _again in 0..3 {
            redis_of(&testbed)?.command(&["FLUSHALL"]).await?;
            write_for(&testbed.publisher.api(), Duration::from_millis(300)).await?;
        }
        all_is_well(&testbed)
            .await
            .with_context(|| format!("{transport:?}"))?;
    }
    Ok(())
}

/// What is owed when publisher and Redis die together is published by the publisher's next life.
#[tokio::test]
async fn a_restarted_publisher_sends_its_pending_events() -> Outcome {
    for transport in BOTH {
        let mut testbed = warm(transport).await?;
        testbed.redis.as_mut().context("a redis")?.kill()?;
        for number in 0..20 {
            write_quickly(&testbed.publisher.api(), "a", number).await?;
        }
        testbed.publisher.kill()?;
        testbed.redis.as_mut().context("a redis")?.restart().await?;
        until_away(&testbed, false).await?;
        testbed.publisher.start().await?;
        all_is_well(&testbed)
            .await
            .with_context(|| format!("{transport:?}"))?;
        for subscriber in &testbed.subscribers {
            eventually("nothing is lacking", async || {
                let said = status(subscriber).await?;
                ensure!(
                    said.collections.iter().all(|row| row.revision == row.known),
                    "{said:?}"
                );
                Ok(())
            })
            .await?;
        }
    }
    Ok(())
}

/// Redis hangs up on a subscriber that reads too slowly, and what it had for it is gone.
#[tokio::test]
async fn a_subscriber_that_reads_too_slowly_is_disconnected_and_converges() -> Outcome {
    let redis = Redis::new()?
        .with("client-output-buffer-limit pubsub 64kb 64kb 1")
        .started()
        .await?;
    let mut testbed =
        Testbed::prepare_at(StoreKind::Embedded, Transport::PubSub, &redis.url()).await?;
    testbed.publisher.start().await?;
    testbed.start_subscribers().await?;
    eventually("both listen", async || {
        ensure!(redis.listeners().await? == 2, "not yet");
        Ok(())
    })
    .await?;
    testbed.subscribers[0].pause()?;
    let api = testbed.publisher.api();
    let text = "x".repeat(40_000);
    // More than the buffers of two kernels and of Redis hold.
    let mut written = Ok(());
    for number in 0..1_000 {
        written = api
            .create(FREE, &json!({"id": number.to_string(), "text": text}))
            .await?
            .expect(201)
            .map(drop);
        if written.is_err() || redis.listeners().await? == 1 {
            break;
        }
    }
    let listeners = redis.listeners().await;
    testbed.subscribers[0].resume()?;
    written?;
    ensure!(listeners? == 1, "it was not cut off");
    testbed.until_converged(FREE).await?;
    eventually("both listen again", async || {
        ensure!(redis.listeners().await? == 2, "not yet");
        Ok(())
    })
    .await
}
