//! A publisher in the process of the test, and the events that its subscriber received.

use std::{net::TcpListener, time::Duration};

use actix_web::{App, HttpResponse, HttpServer, web};
use contract::{Change, FeedPage};
use publisher::{
    Publisher, Settings,
    embed::{ChangeRequest, Changes, Context},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
    time::timeout,
};

use super::Outcome;

pub(super) const SKILLS: &str = "Skills";
pub(super) const AGENTS: &str = "Agents";

/// An answer that pauses for this long has ended.
const QUIET: Duration = Duration::from_secs(3);

/// One answer, as it came.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn read(text: &str) -> anyhow::Result<Self> {
        let (head, body) = text
            .split_once("\r\n\r\n")
            .ok_or_else(|| anyhow::anyhow!("no answer: {text:?}"))?;
        Ok(Self {
            status: head.split(' ').nth(1).unwrap_or_default().parse()?,
            head: head.to_owned(),
            body: body.to_owned(),
        })
    }

    /// All lines of a header, joined.
    pub(super) fn header(&self, name: &str) -> Option<String> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let values: Vec<_> = lines
            .filter(|(known, _value)| known.eq_ignore_ascii_case(name))
            .map(|(_known, value)| value)
            .collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    /// The last part of the type of a problem; empty for another answer.
    pub(super) fn problem(&self) -> String {
        let problem: Value = serde_json::from_str(&self.body).unwrap_or_default();
        let kind = problem["type"].as_str().unwrap_or_default();
        kind.trim_start_matches("urn:confcast:problem:").to_owned()
    }
}

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
    let mut all = vec![
        "--store-url",
        &store,
        "--collections",
        &collections,
        "--listen",
        "127.0.0.1:0",
        "--events-manager",
        "LOCAL",
        "--local-subscribers",
        &subscriber,
    ];
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
        client: reqwest::Client::new(),
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
fn subscriber_of(
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
    /// Sends a request as it is written, with its final blank line and body, and gives everything
    /// that comes until the connection ends or nothing more comes for `QUIET`.
    pub(super) async fn raw(&self, request: &str) -> anyhow::Result<String> {
        let address = self.url.trim_start_matches("http://");
        let mut connection = tokio::net::TcpStream::connect(address).await?;
        connection.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        while let Ok(read) = timeout(QUIET, connection.read_buf(&mut answer)).await {
            if read? == 0 {
                break;
            }
        }
        Ok(String::from_utf8(answer)?)
    }

    /// Sends one request over HTTP/1.1 and gives the whole answer. The headers end with CRLF each.
    pub(super) async fn ask(
        &self,
        line: &str,
        headers: &str,
        body: &str,
    ) -> anyhow::Result<Answer> {
        let length = body.len();
        let text = self
            .raw(&format!(
                "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
            ))
            .await?;
        Answer::read(&text)
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
