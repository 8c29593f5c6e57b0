//! A publisher that comes back with an earlier state, and subscribers that share one component: whatever a
//! service missed, it ends with the documents of the publisher.

use std::{fs, path::Path};

use super::*;

/// Copies a folder of files.
fn copy(from: &Path, to: &Path) -> Outcome {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

fn deletions(events: &[Value]) -> Vec<&str> {
    let deletions = events
        .iter()
        .filter(|event| event["data"]["op"] == "Delete");
    deletions
        .filter_map(|event| event["subject"].as_str())
        .collect()
}

/// The store is put back to an earlier copy, under one subscriber that is connected and one whose sidecar is
/// away.
#[tokio::test]
async fn subscribers_end_with_the_documents_of_a_restored_publisher() -> Outcome {
    let mut publisher = publisher().await?;
    for id in ["a", "b", "c"] {
        create(&publisher, id, &numbered(1)).await?;
    }
    let live = Replica::start("live", FREE, &publisher).await?;
    let mut away = Replica::start("away", FREE, &publisher).await?;
    publisher.stop().await?;
    let (data, backup) = (
        publisher.folder().join("data"),
        publisher.folder().join("backup"),
    );
    copy(&data, &backup)?;
    publisher.start().await?;
    let api = publisher.api();
    let before = api.head(FREE).await?.epoch;
    api.delete(FREE, "b").await?.expect(200)?;
    api.put(FREE, "a", &numbered(9)).await?.expect(200)?;
    for id in ["lost-1", "lost-2"] {
        create(&publisher, id, &numbered(1)).await?;
    }
    for replica in [&live, &away] {
        replica.until_equal(&publisher, FREE).await?;
    }

    away.sidecar.kill()?;
    publisher.kill()?;
    fs::remove_dir_all(&data)?;
    copy(&backup, &data)?;
    publisher.start().await?;
    within(LONG, "the restore is noticed", async || {
        let head = publisher.api().head(FREE).await?;
        ensure!(head.epoch != before, "{head:?}");
        Ok(())
    })
    .await?;
    live.until_equal(&publisher, FREE).await?;
    away.start_sidecar().await?;
    away.until_equal(&publisher, FREE).await?;
    create(&publisher, "after", &numbered(1)).await?;
    for replica in [&live, &away] {
        replica.until_equal(&publisher, FREE).await?;
        let documents = replica.node.documents(FREE).await?;
        ensure!(
            documents
                == json!({"a": numbered(1), "b": numbered(1), "c": numbered(1), "after": numbered(1)}),
            "{documents}"
        );
        let events = replica.node.events().await?;
        ensure!(
            deletions(&events) == ["b", "lost-1", "lost-2"],
            "{events:?}"
        );
    }
    Ok(())
}

/// Two services share a component. What is deleted while one of them has no sidecar is named to it, also
/// when the component was killed meanwhile, and whatever the other one has received.
#[tokio::test]
async fn of_two_services_at_one_component_each_is_notified_of_what_it_missed() -> Outcome {
    let publisher = publisher().await?;
    for id in ["a", "b", "c"] {
        create(&publisher, id, &numbered(1)).await?;
    }
    let mut first = Replica::new("first", FREE, &publisher).await?;
    let copy = first.component.folder().join("copy").display().to_string();
    first.component.set("AURA_CONFIGURATION_SNAPSHOT_DIR", copy);
    first.component.launch()?;
    first.start_sidecar().await?;
    let node = Node::start(FREE, &publisher.url()).await?;
    let mut second = sidecar("second", &node, &first.component)?;
    second.start().await?;
    first.until_equal(&publisher, FREE).await?;
    until_node_has(&node, &publisher).await?;

    // The second service is away while the first one receives a deletion.
    let api = publisher.api();
    second.kill()?;
    api.delete(FREE, "a").await?.expect(200)?;
    first.until_equal(&publisher, FREE).await?;
    first.sidecar.kill()?;
    first.start_sidecar().await?;
    first.until_equal(&publisher, FREE).await?;
    second.start().await?;
    until_node_has(&node, &publisher).await?;

    // Again, and the component is killed after its position was saved.
    second.kill()?;
    api.delete(FREE, "b").await?.expect(200)?;
    first.until_equal(&publisher, FREE).await?;
    let file = first
        .component
        .folder()
        .join(format!("copy/component-{FREE}.json"));
    eventually("the position of both is on disk", async || {
        let saved: Value = serde_json::from_slice(&fs::read(&file)?)?;
        ensure!(
            saved["subscribers"] == 2 && saved["revision"].as_u64() < Some(5),
            "{saved}"
        );
        Ok(())
    })
    .await?;
    first.component.kill()?;
    first.sidecar.kill()?;
    first.component.launch()?;
    first.start_sidecar().await?;
    first.until_equal(&publisher, FREE).await?;
    second.start().await?;
    // A deletion that it knows lets it load the documents by itself, so they alone show nothing.
    within(LONG, "the deletion is named", async || {
        let events = node.events().await?;
        ensure!(deletions(&events).contains(&"b"), "{events:?}");
        Ok(())
    })
    .await?;
    until_node_has(&node, &publisher).await
}

/// The component comes back while no publisher answers: the documents are sent at once, and what was deleted
/// while the sidecar was away is named when a publisher is back.
#[tokio::test]
async fn documents_do_not_wait_for_a_publisher_and_deletions_follow() -> Outcome {
    let mut publisher = publisher().await?;
    for id in ["a", "b"] {
        create(&publisher, id, &numbered(1)).await?;
    }
    let mut replica = Replica::new("early", FREE, &publisher).await?;
    let folder = replica.component.folder().join("copy");
    let copy = folder.display().to_string();
    (replica.component).set("AURA_CONFIGURATION_SNAPSHOT_DIR", copy);
    replica.component.launch()?;
    replica.start_sidecar().await?;
    replica.until_equal(&publisher, FREE).await?;
    eventually("the position is on disk", async || {
        let file = folder.join(format!("component-{FREE}.json"));
        let saved: Value = serde_json::from_slice(&fs::read(file)?)?;
        ensure!(saved["revision"] == 2, "{saved}");
        Ok(())
    })
    .await?;
    replica.sidecar.kill()?;
    publisher.api().delete(FREE, "a").await?.expect(200)?;
    eventually("the replica has the deletion", async || {
        let head = replica.component.api().head(FREE).await?;
        ensure!(head.revision == 3, "{}", head.revision);
        Ok(())
    })
    .await?;
    replica.component.stop().await?;
    publisher.kill()?;

    let before = replica.node.events().await?.len();
    replica.component.launch()?;
    replica.start_sidecar().await?;
    within(LONG, "the documents on disk", async || {
        let events = replica.node.events().await?;
        let came: Vec<_> = (events[before..].iter())
            .map(|event| &event["subject"])
            .collect();
        ensure!(came == ["b"], "{came:?}");
        Ok(())
    })
    .await?;
    publisher.start().await?;
    replica.until_equal(&publisher, FREE).await?;
    let events = replica.node.events().await?;
    ensure!(deletions(&events) == ["a"], "{events:?}");
    Ok(())
}

/// Waits until a service has the documents of the publisher.
async fn until_node_has(node: &Node, publisher: &Service) -> Outcome {
    within(LONG, "the second service has every document", async || {
        node.ensure_equal(publisher, FREE).await
    })
    .await
}
