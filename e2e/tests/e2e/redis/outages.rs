//! Redis dies, hangs, closes connections and loses data: no write waits for it, and after its
//! return all changes arrive. No replica reads the heads on a schedule here.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use e2e::testbed::{FREE, StoreKind, Testbed, Transport, redis::Redis, wait::eventually};
use serde_json::json;

use super::{
    BOTH, Outcome, events_arrive_again, redis_of, status, until_away, write_for, write_quickly,
};

/// A test bed in which one event has arrived.
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

async fn recovers(testbed: &Testbed) -> Outcome {
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
                "a replica keeps serving without Redis"
            );
        }
        testbed.redis.as_mut().context("a redis")?.restart().await?;
        recovers(&testbed)
            .await
            .with_context(|| format!("{transport:?}"))?;
    }
    Ok(())
}

/// Nothing is written during the outage, so only the reconnect ends the disconnected state.
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
        recovers(&testbed)
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
        recovers(&testbed)
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
        recovers(&testbed)
            .await
            .with_context(|| format!("{transport:?}"))?;
    }
    Ok(())
}

/// The write is committed while no replica listens, and nothing is written after it: the reconnect
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
            "a change arrived without an event"
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
        recovers(&testbed)
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
        recovers(&testbed)
            .await
            .with_context(|| format!("{transport:?}"))?;
    }
    Ok(())
}

/// Redis is frozen for longer than any timeout. Replicas report it, though no connection broke.
#[tokio::test]
async fn a_frozen_redis_is_reported_as_disconnected() -> Outcome {
    for transport in BOTH {
        let testbed = warm(transport).await?;
        let redis = redis_of(&testbed)?;
        redis.freeze()?;
        let noticed = until_away(&testbed, true).await;
        redis.thaw()?;
        noticed.with_context(|| format!("{transport:?}"))?;
        recovers(&testbed)
            .await
            .with_context(|| format!("{transport:?}"))?;
    }
    Ok(())
}

/// No service waits for Redis at its end, whatever is pending.
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
        recovers(&testbed)
            .await
            .with_context(|| format!("{transport:?}"))?;
    }
    Ok(())
}

/// Events that are pending when publisher and Redis die together are published by the next run of
/// the publisher.
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
        recovers(&testbed)
            .await
            .with_context(|| format!("{transport:?}"))?;
        for subscriber in &testbed.subscribers {
            eventually("no change is missing", async || {
                let status = status(subscriber).await?;
                ensure!(
                    status
                        .collections
                        .iter()
                        .all(|row| row.revision == row.known),
                    "{status:?}"
                );
                Ok(())
            })
            .await?;
        }
    }
    Ok(())
}

/// Redis closes the connection of a subscriber that reads too slowly, and discards its buffered
/// messages.
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
    ensure!(listeners? == 1, "the connection was not closed");
    testbed.until_converged(FREE).await?;
    eventually("both listen again", async || {
        ensure!(redis.listeners().await? == 2, "not yet");
        Ok(())
    })
    .await
}
