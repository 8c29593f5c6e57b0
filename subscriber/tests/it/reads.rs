//! Reads: 503 before the first load, then answers from memory with entity tags and positions.

use contract::{listing::NDJSON, snapshot::SnapshotLine};

use super::*;

#[tokio::test]
async fn every_read_is_answered_503_before_the_first_load() {
    check(
        &[],
        |_path| None,
        async |subscriber| {
            for path in [
                "/v1/collections",
                "/v1/collections/A",
                "/v1/collections/A/documents",
                "/v1/snapshot",
                "/readyz",
            ] {
                let answer = subscriber.fetch(path).await;
                assert_eq!(header(&answer, "retry-after"), "1");
                if path.starts_with("/v1/") {
                    assert_eq!(header(&answer, "confcast-revision"), "unversioned");
                    assert_eq!(header(&answer, "confcast-state"), "loading");
                }
                problem(answer, 503, "loading").await;
            }
            problem(
                subscriber.fetch("/v1/collections/A/documents/x").await,
                503,
                "loading",
            )
            .await;
            assert_eq!(subscriber.fetch("/healthz").await.status(), 204);
            assert_eq!(
                subscriber.event(update("x", 1, &json!({}))).await,
                json!({"status": "SUCCESS"})
            );
            let metrics = async || {
                let answer = subscriber.fetch("/metrics").await;
                answer.text().await.expect("text")
            };
            let deadline = Instant::now() + Duration::from_secs(10);
            while !metrics()
                .await
                .contains("\nconfcast_subscriber_last_error 1\n")
            {
                assert!(Instant::now() < deadline, "{}", metrics().await);
            }
            let metrics = metrics().await;
            for line in [
                r#"confcast_subscriber_refused_values{collection="A"} 0"#,
                "confcast_subscriber_failing_handlers 0",
                r#"confcast_subscriber_state{state="partial"} 0"#,
            ] {
                assert!(metrics.contains(line), "{line}: {metrics}");
            }
            let status = subscriber.status().await;
            assert_eq!(
                (status.state, status.events.early),
                (ReplicaState::Loading, 1)
            );
            assert_eq!(
                status.instance,
                format!("here:{}", subscriber.address.port())
            );

            let expected = |topic| {
                json!({"pubsubname": "pubsub-config", "topic": topic, "routes": {"default": EVENTS},
                "deadLetterTopic": "configuration-dead-letter"})
            };
            let subscriptions: Value = subscriber
                .fetch("/dapr/subscribe")
                .await
                .json()
                .await
                .expect("json");
            assert_eq!(subscriptions, json!([expected("A"), expected("B")]));
        },
    )
    .await;
    check(
        &["--events-enabled=false"],
        |_path| None,
        async |subscriber| {
            let subscriptions: Value = subscriber
                .fetch("/dapr/subscribe")
                .await
                .json()
                .await
                .expect("json");
            assert_eq!(subscriptions, json!([]));
            // Nobody who is told of no topic has a reason to post events.
            let posted = subscriber.client.post(subscriber.url(EVENTS));
            let posted = posted.header("content-type", STRUCTURED).body("{}");
            assert_eq!(posted.send().await.expect("an answer").status(), 404);
        },
    )
    .await;
}

/// A reader that looks at the state only must not have to know why it was refused.
#[tokio::test]
async fn a_refused_read_has_the_headers_of_a_read() {
    check(&[], publisher(7, 30), async |subscriber| {
        subscriber.reaches(ReplicaState::Current).await;
        for (path, status, revision) in [
            ("/v1/collections/A/documents/none", 404, "0f86d081-1-7"),
            ("/v1/collections/Unknown/documents/x", 404, "0f86d081-1"),
            ("/v1/collections/A/documents/..%2f", 400, "0f86d081-1"),
            ("/v1/collections/Unknown", 404, "0f86d081-1"),
            ("/v1/collections/Unknown/documents", 404, "0f86d081-1"),
            ("/v1/snapshot?collections=Unknown", 404, "0f86d081-1"),
            ("/v1/changes?since=nothing", 400, "0f86d081-1"),
            ("/v1/collections/A/changes?since=x", 400, "0f86d081-1"),
        ] {
            let answer = subscriber.fetch(path).await;
            assert_eq!(answer.status(), status, "{path}");
            assert_eq!(header(&answer, "confcast-revision"), revision, "{path}");
            assert_eq!(header(&answer, "confcast-state"), "current", "{path}");
        }
        let posted = subscriber.client.post(subscriber.url("/v1/collections/A"));
        let answer = posted.send().await.expect("an answer");
        assert_eq!(header(&answer, "confcast-state"), "current");
    })
    .await;
}

#[tokio::test]
async fn reads_are_answered_from_memory() {
    check(&[], publisher(7, 30), async |subscriber| {
        subscriber.reaches(ReplicaState::Current).await;
        let answer = subscriber.fetch("/v1/collections/A/documents/x").await;
        assert_eq!(
            (
                header(&answer, "confcast-revision"),
                header(&answer, "confcast-state")
            ),
            ("0f86d081-1-7", "current")
        );
        let etag = header(&answer, "etag").to_owned();
        let document: Value = answer.json().await.expect("json");
        assert_eq!(
            (&document["id"], &document["configData"]),
            (&json!("x"), &json!({"v": 1}))
        );
        let same = async |path: &str, tags: &str| {
            let answer = subscriber
                .get(path)
                .header("if-none-match", tags)
                .send()
                .await
                .expect("an answer");
            answer.status().as_u16()
        };
        assert_eq!(
            same(
                "/v1/collections/A/documents/x",
                &format!("\"other\", W/{etag}")
            )
            .await,
            304
        );
        assert_eq!(
            same("/v1/collections/A/documents/x", "\"other\"").await,
            200
        );

        let heads: Heads = subscriber
            .fetch("/v1/collections")
            .await
            .json()
            .await
            .expect("heads");
        assert_eq!(
            heads
                .heads
                .iter()
                .map(|head| (head.revision, head.oldest))
                .collect::<Vec<_>>(),
            [(7, 8), (0, 1)]
        );
        let head: Head = subscriber
            .fetch("/v1/collections/A")
            .await
            .json()
            .await
            .expect("a head");
        assert_eq!(head, heads.heads[0]);

        let list = subscriber.fetch("/v1/collections/A/documents").await;
        assert_eq!(
            (header(&list, "etag"), header(&list, "content-type")),
            ("\"0f86d081-1-7\"", "application/json")
        );
        let list: Value = list.json().await.expect("json");
        assert_eq!(
            (list["items"].as_array().map(Vec::len), &list["head"]),
            (Some(31), &json!(head))
        );
        assert_eq!(
            same("/v1/collections/A/documents", "\"0f86d081-1-7\"").await,
            304
        );
        let lines = subscriber
            .get("/v1/collections/A/documents")
            .header("accept", NDJSON)
            .send()
            .await;
        let lines = lines.expect("an answer").text().await.expect("text");
        assert_eq!(
            (lines.lines().count(), lines.lines().last()),
            (33, Some(r#"{"end":true,"count":31}"#))
        );

        // Beyond a gap the list is another one, though the watermark is the same.
        assert_eq!(
            subscriber.event(update("x", 9, &json!({"v": 9}))).await,
            json!({"status": "SUCCESS"})
        );
        assert_eq!(
            same("/v1/collections/A/documents", "\"0f86d081-1-7\"").await,
            200
        );

        let snapshot = subscriber.fetch("/v1/snapshot?collections=A").await;
        assert_eq!(
            (
                header(&snapshot, "confcast-revision"),
                header(&snapshot, "content-type")
            ),
            (EPOCH, NDJSON)
        );
        let snapshot = snapshot.text().await.expect("text");
        let end = snapshot
            .lines()
            .last()
            .map(|line| SnapshotLine::parse(line.as_bytes()).expect("a line"));
        assert!(matches!(end, Some(SnapshotLine::End(end)) if end.count == 31));

        let gone = subscriber.fetch("/v1/collections/A/documents/gone").await;
        assert_eq!(
            (
                header(&gone, "confcast-revision"),
                header(&gone, "confcast-state")
            ),
            ("0f86d081-1-7", "current")
        );
        problem(gone, 404, "no-data").await;
        problem(
            subscriber.fetch("/v1/collections/A/documents/a%20b").await,
            400,
            "bad-request",
        )
        .await;
        problem(
            subscriber.fetch("/v1/collections/C/documents").await,
            404,
            "unknown-collection",
        )
        .await;
        problem(
            subscriber.fetch("/v1/collections/%20").await,
            404,
            "unknown-collection",
        )
        .await;
        problem(
            subscriber.fetch("/v1/snapshot?collections=A,C").await,
            404,
            "unknown-collection",
        )
        .await;
        problem(
            subscriber
                .fetch("/v1/snapshot?collections=A&collections=B")
                .await,
            400,
            "bad-request",
        )
        .await;
        problem(subscriber.fetch("/nowhere").await, 404, "no-such-route").await;
    })
    .await;
}
