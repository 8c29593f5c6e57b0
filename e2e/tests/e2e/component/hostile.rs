//! Applications and files that do not behave: answers that fail or never come, large documents, unknown
//! topics, and a second sidecar.

use super::*;

/// An event that fails comes again, before those after it.
#[tokio::test]
async fn an_event_that_fails_or_hangs_comes_again_in_order() -> Outcome {
    let publisher = publisher().await?;
    let mut replica = Replica::new("faulty", FREE, &publisher).await?;
    (replica.component).set("AURA_CONFIGURATION_COMPONENT_ACK_SECONDS", "1");
    replica.component.launch()?;
    replica.start_sidecar().await?;
    for (kind, times, ids) in [("fail", 4, ["a", "b"]), ("hang", 2, ["c", "d"])] {
        replica.node.fail(kind, times).await?;
        for id in ids {
            create(&publisher, id, &numbered(1)).await?;
        }
        replica.until_equal(&publisher, FREE).await?;
    }
    let events = replica.node.events().await?;
    let ids: Vec<_> = events
        .iter()
        .filter_map(|event| event["subject"].as_str())
        .collect();
    ensure!(ids == ["a", "b", "c", "d"], "{ids:?}");
    let log = replica.component.output();
    for words in ["refused the event of a", "did not answer the event of c"] {
        ensure!(log.contains(words), "{words}: {log}");
    }
    Ok(())
}

/// A value that is too long for an event, or that a program with binary numbers would change, is read by
/// its id.
#[tokio::test]
async fn a_large_document_is_read_by_its_id() -> Outcome {
    let publisher = publisher().await?;
    let replica = Replica::start("large", FREE, &publisher).await?;
    let large = json!({ "text": "x".repeat(300_000) });
    create(&publisher, "large", &large).await?;
    create(&publisher, "small", &numbered(1)).await?;
    replica.until_equal(&publisher, FREE).await?;
    let events = replica.node.events().await?;
    ensure!(events[0]["subject"] == "large", "{}", events[0]["subject"]);
    ensure!(
        events[0]["data"]["configData"].is_null(),
        "it has the value"
    );
    Ok(())
}

/// A topic that is not followed is refused in words, and the others are received.
#[tokio::test]
async fn an_unknown_topic_is_refused_and_the_others_are_received() -> Outcome {
    let publisher = publisher().await?;
    let topics = format!("{FREE},Nowhere");
    let mut replica = Replica::new("unknown", &topics, &publisher).await?;
    (replica.component).set("AURA_CONFIGURATION_COLLECTIONS", FREE);
    replica.component.launch()?;
    replica.start_sidecar().await?;
    create(&publisher, "a", &numbered(1)).await?;
    replica.until_equal(&publisher, FREE).await?;
    eventually("the sidecar says why", async || {
        let log = replica.sidecar.output();
        ensure!(
            log.contains("add it to AURA_CONFIGURATION_COLLECTIONS"),
            "{log}"
        );
        Ok(())
    })
    .await
}

/// A second sidecar on the same socket receives everything too, and a second component is refused.
#[tokio::test]
async fn a_second_subscriber_receives_everything_and_a_second_component_is_refused() -> Outcome {
    let publisher = publisher().await?;
    let replica = Replica::start("first", FREE, &publisher).await?;
    let node = Node::start(FREE, &publisher.url()).await?;
    let mut second = sidecar("second", &node, &replica.component)?;
    second.start().await?;
    for number in 1..=50 {
        create(&publisher, &format!("d-{number}"), &numbered(number)).await?;
    }
    replica.until_equal(&publisher, FREE).await?;
    within(LONG, "the second one has every document", async || {
        let revisions = revisions_of(&node.events().await?);
        ensure!(revisions == (1..=50).collect::<Vec<_>>(), "{revisions:?}");
        Ok(())
    })
    .await?;

    let mut other = Service::component("other", &[publisher.url()])?.with(
        "DAPR_COMPONENTS_SOCKETS_FOLDER",
        replica.component.sockets().display().to_string(),
    );
    other.launch()?;
    let ended = other.process()?.ended(LONG).await?;
    ensure!(!ended.success(), "it ended with {ended}");
    let log = other.output();
    ensure!(log.contains("another process listens"), "{log}");
    // The first one is not affected.
    create(&publisher, "last", &numbered(1)).await?;
    replica.until_equal(&publisher, FREE).await
}

/// A component file with a name that means nothing stops the sidecar, with the remedy.
#[tokio::test]
async fn a_wrong_name_in_the_component_file_is_refused_in_words() -> Outcome {
    let publisher = publisher().await?;
    let mut replica = Replica::new("wrong", FREE, &publisher).await?;
    replica.component.launch()?;
    let file = dependencies::repository_root().join("components/confcast/pubsub.yaml");
    let text = std::fs::read_to_string(file)?.replace(
        "metadata: []",
        "metadata: [{name: redisHost, value: localhost}]",
    );
    replica.sidecar.add_component("pubsub", &text)?;
    let socket = replica.component.sockets().join("confcast.sock");
    eventually("the component listens", async || {
        ensure!(socket.exists(), "no {}", socket.display());
        Ok(())
    })
    .await?;
    replica.sidecar.launch()?;
    eventually("the sidecar says why", async || {
        let log = replica.sidecar.output();
        ensure!(
            log.contains("has no metadata") && log.contains("redisHost"),
            "{log}"
        );
        Ok(())
    })
    .await
}

/// A subscriber that is more than 1,024 changes behind receives the newest revision of each document, and
/// what is gone.
#[tokio::test]
async fn a_subscriber_far_behind_receives_the_newest_revisions() -> Outcome {
    let publisher = publisher().await?;
    let replica = Replica::start("behind", FREE, &publisher).await?;
    let set = |op: &str, number: u64| {
        let changes = (0..100).map(|document| {
            json!({"collection": FREE, "op": op, "id": format!("d-{document}"), "configData": numbered(number)})
        });
        json!({ "changes": changes.collect::<Vec<_>>() }).to_string()
    };
    let api = publisher.api();
    let post = async |body: String| {
        let answer = api.send(Method::POST, "/v1/changes", &[], body).await?;
        ensure!(answer.status < 300, "{}", answer.body);
        anyhow::Ok(())
    };
    post(set("Create", 0)).await?;
    replica.until_equal(&publisher, FREE).await?;
    replica.node.fail("fail", 5).await?;
    for number in 1..=13 {
        post(set("Update", number)).await?;
    }
    api.delete(FREE, "d-7").await?.expect(200)?;
    replica.until_equal(&publisher, FREE).await?;
    let events = replica.node.events().await?;
    ensure!(
        events.len() < 1_401,
        "it received all {} changes",
        events.len()
    );
    let revisions: Vec<_> = (events.iter())
        .filter_map(|event| event["data"]["revision"].as_u64())
        .collect();
    ensure!(revisions.is_sorted(), "{revisions:?}");
    Ok(())
}
