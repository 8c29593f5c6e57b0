//! Redis dies, hangs, hangs up and forgets: no write waits for it, and the return of it is enough
//! for everything to arrive. Nobody reads the heads on a schedule here.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use e2e::{
    redis::Redis,
    stage::{FREE, Kind, Stage, Via},
    wait::eventually,
};
use serde_json::json;

use super::{
    BOTH, Outcome, events_arrive_again, redis_of, status, until_away, write_for, write_quickly,
};

/// A stage that has seen one event arrive.
async fn warm(via: Via) -> anyhow::Result<Stage> {
    let stage = Stage::start(Kind::Embedded, via).await?;
    stage
        .publisher
        .api()
        .create(FREE, &json!({"id": "a"}))
        .await?
        .expect(201)?;
    stage.until_same(FREE, "a").await?;
    Ok(stage)
}

async fn all_is_well(stage: &Stage) -> Outcome {
    stage.until_converged(FREE).await?;
    events_arrive_again(stage).await?;
    until_away(stage, false).await
}

#[tokio::test]
async fn it_is_killed_and_comes_back_empty() -> Outcome {
    for via in BOTH {
        let mut stage = warm(via).await?;
        stage.redis.as_mut().context("a redis")?.kill()?;
        write_for(&stage.publisher.api(), Duration::from_secs(1)).await?;
        until_away(&stage, true).await?;
        for subscriber in &stage.subscribers {
            ensure!(
                subscriber.api().status_of("/readyz").await? < 300,
                "a replica serves on without Redis"
            );
        }
        stage.redis.as_mut().context("a redis")?.restart().await?;
        all_is_well(&stage)
            .await
            .with_context(|| format!("{via:?}"))?;
    }
    Ok(())
}

/// Nothing was written while it was away: then nothing but its return ends what the status says.
#[tokio::test]
async fn it_is_away_and_nobody_writes() -> Outcome {
    for via in BOTH {
        let mut stage = warm(via).await?;
        stage.redis.as_mut().context("a redis")?.kill()?;
        until_away(&stage, true).await?;
        stage.redis.as_mut().context("a redis")?.restart().await?;
        until_away(&stage, false)
            .await
            .with_context(|| format!("{via:?}"))?;
        all_is_well(&stage)
            .await
            .with_context(|| format!("{via:?}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn it_comes_up_last() -> Outcome {
    for via in BOTH {
        let mut stage = Stage::set(Kind::Embedded, via).await?;
        let redis = stage.redis.as_mut().context("a redis")?;
        redis.kill()?;
        stage.publisher.start().await?;
        for subscriber in &mut stage.subscribers {
            subscriber.start().await?;
        }
        until_away(&stage, true).await?;
        for number in 0..10 {
            write_quickly(&stage.publisher.api(), "a", number).await?;
        }
        stage.redis.as_mut().context("a redis")?.restart().await?;
        all_is_well(&stage)
            .await
            .with_context(|| format!("{via:?}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn every_connection_is_cut_while_clients_write() -> Outcome {
    for via in BOTH {
        let stage = warm(via).await?;
        for _again in 0..5 {
            redis_of(&stage)?.cut().await?;
            write_for(&stage.publisher.api(), Duration::from_millis(300)).await?;
        }
        all_is_well(&stage)
            .await
            .with_context(|| format!("{via:?}"))?;
    }
    Ok(())
}

/// The write is committed while nobody listens, and nothing is written after it: the reconnect
/// alone brings it.
#[tokio::test]
async fn a_reconnect_brings_what_nobody_heard() -> Outcome {
    let mut stage = Stage::set(Kind::Embedded, Via::PubSub).await?;
    stage
        .publisher
        .set("AURA_CONFIGURATION_EVENTS_ENABLED", "false");
    stage.publisher.start().await?;
    stage.start_subscribers().await?;
    write_quickly(&stage.publisher.api(), "a", 1).await?;
    for subscriber in &stage.subscribers {
        ensure!(
            subscriber.api().head(FREE).await?.revision == 0,
            "nobody has told it"
        );
    }
    redis_of(&stage)?.cut().await?;
    stage.until_converged(FREE).await
}

#[tokio::test]
async fn it_is_paused() -> Outcome {
    for via in BOTH {
        let stage = warm(via).await?;
        redis_of(&stage)?
            .tell(&["CLIENT", "PAUSE", "3000", "ALL"])
            .await?;
        write_for(&stage.publisher.api(), Duration::from_secs(2)).await?;
        all_is_well(&stage)
            .await
            .with_context(|| format!("{via:?}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn it_is_frozen() -> Outcome {
    for via in BOTH {
        let stage = warm(via).await?;
        let redis = redis_of(&stage)?;
        redis.freeze()?;
        let written = write_for(&stage.publisher.api(), Duration::from_secs(5)).await;
        redis.thaw()?;
        written?;
        all_is_well(&stage)
            .await
            .with_context(|| format!("{via:?}"))?;
    }
    Ok(())
}

/// Frozen for longer than anybody waits: that is told, though no connection broke.
#[tokio::test]
async fn a_frozen_one_is_noticed() -> Outcome {
    for via in BOTH {
        let stage = warm(via).await?;
        let redis = redis_of(&stage)?;
        redis.freeze()?;
        let noticed = until_away(&stage, true).await;
        redis.thaw()?;
        noticed.with_context(|| format!("{via:?}"))?;
        all_is_well(&stage)
            .await
            .with_context(|| format!("{via:?}"))?;
    }
    Ok(())
}

/// Nobody waits for it at the end either, whatever is owed.
#[tokio::test]
async fn services_stop_while_it_is_frozen() -> Outcome {
    for via in BOTH {
        let mut stage = warm(via).await?;
        redis_of(&stage)?.freeze()?;
        write_for(&stage.publisher.api(), Duration::from_millis(500)).await?;
        for service in stage.subscribers.iter_mut().chain([&mut stage.publisher]) {
            let began = Instant::now();
            service.stop().await.with_context(|| format!("{via:?}"))?;
            ensure!(
                began.elapsed() < Duration::from_secs(10),
                "{via:?}: it took {:?}",
                began.elapsed()
            );
        }
        redis_of(&stage)?.thaw()?;
    }
    Ok(())
}

#[tokio::test]
async fn it_is_emptied() -> Outcome {
    for via in BOTH {
        let stage = warm(via).await?;
        for _again in 0..3 {
            redis_of(&stage)?.tell(&["FLUSHALL"]).await?;
            write_for(&stage.publisher.api(), Duration::from_millis(300)).await?;
        }
        all_is_well(&stage)
            .await
            .with_context(|| format!("{via:?}"))?;
    }
    Ok(())
}

/// What is owed when publisher and Redis die together is published by the publisher's next life.
#[tokio::test]
async fn what_is_owed_outlives_the_publisher() -> Outcome {
    for via in BOTH {
        let mut stage = warm(via).await?;
        stage.redis.as_mut().context("a redis")?.kill()?;
        for number in 0..20 {
            write_quickly(&stage.publisher.api(), "a", number).await?;
        }
        stage.publisher.kill()?;
        stage.redis.as_mut().context("a redis")?.restart().await?;
        until_away(&stage, false).await?;
        stage.publisher.start().await?;
        all_is_well(&stage)
            .await
            .with_context(|| format!("{via:?}"))?;
        for subscriber in &stage.subscribers {
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
async fn a_slow_reader_is_cut_off() -> Outcome {
    let redis = Redis::new()?
        .with("client-output-buffer-limit pubsub 64kb 64kb 1")
        .started()
        .await?;
    let mut stage = Stage::set_at(Kind::Embedded, Via::PubSub, &redis.url()).await?;
    stage.publisher.start().await?;
    stage.start_subscribers().await?;
    eventually("both listen", async || {
        ensure!(redis.listeners().await? == 2, "not yet");
        Ok(())
    })
    .await?;
    stage.subscribers[0].pause()?;
    let api = stage.publisher.api();
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
    stage.subscribers[0].resume()?;
    written?;
    ensure!(listeners? == 1, "it was not cut off");
    stage.until_converged(FREE).await?;
    eventually("both listen again", async || {
        ensure!(redis.listeners().await? == 2, "not yet");
        Ok(())
    })
    .await
}
