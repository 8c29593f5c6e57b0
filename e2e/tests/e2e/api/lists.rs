//! Lists, snapshots and pages of the feed: each shows one point in time, is complete, and matches
//! its head.

use anyhow::ensure;
use contract::{CanonicalJson, Digest, FeedPage, Operation, snapshot};
use e2e::{
    client::Api,
    testbed::{CHANNELS, FREE, numbered},
};
use futures_util::future::try_join_all;
use serde_json::{Value, json};

use super::{Outcome, problem};

/// While other clients write, lists and snapshots show one point in time, are complete, and match
/// their heads.
pub(super) async fn lists(api: &Api) -> Outcome {
    try_join_all((0..300).map(|n| async move {
        let document = json!({"id": format!("many-{n:03}"), "text": "t".repeat(1_000)});
        api.create(FREE, &document).await?.expect(201)
    }))
    .await?;
    let writing = try_join_all((0..300).map(|n| async move {
        api.put(FREE, &format!("many-{n:03}"), &numbered(n))
            .await?
            .expect(200)
    }));
    let reading = async {
        for _again in 0..10 {
            let list = api
                .get(&format!("/v1/collections/{FREE}/documents"))
                .await?
                .expect(200)?;
            let items = list.json()?["items"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            adds_up(&list.json()?["head"], &items)?;
        }
        anyhow::Ok(())
    };
    let (_written, ()) = futures_util::future::try_join(writing, reading).await?;

    let list = api
        .get(&format!("/v1/collections/{FREE}/documents"))
        .await?
        .expect(200)?;
    let path = format!("/v1/collections/{FREE}/documents");
    api.get_with(&path, "if-none-match", list.header("etag"))
        .await?
        .expect(304)?;
    let ndjson = api
        .get_with(&path, "accept", "application/x-ndjson")
        .await?
        .expect(200)?;
    let lines: Vec<Value> = ndjson
        .body
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let head = &lines[0]["head"];
    let items = &lines[1..lines.len() - 1];
    let end = &lines[lines.len() - 1];
    adds_up(head, items)?;
    assert_eq!(end, &json!({"end": true, "count": items.len()}));
    assert_eq!(
        Some(items),
        list.json()?["items"].as_array().map(Vec::as_slice)
    );

    let snapshot = api
        .get(&format!("/v1/snapshot?collections={CHANNELS},{FREE}"))
        .await?
        .expect(200)?;
    let mut lines = snapshot.body.lines();
    let start: snapshot::SnapshotStart = serde_json::from_str(lines.next().unwrap_or_default())?;
    assert_eq!(
        start
            .heads
            .iter()
            .map(|head| head.collection.as_str())
            .collect::<Vec<_>>(),
        [CHANNELS, FREE]
    );
    let rest: Vec<_> = lines
        .map(|line| snapshot::SnapshotLine::parse(line.as_bytes()))
        .collect::<Result<_, _>>()?;
    let count = rest.len() as u64 - 1;
    assert_eq!(
        rest.last(),
        Some(&snapshot::SnapshotLine::End(snapshot::SnapshotEnd {
            end: true,
            count
        }))
    );
    assert_eq!(
        count,
        start.heads.iter().map(|head| head.count).sum::<u64>()
    );
    Ok(())
}

/// The list is longer than all buffers on its path, so it is still being read when the last
/// document changes.
pub(super) async fn a_long_list_is_of_one_moment(api: &Api) -> Outcome {
    let ids: Vec<_> = (0..200).map(|n| format!("long-{n:03}")).collect();
    let text = "t".repeat(100_000);
    try_join_all(ids.iter().map(|id| {
        let document = json!({"id": id, "text": text});
        async move { api.create(FREE, &document).await?.expect(201) }
    }))
    .await?;
    let mut list = api
        .open(&format!("/v1/collections/{FREE}/documents"))
        .await?;
    let mut body = list.chunk().await?.unwrap_or_default().to_vec();
    for id in ["long-199", "long-198"] {
        api.put(FREE, id, &numbered(1)).await?.expect(200)?;
    }
    api.delete(FREE, "long-197").await?.expect(200)?;
    while let Some(chunk) = list.chunk().await? {
        body.extend_from_slice(&chunk);
    }
    let list: Value = serde_json::from_slice(&body)?;
    let items = list["items"].as_array().cloned().unwrap_or_default();
    ensure!(
        items.iter().any(|item| item["id"] == "long-197"),
        "the document existed when the list started"
    );
    adds_up(&list["head"], &items)
}

fn adds_up(head: &Value, items: &[Value]) -> Outcome {
    let head: contract::Head = serde_json::from_value(head.clone())?;
    let mut digest = Digest::default();
    for item in items {
        let config = CanonicalJson::parse(item["configData"].to_string().as_bytes())?;
        let id = item["id"].as_str().unwrap_or_default();
        let revision = item["revision"].as_u64().unwrap_or_default();
        digest = digest.with(&id.parse()?, revision, config.crc());
    }
    ensure!(
        (head.count, head.digest) == (items.len() as u64, digest),
        "{} items do not add up to {head:?}",
        items.len()
    );
    Ok(())
}

pub(super) async fn feed(api: &Api) -> Outcome {
    let head = api.head(FREE).await?;
    let mut since = 0;
    let mut last: Option<contract::Change> = None;
    loop {
        let path = format!(
            "/v1/collections/{FREE}/changes?since={since}&epoch={}&limit=200",
            head.epoch
        );
        let page: FeedPage = serde_json::from_str(&api.get(&path).await?.expect(200)?.body)?;
        for change in &page.items {
            since += 1;
            assert_eq!(
                (change.revision, change.epoch),
                (since, head.epoch),
                "the page has a gap"
            );
            assert_eq!(change.config_data.is_none(), change.op == Operation::Delete);
            assert_eq!(
                change.config_data.as_ref().map(CanonicalJson::crc),
                change.crc
            );
        }
        last = page.items.into_iter().next_back().or(last);
        if !page.more {
            break;
        }
    }
    assert_eq!(since, head.revision);
    assert_eq!(
        last.map(|change| (change.count, change.digest)),
        Some((head.count, head.digest))
    );
    let both: FeedPage = serde_json::from_str(
        &api.get(&format!(
            "/v1/changes?since={FREE}:{},{CHANNELS}:0",
            since - 1
        ))
        .await?
        .expect(200)?
        .body,
    )?;
    assert_eq!(both.items.len(), 2);
    for (path, reason) in [
        (
            format!("/v1/collections/{FREE}/changes?since={}", head.revision + 1),
            "ahead",
        ),
        (
            format!("/v1/collections/{FREE}/changes?since=0&epoch=00000000-1"),
            "epoch",
        ),
    ] {
        assert_eq!(
            problem(&api.get(&path).await?.expect(410)?)
                .reason
                .as_deref(),
            Some(reason)
        );
    }
    api.get(&format!("/v1/collections/{FREE}/changes?since=x"))
        .await?
        .expect(400)?;
    Ok(())
}
