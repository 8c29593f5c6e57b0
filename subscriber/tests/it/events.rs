//! Events that a sidecar posts: which are applied, dropped, ignored or sent again, and the token that
//! protects the routes of a sidecar.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;

#[tokio::test]
async fn an_unreadable_event_does_not_block_the_next_event() {
    check(&[], publisher(7, 0), async |subscriber| {
        subscriber.reaches(ReplicaState::Current).await;
        let structured = [("content-type", STRUCTURED)];
        let with = |member: &str, value: Value| {
            let mut data = update("x", 8, &json!({}));
            data[member] = value;
            envelope(data)
        };
        let good = update("x", 8, &json!({"v": 8})).to_string();
        let poison: Vec<(Headers<'_>, String, &str)> = vec![
            (&structured, "not JSON".to_owned(), "not-a-cloudevent"),
            (&structured, String::new(), "not-a-cloudevent"),
            (&structured, good.clone(), "not-a-cloudevent"),
            (&[], envelope(json!({})), "not-a-cloudevent"),
            (
                &[("content-type", "application/json")],
                good.clone(),
                "not-a-cloudevent",
            ),
            (
                &[("content-type", "application/cloudevents-batch+json")],
                format!("[{good}]"),
                "unsolicited-format",
            ),
            (&structured, with("revision", json!("eight")), "wrong-type"),
            (&structured, with("op", json!("Upsert")), "wrong-type"),
            (&structured, envelope(json!("text")), "wrong-type"),
            (
                &structured,
                envelope(update("x", 8, &json!({"v": "x".repeat(5 << 20)}))),
                "too-large",
            ),
            (
                &[("ce-specversion", "1.0"), ("ce-id", "1")],
                good.clone(),
                "not-a-cloudevent",
            ),
        ];
        let drops = poison.len() as u64;
        for (number, (headers, body, reason)) in poison.into_iter().enumerate() {
            let answer = subscriber.post(headers, body).await;
            assert_eq!(answer["status"], "DROP", "{number}: {answer}");
            assert!(
                answer["error"]
                    .as_str()
                    .is_some_and(|error| error.starts_with(reason)),
                "{number}: {answer}"
            );
        }
        for ignored in [
            json!({"op": "Update"}),
            json!({"collection": "Unknown"}),
            json!({"collection": ["A"]}),
        ] {
            assert_eq!(
                subscriber.event(ignored).await,
                json!({"status": "SUCCESS"})
            );
        }

        assert_eq!(
            subscriber.event(update("x", 8, &json!({"v": 8}))).await,
            json!({"status": "SUCCESS"})
        );
        let shouting = [(
            "content-type",
            "APPLICATION/CloudEvents+JSON; Charset=utf-8",
        )];
        let answer = subscriber
            .post(&shouting, envelope(update("x", 9, &json!({"v": 9}))))
            .await;
        assert_eq!(answer, json!({"status": "SUCCESS"}));
        let binary = [
            ("ce-specversion", "1.0"),
            ("ce-id", "1%20"),
            ("ce-source", "test"),
            ("ce-type", "t"),
            ("content-type", "application/json"),
        ];
        let answer = subscriber
            .post(&binary, update("x", 10, &json!({"v": 10})).to_string())
            .await;
        assert_eq!(answer, json!({"status": "SUCCESS"}));
        // The value is not there, and the publisher has no change log.
        let bare =
            json!({"collection": "A", "op": "Update", "id": "x", "revision": 11, "epoch": EPOCH});
        assert_eq!(subscriber.event(bare).await, json!({"status": "RETRY"}));

        let document: Value = subscriber
            .fetch("/v1/collections/A/documents/x")
            .await
            .json()
            .await
            .expect("json");
        assert_eq!(
            (&document["revision"], &document["configData"]["v"]),
            (&json!(10), &json!(10))
        );
        let events = subscriber.status().await.events;
        assert_eq!(
            (
                events.applied,
                events.dropped,
                events.ignored,
                events.retried
            ),
            (3, drops, 3, 1)
        );
    })
    .await;
}

#[tokio::test]
async fn a_token_protects_the_routes_of_a_sidecar_and_no_other() {
    check(
        &["--app-api-token=open sesame"],
        publisher(7, 0),
        async |subscriber| {
            subscriber.reaches(ReplicaState::Current).await;
            for wrong in ["", "open", "open sesamf"] {
                let answer = subscriber
                    .get("/dapr/subscribe")
                    .header("dapr-api-token", wrong)
                    .send()
                    .await;
                problem(answer.expect("an answer"), 401, "unauthorized").await;
            }
            for path in [EVENTS, "/%64apr/processConfigurationEvents"] {
                let answer = subscriber.client.post(subscriber.url(path)).body("x");
                let answer = answer.send().await.expect("an answer");
                problem(answer, 401, "unauthorized").await;
            }
            let answer = subscriber
                .client
                .post(subscriber.url(EVENTS))
                .body("x")
                .send()
                .await
                .expect("an answer");
            problem(answer, 401, "unauthorized").await;
            let headers = [
                ("content-type", STRUCTURED),
                ("dapr-api-token", "open sesame"),
            ];
            assert_eq!(
                subscriber.post(&headers, envelope(json!({}))).await["status"],
                "SUCCESS"
            );
            for path in ["/v1/status", "/v1/collections"] {
                assert_eq!(subscriber.fetch(path).await.status(), 200, "{path}");
            }
            for path in ["/healthz", "/readyz"] {
                assert_eq!(subscriber.fetch(path).await.status(), 204, "{path}");
            }
        },
    )
    .await;
}

/// A bulk subscription: a result for each entry, in one message.
#[tokio::test]
async fn each_entry_of_a_bulk_has_its_own_result() {
    check(&[], publisher(7, 30), async |subscriber| {
        subscriber.reaches(ReplicaState::Current).await;
        let event = |id: &str, data: Value| -> Value {
            let mut event: Value = serde_json::from_str(&envelope(data)).expect("json");
            event["id"] = json!(id);
            event
        };
        let bulk = json!({"id": "b", "type": "com.dapr.event.sent.bulk", "topic": "A", "pubsubname": "p", "metadata": {},
            "entries": [
                {"entryId": "1", "event": event("1", update("x", 8, &json!({"v": 8}))), "metadata": {}},
                {"entryId": "2", "event": event("2", json!({"collection": "A", "op": "Update", "id": {}}))},
                {"entryId": "3", "event": "text"},
                {"entryId": "4", "event": event("4", json!({"op": "Update", "id": "x"}))},
                {"entryId": "5"}]});
        let answer = subscriber.post(&[("content-type", "application/json")], bulk.to_string()).await;
        let entry = |id: &str, status: &str| json!({"entryId": id, "status": status});
        assert_eq!(
            answer,
            json!({"statuses": [entry("1", "SUCCESS"), entry("2", "DROP"), entry("3", "DROP"),
                entry("4", "SUCCESS"), entry("5", "DROP")]})
        );
        let answer = subscriber.fetch("/v1/collections/A/documents/x").await;
        assert_eq!(answer.json::<Value>().await.expect("json")["configData"], json!({"v": 8}));
        let drops = subscriber.status().await.drops;
        assert_eq!(drops[0].event.as_deref(), Some("2 of test"));
    })
    .await;
}

/// What a sidecar makes of an event that was published as plain JSON, or read raw.
#[tokio::test]
async fn an_event_inside_an_event_is_applied() {
    check(&[], publisher(7, 30), async |subscriber| {
        subscriber.reaches(ReplicaState::Current).await;
        let inner: Value =
            serde_json::from_str(&envelope(update("x", 8, &json!({"v": 8})))).expect("json");
        assert_eq!(subscriber.event(inner).await, json!({"status": "SUCCESS"}));
        let answer = subscriber.fetch("/v1/collections/A/documents/x").await;
        assert_eq!(
            answer.json::<Value>().await.expect("json")["configData"],
            json!({"v": 8})
        );
        let mut odd: Value =
            serde_json::from_str(&envelope(update("x", 9, &json!({"v": 9})))).expect("json");
        odd["time"] = json!("noon");
        odd["weight"] = json!(1.5);
        odd["nested"] = json!({"a": 1});
        odd["data"]["metadata"] = json!({"ttlInSeconds": 60, "x": null});
        odd["data"]["crc"] = json!(7);
        let answer = subscriber
            .post(&[("content-type", STRUCTURED)], odd.to_string())
            .await;
        assert_eq!(answer, json!({"status": "SUCCESS"}));
        let answer = subscriber.fetch("/v1/collections/A/documents/x").await;
        assert_eq!(
            answer.json::<Value>().await.expect("json")["configData"],
            json!({"v": 9})
        );
    })
    .await;
}

/// The bodies of events share the budget of all bodies, with its rate.
#[tokio::test]
async fn a_large_event_that_stalls_is_asked_for_again_before_it_blocks_others() {
    check(&[], publisher(7, 0), async |subscriber| {
        let mut peer = TcpStream::connect(subscriber.address)
            .await
            .expect("connected");
        let head = format!(
            "POST {EVENTS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {STRUCTURED}\r\n\
             Content-Length: 4000000\r\n\r\n"
        );
        peer.write_all(head.as_bytes()).await.expect("sent");
        peer.write_all(&[b'x'; 100 << 10]).await.expect("sent");
        let begun = Instant::now();
        let mut answer = Vec::new();
        let read = peer.read_to_end(&mut answer);
        let read = tokio::time::timeout(Duration::from_secs(20), read).await;
        // The connection ends with the answer: the rest of the body is not waited for.
        read.expect("in time").ok();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("RETRY"), "{answer}");
        // A body without a share has 10 s.
        assert!(begun.elapsed() < Duration::from_secs(9));
    })
    .await;
}
