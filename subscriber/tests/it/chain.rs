//! Replicas that follow a subscriber, and a chain below a publisher without revisions.

use std::{future::Future, sync::Mutex};

use super::*;

/// Runs `test` beside a replica that follows a subscriber.
async fn chained(subscriber: &Subscriber, test: impl AsyncFnOnce(&replica::Replica)) {
    let replica = replica::Replica::new(replica::Config {
        instance: "below".to_owned(),
        collections: ["A", "B"].map(|name| name.parse().expect("a name")).into(),
        follow: replica::Follow::Named,
        publishers: vec![subscriber.url("").parse().expect("a URL")],
        base_url: None,
        check_in: Duration::from_secs(10),
        events: replica::Events::Local,
        snapshot_dir: None,
        sidecar_token: None,
        app_token: None,
    });
    let replica = replica.expect("a client");
    let done: std::pin::Pin<Box<dyn Future<Output = ()>>> = Box::pin(async {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        while replica.status().state != ReplicaState::Current {
            assert!(
                Instant::now() < deadline,
                "not in time: {:?}",
                replica.status()
            );
            tick.tick().await;
        }
    });
    replica.run(done).await;
    test(&replica).await;
}

#[tokio::test]
async fn a_subscriber_feeds_another_replica() {
    check(&[], publisher(7, 30), async |subscriber| {
        subscriber.reaches(ReplicaState::Current).await;
        chained(subscriber, async |below| {
            assert_eq!(
                below.status().collections,
                subscriber.status().await.collections
            );
        })
        .await;
    })
    .await;
}

/// A chain is never more current than its first link, and a snapshot with a gap is marked.
#[tokio::test]
async fn a_check_in_is_answered_with_the_age_of_the_data() {
    check(&[], publisher(7, 1), async |subscriber| {
        subscriber.reaches(ReplicaState::Current).await;
        let check_in = async || -> Value {
            let answer = subscriber.client.put(subscriber.url("/v1/replicas/below")).json(&json!({}));
            answer.send().await.expect("an answer").json().await.expect("json")
        };
        let first = check_in().await;
        assert_eq!((&first["heads"][0]["revision"], &first["heads"][1]["collection"]), (&json!(7), &json!("B")));
        let deadline = Instant::now() + Duration::from_secs(10);
        // The publisher here answers no check-in, so nothing is confirmed again.
        while check_in().await["age"].as_u64() <= first["age"].as_u64() {
            assert!(Instant::now() < deadline, "its age stands still");
        }

        assert_eq!(header(&subscriber.fetch("/v1/snapshot").await, "confcast-settled"), "true");
        let beyond =
            json!({"collection": "A", "op": "Create", "id": "y", "configData": {}, "revision": 9, "epoch": EPOCH});
        assert_eq!(subscriber.event(beyond).await, json!({"status": "SUCCESS"}));
        assert_eq!(header(&subscriber.fetch("/v1/snapshot").await, "confcast-settled"), "false");
    })
    .await;
}

#[tokio::test]
async fn a_publisher_without_revisions_drives_the_whole_chain() {
    let list = Arc::new(Mutex::new(r#"[{"id":"x","v":1}]"#));
    let answer = move |path: &str| match path {
        "/v1/collections/A/documents" => Some((200, (*list.lock().expect("unharmed")).to_owned())),
        "/v1/collections/B/documents" => Some((200, "[]".to_owned())),
        _ => Some((404, "Cannot GET".to_owned())),
    };
    check(&[], answer, async |subscriber| {
        subscriber.reaches(ReplicaState::Current).await;
        let minimal = json!({"collection": "A", "op": "Create", "id": "y", "configData": {"v": 2}, "crc": "",
            "metadata": {"ttlInSeconds": "60"}, "pubSubName": "pubsub-config-ap-four"});
        assert_eq!(subscriber.event(minimal).await, json!({"status": "SUCCESS"}));
        let list = subscriber.fetch("/v1/collections/A/documents").await;
        assert_eq!(header(&list, "confcast-revision"), "unversioned");
        assert!(header(&list, "etag").starts_with("\"unversioned-"));
        let list: Value = list.json().await.expect("json");
        assert_eq!((list["items"].as_array().map(Vec::len), list.get("head")), (Some(2), None));
        problem(subscriber.fetch("/v1/snapshot").await, 404, "unversioned").await;
        problem(subscriber.fetch("/v1/collections/A").await, 404, "unversioned").await;
        chained(subscriber, async |below| {
            assert_eq!(below.status().collections, subscriber.status().await.collections);
        })
        .await;
    })
    .await;
}
