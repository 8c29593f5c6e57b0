//! Change sets on both stores: complete in the log or absent, whatever other clients write.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use contract::{Change, ChangeSet, FeedPage, Problem, Revision, set::ChangeSetWritten};
use e2e::{
    client::{Answer, Api},
    testbed::{CHANNELS, FREE, Store, StoreKind, numbered, sample, services::Service},
};
use futures_util::future::{join_all, try_join, try_join_all};
use reqwest::Method;
use serde_json::{Value, json};

type Outcome = anyhow::Result<()>;

#[tokio::test]
async fn change_sets_are_atomic_with_the_embedded_store() -> Outcome {
    let (_store, publisher) = publisher(StoreKind::Embedded).await?;
    sets(&publisher.api()).await?;
    many_at_once(&[publisher.api(), publisher.api()]).await
}

#[tokio::test]
async fn change_sets_are_atomic_with_mongodb() -> Outcome {
    let (store, one) = publisher(StoreKind::Mongo).await?;
    sets(&one.api()).await?;
    let mut two = store
        .publisher()?
        .with("AURA_CONFIGURATION_EVENTS_ENABLED", "false");
    two.start().await?;
    many_at_once(&[one.api(), two.api()]).await
}

async fn publisher(kind: StoreKind) -> anyhow::Result<(Store, Service)> {
    let store = Store::start(kind).await?;
    let mut publisher = store
        .publisher()?
        .with("AURA_CONFIGURATION_EVENTS_ENABLED", "false");
    publisher.start().await?;
    Ok((store, publisher))
}

async fn sets(api: &Api) -> Outcome {
    a_set_is_whole(api).await?;
    a_set_with_a_fault_leaves_nothing(api).await?;
    what_is_no_set_is_refused(api).await?;
    limits(api).await
}

async fn post(api: &Api, changes: &Value) -> anyhow::Result<Answer> {
    let headers = [
        ("content-type", "application/json"),
        ("x-correlation-id", "order-66"),
        (
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ),
    ];
    api.send(
        Method::POST,
        "/v1/changes",
        &headers,
        json!({ "changes": changes }).to_string(),
    )
    .await
}

async fn a_set_is_whole(api: &Api) -> Outcome {
    let mut channel = sample(CHANNELS)?;
    channel["id"] = json!("in-a-set");
    api.create(FREE, &json!({"id": "old", "metadata": {"kept": "1"}}))
        .await?
        .expect(201)?;
    api.create(FREE, &json!({"id": "same"}))
        .await?
        .expect(201)?;
    let changes = json!([
        {"collection": FREE, "op": "Create", "id": "new", "configData": {"n": 1}, "expected": 0},
        {"collection": FREE, "op": "Update", "id": "same", "configData": {"id": "same"}},
        {"collection": CHANNELS, "op": "Create", "id": "in-a-set", "configData": channel},
        {"collection": FREE, "op": "Patch", "id": "old", "configData": {"n": 2}, "expected": 1},
    ]);
    let done: ChangeSetWritten =
        serde_json::from_str(&post(api, &changes).await?.expect(200)?.body)?;
    let revisions: Vec<_> = done
        .items
        .iter()
        .map(|item| (item.id.as_str(), item.revision))
        .collect();
    assert_eq!(
        revisions,
        [("new", 3), ("same", 2), ("in-a-set", 1), ("old", 4)]
    );
    let old = api.document(FREE, "old").await?.json()?;
    assert_eq!(
        old["configData"],
        json!({"id": "old", "metadata": {"kept": "1"}, "n": 2})
    );

    api.put(FREE, "new", &numbered(2)).await?.expect(200)?;
    let free = log(api, FREE).await?;
    let channels = log(api, CHANNELS).await?;
    let parts = json!([
        {"collection": CHANNELS, "first": 1, "last": 1}, {"collection": FREE, "first": 3, "last": 4},
    ]);
    let set: ChangeSet = serde_json::from_value(json!({"id": done.id, "parts": parts}))?;
    for member in free[2..4].iter().chain(&channels) {
        assert_eq!(
            (member.change_set.as_ref(), member.last_set),
            (Some(&set), 0)
        );
        assert_eq!(member.context.correlation_id(), Some("order-66"));
        assert!(member.context.traceparent().is_some());
    }
    assert_eq!(
        (free[4].change_set.as_ref(), free[4].last_set),
        (None, 4),
        "later changes name the set before them"
    );
    assert_eq!(
        (
            api.head(FREE).await?.last_set,
            api.head(CHANNELS).await?.last_set
        ),
        (4, 1)
    );

    let gone = json!([{"collection": FREE, "op": "Delete", "id": "new"}, {"collection": FREE, "op": "Update",
        "id": "same", "configData": {"id": "same"}}]);
    post(api, &gone).await?.expect(200)?;
    let free = log(api, FREE).await?;
    assert_eq!(
        (free[5].change_set.as_ref(), free[5].last_set),
        (None, 4),
        "a single change is not a set"
    );
    assert_eq!(api.head(FREE).await?.last_set, 4);
    Ok(())
}

async fn a_set_with_a_fault_leaves_nothing(api: &Api) -> Outcome {
    let before = (api.head(FREE).await?, api.head(CHANNELS).await?);
    let good = json!({"collection": FREE, "op": "Create", "id": "never", "configData": {}});
    for (fault, status, pointer) in [
        (
            json!({"collection": FREE, "op": "Create", "id": "old", "configData": {}}),
            409,
            None,
        ),
        (
            json!({"collection": FREE, "op": "Update", "id": "absent", "configData": {}}),
            404,
            None,
        ),
        (
            json!({"collection": FREE, "op": "Delete", "id": "absent"}),
            404,
            None,
        ),
        (
            json!({"collection": FREE, "op": "Delete", "id": "old", "expected": 99}),
            412,
            None,
        ),
        (
            json!({"collection": FREE, "op": "Delete", "id": "old", "expected": 0}),
            412,
            None,
        ),
        (
            json!({"collection": "Unknown", "op": "Delete", "id": "a"}),
            404,
            None,
        ),
        (
            json!({"collection": FREE, "op": "Delete", "id": "a b"}),
            400,
            None,
        ),
        (
            json!({"collection": CHANNELS, "op": "Create", "id": "a", "configData": {}}),
            422,
            Some("/configData"),
        ),
        (
            json!({"collection": FREE, "op": "Create", "id": "a"}),
            400,
            Some("/configData"),
        ),
        (
            json!({"collection": FREE, "op": "Create", "id": "a", "configData": []}),
            400,
            Some("/configData"),
        ),
        (
            json!({"collection": FREE, "op": "Delete", "id": "a", "configData": {}}),
            400,
            Some("/configData"),
        ),
        (
            json!({"collection": FREE, "op": "Create", "id": "a", "configData": {"b": {"id": 1, "x\u{0}": 1}}}),
            400,
            Some("/configData/b/x\u{0}"),
        ),
        (
            json!({"collection": FREE, "op": "Create", "id": "never", "configData": {}}),
            400,
            Some("/id"),
        ),
        (
            json!({"collection": FREE, "op": "Upsert", "id": "a", "configData": {}}),
            400,
            Some("/op"),
        ),
        (
            json!({"collection": FREE, "op": "Delete", "id": "old", "expectd": 1}),
            400,
            Some("/expectd"),
        ),
    ] {
        let answer = post(api, &json!([good, fault])).await?.expect(status)?;
        let problem: Problem = serde_json::from_str(&answer.body)?;
        let pointer = pointer.map(|pointer| format!("/changes/1{pointer}"));
        assert_eq!(
            (problem.index, problem.pointer),
            (Some(1), pointer),
            "{fault}: {}",
            answer.body
        );
    }
    api.document(FREE, "never").await?.expect(404)?;
    assert_eq!((api.head(FREE).await?, api.head(CHANNELS).await?), before);
    Ok(())
}

async fn what_is_no_set_is_refused(api: &Api) -> Outcome {
    for body in [
        "",
        "{",
        "[]",
        "{}",
        r#"{"changes":[]}"#,
        r#"{"changes":{}}"#,
        r#"{"changes":[],"more":1}"#,
    ] {
        let answer = api
            .send(Method::POST, "/v1/changes", &[], body)
            .await?
            .expect(400)?;
        ensure!(
            answer.header("content-type") == "application/problem+json",
            "{body}"
        );
    }
    api.send(
        Method::POST,
        "/v1/changes",
        &[("content-type", "text/plain")],
        "{}",
    )
    .await?
    .expect(415)?;
    let refused = api
        .send(Method::PUT, "/v1/changes", &[], "")
        .await?
        .expect(405)?;
    assert_eq!(refused.header("allow"), "GET, HEAD, POST");
    Ok(())
}

async fn limits(api: &Api) -> Outcome {
    let creates = |count: usize, value: Value| {
        let create = |n| json!({"collection": FREE, "op": "Create", "id": format!("limit-{n}"), "configData": value});
        json!((0..count).map(create).collect::<Vec<_>>())
    };
    let before = api.head(FREE).await?;
    post(api, &creates(257, json!({}))).await?.expect(413)?;
    let large = post(api, &creates(5, json!({"x": "x".repeat(1_000_000)})))
        .await?
        .expect(413)?;
    ensure!(large.json()?["index"] == 4, "{}", large.body);
    assert_eq!(api.head(FREE).await?, before);
    post(api, &creates(256, json!({"x": "x".repeat(16_000)})))
        .await?
        .expect(200)?;
    let head = api.head(FREE).await?;
    assert_eq!(
        (head.revision, head.last_set),
        (before.revision + 256, before.revision + 256)
    );
    Ok(())
}

/// Change sets and single writes of two publishers at once: no gaps, every set is contiguous, and
/// each change names the set before it.
async fn many_at_once(apis: &[Api; 2]) -> Outcome {
    let sets = try_join_all((0..40).map(|n| async move {
        let id = format!("many-{n}");
        let member =
            |collection, id: &str| json!({"collection": collection, "op": "Create", "id": id, "configData": {}});
        let mut channel = member(CHANNELS, &id);
        channel["configData"] = sample(CHANNELS)?;
        channel["configData"]["id"] = json!(id);
        let changes = json!([member(FREE, &id), channel, member(FREE, &format!("{id}-b"))]);
        // Every tenth set is invalid.
        let fault = json!({"collection": FREE, "op": "Delete", "id": "absent"});
        let changes = if n % 10 == 0 { json!([changes[0], changes[1], fault]) } else { changes };
        post(&apis[n % 2], &changes).await.map(|answer| (n, answer.status))
    }));
    let singles = async {
        let writes = (0..60).map(|n| async move {
            let document = json!({"id": format!("single-{n}")});
            Ok::<_, anyhow::Error>(apis[n % 2].create(FREE, &document).await?.status)
        });
        anyhow::Ok(join_all(writes).await)
    };
    let (sets, _singles) = try_join(sets, singles).await?;
    ensure!(
        sets.iter()
            .all(|(n, status)| matches!((n % 10, status), (0, 404 | 503) | (1.., 200 | 503))),
        "{sets:?}"
    );
    let done = sets.iter().filter(|(_n, status)| *status == 200).count();
    ensure!(done > 20, "most succeed: {done}");

    let logs = [log(&apis[0], FREE).await?, log(&apis[1], CHANNELS).await?];
    let mut members = BTreeMap::<&str, Vec<(&str, Revision)>>::new();
    for (log, head) in logs
        .iter()
        .zip([apis[0].head(FREE).await?, apis[0].head(CHANNELS).await?])
    {
        ensure!(log.last().map(|last| last.revision) == Some(head.revision));
        let mut last_set = 0;
        let mut open = 0;
        for change in log {
            // The changes of an open set name the set before it.
            if change.revision > open {
                last_set = last_set.max(open);
            }
            ensure!(
                change.last_set == last_set,
                "{} of {}: {change:?}",
                last_set,
                change.collection
            );
            if let Some(set) = &change.change_set {
                let part = set
                    .parts
                    .iter()
                    .find(|part| part.collection == change.collection)
                    .context("a part")?;
                ensure!(
                    (part.first..=part.last).contains(&change.revision),
                    "{change:?}"
                );
                open = part.last;
                members
                    .entry(&set.id)
                    .or_default()
                    .push((change.collection.as_str(), change.revision));
            }
        }
        ensure!(head.last_set == last_set.max(open));
    }
    for change in logs.iter().flatten() {
        let Some(set) = &change.change_set else {
            continue;
        };
        let whole = set
            .parts
            .iter()
            .map(|part| part.last - part.first + 1)
            .sum::<u64>();
        ensure!(
            members[set.id.as_str()].len() as u64 == whole,
            "a set is not contiguous: {set:?}"
        );
    }
    Ok(())
}

/// The whole log of a collection, which has no gaps.
async fn log(api: &Api, collection: &str) -> anyhow::Result<Vec<Change>> {
    let mut changes = Vec::new();
    loop {
        let path = format!(
            "/v1/collections/{collection}/changes?since={}",
            changes.len()
        );
        let page: FeedPage = serde_json::from_str(&api.get(&path).await?.expect(200)?.body)?;
        for change in page.items {
            ensure!(change.revision == changes.len() as u64 + 1, "{change:?}");
            changes.push(change);
        }
        if !page.more {
            return Ok(changes);
        }
    }
}
