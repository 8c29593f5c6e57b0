//! A publisher in the process of the test, and the events that its subscriber received.

use std::{net::TcpListener, time::Duration};

use actix_web::{App, HttpResponse, HttpServer, web};
use contract::{Change, FeedPage};
use publisher::{
    Publisher, Settings,
    embed::{ChangeRequest, Changes, Context},
};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::timeout};

pub(super) use super::wire::Answer;
use super::{Outcome, wire};

pub(super) const SKILLS: &str = "Skills";
pub(super) const AGENTS: &str = "Agents";

/// A running publisher, as a test uses it.
pub(super) struct Testbed {
    pub(super) changes: Changes,
    url: String,
    client: reqwest::Client,
    events: mpsc::UnboundedReceiver<Value>,
}

/// Runs a publisher with these additional options for as long as the test runs.
pub(super) async fn with_publisher(
    options: &[&str],
    test: impl AsyncFnOnce(&mut Testbed) -> Outcome,
) -> Outcome {
    let folder = tempfile::tempdir()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let subscriber = format!("http://{}", listener.local_addr()?);
    let store = format!("file:{}", folder.path().display());
    let collections = format!("{SKILLS},{AGENTS}");
    let mut all = vec!["--listen", "127.0.0.1:0", "--events-manager", "LOCAL"];
    if !options.contains(&"--local-subscribers") {
        all.extend(["--local-subscribers", &subscriber]);
    }
    // A test may name its own, or leave them to the folder of schemas with an empty text.
    if !options.contains(&"--collections") {
        all.extend(["--collections", &collections]);
    }
    if !options.contains(&"--store-url") {
        all.extend(["--store-url", &store]);
    }
    all.extend(options);
    let publisher = Publisher::build(Settings::read(&all)?).await?;
    let url = publisher
        .address()
        .map(|address| format!("http://{address}"))
        .unwrap_or_default();
    let (sender, events) = mpsc::unbounded_channel();
    let mut testbed = Testbed {
        changes: publisher.changes(),
        url,
        client: e2e::http().build().expect("a client"),
        events,
    };

    let server = subscriber_of(sender, listener)?;
    let mut outcome = Ok(());
    publisher
        .run(async {
            tokio::select! {
                ended = server => outcome = ended.map_err(anyhow::Error::from),
                tested = test(&mut testbed) => outcome = tested,
            }
        })
        .await?;
    outcome
}

/// A subscriber that accepts every event of both collections.
pub(super) fn subscriber_of(
    events: mpsc::UnboundedSender<Value>,
    listener: TcpListener,
) -> std::io::Result<actix_web::dev::Server> {
    let server = HttpServer::new(move || {
        let events = events.clone();
        let take = move |body: web::Bytes| {
            let event = contract::canonical::value(&body).expect("json");
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

impl Testbed {
    /// The address of its API.
    pub(super) fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// As [`wire::raw`].
    pub(super) async fn raw(&self, request: &str) -> anyhow::Result<String> {
        wire::raw(self.address(), request).await
    }

    /// As [`wire::ask`].
    pub(super) async fn ask(
        &self,
        line: &str,
        headers: &str,
        body: &str,
    ) -> anyhow::Result<Answer> {
        wire::ask(self.address(), line, headers, body).await
    }

    /// Waits for the next event.
    pub(super) async fn event(&mut self) -> anyhow::Result<Value> {
        let event = timeout(Duration::from_secs(30), self.events.recv()).await?;
        event.ok_or_else(|| anyhow::anyhow!("the subscriber has ended"))
    }

    /// An event that was received already.
    pub(super) fn another_event(&mut self) -> Option<Value> {
        self.events.try_recv().ok()
    }

    /// All changes in the log of a collection.
    pub(super) async fn log(&self, collection: &str) -> anyhow::Result<Vec<Change>> {
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

    /// Sends a request to the API, with these headers; the status and the text of the answer.
    pub(super) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> anyhow::Result<(u16, String)> {
        let url = format!("{}{path}", self.url);
        let mut request = self.client.request(method.parse()?, url);
        if !body.is_empty() {
            let kind = if method == "PATCH" {
                "merge-patch+json"
            } else {
                "json"
            };
            request = request.header("content-type", format!("application/{kind}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.body(body.to_owned()).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    /// A document as HTTP returns it; `None` when it does not exist.
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

pub(super) fn create(collection: &str, id: &str) -> ChangeRequest {
    ChangeRequest::create(collection, id, &json!({"made": "by a test"})).expect("a change request")
}

pub(super) fn context() -> Context {
    Context::default()
        .with_correlation_id("order-66")
        .and_then(|context| context.with_user_id("ada"))
        .and_then(|context| context.with_organisation_id("hectare"))
        .expect("valid")
}
