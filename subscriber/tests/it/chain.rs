//! Replicas that follow a subscriber, and a chain below a publisher without revisions.

use std::{future::Future, sync::Mutex};

use super::*;

/// Runs `test` beside a replica that follows a subscriber, once all of A and B is current there.
async fn chained(subscriber: &Subscriber, test: impl AsyncFnOnce(&replica::Replica)) {
    let current = |status: &ReplicaStatus| status.state == ReplicaState::Current;
    chained_until(subscriber, ["A", "B"], current, test).await;
}

/// Runs `test` beside a replica that follows these collections of a subscriber, once its status is
/// as wanted.
async fn chained_until(
    subscriber: &Subscriber,
    collections: [&str; 2],
    wanted: impl Fn(&ReplicaStatus) -> bool,
    test: impl AsyncFnOnce(&replica::Replica),
) {
    let replica = replica::Replica::new(replica::Config {
        instance: "below".to_owned(),
        collections: collections.map(|name| name.parse().expect("a name")).into(),
        follow: replica::Follow::Named,
        publishers: vec![subscriber.url("").parse().expect("a URL")],
        base_url: None,
        check_in: Duration::from_secs(10),
        events: replica::Events::Local,
        snapshot_dir: None,
        credentials: replica::Credentials::default(),
        sidecar_token: None,
        app_token: None,
        event_keys: None,
    });
    let replica = replica.expect("a client");
    let done: std::pin::Pin<Box<dyn Future<Output = ()>>> = Box::pin(async {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        while !wanted(&replica.status()) {
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

/// A publisher that serves Skills alone; what it says of B is a problem.
fn publisher_of_skills() -> impl Fn(&str) -> Option<(u16, String)> {
    let both = publisher(7, 1);
    let without_b = |text: &str| {
        let mut text = text.to_owned();
        // The order of members tells the lines of a snapshot apart.
        if text.contains("\"heads\"") {
            let mut value: Value = serde_json::from_str(&text).expect("json");
            let heads = value.get_mut("heads").and_then(Value::as_array_mut);
            heads
                .expect("heads")
                .retain(|head| head["collection"] != "B");
            text = value.to_string();
        }
        text.replace("\"A\"", "\"Skills\"")
    };
    let (_status, snapshot) = both("/v1/snapshot?collections=A,B").expect("an answer");
    let (_status, heads) = both("/v1/collections").expect("an answer");
    let lines: Vec<_> = snapshot.lines().map(without_b).collect();
    let snapshot = lines.join("\n") + "\n";
    let heads = without_b(&heads);
    let unknown = Problem::new(ProblemKind::UnknownCollection, "There is no collection B");
    let unknown = serde_json::to_string(&unknown).expect("json");
    move |path| match path {
        "/v1/snapshot?collections=B,Skills" => Some((404, unknown.clone())),
        "/v1/snapshot?collections=Skills" => Some((200, snapshot.clone())),
        "/v1/collections" => Some((200, heads.clone())),
        _ => None,
    }
}

#[tokio::test]
async fn what_no_publisher_serves_is_unknown_here_and_below_and_holds_up_nothing() {
    check(
        &["--collections=B,Skills"],
        publisher_of_skills(),
        async |subscriber| {
            let deadline = Instant::now() + Duration::from_secs(10);
            let mut tick = tokio::time::interval(Duration::from_millis(5));
            while subscriber.fetch("/v1/collections").await.status() != 200 {
                assert!(Instant::now() < deadline, "{:?}", subscriber.status().await);
                tick.tick().await;
            }
            for path in [
                "/v1/collections/B",
                "/v1/collections/B/documents",
                "/v1/collections/B/documents/x",
                "/v1/collections/B/changes?since=0",
                "/v1/snapshot?collections=B,Skills",
            ] {
                problem(subscriber.fetch(path).await, 404, "unknown-collection").await;
            }
            let answer: Value = subscriber
                .fetch("/v1/collections/Skils")
                .await
                .json()
                .await
                .expect("json");
            let detail = answer["detail"].as_str().unwrap_or_default();
            assert!(detail.contains("did you mean Skills?"), "{detail}");
            for path in ["/v1/snapshot", "/v1/collections/Skills/documents/x"] {
                assert_eq!(subscriber.fetch(path).await.status(), 200, "{path}");
            }
            // A wrong name in the settings ends a rollout.
            problem(subscriber.fetch("/readyz").await, 503, "loading").await;
            let of = |status: &ReplicaStatus, name: &str| {
                let row = status
                    .collections
                    .iter()
                    .find(|row| row.collection.as_str() == name);
                let row = row.expect("a row");
                (row.state, row.reason.clone(), row.count)
            };
            let of_b = (
                ReplicaState::Loading,
                Some("unknown-collection".to_owned()),
                0,
            );
            assert_eq!(of(&subscriber.status().await, "B"), of_b);
            let of_skills = (ReplicaState::Current, None, 2);
            let loaded = |status: &ReplicaStatus| of(status, "Skills") == of_skills;
            chained_until(subscriber, ["B", "Skills"], loaded, async |below| {
                assert_eq!(of(&below.status(), "B"), of_b);
            })
            .await;
        },
    )
    .await;
}
