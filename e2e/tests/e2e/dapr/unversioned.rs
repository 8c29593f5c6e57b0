//! A subscriber behind sidecars whose publisher is reached by service invocation, or counts no
//! revisions.

use std::sync::Arc;

use anyhow::{Context, ensure};
use e2e::testbed::{
    FREE, StoreKind, Testbed, Transport, numbered,
    ports::free_port,
    redis::Redis,
    services::Service,
    sidecar::{self, Sidecar},
    wait::eventually,
};
use reqwest::Method;
use serde_json::{Value, json};

use super::{CLOUD_EVENT, EVENTS, Outcome};

/// A subscriber can reach its publisher through a sidecar, with its tokens.
#[tokio::test]
async fn a_replica_reaches_a_publisher_through_a_dapr_invocation_url() -> Outcome {
    let mut testbed = Testbed::prepare(StoreKind::Embedded, Transport::Dapr).await?;
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
    eventually("the value is refused", async || {
        ensure!(without.api().get("/v1/status").await?.body.contains("401"));
        Ok(())
    })
    .await
}

/// A publisher that follows the source document and counts no revisions updates the subscriber
/// (requirement A10 to A14, A20 to A23): GetAll, GetById, and plain events through its sidecar.
#[tokio::test]
async fn a_replica_follows_a_publisher_without_revisions() -> Outcome {
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

    // The value is included: the replica makes no call for it.
    send("Create", "second", Some(numbered(2))).await?;
    holds("second", Some(numbered(2))).await?;
    // Only the id is included: the replica fetches the value.
    old.set("first", Some(numbered(3)));
    send("Update", "first", None).await?;
    holds("first", Some(numbered(3))).await?;
    // The document is deleted at the publisher and in the replica.
    send("Delete", "second", None).await?;
    holds("second", None).await?;
    // The value cannot be fetched, so the replica loads everything.
    old.set("third", Some(numbered(4)));
    send("Update", "vanished", None).await?;
    holds("third", Some(numbered(4))).await?;
    // The replica does not hold the document, so it loads everything.
    old.set("fourth", Some(numbered(5)));
    send("Delete", "never-seen", None).await?;
    holds("fourth", Some(numbered(5))).await?;
    // The envelope says that the event has expired: it is not applied.
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

/// A configuration API as the source document specifies it: records without revisions, GetAll and
/// GetById (requirement A17).
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
