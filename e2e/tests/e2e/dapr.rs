//! What really travels through Dapr and Redis: the envelope, its life, what is dropped, and who may
//! do what.

use std::sync::Arc;

use anyhow::{Context, ensure};
use chrono::{DateTime, Utc};
use e2e::testbed::{
    CHANNELS, COLLECTIONS, FREE, StoreKind, Testbed, Transport, numbered,
    ports::free_port,
    redis::Redis,
    sample,
    services::Service,
    sidecar::{self, Sidecar},
    wait::eventually,
};
use reqwest::Method;
use serde_json::{Value, json};

type Outcome = anyhow::Result<()>;

const DEAD_LETTERS: &str = "configuration-dead-letter";
const EVENTS: &str = "/dapr/processConfigurationEvents";
const CLOUD_EVENT: &str = "application/cloudevents+json";

/// Every event in a stream, as sidecars read it.
async fn stream(redis: &Redis, topic: &str) -> anyhow::Result<Vec<Value>> {
    let answer = redis.ask(&["XRANGE", topic, "-", "+"]).await?;
    let texts = answer
        .split("\r\n")
        .filter(|line| line.starts_with(r#"{""#));
    let values: Vec<Value> = texts.map(serde_json::from_str).collect::<Result<_, _>>()?;
    Ok(values
        .into_iter()
        .filter(|value| value.get("specversion").is_some())
        .collect())
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = value
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, _value)| key.as_str())
        .collect();
    keys.sort_unstable();
    keys
}

fn time(value: &Value) -> anyhow::Result<DateTime<Utc>> {
    Ok(value.as_str().context("a time")?.parse()?)
}

/// The example event of the source document (requirement A10 to A14), field by field, and what this
/// project adds to it.
#[tokio::test]
async fn the_envelope_is_the_source_documents() -> Outcome {
    let testbed = Testbed::start(StoreKind::Embedded, Transport::Dapr).await?;
    let redis = testbed.redis.as_ref().context("a redis")?;
    let channel = sample(CHANNELS)?;
    let id = channel["id"].as_str().context("an id")?;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers = [
        ("content-type", "application/json"),
        ("x-correlation-id", "order-66"),
        ("traceparent", trace),
    ];
    let path = format!("/v1/collections/{CHANNELS}/documents");
    let before = Utc::now();
    let created = testbed
        .publisher
        .api()
        .send(Method::POST, &path, &headers, channel.to_string())
        .await?
        .expect(201)?;
    let after = Utc::now();
    testbed.until_same(CHANNELS, id).await?;
    let head = testbed.publisher.api().head(CHANNELS).await?;

    let event = stream(redis, CHANNELS)
        .await?
        .into_iter()
        .next()
        .context("an event")?;
    assert_eq!(
        keys(&event),
        [
            "correlationid",
            "data",
            "datacontenttype",
            "dataschema",
            "expiration",
            "id",
            "partitionkey",
            "pubsubname",
            "sequence",
            "source",
            "specversion",
            "subject",
            "time",
            "topic",
            "traceid",
            "traceparent",
            "tracestate",
            "type",
        ]
    );
    let epoch = head.epoch;
    for (field, expected) in [
        ("specversion", "1.0"),
        ("datacontenttype", "application/json"),
        ("source", "aura-configuration-api"),
        ("type", "com.dapr.event.sent"),
        ("topic", CHANNELS),
        ("pubsubname", "pubsub-config"),
        ("id", &format!("{CHANNELS}:{epoch}:1")),
        ("subject", id),
        ("partitionkey", id),
        ("sequence", "00000000000000000001"),
        ("correlationid", "order-66"),
        ("traceparent", trace),
        ("traceid", trace),
        ("tracestate", ""),
    ] {
        assert_eq!(event[field], expected, "{field}");
    }
    let schema = event["dataschema"].as_str().unwrap_or_default();
    ensure!(
        schema.starts_with("urn:confcast:schema:ChannelConfiguration:") && schema.len() == 53,
        "{schema}"
    );
    let (committed, expiration) = (time(&event["time"])?, time(&event["expiration"])?);
    ensure!(before <= committed && committed <= after, "{committed}");
    ensure!(
        !event["expiration"]
            .as_str()
            .unwrap_or_default()
            .contains('.'),
        "whole seconds"
    );
    let life = (expiration - before).num_milliseconds();
    ensure!(
        (59_000..=62_000).contains(&life),
        "60 s, cut to whole seconds: {life} ms"
    );

    let crc = created.json()?["crc"].clone();
    assert_eq!(
        event["data"],
        json!({
            "collection": CHANNELS, "op": "Create", "id": id, "configData": channel, "metadata": {"ttlInSeconds": "60"},
            "pubSubName": "pubsub-config", "crc": crc, "revision": 1, "epoch": epoch.to_string(), "lastSet": 0,
            "correlationId": "order-66",
        })
    );
    Ok(())
}

/// With a data limit of 0 only ids travel: the minimal body of the source document (requirement A11),
/// and the value is fetched.
#[tokio::test]
async fn ids_only() -> Outcome {
    let mut testbed = Testbed::set(StoreKind::Embedded, Transport::Dapr).await?;
    let publisher = std::mem::replace(&mut testbed.publisher, Service::publisher()?);
    testbed.publisher = publisher.with("AURA_CONFIGURATION_EVENT_DATA_LIMIT_BYTES", "0");
    testbed.publisher.start().await?;
    testbed.start_subscribers().await?;
    testbed
        .publisher_sidecar
        .as_mut()
        .context("a sidecar")?
        .start()
        .await?;
    testbed
        .publisher
        .api()
        .create(FREE, &json!({"id": "a", "x": 1}))
        .await?
        .expect(201)?;
    testbed.until_same(FREE, "a").await?;
    let event = stream(testbed.redis.as_ref().context("a redis")?, FREE)
        .await?
        .into_iter()
        .next()
        .context("an event")?;
    ensure!(event["data"].get("configData").is_none(), "{event}");
    let status = testbed.subscribers[0]
        .api()
        .get("/v1/status")
        .await?
        .json()?;
    ensure!(status["events"]["fetched"] == json!(1), "{status}");
    Ok(())
}

/// A sidecar drops what has expired. The value still arrives, by the next load.
#[tokio::test]
async fn an_expired_event_is_not_applied() -> Outcome {
    let mut testbed = Testbed::set(StoreKind::Embedded, Transport::Dapr).await?;
    let publisher = std::mem::replace(&mut testbed.publisher, Service::publisher()?);
    testbed.publisher = publisher.with("AURA_CONFIGURATION_EVENT_TTL_SECONDS", "1");
    testbed.publisher.start().await?;
    for subscriber in &mut testbed.subscribers {
        subscriber.start().await?;
    }
    testbed
        .publisher_sidecar
        .as_mut()
        .context("a sidecar")?
        .start()
        .await?;
    testbed
        .publisher
        .api()
        .create(FREE, &json!({"id": "late"}))
        .await?
        .expect(201)?;
    let redis = testbed.redis.as_ref().context("a redis")?;
    let expiration = eventually("the event is in the stream", async || {
        time(&stream(redis, FREE).await?.first().context("no event")?["expiration"])
    })
    .await?;
    eventually("it expires", async || {
        ensure!(Utc::now() > expiration, "not yet");
        Ok(())
    })
    .await?;
    let sidecar = &mut testbed.sidecars[0];
    sidecar.start().await?;
    eventually("the sidecar drops it", async || {
        ensure!(
            sidecar.output().contains("dropping expired pub/sub event"),
            "not yet"
        );
        Ok(())
    })
    .await?;
    let subscriber = &mut testbed.subscribers[0];
    subscriber.api().document(FREE, "late").await?.expect(404)?;
    subscriber.stop().await?;
    subscriber.start().await?;
    testbed.subscribers[0]
        .api()
        .document(FREE, "late")
        .await?
        .expect(200)?;
    Ok(())
}

/// What can never succeed is dropped and does not come again; the next good event still arrives.
#[tokio::test]
async fn poison_is_dropped_once() -> Outcome {
    let testbed = Testbed::start(StoreKind::Embedded, Transport::Dapr).await?;
    let (redis, sidecar) = (
        testbed.redis.as_ref().context("a redis")?,
        testbed.publisher_sidecar.as_ref().context("a sidecar")?,
    );
    let poison = [
        json!({"collection": FREE, "op": "Replace", "id": "a"}),
        json!({"collection": FREE, "op": "Create", "id": 7}),
        json!({"collection": FREE, "op": "Create", "id": "a", "revision": "first", "epoch": "x"}),
        json!({"collection": FREE, "op": "Create", "id": "a", "configData": [1]}),
        json!("not an object"),
    ];
    for body in &poison {
        ensure!(
            sidecar
                .publish(FREE, Some(60), "application/json", body.to_string())
                .await?
                == 204
        );
    }
    let not_json = sidecar.publish(FREE, Some(60), "text/plain", "<config/>".to_owned());
    ensure!(not_json.await? == 204);
    let dropped = poison.len() + 1;
    // Harmless: a collection that is not followed, or none at all, is only a warning (requirement
    // A25).
    for body in [
        json!({"collection": "Elsewhere", "op": "Create", "id": "a"}),
        json!({"op": "Create", "id": "a"}),
    ] {
        ensure!(
            sidecar
                .publish(FREE, Some(60), "application/json", body.to_string())
                .await?
                == 204
        );
    }
    testbed
        .publisher
        .api()
        .create(FREE, &json!({"id": "good"}))
        .await?
        .expect(201)?;
    testbed.until_same(FREE, "good").await?;
    eventually(
        "each replica's sidecar has put each of them into the dead letters",
        async || {
            let dead = stream(redis, DEAD_LETTERS).await?.len();
            ensure!(dead == 2 * dropped, "{dead} dead letters");
            Ok(())
        },
    )
    .await?;
    for subscriber in &testbed.subscribers {
        let status = subscriber.api().get("/v1/status").await?.json()?;
        ensure!(status["events"]["dropped"] == json!(dropped), "{status}");
        ensure!(
            status["events"]["ignored"] == json!(2) && status["events"]["retried"] == json!(0),
            "{status}"
        );
        ensure!(
            status["drops"]
                .as_array()
                .is_some_and(|drops| drops.len() == dropped),
            "{status}"
        );
    }
    Ok(())
}

/// What no sidecar would deliver, posted straight to the route: always 200, and the body decides.
#[tokio::test]
async fn every_poison_body_has_its_answer() -> Outcome {
    let testbed = Testbed::start(StoreKind::Embedded, Transport::Local).await?;
    let subscriber = testbed.subscribers[0].api();
    let event = |data: Value| {
        json!({"specversion": "1.0", "id": "1", "source": "test", "type": "com.dapr.event.sent",
               "datacontenttype": "application/json", "data": data})
        .to_string()
    };
    let large = event(
        json!({"collection": FREE, "op": "Create", "id": "a", "configData": {"x": "x".repeat(5 << 20)}}),
    );
    let good = json!({"collection": FREE, "op": "Create", "id": "a"});
    for (what, media_type, body, status) in [
        ("not JSON", CLOUD_EVENT, "{".to_owned(), "DROP"),
        ("not a CloudEvent", CLOUD_EVENT, good.to_string(), "DROP"),
        (
            "no CloudEvent at all",
            "application/json",
            good.to_string(),
            "DROP",
        ),
        ("an empty body", CLOUD_EVENT, String::new(), "DROP"),
        (
            "a batch",
            "application/cloudevents-batch+json",
            format!("[{}]", event(good.clone())),
            "DROP",
        ),
        (
            "wrong types",
            CLOUD_EVENT,
            event(json!({"collection": FREE, "op": "Create", "id": {}})),
            "DROP",
        ),
        ("5 MiB", CLOUD_EVENT, large, "DROP"),
        (
            "an unknown op",
            CLOUD_EVENT,
            event(json!({"collection": FREE, "op": "Upsert", "id": "a"})),
            "DROP",
        ),
        (
            "an unknown collection",
            CLOUD_EVENT,
            event(json!({"collection": "X", "op": "Create", "id": "a"})),
            "SUCCESS",
        ),
    ] {
        let answer = subscriber
            .send(Method::POST, EVENTS, &[("content-type", media_type)], body)
            .await;
        let answer = answer
            .with_context(|| what.to_owned())?
            .expect(200)
            .with_context(|| what.to_owned())?;
        ensure!(
            answer.json()?["status"] == status,
            "{what}: {}",
            answer.body
        );
        ensure!(
            status != "DROP" || answer.json()?["error"].is_string(),
            "{what}: {}",
            answer.body
        );
    }
    testbed
        .publisher
        .api()
        .create(FREE, &json!({"id": "good"}))
        .await?
        .expect(201)?;
    testbed.until_same(FREE, "good").await
}

#[tokio::test]
async fn scopes_say_who_may_publish_and_subscribe() -> Outcome {
    let testbed = Testbed::start(StoreKind::Embedded, Transport::Dapr).await?;
    let body = || json!({"collection": FREE, "op": "Delete", "id": "a"}).to_string();
    let publisher = testbed.publisher_sidecar.as_ref().context("a sidecar")?;
    let status = testbed.sidecars[0]
        .publish(CHANNELS, None, "application/json", body())
        .await?;
    ensure!(status == 403, "a subscriber published: {status}");
    let status = publisher
        .publish("SomethingElse", None, "application/json", body())
        .await?;
    ensure!(
        status == 403,
        "a topic nobody allowed was published: {status}"
    );
    let metadata = testbed.sidecars[0].metadata().await?;
    let topics = metadata["subscriptions"]
        .as_array()
        .context("subscriptions")?;
    ensure!(topics.len() == COLLECTIONS.split(',').count(), "{metadata}");
    ensure!(
        topics
            .iter()
            .all(|topic| topic["deadLetterTopic"] == DEAD_LETTERS),
        "{metadata}"
    );
    Ok(())
}

/// A subscriber may reach its publisher through a sidecar, tokens and all.
#[tokio::test]
async fn a_publisher_behind_an_invocation_url() -> Outcome {
    let mut testbed = Testbed::set(StoreKind::Embedded, Transport::Dapr).await?;
    testbed.publisher = std::mem::replace(&mut testbed.publisher, Service::publisher()?)
        .with("DAPR_API_TOKEN", "s3cret");
    testbed.publisher.start().await?;
    let sidecar = testbed.publisher_sidecar.as_mut().context("a sidecar")?;
    sidecar.set_api_token("s3cret");
    sidecar.start().await?;
    testbed
        .publisher
        .api()
        .create(FREE, &json!({"id": "a"}))
        .await?
        .expect(201)?;
    let url = sidecar.invocation_url(sidecar::PUBLISHER);
    let subscriber = |token: &str| {
        let subscriber = Service::subscriber("replica-1", std::slice::from_ref(&url))?
            .with("DAPR_API_TOKEN", token);
        anyhow::Ok(subscriber.with("AURA_CONFIGURATION_COLLECTIONS", FREE))
    };
    let mut with_token = subscriber("s3cret")?;
    with_token.start().await?;
    with_token.api().document(FREE, "a").await?.expect(200)?;
    ensure!(
        !with_token.output().contains("s3cret"),
        "{}",
        with_token.output()
    );
    let mut without = subscriber("")?;
    without.launch()?;
    eventually("it is refused", async || {
        ensure!(without.api().get("/v1/status").await?.body.contains("401"));
        Ok(())
    })
    .await
}

/// A publisher that follows the source document and counts no revisions drives the subscriber
/// (requirement A10 to A14, A20 to A23): GetAll, GetById, and plain events through its sidecar.
#[tokio::test]
async fn a_publisher_without_revisions() -> Outcome {
    let old = OldPublisher::start().await?;
    let redis = Redis::start().await?;
    let mut sidecar = Sidecar::new(sidecar::PUBLISHER, old.port, "publisher", &redis)?;
    let subscriber = Service::subscriber("replica-1", &[format!("http://127.0.0.1:{}", old.port)])?;
    let subscriber = subscriber.with("AURA_CONFIGURATION_COLLECTIONS", FREE);
    let mut subscriber = subscriber
        .with("AURA_CONFIGURATION_EVENTS_MANAGER", "DAPR")
        .with("AURA_CONFIGURATION_CHECK_IN_SECONDS", "3600");
    let mut listener = Sidecar::new(sidecar::SUBSCRIBER, subscriber.port(), "replica-1", &redis)?;

    old.set("first", Some(numbered(1)));
    subscriber.start().await?;
    listener.start().await?;
    listener.until_subscribed().await?;
    sidecar.start().await?;
    let api = subscriber.api();
    let holds = async |id: &str, expected: Option<Value>| {
        eventually(&format!("{id} is {expected:?}"), async || {
            let held = api.document(FREE, id).await?;
            let config = if held.status == 200 {
                Some(held.json()?["configData"].clone())
            } else {
                None
            };
            ensure!(config == expected, "{} {}", held.status, held.body);
            Ok(())
        })
        .await
    };
    let send = async |op: &str, id: &str, config: Option<Value>| {
        let mut data = json!({"collection": FREE, "op": op, "id": id, "metadata": {"ttlInSeconds": "60"},
                              "pubSubName": "pubsub-config", "crc": ""});
        if let Some(config) = config {
            data["configData"] = config;
        }
        let status = sidecar
            .publish(FREE, Some(60), "application/json", data.to_string())
            .await?;
        ensure!(status == 204, "{status}");
        anyhow::Ok(())
    };
    holds("first", Some(numbered(1))).await?;
    let status = api.get("/v1/status").await?.json()?;
    ensure!(
        status["collections"][0]["reason"] == "unversioned" && status["state"] == "current",
        "{status}"
    );

    // The value comes along: no call is made for it.
    send("Create", "second", Some(numbered(2))).await?;
    holds("second", Some(numbered(2))).await?;
    // Only the id comes: it is fetched.
    old.set("first", Some(numbered(3)));
    send("Update", "first", None).await?;
    holds("first", Some(numbered(3))).await?;
    // Deleted here and there.
    send("Delete", "second", None).await?;
    holds("second", None).await?;
    // It cannot be fetched, so everything is loaded.
    old.set("third", Some(numbered(4)));
    send("Update", "vanished", None).await?;
    holds("third", Some(numbered(4))).await?;
    // Not held here, so everything is loaded.
    old.set("fourth", Some(numbered(5)));
    send("Delete", "never-seen", None).await?;
    holds("fourth", Some(numbered(5))).await?;
    // Expired, as the envelope says: not applied.
    let expired = json!({"specversion": "1.0", "id": "x", "source": "s", "type": "t", "datacontenttype": "application/json",
        "expiration": "2020-01-01T00:00:00Z", "data": {"collection": FREE, "op": "Create", "id": "late", "configData": {}}});
    let headers = [("content-type", CLOUD_EVENT)];
    let answer = api
        .send(Method::POST, EVENTS, &headers, expired.to_string())
        .await?
        .expect(200)?;
    ensure!(answer.json()?["status"] == "SUCCESS", "{}", answer.body);
    api.document(FREE, "late").await?.expect(404)?;
    Ok(())
}

/// A configuration API as the source document has it: records without revisions, GetAll and GetById
/// (requirement A17).
struct OldPublisher {
    port: u16,
    documents: Arc<std::sync::Mutex<std::collections::BTreeMap<String, Value>>>,
    server: actix_web::dev::ServerHandle,
    running: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl OldPublisher {
    async fn start() -> anyhow::Result<Self> {
        use actix_web::{App, HttpResponse, HttpServer, web};
        let documents: Arc<std::sync::Mutex<std::collections::BTreeMap<String, Value>>> =
            Arc::default();
        let held = web::Data::from(documents.clone());
        type Held = web::Data<std::sync::Mutex<std::collections::BTreeMap<String, Value>>>;
        async fn all(held: Held) -> HttpResponse {
            let held = held.lock().expect("no poison");
            let records = held
                .iter()
                .map(|(id, config)| json!({"id": id, "configData": config}));
            HttpResponse::Ok().json(records.collect::<Vec<_>>())
        }
        async fn by_id(held: Held, id: web::Path<String>) -> HttpResponse {
            match held.lock().expect("no poison").get(id.as_str()) {
                Some(config) => {
                    HttpResponse::Ok().json(json!({"id": id.as_str(), "configData": config}))
                }
                None => HttpResponse::NotFound().finish(),
            }
        }
        let port = free_port()?;
        let server = HttpServer::new(move || {
            App::new()
                .app_data(held.clone())
                .route(
                    &format!("/v1/collections/{FREE}/documents"),
                    web::get().to(all),
                )
                .route(
                    &format!("/v1/collections/{FREE}/documents/{{id}}"),
                    web::get().to(by_id),
                )
        })
        .workers(1)
        .disable_signals()
        .bind(("127.0.0.1", port))?
        .run();
        let handle = server.handle();
        #[expect(clippy::disallowed_methods, reason = "ended on drop, with the test")]
        let running = tokio::spawn(server);
        Ok(Self {
            port,
            documents,
            server: handle,
            running,
        })
    }

    fn set(&self, id: &str, config: Option<Value>) {
        let mut documents = self.documents.lock().expect("no poison");
        match config {
            Some(config) => documents.insert(id.to_owned(), config),
            None => documents.remove(id),
        };
    }
}

impl Drop for OldPublisher {
    fn drop(&mut self) {
        drop(self.server.stop(false));
        self.running.abort();
    }
}
