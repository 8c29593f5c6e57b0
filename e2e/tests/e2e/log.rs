//! The age limit of the change log, and its pages of several collections.

use std::time::Duration;

use anyhow::{Context, ensure};
use contract::{FeedPage, Problem, Revision};
use e2e::{
    client::Api,
    testbed::{
        CHANNELS, FREE, Store, StoreKind, numbered, ports::free_port, sample, services::Service,
        wait::eventually,
    },
};
use futures_util::future::try_join_all;
use serde_json::json;

type Outcome = anyhow::Result<()>;

#[tokio::test]
async fn old_changes_are_removed_from_the_log_embedded() -> Outcome {
    let store = Store::start(StoreKind::Embedded).await?;
    let mut publisher = trimming(store.publisher()?);
    publisher.start().await?;
    old_changes_leave(&[publisher.api(), publisher.api()]).await?;
    publisher.stop().await
}

#[tokio::test]
async fn old_changes_are_removed_from_the_log_mongo() -> Outcome {
    let store = Store::start(StoreKind::Mongo).await?;
    let mut one = trimming(store.publisher()?);
    let mut two = trimming(store.publisher()?);
    one.start().await?;
    two.start().await?;
    old_changes_leave(&[one.api(), two.api()]).await?;
    one.stop().await?;
    two.stop().await
}

/// Retains ten changes, and checks every second.
fn trimming(publisher: Service) -> Service {
    quickly(publisher).with("AURA_CONFIGURATION_EVENTS_ENABLED", "false")
}

fn quickly(publisher: Service) -> Service {
    publisher
        .with("AURA_CONFIGURATION_LOG_KEEP_CHANGES", "10")
        .with("AURA_CONFIGURATION_LOG_KEEP_HOURS", "0")
        .with("AURA_CONFIGURATION_LOG_TRIM_SECONDS", "1")
}

async fn old_changes_leave(apis: &[Api; 2]) -> Outcome {
    let api = &apis[0];
    // All clients write while both publishers trim.
    for round in 0..3 {
        try_join_all((0..500).map(|n| {
            let document = json!({"id": format!("{round}-{n}")});
            async move { apis[n % 2].create(FREE, &document).await?.expect(201) }
        }))
        .await?;
    }
    let head = eventually("the log is trimmed", async || {
        let head = api.head(FREE).await?;
        ensure!(head.oldest == 1_491, "{head:?}");
        Ok(head)
    })
    .await?;
    assert_eq!(
        (head.revision, head.count),
        (1_500, 1_500),
        "trimming changed more than the log"
    );
    assert_eq!(since(api, head.oldest - 1).await?.items.len(), 10);
    let path = |since: Revision| format!("/v1/collections/{FREE}/changes?since={since}");
    for below in [0, 1, head.oldest - 2] {
        let gone: Problem = serde_json::from_str(&api.get(&path(below)).await?.expect(410)?.body)?;
        assert_eq!(gone.reason.as_deref(), Some("trimmed"));
    }
    api.put(FREE, "0-0", &numbered(1)).await?.expect(200)?;
    let head = api.head(FREE).await?;
    ensure!(
        head.revision == 1_501 && head.oldest >= 1_491,
        "a write changed the oldest revision: {head:?}"
    );
    assert_eq!(api.head(CHANNELS).await?.oldest, 1);
    Ok(())
}

async fn since(api: &Api, since: Revision) -> anyhow::Result<FeedPage> {
    let path = format!("/v1/collections/{FREE}/changes?since={since}");
    Ok(serde_json::from_str(
        &api.get(&path).await?.expect(200)?.body,
    )?)
}

#[tokio::test]
async fn pending_changes_stay_in_the_log_while_events_are_on_embedded() -> Outcome {
    owed_stays(StoreKind::Embedded).await
}

#[tokio::test]
async fn pending_changes_stay_in_the_log_while_events_are_on_mongo() -> Outcome {
    owed_stays(StoreKind::Mongo).await
}

/// Pending events of a transport that does not work keep their records in the log. After events are
/// switched off no publisher will send them, and the records go.
async fn owed_stays(kind: StoreKind) -> Outcome {
    let store = Store::start(kind).await?;
    let nowhere = free_port()?.to_string();
    let mut publisher = quickly(store.publisher()?)
        .with("AURA_CONFIGURATION_EVENTS_MANAGER", "DAPR")
        .with("DAPR_GRPC_PORT", nowhere);
    publisher.start().await?;
    let api = publisher.api();
    for n in 0..30 {
        api.create(FREE, &numbered(n)).await?.expect(201)?;
    }
    // Several rounds of trimming.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(api.head(FREE).await?.oldest, 1);
    assert_eq!(since(&api, 0).await?.items.len(), 30);

    publisher.stop().await?;
    let mut publisher = publisher.with("AURA_CONFIGURATION_EVENTS_ENABLED", "false");
    publisher.start().await?;
    eventually(
        "events that no publisher will send are removed",
        async || {
            ensure!(api.head(FREE).await?.oldest == 21);
            Ok(())
        },
    )
    .await?;
    assert_eq!(since(&api, 20).await?.items.len(), 10);

    // Events are on again: the pending events still find their records.
    publisher.stop().await?;
    let mut publisher = publisher
        .with("AURA_CONFIGURATION_EVENTS_ENABLED", "true")
        .with("AURA_CONFIGURATION_EVENTS_MANAGER", "LOCAL");
    publisher.start().await?;
    eventually("trimming continues", async || {
        let next = api.head(FREE).await?.revision;
        api.create(FREE, &numbered(next)).await?.expect(201)?;
        ensure!(api.head(FREE).await?.oldest > 30);
        Ok(())
    })
    .await
    .with_context(|| publisher.output())?;
    ensure!(
        !publisher
            .output()
            .contains("pending changes could not be read"),
        "{}",
        publisher.output()
    );
    Ok(())
}

/// A page of several collections: a collection with a long history does not delay the others.
#[tokio::test]
async fn several_collections_share_one_page_budget() -> Outcome {
    let mut publisher = Store::start(StoreKind::Embedded).await?.publisher()?;
    publisher = publisher.with("AURA_CONFIGURATION_EVENTS_ENABLED", "false");
    publisher.start().await?;
    let api = publisher.api();
    try_join_all((0..300).map(|n| {
        let api = api.clone();
        async move { api.create("FreeForm", &numbered(n)).await?.expect(201) }
    }))
    .await?;
    let mut channel = sample(CHANNELS)?;
    for n in 0..30 {
        channel["id"] = json!(format!("c-{n}"));
        api.create(CHANNELS, &channel).await?.expect(201)?;
    }
    for (limit, channels, free, more) in [
        (20, 10, 10, true),
        (100, 30, 70, true),
        (1, 1, 0, true),
        (330, 30, 300, false),
        (329, 30, 299, true),
    ] {
        let path = format!("/v1/changes?since={FREE}:0,{CHANNELS}:0&limit={limit}");
        let page: FeedPage = serde_json::from_str(&api.get(&path).await?.expect(200)?.body)?;
        let revisions = |name| -> Vec<_> {
            page.items
                .iter()
                .filter(|c| c.collection.as_str() == name)
                .map(|c| c.revision)
                .collect()
        };
        assert_eq!(
            revisions(CHANNELS),
            (1..=channels).collect::<Vec<_>>(),
            "limit {limit}"
        );
        assert_eq!(
            revisions(FREE),
            (1..=free).collect::<Vec<_>>(),
            "limit {limit}"
        );
        assert_eq!(page.more, more, "limit {limit}");
    }
    let rest = format!("/v1/changes?since={FREE}:300,{CHANNELS}:29");
    let page: FeedPage = serde_json::from_str(&api.get(&rest).await?.expect(200)?.body)?;
    assert_eq!((page.items.len(), page.more), (1, false));
    Ok(())
}
