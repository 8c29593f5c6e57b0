//! A publisher in the test's own process, and what came to its only subscriber.

use std::{net::TcpListener, time::Duration};

use actix_web::{App, HttpResponse, HttpServer, web};
use contract::{Change as Record, FeedPage};
use publisher::{
    app::Publisher,
    embed::{Change, Changes, Context},
    settings::Settings,
};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::timeout};

use super::Outcome;

pub(super) const SKILLS: &str = "Skills";
pub(super) const AGENTS: &str = "Agents";

/// What a test works with.
pub(super) struct Stage {
    pub(super) changes: Changes,
    url: String,
    client: reqwest::Client,
    events: mpsc::UnboundedReceiver<Value>,
}

/// Runs a test for as long as the publisher runs, with these options besides.
pub(super) async fn with_publisher(
    options: &[&str],
    test: impl AsyncFnOnce(&mut Stage) -> Outcome,
) -> Outcome {
    let (folder, listener) = (tempfile::tempdir()?, TcpListener::bind("127.0.0.1:0")?);
    let subscriber = format!("http://{}", listener.local_addr()?);
    let (store, collections) = (
        format!("file:{}", folder.path().display()),
        format!("{SKILLS},{AGENTS}"),
    );
    let mut all = vec![
        "--store-url",
        &store,
        "--collections",
        &collections,
        "--listen",
        "127.0.0.1:0",
    ];
    all.extend([
        "--events-manager",
        "LOCAL",
        "--local-subscribers",
        &subscriber,
    ]);
    all.extend(options);
    let publisher = Publisher::build(Settings::read(&all)?).await?;
    let url = publisher
        .address()
        .map(|address| format!("http://{address}"))
        .unwrap_or_default();
    let (sender, events) = mpsc::unbounded_channel();
    let mut stage = Stage {
        changes: publisher.changes(),
        url,
        client: reqwest::Client::new(),
        events,
    };

    let server = subscriber_of(sender, listener)?;
    let mut outcome = Ok(());
    publisher
        .run(async {
            tokio::select! {
                ended = server => outcome = ended.map_err(anyhow::Error::from),
                tested = test(&mut stage) => outcome = tested,
            }
        })
        .await?;
    outcome
}

/// A subscriber that takes every event of both collections.
fn subscriber_of(
    events: mpsc::UnboundedSender<Value>,
    listener: TcpListener,
) -> std::io::Result<actix_web::dev::Server> {
    let server = HttpServer::new(move || {
        let events = events.clone();
        let take = move |body: web::Bytes| {
            let event: Value = serde_json::from_slice(&body).expect("json");
            drop(events.send(event));
            async { HttpResponse::Ok().json(json!({"status": "SUCCESS"})) }
        };
        let routes = json!({"default": "/events"});
        let topics = [SKILLS, AGENTS]
            .map(|topic| json!({"pubsubname": "pubsub-config", "topic": topic, "routes": routes}));
        let topics = json!(topics);
        App::new()
            .route(
                "/dapr/subscribe",
                web::get().to(move || std::future::ready(HttpResponse::Ok().json(&topics))),
            )
            .route("/events", web::post().to(take))
    });
    Ok(server.workers(1).disable_signals().listen(listener)?.run())
}

impl Stage {
    /// The next event that comes.
    pub(super) async fn event(&mut self) -> anyhow::Result<Value> {
        let event = timeout(Duration::from_secs(30), self.events.recv()).await?;
        event.ok_or_else(|| anyhow::anyhow!("the subscriber has ended"))
    }

    /// An event that has come already.
    pub(super) fn another_event(&mut self) -> Option<Value> {
        self.events.try_recv().ok()
    }

    /// All that is in the log of a collection.
    pub(super) async fn log(&self, collection: &str) -> anyhow::Result<Vec<Record>> {
        let url = format!(
            "{}/v1/collections/{collection}/changes?since=0&limit=1000",
            self.url
        );
        let page = self
            .client
            .get(url)
            .send()
            .await?
            .error_for_status()?
            .text()
            .await?;
        Ok(serde_json::from_str::<FeedPage>(&page)?.items)
    }

    /// What HTTP reads of a document.
    pub(super) async fn read(&self, collection: &str, id: &str) -> anyhow::Result<Option<Value>> {
        let url = format!("{}/v1/collections/{collection}/documents/{id}", self.url);
        let answer = self.client.get(url).send().await?;
        if answer.status() == 404 {
            Ok(None)
        } else {
            Ok(Some(answer.error_for_status()?.json().await?))
        }
    }
}

pub(super) fn create(collection: &str, id: &str) -> Change {
    Change::create(collection, id, &json!({"made": "by a test"})).expect("a change")
}

pub(super) fn context() -> Context {
    let context = Context::default()
        .with_correlation_id("order-66")
        .and_then(|it| it.with_user_id("ada"));
    context
        .and_then(|it| it.with_organisation_id("hectare"))
        .expect("valid")
}
