//! Events that the publisher posts itself (`LOCAL`), to replicas that checked in with a credential.

use std::net::TcpListener;

use actix_web::{App, HttpResponse, HttpServer, web};
use anyhow::{Context, ensure};
use auth::SecretToken;
use contract::token::CreatedToken;
use publisher::{Publisher, Settings};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::Outcome;

/// A replica that takes every event of A.
struct Replica {
    url: String,
    events: mpsc::UnboundedReceiver<Value>,
}

impl Replica {
    /// The replica, and the server that has to run for it.
    fn new() -> anyhow::Result<(Self, actix_web::dev::Server)> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}", listener.local_addr()?);
        let (sender, events) = mpsc::unbounded_channel();
        let server = HttpServer::new(move || {
            let sender = sender.clone();
            let take = move |body: web::Bytes| {
                let event = contract::canonical::value(&body).expect("json");
                drop(sender.send(event));
                async { HttpResponse::Ok().json(json!({"status": "SUCCESS"})) }
            };
            let topics =
                json!([{"pubsubname": "p", "topic": "A", "routes": {"default": "/events"}}]);
            let subscribe = move || std::future::ready(HttpResponse::Ok().json(&topics));
            App::new()
                .route("/dapr/subscribe", web::get().to(subscribe))
                .route("/events", web::post().to(take))
        });
        let server = server.workers(1).disable_signals().listen(listener)?.run();
        Ok((Self { url, events }, server))
    }

    /// The revision of the next event.
    async fn next(&mut self) -> anyhow::Result<Value> {
        let waited = std::time::Duration::from_secs(30);
        let event = tokio::time::timeout(waited, self.events.recv()).await?;
        let event = event.context("the replica has ended")?;
        Ok(event["data"]["revision"].clone())
    }
}

/// The API of the publisher.
struct Api {
    url: String,
    client: reqwest::Client,
    operator: SecretToken,
}

impl Api {
    async fn send(&self, line: &str, token: &str, body: Value) -> anyhow::Result<Value> {
        let (method, path) = line.split_once(' ').context("a method and a path")?;
        let request = self
            .client
            .request(method.parse()?, format!("{}{path}", self.url));
        let request = request
            .bearer_auth(token)
            .header("dapr-api-token", "shared");
        let request = if body.is_null() {
            request
        } else {
            request.json(&body)
        };
        let answer = request.send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "{line}: {status} {text}");
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    async fn create_token(&self, name: &str) -> anyhow::Result<CreatedToken> {
        let request = json!({"name": name, "grants": [{"role": "replica"}]});
        let created = self
            .send("POST /v1/tokens", self.operator.expose(), request)
            .await?;
        Ok(serde_json::from_value(created)?)
    }

    async fn check_in(&self, name: &str, token: &str, replica: &Replica) -> Outcome {
        let report = json!({"revision": 0, "known": 0, "state": "current"});
        let check_in = json!({
            "instance": name, "bootId": "b", "intervalMs": 60_000, "baseUrl": replica.url,
            "transport": "LOCAL", "collections": {"A": report},
        });
        self.send(&format!("PUT /v1/replicas/{name}"), token, check_in)
            .await?;
        Ok(())
    }

    async fn create_document(&self) -> Outcome {
        let line = "POST /v1/collections/A/documents";
        self.send(line, self.operator.expose(), json!({"v": 1}))
            .await?;
        Ok(())
    }
}

#[tokio::test]
async fn a_replica_whose_token_is_revoked_gets_no_further_event() -> Outcome {
    let folder = tempfile::tempdir()?;
    let operator = SecretToken::generate();
    let record = json!({
        "id": operator.hash().id(), "name": "ops", "hash": operator.hash(),
        "grants": [{"role": "operator"}, {"role": "writer"}, {"role": "replica"}],
        "createdAt": "2026-01-01T00:00:00Z", "createdBy": "test",
    });
    let file = folder.path().join("tokens");
    std::fs::write(&file, record.to_string())?;
    let publisher = Publisher::build(Settings::read(&[
        "--listen=127.0.0.1:0",
        "--events-manager=LOCAL",
        "--collections=A",
        "--app-api-token=shared",
        &format!("--store-url=file:{}", folder.path().display()),
        &format!("--tokens-file={}", file.display()),
    ])?)
    .await?;
    let address = publisher.address().context("an address")?;
    let api = Api {
        url: format!("http://{address}"),
        client: e2e::http().build()?,
        operator,
    };
    let (mut revoked, of_revoked) = Replica::new()?;
    let (mut other, of_other) = Replica::new()?;
    let test = async {
        let [one, two] = [
            api.create_token("one").await?,
            api.create_token("two").await?,
        ];
        api.check_in("revoked", &one.token, &revoked).await?;
        api.check_in("other", &two.token, &other).await?;
        api.create_document().await?;
        ensure!(revoked.next().await? == 1 && other.next().await? == 1);
        let revoke = format!("DELETE /v1/tokens/{}", one.info.id);
        api.send(&revoke, api.operator.expose(), Value::Null)
            .await?;
        // An event is one when all its deliveries have ended, so the other one has the last word.
        for revision in 2..5 {
            api.create_document().await?;
            ensure!(other.next().await? == revision);
        }
        ensure!(
            revoked.events.try_recv().is_err(),
            "an event after the revocation"
        );
        Ok(())
    };
    let mut outcome = Ok(());
    publisher
        .run(async {
            tokio::select! {
                ended = of_revoked => outcome = ended.map_err(anyhow::Error::from),
                ended = of_other => outcome = ended.map_err(anyhow::Error::from),
                tested = test => outcome = tested,
            }
        })
        .await?;
    outcome
}
