//! A publisher whose MongoDB is away, frozen or dropped, with a real server.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use e2e::testbed::{mongod::Mongod, wait::eventually};
use futures_util::future::join_all;
use mongodb::bson::{Document, doc};
use nix::sys::signal::Signal;
use publisher::{Publisher, Settings};
use serde_json::json;
use tokio::{sync::oneshot, time::timeout};

use super::{Outcome, testbed::SKILLS};

async fn publisher(server: &Mongod, database: &str) -> anyhow::Result<(Publisher, String)> {
    publisher_with(server, database, &[]).await
}

async fn publisher_with(
    server: &Mongod,
    database: &str,
    more: &[&str],
) -> anyhow::Result<(Publisher, String)> {
    let store = server.url(database);
    let fixed = [
        "--store-url",
        &store,
        "--collections",
        SKILLS,
        "--listen",
        "127.0.0.1:0",
        "--events-enabled",
        "false",
    ];
    let publisher = Publisher::build(Settings::read(&[&fixed, more].concat())?).await?;
    let address = publisher.address().context("an address")?;
    Ok((publisher, format!("http://{address}")))
}

/// Runs a publisher for as long as the test runs.
async fn run(publisher: Publisher, test: impl Future<Output = Outcome>) -> Outcome {
    let mut outcome = Ok(());
    publisher.run(async { outcome = test.await }).await?;
    outcome
}

struct Client(reqwest::Client, String);

impl Client {
    fn new(url: String) -> Self {
        Self(e2e::http().build().expect("a client"), url)
    }

    async fn get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        let answer = self.0.get(format!("{}{path}", self.1)).send().await?;
        let status = answer.status().as_u16();
        ensure!(
            (status == 503) == answer.headers().contains_key("retry-after"),
            "a 503 says when to try again"
        );
        Ok((status, answer.text().await?))
    }

    async fn create(&self, id: &str) -> anyhow::Result<u16> {
        let url = format!("{}/v1/collections/{SKILLS}/documents", self.1);
        let answer = self.0.post(url).json(&json!({"id": id})).send().await?;
        Ok(answer.status().as_u16())
    }
}

const DOCUMENT: &str = "/v1/collections/Skills/documents/a";
const LIST: &str = "/v1/collections/Skills/documents";

#[tokio::test]
async fn a_publisher_that_starts_before_its_database_waits_and_is_not_ready() -> Outcome {
    let mut server = Mongod::start().await?;
    server.kill()?;
    let (waiting, url) = publisher(&server, "late").await?;
    let client = Client::new(url);
    run(waiting, async {
        ensure!(client.get("/healthz").await?.0 == 204);
        let (status, problem) = client.get("/readyz").await?;
        ensure!(
            status == 503 && problem.contains("not open yet"),
            "{problem}"
        );
        for path in [DOCUMENT, LIST, "/v1/collections", "/v1/snapshot"] {
            ensure!(client.get(path).await?.0 == 503, "{path}");
        }
        ensure!(client.create("a").await? == 503);
        server.restart().await?;
        eventually("the publisher is ready", async || {
            ensure!(client.get("/readyz").await?.0 == 204);
            Ok(())
        })
        .await?;
        ensure!(client.create("a").await? == 201);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_publisher_that_starts_while_the_set_has_no_primary_waits_and_says_so() -> Outcome {
    let server = Mongod::start().await?;
    server.step_down().await?;
    let (waiting, url) = publisher(&server, "headless-set").await?;
    let client = Client::new(url);
    run(waiting, async {
        ensure!(client.get("/healthz").await?.0 == 204);
        let (status, problem) = client.get("/readyz").await?;
        ensure!(
            status == 503 && problem.contains("not open yet") && problem.contains("NoPrimary"),
            "{problem}"
        );
        ensure!(client.create("a").await? == 503);
        server.elect().await?;
        eventually("the publisher is ready", async || {
            ensure!(client.get("/readyz").await?.0 == 204);
            Ok(())
        })
        .await?;
        ensure!(client.create("a").await? == 201);
        // The same while it runs.
        server.step_down().await?;
        ensure!(client.create("b").await? == 503);
        ensure!(client.get("/healthz").await?.0 == 204);
        eventually("the publisher is not ready", async || {
            ensure!(client.get("/readyz").await?.0 == 503);
            Ok(())
        })
        .await?;
        server.elect().await?;
        eventually("the publisher is ready again", async || {
            ensure!(client.get("/readyz").await?.0 == 204);
            Ok(())
        })
        .await?;
        ensure!(client.create("b").await? == 201);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_token_counts_at_every_publisher_of_the_store_within_seconds() -> Outcome {
    /// A look a second, and what the machine of the test takes.
    const SOON: Duration = Duration::from_secs(5);
    let server = Mongod::start().await?;
    let asking = ["--anonymous", "loopback"];
    let (one, url) = publisher_with(&server, "tokens", &asking).await?;
    let (other, other_url) = publisher_with(&server, "tokens", &asking).await?;
    let tokens = format!("{url}/v1/tokens");
    let Client(client, _url) = Client::new(url.clone());
    let status = async |token: &str| {
        let heads = client.get(format!("{other_url}/v1/collections"));
        anyhow::Ok(heads.bearer_auth(token).send().await?.status().as_u16())
    };
    run(one, async {
        run(other, async {
            let request = json!({"name": "a", "grants": [{"role": "reader"}]});
            let answer = client.post(&tokens).json(&request).send().await?;
            let created: serde_json::Value = serde_json::from_str(&answer.text().await?)?;
            let token = created["token"].as_str().context("a token")?;
            let id = created["info"]["id"].as_str().context("an id")?;
            let begun = Instant::now();
            eventually("the other publisher knows the token", async || {
                ensure!(status(token).await? == 200);
                Ok(())
            })
            .await?;
            ensure!(begun.elapsed() < SOON, "{:?}", begun.elapsed());

            let revoked = client.delete(format!("{tokens}/{id}")).send().await?;
            ensure!(revoked.status().as_u16() == 204, "{revoked:?}");
            let begun = Instant::now();
            eventually("the other publisher refuses the token", async || {
                ensure!(status(token).await? == 401);
                Ok(())
            })
            .await?;
            ensure!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
            Ok(())
        })
        .await
    })
    .await
}

/// As deep as JSON is read at all.
#[tokio::test]
async fn the_deepest_document_is_stored_and_read_back() -> Outcome {
    let server = Mongod::start().await?;
    let (running, url) = publisher(&server, "deep").await?;
    let client = Client::new(url);
    let levels = contract::canonical::MAX_DEPTH;
    let deep = format!("{}1{}", r#"{"n":"#.repeat(levels), "}".repeat(levels));
    run(running, async {
        for condition in ["if-none-match", "if-match"] {
            let put = client.0.put(format!("{}{DOCUMENT}", client.1));
            let put = put.header(condition, "*");
            let put = put.header("content-type", "application/json");
            let answer = put.body(deep.clone()).send().await?;
            ensure!(answer.status().is_success(), "{}", answer.text().await?);
        }
        for path in [
            DOCUMENT.to_owned(),
            LIST.to_owned(),
            format!("{LIST}?revision=1"),
            "/v1/snapshot".to_owned(),
        ] {
            let (status, body) = client.get(&path).await?;
            ensure!(status == 200 && body.contains(&deep), "{path}: {body}");
        }
        let (status, history) = client.get(&format!("{DOCUMENT}/history")).await?;
        ensure!(status == 200 && history.contains("\"diff\""), "{history}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_waiting_does_not_mend_ends_the_start_with_the_reason() -> Outcome {
    let server = Mongod::start().await?;
    let (before, _url) = publisher(&server, "format").await?;
    run(before, async { Ok(()) }).await?;
    let meta = server
        .database("format")
        .await?
        .collection::<Document>("_meta");
    meta.update_one(doc! {}, doc! { "$set": { "format": 1_i64 } })
        .await?;
    let error = publisher(&server, "format")
        .await
        .err()
        .context("an error")?;
    ensure!(
        format!("{error:#}").contains("format of the store is 1"),
        "{error:#}"
    );
    Ok(())
}

#[tokio::test]
async fn a_dropped_database_is_unavailable_and_never_empty() -> Outcome {
    let server = Mongod::start().await?;
    for what in ["database", "_meta", "_heads"] {
        let name = format!("dropped{what}");
        let (running, url) = publisher(&server, &name).await?;
        let client = Client::new(url);
        let database = server.database(&name).await?;
        run(running, async {
            ensure!(client.create("a").await? == 201 && client.get(DOCUMENT).await?.0 == 200);
            ensure!(client.get("/readyz").await?.0 == 204);
            if what == "database" {
                database.drop().await?;
            } else {
                database.collection::<Document>(what).drop().await?;
            }
            let (status, problem) = client.get("/readyz").await?;
            ensure!(
                status == 503 && problem.contains("dropped"),
                "{what}: {problem}"
            );
            let paths = [
                LIST,
                "/v1/snapshot",
                "/v1/collections",
                "/v1/collections/Skills",
            ];
            for path in paths {
                ensure!(client.get(path).await?.0 == 503, "{what}: {path}");
            }
            let absent = "/v1/collections/Skills/documents/b";
            ensure!(client.get(absent).await?.0 == 503, "{what}");
            ensure!(client.create("b").await? == 503, "{what}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_head_that_is_gone_is_made_of_the_log_at_the_next_start() -> Outcome {
    let server = Mongod::start().await?;
    let (before, url) = publisher(&server, "headless").await?;
    let client = Client::new(url);
    run(before, async {
        ensure!(client.create("a").await? == 201 && client.create("b").await? == 201);
        Ok(())
    })
    .await?;
    let database = server.database("headless").await?;
    database.collection::<Document>("_heads").drop().await?;
    let (after, url) = publisher(&server, "headless").await?;
    let client = Client::new(url);
    run(after, async {
        let (status, list) = client.get(LIST).await?;
        ensure!(
            status == 200 && list.contains(r#""revision":2,"count":2"#),
            "{list}"
        );
        ensure!(client.create("c").await? == 201);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_probe_is_answered_in_its_time_while_the_database_is_frozen() -> Outcome {
    /// `timeoutSeconds` of the probes of the manifests.
    const PROBE_TIME: Duration = Duration::from_secs(2);
    let mut server = Mongod::start().await?;
    let (running, url) = publisher(&server, "probed").await?;
    let client = Client::new(url);
    let freeze = server.process().context("a process")?;
    let late = Cell::new(0);
    run(running, async {
        let probe = async |path| {
            let answer = timeout(PROBE_TIME, client.get(path)).await;
            late.set(late.get() + usize::from(answer.is_err()));
            anyhow::Ok(answer??.0)
        };
        ensure!(client.create("a").await? == 201);
        freeze.signal(Signal::SIGSTOP)?;
        let unready = eventually("the publisher is not ready", async || {
            ensure!(probe("/healthz").await? == 204, "the process is well");
            ensure!(probe("/readyz").await? == 503);
            Ok(())
        })
        .await;
        freeze.signal(Signal::SIGCONT)?;
        unready?;
        eventually("the publisher is ready again", async || {
            ensure!(probe("/readyz").await? == 204);
            Ok(())
        })
        .await?;
        ensure!(late.get() == 0, "{late:?} probes were late");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_stop_while_the_database_is_frozen_answers_every_writer_and_ends_in_time() -> Outcome {
    let mut server = Mongod::start().await?;
    let (running, url) = publisher(&server, "frozen").await?;
    let client = Client::new(url);
    let (stop, stopped) = oneshot::channel();
    let (done, answered) = oneshot::channel();
    let freeze = server.process().context("a process")?;
    let writers = async {
        ensure!(client.create("first").await? == 201);
        freeze.signal(Signal::SIGSTOP)?;
        let ids: Vec<_> = (0..300).map(|n| format!("n{n}")).collect();
        let writes = join_all(ids.iter().map(|id| client.create(id)));
        let stop_soon = async {
            // The first group is with the database by then.
            tokio::time::sleep(Duration::from_millis(500)).await;
            stop.send(Instant::now()).ok();
        };
        let (answers, ()) = tokio::join!(writes, stop_soon);
        for answer in answers {
            let status = answer.context("a writer was not answered")?;
            ensure!(status == 503, "{status}");
        }
        done.send(()).ok();
        Ok(())
    };
    let serve = async {
        let mut since = Instant::now();
        let ended = running
            .run(async {
                since = stopped.await.unwrap_or_else(|_dropped| Instant::now());
            })
            .await;
        (ended, since.elapsed())
    };
    let (written, (ended, took)) = tokio::join!(writers, serve);
    freeze.signal(Signal::SIGCONT)?;
    written?;
    ended?;
    answered.await?;
    ensure!(took < Duration::from_secs(10), "it took {took:?}");
    Ok(())
}
