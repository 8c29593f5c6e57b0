//! Events directly through Redis that no replica can read: the publisher has them as dead letters.

use anyhow::{Context, ensure};
use contract::dead_letter::{DeadLetterList, DeadLetterReason};
use e2e::testbed::{FREE, StoreKind, Testbed, Transport, wait::eventually};

use super::{Outcome, redis_of};

#[tokio::test]
async fn an_event_that_no_replica_can_read_is_kept_by_the_publisher() -> Outcome {
    for (transport, channel) in [
        (Transport::Streams, format!("{{0__:aura-config}}:{FREE}")),
        (Transport::PubSub, format!("0__:aura-config:{FREE}")),
    ] {
        let mut testbed = Testbed::prepare(StoreKind::Mongo, transport).await?;
        testbed.publisher.start().await?;
        testbed.start_subscribers().await?;
        let body = "<config/>";
        let command = match transport {
            Transport::Streams => vec!["XADD", &channel, "*", "data", body],
            _pub_sub => vec!["PUBLISH", &channel, body],
        };
        redis_of(&testbed)?.command(&command).await?;
        let api = testbed.publisher.api();
        let letter = eventually("both replicas reported it", async || {
            let answer = api.get("/v1/dead-letters").await?.expect(200)?;
            let list: DeadLetterList = serde_json::from_str(&answer.body)?;
            let letter = list.items.into_iter().next().context("none yet")?;
            ensure!(letter.count == 2, "{letter:?}");
            Ok(letter)
        })
        .await
        .with_context(|| format!("{transport:?}"))?;
        ensure!(
            letter.reason == DeadLetterReason::Dropped
                && letter.cause.as_deref() == Some("not-json")
                && letter.event.topic.as_deref() == Some(FREE),
            "{letter:?}"
        );
        let path = format!("/v1/dead-letters/{}", letter.id);
        let shown = api.get(&path).await?.expect(200)?.json()?;
        ensure!(shown["original"]["text"] == body, "{shown}");
    }
    Ok(())
}
