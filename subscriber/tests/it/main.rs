//! A whole subscriber on a free port, beside a fake publisher whose answers each test defines.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use actix_web::{HttpRequest, HttpResponse, HttpServer, http::StatusCode, web};
use clap::Parser;
use contract::{
    CanonicalJson, Digest, Document, Head, Heads, Problem,
    listing::{self, NDJSON},
    snapshot::{SnapshotLine, SnapshotStart},
    status::{ReplicaState, ReplicaStatus},
};
use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};
use subscriber::{app::App, settings::Options};
use tokio::sync::oneshot;

const EPOCH: &str = "0f86d081-1";
const EVENTS: &str = "/dapr/processConfigurationEvents";
const STRUCTURED: &str = "application/cloudevents+json";

type Headers<'a> = &'a [(&'a str, &'a str)];

/// A running subscriber.
struct Subscriber {
    address: SocketAddr,
    client: Client,
}

impl Subscriber {
    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(self.url(path))
    }

    async fn fetch(&self, path: &str) -> Response {
        self.get(path).send().await.expect("an answer")
    }

    /// Posts a message to the event route; the answer is 200 whatever it was.
    async fn post(&self, headers: Headers<'_>, body: impl Into<reqwest::Body>) -> Value {
        let mut request = self.client.post(self.url(EVENTS)).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), 200);
        answer.json().await.expect("json")
    }

    async fn event(&self, data: Value) -> Value {
        self.post(&[("content-type", STRUCTURED)], envelope(data))
            .await
    }

    async fn status(&self) -> ReplicaStatus {
        self.fetch("/v1/status")
            .await
            .json()
            .await
            .expect("a status")
    }

    async fn reaches(&self, state: ReplicaState) {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        while self.status().await.state != state {
            assert!(
                Instant::now() < deadline,
                "not {state:?} in time: {:?}",
                self.status().await
            );
            tick.tick().await;
        }
    }
}

fn envelope(data: Value) -> String {
    json!({"specversion": "1.0", "id": "1", "source": "test", "type": "com.dapr.event.sent",
        "datacontenttype": "application/json", "traceparent": "", "topic": "A", "data": data})
    .to_string()
}

fn update(id: &str, revision: u64, value: &Value) -> Value {
    let crc = config(value).crc();
    json!({"collection": "A", "op": "Update", "id": id, "revision": revision, "epoch": EPOCH, "crc": crc,
        "configData": value})
}

/// Runs `test` beside a subscriber with these flags that asks the publisher `answer` (`None`:
/// nobody answers).
async fn check(
    flags: &[&str],
    answer: impl Fn(&str) -> Option<(u16, String)> + Send + Sync + 'static,
    test: impl AsyncFnOnce(&Subscriber),
) {
    let answer = Arc::new(answer);
    let publisher = HttpServer::new(move || {
        let answer = Arc::clone(&answer);
        actix_web::App::new().default_service(web::to(move |request: HttpRequest| {
            let (status, body) = answer(&request.uri().to_string()).unwrap_or((503, String::new()));
            std::future::ready(
                HttpResponse::build(StatusCode::from_u16(status).expect("a status")).body(body),
            )
        }))
    });
    let publisher = publisher
        .workers(1)
        .disable_signals()
        .bind("127.0.0.1:0")
        .expect("a free port");
    let url = format!("--api-url=http://{}", publisher.addrs()[0]);
    let publisher = publisher.run();
    let handle = publisher.handle();

    let fixed = [
        "subscriber",
        "--listen=127.0.0.1:0",
        "--collections=A,B",
        "--host-name=here",
        &url,
    ];
    let options = Options::try_parse_from(fixed.iter().chain(flags)).expect("known flags");
    let app = App::build(options.settings().expect("good settings")).expect("a port");
    let subscriber = Subscriber {
        address: app.address(),
        client: Client::builder().no_proxy().build().expect("a client"),
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let (ended, app_ended, ()) =
        tokio::join!(publisher, app.run(async { drop(stopped.await) }), async {
            test(&subscriber).await;
            drop(stop);
            handle.stop(false).await;
        });
    ended.expect("a publisher that ends well");
    app_ended.expect("a subscriber that ends well");
}

fn config(value: &Value) -> CanonicalJson {
    CanonicalJson::parse(value.to_string().as_bytes()).expect("canonical")
}

/// A publisher at revision `revision` of A, with `x` in it and `count` large documents.
fn publisher(revision: u64, count: u64) -> impl Fn(&str) -> Option<(u16, String)> {
    let epoch = EPOCH.parse().expect("an epoch");
    let large = "y".repeat(10_000);
    let documents: Vec<Document> = std::iter::once(("x".to_owned(), json!({"v": 1})))
        .chain((0..count).map(|n| (format!("large-{n}"), json!({"v": n, "text": large}))))
        .map(|(id, value)| Document::new(id.parse().expect("an id"), 1, &config(&value)))
        .collect();
    let add = |digest: Digest, document: &Document| {
        digest.with(document.id(), document.revision(), document.crc())
    };
    let a = Head {
        revision,
        count: documents.len() as u64,
        digest: documents.iter().fold(Digest::default(), add),
        ..Head::empty("A".parse().expect("a name"), epoch)
    };
    let heads = vec![a, Head::empty("B".parse().expect("a name"), epoch)];
    let mut out = Vec::new();
    listing::start_line(
        &SnapshotStart {
            epoch,
            heads: heads.clone(),
        },
        &mut out,
    );
    documents
        .iter()
        .for_each(|document| document.snapshot_line(&"A".parse().expect("a name"), &mut out));
    listing::end_line(documents.len() as u64, &mut out);
    let snapshot = String::from_utf8(out).expect("text");
    let heads = serde_json::to_string(&Heads { heads }).expect("json");
    move |path| match path {
        "/v1/snapshot?collections=A,B" => Some((200, snapshot.clone())),
        "/v1/collections" => Some((200, heads.clone())),
        _ => None,
    }
}

fn header<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer
        .headers()
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

async fn problem(answer: Response, status: u16, kind: &str) {
    assert_eq!(
        (answer.status().as_u16(), header(&answer, "content-type")),
        (status, "application/problem+json")
    );
    let problem: Problem = answer.json().await.expect("a problem");
    assert_eq!(
        (problem.status, problem.kind.to_string()),
        (status, format!("urn:confcast:problem:{kind}"))
    );
}

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
        },
    )
    .await;
}

#[tokio::test]
async fn a_token_guards_what_a_sidecar_calls_and_nothing_else() {
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

/// Runs `test` beside a replica that follows a subscriber.
async fn chained(subscriber: &Subscriber, test: impl AsyncFnOnce(&replica::Replica)) {
    let replica = replica::Replica::new(replica::Config {
        instance: "below".to_owned(),
        collections: ["A", "B"].map(|name| name.parse().expect("a name")).into(),
        publishers: vec![subscriber.url("").parse().expect("a URL")],
        base_url: None,
        check_in: Duration::from_secs(10),
        events: replica::Events::Posted,
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
