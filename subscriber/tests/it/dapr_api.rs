//! Dapr's Configuration API, asked by the client of Dapr's own SDK, and by plain HTTP.

use std::{collections::BTreeMap, sync::Mutex};

use axum::{Router, body::Body};
use dapr::dapr::proto::runtime::v1::{
    GetConfigurationRequest, GetStateRequest, GetStateResponse, SubscribeConfigurationRequest,
    SubscribeConfigurationResponse, UnsubscribeConfigurationRequest, dapr_client::DaprClient,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tonic::{
    Code, Request, Status, Streaming,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::*;

const SERVED: &str = "--dapr-api-listen=127.0.0.1:0";
const DEADLINE: Duration = Duration::from_secs(20);

impl Subscriber {
    fn dapr_api(&self) -> SocketAddr {
        self.dapr_api.expect("it is served")
    }

    async fn dapr(&self) -> DaprClient<Channel> {
        let endpoint = Endpoint::try_from(format!("http://{}", self.dapr_api()));
        let endpoint = endpoint.expect("an endpoint");
        // One read message in the window at most.
        let endpoint = endpoint.initial_stream_window_size(65_535);
        DaprClient::new(endpoint.connect().await.expect("a connection"))
    }
}

fn keys(store: &str, keys: &[&str]) -> SubscribeConfigurationRequest {
    SubscribeConfigurationRequest {
        store_name: store.to_owned(),
        keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        ..SubscribeConfigurationRequest::default()
    }
}

fn get(store: &str, of: &[&str]) -> GetConfigurationRequest {
    let SubscribeConfigurationRequest {
        store_name, keys, ..
    } = keys(store, of);
    GetConfigurationRequest {
        store_name,
        keys,
        ..GetConfigurationRequest::default()
    }
}

/// The next message, as key, version, value and whether it is a deletion.
async fn next(
    updates: &mut Streaming<SubscribeConfigurationResponse>,
) -> BTreeMap<String, (u64, String, bool)> {
    let message = timeout(DEADLINE, updates.message()).await.expect("in time");
    let message = message.expect("no error").expect("not the end");
    assert!(!message.id.is_empty());
    let items = message.items.into_iter().map(|(key, item)| {
        let is_deleted = item
            .metadata
            .get("deleted")
            .is_some_and(|text| text == "true");
        let version = item.version.parse().expect("a revision");
        (key, (version, item.value, is_deleted))
    });
    items.collect()
}

async fn subscribed(
    client: &mut DaprClient<Channel>,
    request: SubscribeConfigurationRequest,
) -> (String, Streaming<SubscribeConfigurationResponse>) {
    let updates = client.subscribe_configuration(request).await;
    let mut updates = updates.expect("a stream").into_inner();
    let first = updates.message().await.expect("no error").expect("an id");
    assert!(first.items.is_empty(), "the first message has the id alone");
    (first.id, updates)
}

fn one(key: &str, version: u64, value: &str) -> BTreeMap<String, (u64, String, bool)> {
    let item = (version, value.to_owned(), value.is_empty());
    BTreeMap::from([(key.to_owned(), item)])
}

fn delete(id: &str, revision: u64) -> Value {
    json!({"collection": "A", "op": "Delete", "id": id, "revision": revision, "epoch": EPOCH})
}

#[tokio::test]
async fn values_come_first_then_every_change_in_order_and_deletions() {
    check(&[SERVED], publisher(7, 2), async |subscriber| {
        // Not loaded yet, perhaps: the call waits.
        let mut client = subscriber.dapr().await;
        let got = client.get_configuration(get("A", &["x", "none"])).await;
        let got = got.expect("values").into_inner().items;
        assert_eq!(got.len(), 1);
        let x = &got["x"];
        assert_eq!((x.value.as_str(), x.version.as_str()), (r#"{"v":1}"#, "1"));
        assert_eq!(
            x.metadata["crc"],
            config(&json!({"v": 1})).crc().to_string()
        );
        assert_eq!(x.metadata["epoch"], EPOCH);
        assert_eq!(x.metadata["state"], "current");
        let all = client.get_configuration_alpha1(get("A", &[])).await;
        assert_eq!(all.expect("values").into_inner().items.len(), 3);

        let (id, mut of_x) = subscribed(&mut client, keys("A", &["x", "y"])).await;
        assert_eq!(next(&mut of_x).await, one("x", 1, r#"{"v":1}"#));
        let (_id, mut of_all) = subscribed(&mut client, keys("A", &[])).await;
        assert_eq!(next(&mut of_all).await.len(), 3);
        // The later change arrives first; it waits for the earlier one.
        subscriber.event(update("x", 9, &json!({"v": 9}))).await;
        subscriber.event(update("y", 8, &json!({"v": 8}))).await;
        subscriber.event(update("z", 10, &json!({"v": 10}))).await;
        subscriber.event(delete("x", 11)).await;
        for updates in [&mut of_x, &mut of_all] {
            assert_eq!(next(updates).await, one("y", 8, r#"{"v":8}"#));
            assert_eq!(next(updates).await, one("x", 9, r#"{"v":9}"#));
        }
        assert_eq!(next(&mut of_all).await, one("z", 10, r#"{"v":10}"#));
        assert_eq!(next(&mut of_all).await, one("x", 11, ""));
        assert_eq!(next(&mut of_x).await, one("x", 11, ""));

        let end = |id: &str| UnsubscribeConfigurationRequest {
            store_name: "A".to_owned(),
            id: id.to_owned(),
        };
        let ended = client.unsubscribe_configuration(end(&id)).await;
        assert!(ended.expect("an answer").into_inner().ok);
        assert!(of_x.message().await.expect("no error").is_none());
        let again = client.unsubscribe_configuration_alpha1(end(&id)).await;
        let again = again.expect("an answer").into_inner();
        assert!(
            !again.ok && again.message.contains("does not exist"),
            "{again:?}"
        );
    })
    .await;
}

#[tokio::test]
async fn a_change_set_is_one_message() {
    check(&[SERVED], publisher(7, 0), async |subscriber| {
        let mut client = subscriber.dapr().await;
        let (_id, mut updates) = subscribed(&mut client, keys("A", &[])).await;
        next(&mut updates).await;
        let set = json!({"id": "set", "parts": [{"collection": "A", "first": 8, "last": 10}]});
        for (id, revision) in [("c", 10), ("a", 8), ("b", 9)] {
            let mut event = update(id, revision, &json!({"v": revision}));
            event["changeSet"] = set.clone();
            subscriber.event(event).await;
        }
        subscriber.event(update("a", 11, &json!({"v": 11}))).await;
        let together = next(&mut updates).await;
        assert_eq!(together.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(next(&mut updates).await, one("a", 11, r#"{"v":11}"#));
    })
    .await;
}

#[tokio::test]
async fn values_beyond_one_message_are_refused_in_words_and_sent_in_several() {
    check(&[SERVED], publisher(7, 600), async |subscriber| {
        let mut client = subscriber.dapr().await;
        let refused = client.get_configuration(get("A", &[])).await;
        let refused = refused.expect_err("6 MB");
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(refused.message().contains("subscribe"), "{refused}");
        let (_id, mut updates) = subscribed(&mut client, keys("A", &[])).await;
        let mut all = BTreeMap::new();
        while all.len() < 601 {
            all.extend(next(&mut updates).await);
        }
    })
    .await;
}

#[tokio::test]
async fn a_slow_reader_gets_the_newest_value_of_each_key_and_no_older_one_after_it() {
    check(&[SERVED], publisher(7, 0), async |subscriber| {
        let mut client = subscriber.dapr().await;
        let (_id, mut updates) = subscribed(&mut client, keys("A", &[])).await;
        let text = "y".repeat(2_000);
        for revision in 8..2_008_u64 {
            let id = format!("d{}", revision % 7);
            let value = json!({"v": revision, "text": text});
            subscriber.event(update(&id, revision, &value)).await;
        }
        let mut newest: BTreeMap<String, u64> = BTreeMap::new();
        let mut messages = 0;
        while newest.values().max() < Some(&2_007) {
            for (key, (version, _value, _deleted)) in next(&mut updates).await {
                let before = newest.insert(key.clone(), version);
                assert!(before < Some(version), "{key} went back to {version}");
            }
            messages += 1;
        }
        let expected: BTreeMap<_, _> = (2_001..2_008_u64)
            .map(|revision| (format!("d{}", revision % 7), revision))
            .chain([("x".to_owned(), 1)])
            .collect();
        assert_eq!(newest, expected);
        assert!(messages < 1_500, "nothing was left out: {messages}");
    })
    .await;
}

/// Events of changes in any order, some of them twice; a subscription ends with what the HTTP API gives,
/// in the order of revisions, and without a change left out.
#[tokio::test]
async fn events_in_any_order_are_changes_in_the_order_of_their_revisions() {
    check(&[SERVED], publisher(7, 0), async |subscriber| {
        let mut client = subscriber.dapr().await;
        let (_id, mut updates) = subscribed(&mut client, keys("A", &[])).await;
        next(&mut updates).await;
        // The multiplier and increment of Knuth's MMIX: the same order in every run.
        let mut seed = 7_u64;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005);
            seed = seed.wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(seed >> 33).expect("31 bits") % below
        };
        let mut existing = std::collections::BTreeSet::new();
        let changes: Vec<_> = (8..408_u64)
            .map(|revision| {
                let id = format!("d{}", random(9));
                // Nothing that is not there is deleted.
                let event = if existing.contains(&id) && random(4) == 0 {
                    existing.remove(&id);
                    delete(&id, revision)
                } else {
                    existing.insert(id.clone());
                    update(&id, revision, &json!({"v": revision}))
                };
                (id, event)
            })
            .collect();
        let mut events: Vec<_> = changes.iter().map(|(_id, event)| event.clone()).collect();
        for place in 0..events.len() {
            let other = (place + random(12)).min(events.len() - 1);
            events.swap(place, other);
            if random(5) == 0 {
                events.push(events[place].clone());
            }
        }
        for event in events {
            subscriber.event(event).await;
        }
        for (revision, (id, event)) in (8..).zip(&changes) {
            let value = event.get("configData").map(Value::to_string);
            let value = value.unwrap_or_default();
            assert_eq!(next(&mut updates).await, one(id, revision, &value));
        }
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_answered_is_refused_in_words() {
    let flags = [SERVED, "--limit-streams=1"];
    check(&flags, publisher(7, 0), async |subscriber| {
        subscriber.reaches(ReplicaState::Current).await;
        let mut client = subscriber.dapr().await;
        let many: Vec<_> = (0..1_001).map(|n| format!("k{n}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        for (request, part) in [
            (get("Unknown", &[]), "store Unknown not found"),
            (get("no name!", &["x"]), "not found"),
            (get("A", &["no key"]), "no key"),
            (get("A", &many), "1000 keys"),
        ] {
            let refused = client.get_configuration(request).await;
            let refused = refused.expect_err("no answer");
            assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
            assert!(refused.message().contains(part), "{refused}");
        }
        let (_id, updates) = subscribed(&mut client, keys("A", &[])).await;
        let full = client.subscribe_configuration(keys("A", &[])).await;
        let full = full.expect_err("one is open");
        assert_eq!(full.code(), Code::ResourceExhausted, "{full}");
        assert!(
            full.message().contains("AURA_CONFIGURATION_LIMIT_STREAMS"),
            "{full}"
        );
        // One that is dropped makes place.
        drop(updates);
        let again = async {
            while client
                .subscribe_configuration(keys("A", &[]))
                .await
                .is_err()
            {}
        };
        timeout(DEADLINE, again).await.expect("a place");
        let foreign = subscriber.client.get(format!(
            "http://{}/v1.0/configuration/A",
            subscriber.dapr_api()
        ));
        for (name, value) in [
            ("origin", "https://evil.example"),
            ("sec-fetch-site", "cross-site"),
            ("host", "evil.example"),
        ] {
            let request = foreign.try_clone().expect("a request").header(name, value);
            let answer = request.send().await.expect("an answer");
            assert_eq!(answer.status(), 403, "{name}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_subscription_ends_with_an_error_when_the_subscriber_stops() {
    let kept = Mutex::new(None);
    check(&[SERVED], publisher(7, 0), async |subscriber| {
        let mut client = subscriber.dapr().await;
        let (_id, mut updates) = subscribed(&mut client, keys("A", &[])).await;
        next(&mut updates).await;
        *kept.lock().expect("no panic") = Some(updates);
    })
    .await;
    let mut updates = kept.lock().expect("no panic").take().expect("a stream");
    let ended = timeout(DEADLINE, updates.message()).await;
    let ended = ended.expect("in time");
    let status = ended.expect_err("no end without a word");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
}

#[tokio::test]
async fn the_token_of_the_sidecar_is_asked_for() {
    let flags = [SERVED, "--dapr-api-token=secret", "--dapr-grpc-port=1"];
    check(&flags, publisher(7, 0), async |subscriber| {
        subscriber.reaches(ReplicaState::Current).await;
        let mut client = subscriber.dapr().await;
        let with = |token: &'static str| {
            let mut request = Request::new(get("A", &["x"]));
            let token = token.parse().expect("metadata");
            request.metadata_mut().insert("dapr-api-token", token);
            request
        };
        let refused = client.get_configuration(get("A", &["x"])).await;
        assert_eq!(refused.expect_err("no token").code(), Code::Unauthenticated);
        let refused = client.get_configuration(with("other")).await;
        assert_eq!(refused.expect_err("wrong").code(), Code::Unauthenticated);
        client
            .get_configuration(with("secret"))
            .await
            .expect("values");
        // Also of calls that would be passed on.
        let refused = client.get_state(GetStateRequest::default()).await;
        assert_eq!(refused.expect_err("no token").code(), Code::Unauthenticated);
    })
    .await;
}

#[tokio::test]
async fn a_caller_reads_what_the_http_api_lets_it_read() {
    let token = auth::SecretToken::generate();
    let file = tempfile::NamedTempFile::new().expect("a file");
    let record = json!({
        "id": token.hash().id(), "name": "reader", "hash": token.hash(),
        "grants": [{"role": "reader", "collections": ["A"], "idPrefix": "x"}],
        "createdAt": "2026-01-01T00:00:00Z", "createdBy": "test",
    });
    std::fs::write(file.path(), format!("{record}\n")).expect("written");
    let tokens = format!("--tokens-file={}", file.path().display());
    let flags = [SERVED, "--events-manager=FEED", &tokens];
    check(&flags, publisher(7, 1), async |subscriber| {
        let mut client = subscriber.dapr().await;
        let shown = token.expose().to_owned();
        let with = |name: &'static str, value: String, request| {
            let mut request = Request::new(request);
            let value = value.parse().expect("metadata");
            request.metadata_mut().insert(name, value);
            request
        };
        let refused = client.get_configuration(get("A", &["x"])).await;
        assert_eq!(refused.expect_err("no token").code(), Code::Unauthenticated);
        for (name, value) in [
            ("authorization", format!("Bearer {shown}")),
            ("dapr-api-token", shown.clone()),
        ] {
            let read = client.get_configuration(with(name, value.clone(), get("A", &["x"])));
            assert_eq!(read.await.expect("values").into_inner().items.len(), 1);
            for forbidden in [
                get("A", &[]),
                get("A", &["large-0"]),
                get("B", &["x"]),
                get("!", &[]),
            ] {
                let refused = client.get_configuration(with(name, value.clone(), forbidden));
                let refused = refused.await.expect_err("forbidden");
                assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
            }
        }
    })
    .await;
}

/// A sidecar that answers `GetState` with the key, echoes bodies, and is awaited while `test` runs.
async fn with_sidecar(test: impl AsyncFnOnce(SocketAddr)) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("a port");
    let state = |request: axum::http::Request<Body>| async move {
        let method = service_fn(|request: Request<GetStateRequest>| async move {
            let header = request.metadata().get("mine").cloned();
            let data = format!("{}={header:?}", request.get_ref().key).into_bytes();
            if request.get_ref().key == "fail" {
                let mut status = Status::not_found("no such key");
                status
                    .metadata_mut()
                    .insert("why", "trailer".parse().expect("metadata"));
                return Err(status);
            }
            Ok(tonic::Response::new(GetStateResponse {
                data,
                ..GetStateResponse::default()
            }))
        });
        let codec = ProstCodec::<GetStateResponse, GetStateRequest>::default();
        let answer = tonic::server::Grpc::new(codec).unary(method, request).await;
        answer.map(Body::new)
    };
    let echo = |request: axum::http::Request<Body>| async move {
        let names: Vec<_> = request.headers().keys().map(ToString::to_string).collect();
        axum::response::Response::builder()
            .header("seen", names.join(","))
            .header("target", request.uri().to_string())
            .body(request.into_body())
            .expect("an answer")
    };
    let routes = Router::new()
        .route(
            "/dapr.proto.runtime.v1.Dapr/GetState",
            axum::routing::post(state),
        )
        .fallback(echo);
    let serving = async {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let (stream, _peer) = listener.accept().await.expect("a connection");
            let service = TowerToHyperService::new(routes.clone());
            connections.spawn(async move {
                let builder = Builder::new(TokioExecutor::new());
                drop(
                    builder
                        .serve_connection(TokioIo::new(stream), service)
                        .await,
                );
            });
        }
    };
    tokio::select! {
        () = serving => {}
        () = test(address) => {}
    }
}

#[tokio::test]
async fn every_other_call_goes_on_to_the_sidecar_and_back() {
    with_sidecar(async |sidecar| {
        let grpc = format!("--dapr-grpc-endpoint=http://{sidecar}");
        let http = format!("--dapr-http-endpoint={sidecar}");
        check(
            &[SERVED, &grpc, &http],
            publisher(7, 0),
            async |subscriber| {
                let mut client = subscriber.dapr().await;
                let state = |key: &str| {
                    let mut request = Request::new(GetStateRequest {
                        store_name: "statestore".to_owned(),
                        key: key.to_owned(),
                        ..GetStateRequest::default()
                    });
                    request
                        .metadata_mut()
                        .insert("mine", "7".parse().expect("metadata"));
                    request
                };
                let answer = client.get_state(state("k")).await.expect("a state");
                let data = String::from_utf8(answer.into_inner().data).expect("text");
                assert!(data.starts_with("k=") && data.contains('7'), "{data}");
                let refused = client
                    .get_state(state("fail"))
                    .await
                    .expect_err("not found");
                assert_eq!(refused.code(), Code::NotFound);
                assert_eq!(refused.message(), "no such key");
                assert_eq!(refused.metadata().get("why").expect("a trailer"), "trailer");

                let url = format!("http://{}/v1.0/publish/p/t?a=b", subscriber.dapr_api());
                let post = subscriber.client.post(&url).body("x".repeat(300_000));
                let post = post.header("connection", "close, mine").header("mine", "1");
                let answer = post.send().await.expect("an answer");
                assert_eq!(header(&answer, "target"), "/v1.0/publish/p/t?a=b");
                assert!(
                    !header(&answer, "seen")
                        .split(',')
                        .any(|name| name == "mine")
                );
                assert_eq!(answer.text().await.expect("text").len(), 300_000);
            },
        )
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_sidecar_that_is_not_there_or_leads_back_is_named() {
    let flags = [SERVED, "--dapr-grpc-port=1", "--dapr-http-port=1"];
    check(&flags, publisher(7, 0), async |subscriber| {
        let mut client = subscriber.dapr().await;
        let refused = client.get_state(GetStateRequest::default()).await;
        let refused = refused.expect_err("nobody is there");
        assert_eq!(refused.code(), Code::Unavailable);
        assert!(refused.message().contains("127.0.0.1:1"), "{refused}");
        let url = format!("http://{}/v1.0/metadata", subscriber.dapr_api());
        let answer = subscriber.client.get(&url).send().await.expect("an answer");
        assert_eq!(answer.status(), 502);
        let looped = subscriber
            .client
            .get(&url)
            .header("confcast-passed-on", "1");
        let looped = looped.send().await.expect("an answer");
        let text = looped.text().await.expect("text");
        assert!(text.contains("leads back"), "{text}");
    })
    .await;
}

/// What an application got: path and body.
type Posted = Arc<Mutex<Vec<(String, Value)>>>;

#[tokio::test]
async fn over_http_values_are_posted_to_the_application() {
    let posted = Posted::default();
    let failures = Arc::new(std::sync::atomic::AtomicUsize::new(2));
    let app = {
        let (posted, failures) = (Arc::clone(&posted), Arc::clone(&failures));
        HttpServer::new(move || {
            let (posted, failures) = (Arc::clone(&posted), Arc::clone(&failures));
            actix_web::App::new().default_service(web::to(
                move |request: HttpRequest, body: web::Json<Value>| {
                    use std::sync::atomic::Ordering::SeqCst;
                    let fails = failures.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
                    let is_known = request.headers().get("dapr-api-token");
                    let is_known = is_known.is_some_and(|token| token == "of-app");
                    let status = match (is_known, fails) {
                        (false, _) => StatusCode::UNAUTHORIZED,
                        (true, Ok(_)) => StatusCode::SERVICE_UNAVAILABLE,
                        (true, Err(_)) => {
                            let entry = (request.path().to_owned(), body.into_inner());
                            posted.lock().expect("no panic").push(entry);
                            StatusCode::OK
                        }
                    };
                    std::future::ready(HttpResponse::build(status).finish())
                },
            ))
        })
    };
    let app = app
        .workers(1)
        .disable_signals()
        .bind("127.0.0.1:0")
        .expect("a port");
    let url = format!("--dapr-api-app-url=http://{}", app.addrs()[0]);
    let app = app.run();
    let handle = app.handle();
    let flags = [SERVED, &url, "--app-api-token=of-app"];
    let test = check(&flags, publisher(7, 0), async |subscriber| {
        let fetch = async |path: &str| {
            let url = format!("http://{}{path}", subscriber.dapr_api());
            let answer = subscriber.client.get(url).send().await.expect("an answer");
            let status = answer.status().as_u16();
            let text = answer.text().await.expect("text");
            (
                status,
                serde_json::from_str::<Value>(&text).unwrap_or_default(),
            )
        };
        let (status, values) = fetch("/v1.0/configuration/A?key=x&key=none&metadata.a=b").await;
        assert_eq!((status, &values["x"]["value"]), (200, &json!(r#"{"v":1}"#)));
        assert_eq!(values["x"]["version"], "1");
        assert_eq!(fetch("/v1.0-alpha1/configuration/A?key=none").await.0, 204);
        let (status, refused) = fetch("/v1.0/configuration/Unknown").await;
        let code = &refused["errorCode"];
        assert_eq!(
            (status, code),
            (400, &json!("ERR_CONFIGURATION_STORE_NOT_FOUND"))
        );

        let (_status, first) = fetch("/v1.0/configuration/A/subscribe?key=x").await;
        let (_status, second) = fetch("/v1.0-alpha1/configuration/A/subscribe?key=x").await;
        let id = second["id"].as_str().expect("an id");
        // The second one replaced the first.
        let ended = format!(
            "/v1.0/configuration/A/{}/unsubscribe",
            first["id"].as_str().expect("an id")
        );
        assert_eq!(fetch(&ended).await.0, 500);
        let until = |revision: &'static str| {
            let posted = Arc::clone(&posted);
            async move {
                let mut tick = tokio::time::interval(Duration::from_millis(5));
                loop {
                    let last = posted.lock().expect("no panic").last().cloned();
                    if let Some((path, body)) = last
                        && body["items"]["x"]["version"] == revision
                    {
                        return (path, body);
                    }
                    tick.tick().await;
                }
            }
        };
        let (path, body) = timeout(DEADLINE, until("1")).await.expect("posted");
        assert_eq!(path, "/configuration/A/x");
        assert_eq!(body["id"], id);
        let headers = [("content-type", STRUCTURED), ("dapr-api-token", "of-app")];
        let event = envelope(update("x", 8, &json!({"v": 8})));
        subscriber.post(&headers, event).await;
        let (_path, body) = timeout(DEADLINE, until("8")).await.expect("posted");
        assert_eq!(body["items"]["x"]["value"], r#"{"v":8}"#);
        let ended = fetch(&format!("/v1.0/configuration/A/{id}/unsubscribe")).await;
        assert_eq!(ended, (200, json!({"ok": true})));
    });
    let (ended, ()) = tokio::join!(app, async {
        test.await;
        handle.stop(false).await;
    });
    ended.expect("an application that ends well");
}

#[tokio::test]
async fn without_an_application_nothing_is_subscribed_over_http() {
    check(&[SERVED], publisher(7, 0), async |subscriber| {
        let url = format!(
            "http://{}/v1.0/configuration/A/subscribe",
            subscriber.dapr_api()
        );
        let answer = subscriber.client.get(url).send().await.expect("an answer");
        assert_eq!(answer.status(), 500);
        let text = answer.text().await.expect("text");
        assert!(
            text.contains("ERR_APP_CHANNEL_NIL") && text.contains("DAPR_API_APP_URL"),
            "{text}"
        );
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_sends_no_request_loses_its_connection() {
    check(&[SERVED], publisher(7, 0), async |subscriber| {
        let begin = [&b""[..], b"P", b"PRI * HTTP/2.0\r\n\r\n", b"GET / HT"];
        let closed = begin.map(async |begin| {
            let mut stream = TcpStream::connect(subscriber.dapr_api())
                .await
                .expect("a port");
            stream.write_all(begin).await.expect("sent");
            let mut rest = Vec::new();
            let closed = timeout(DEADLINE, stream.read_to_end(&mut rest)).await;
            closed.expect("in time").expect("an end");
        });
        futures_util::future::join_all(closed).await;
    })
    .await;
}

#[tokio::test]
async fn readers_that_take_nothing_do_not_keep_others_from_their_answers() {
    check(&[SERVED], publisher(7, 300), async |subscriber| {
        subscriber.reaches(ReplicaState::Current).await;
        let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .http2_only(true)
            .build_http::<Body>();
        let url = format!("http://{}/v1.0/configuration/A", subscriber.dapr_api());
        let url: axum::http::Uri = url.parse().expect("a URL");
        let get = async || client.get(url.clone()).await.expect("an answer");
        // As many as there may be, of 3 MB each, and none is read.
        let mut idle = Vec::new();
        for _answer in 0..32 {
            let answer = get().await;
            assert_eq!(answer.status().as_u16(), 200);
            idle.push(answer);
        }
        assert_eq!(get().await.status().as_u16(), 429);
        // One that is dropped makes place.
        idle.pop();
        let served = async { while get().await.status().as_u16() != 200 {} };
        timeout(DEADLINE, served).await.expect("a place");
    })
    .await;
}
