//! What a web page can make a browser send to a subscriber: it changes nothing, also with an event,
//! and reads nothing. A sidecar and a publisher are not affected.

use super::*;

#[tokio::test]
async fn a_page_cannot_post_an_event() {
    check(&[], publisher(7, 0), async |subscriber| {
        subscriber.reaches(ReplicaState::Current).await;
        let event = envelope(update("x", 8, &json!({"v": "evil"})));
        for (name, value) in [
            ("origin", "https://evil.example"),
            ("origin", "null"),
            ("sec-fetch-site", "cross-site"),
        ] {
            let answer = subscriber
                .client
                .post(subscriber.url(EVENTS))
                .header("content-type", STRUCTURED)
                .header(name, value)
                .body(event.clone())
                .send()
                .await
                .expect("an answer");
            problem(answer, 403, "foreign-origin").await;
        }
        // Types that need no consent of the user are no events.
        for media_type in ["text/plain", "application/x-www-form-urlencoded"] {
            let answer = subscriber
                .post(&[("content-type", media_type)], event.clone())
                .await;
            assert_eq!(answer["status"], "DROP", "{media_type} {answer}");
        }
        let held: Value = subscriber
            .fetch("/v1/collections/A/documents/x")
            .await
            .json()
            .await
            .expect("json");
        assert_eq!(held["configData"], json!({"v": 1}));
        assert_eq!(
            subscriber.event(update("x", 8, &json!({"v": 2}))).await["status"],
            "SUCCESS",
            "a sidecar is not affected"
        );
    })
    .await;
}

#[tokio::test]
async fn a_subscriber_answers_no_foreign_page_and_no_foreign_name() {
    let flags = [
        "--base-url=http://Replica-1.confcast:8081",
        "--allowed-hosts=*.svc",
        "--cors-origins=https://admin.example",
    ];
    check(&flags, publisher(7, 0), async |subscriber| {
        subscriber.reaches(ReplicaState::Current).await;
        for path in ["/v1/collections", "/v1/status", "/dapr/subscribe", "/none"] {
            let origin = async |origin: &str| {
                let request = subscriber.get(path).header("origin", origin);
                request.send().await.expect("an answer")
            };
            problem(origin("https://evil.example").await, 403, "foreign-origin").await;
            assert_eq!(
                header(
                    &origin("https://admin.example").await,
                    "access-control-allow-origin"
                ),
                "https://admin.example",
                "{path}"
            );
            let host = async |host: &str| {
                let request = subscriber.get(path).header("host", host);
                request.send().await.expect("an answer")
            };
            problem(host("evil.example").await, 421, "unknown-host").await;
            for own in ["replica-1.confcast:8081", "a.svc", "localhost", "10.0.0.1"] {
                assert_ne!(host(own).await.status(), 421, "{own} {path}");
            }
        }
        let answer = subscriber
            .client
            .put(subscriber.url("/v1/replicas/other"))
            .header("content-type", "text/plain")
            .body("{}")
            .send()
            .await
            .expect("an answer");
        problem(answer, 415, "media-type").await;
    })
    .await;
}
