//! The example as processes: servers and projectors that are killed, a Redis that fails over. Sums
//! are exact after each of them.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, bail, ensure};
use e2e::testbed::{
    mongod::Mongod,
    ports::free_port,
    process::{Process, folder},
    redis::{Redis, sentinel::SentinelSetup},
    wait::{eventually, within},
};
use futures_util::future::try_join_all;
use journal::AppendId;
use mongodb::bson::{Document, doc};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Outcome;

/// How long a change may take while Redis fails over on a busy machine.
const FAILOVER: Duration = Duration::from_secs(60);

/// The program of the example, which is built with the tests.
fn program() -> anyhow::Result<PathBuf> {
    let test = std::env::current_exe()?;
    let profile = test.ancestors().nth(2).context("a folder of the profile")?;
    let program = profile.join("examples/bank");
    ensure!(program.exists(), "{} is not built", program.display());
    Ok(program)
}

/// A process of the example with its settings.
struct Bank {
    process: Process,
    port: u16,
    mode: &'static str,
    settings: Vec<(&'static str, String)>,
    folder: TempDir,
    client: Client,
}

impl Bank {
    fn start(mode: &'static str, settings: &[(&'static str, String)]) -> anyhow::Result<Self> {
        let (folder, port) = (folder()?, free_port()?);
        let process = launch(mode, port, settings, &folder)?;
        let client = e2e::http().timeout(Duration::from_secs(30)).build()?;
        Ok(Self {
            process,
            port,
            mode,
            settings: settings.to_vec(),
            folder,
            client,
        })
    }

    async fn server(settings: &[(&'static str, String)]) -> anyhow::Result<Self> {
        let server = Self::start("server", settings)?;
        server.until_listening().await?;
        Ok(server)
    }

    async fn until_listening(&self) -> Outcome {
        eventually("the server answers", async || {
            let answer = self.client.get(self.url("/")).send().await?;
            ensure!(answer.status() == StatusCode::NOT_FOUND);
            Ok(())
        })
        .await
    }

    /// Kills the process (SIGKILL) and starts it again.
    fn restart(&mut self) -> Outcome {
        self.process.kill()?;
        self.process = launch(self.mode, self.port, &self.settings, &self.folder)?;
        Ok(())
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    async fn post(&self, path: &str, body: &Value, key: Option<&str>) -> reqwest::Result<Response> {
        let mut request = self.client.post(self.url(path)).json(body);
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        request.send().await
    }

    async fn get(&self, path: &str) -> anyhow::Result<(StatusCode, Value)> {
        let answer = self.client.get(self.url(path)).send().await?;
        Ok((answer.status(), answer.json().await?))
    }
}

fn launch(
    mode: &str,
    port: u16,
    settings: &[(&'static str, String)],
    folder: &TempDir,
) -> anyhow::Result<Process> {
    let mut command = Command::new(program()?);
    command
        .arg(mode)
        .env("LISTEN", format!("127.0.0.1:{port}"))
        .envs(settings.iter().cloned());
    Process::start(&format!("bank-{mode}"), folder.path(), &mut command)
}

fn redis_at(url: String) -> Vec<(&'static str, String)> {
    vec![("REDIS", url)]
}

fn projecting(redis: String, mongod: &Mongod) -> Vec<(&'static str, String)> {
    vec![
        ("REDIS", redis),
        ("MONGODB", mongod.url("bank")),
        ("TAKE_OVER_AFTER_MS", "200".to_owned()),
    ]
}

/// Sends a change with one key until a server answers, as a client would. Any of them may be asked.
async fn change(servers: &[&Bank], path: &str, amount: u64) -> anyhow::Result<(StatusCode, Value)> {
    let key = AppendId::random();
    let body = json!({"amount": amount});
    within(FAILOVER, path, async || {
        let mut last = None;
        for server in servers {
            match server.post(path, &body, Some(key.as_str())).await {
                Ok(answer) if answer.status() != StatusCode::SERVICE_UNAVAILABLE => {
                    return Ok((answer.status(), answer.json().await?));
                }
                Ok(unavailable) => last = Some(unavailable.text().await?),
                Err(lost) => last = Some(lost.to_string()),
            }
        }
        bail!("no server answers: {last:?}")
    })
    .await
}

async fn open(server: &Bank, id: &str, amount: u64) -> Outcome {
    let answer = server
        .post("/accounts", &json!({"id": id, "amount": amount}), None)
        .await?;
    ensure!(answer.status() == StatusCode::CREATED, "{answer:?}");
    Ok(())
}

async fn has(server: &Bank, id: &str, version: u64, funds: u64) -> Outcome {
    let (status, account) = server.get(&format!("/accounts/{id}")).await?;
    let expected = json!({"id": id, "version": version, "funds": funds});
    ensure!(
        status == StatusCode::OK && account == expected,
        "{status} {account}, not {expected}"
    );
    Ok(())
}

/// Waits until the row of an account shows this.
async fn is_projected(mongod: &Mongod, id: &str, version: i64, funds: i64) -> Outcome {
    let database = mongod.database("bank").await?;
    let rows = database.collection::<Document>("accountCollection");
    within(FAILOVER, "the row is exact", async || {
        let row = rows.find_one(doc! { "_id": id }).await?;
        let row = row.context("no row yet")?;
        let shown = (row.get_i64("version")?, row.get_i64("funds")?);
        ensure!(
            shown == (version, funds),
            "{shown:?}, not {version} {funds}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_api_answers_with_the_documented_codes() -> Outcome {
    let mut redis = Redis::start().await?;
    let server = Bank::server(&redis_at(redis.url())).await?;
    let opened = server
        .post("/accounts", &json!({"id": "alice", "amount": 500}), None)
        .await?;
    ensure!(opened.status() == StatusCode::CREATED);
    ensure!(opened.headers()["location"] == "/accounts/alice");
    has(&server, "alice", 1, 500).await?;
    let anonymous = server.post("/accounts", &json!({}), None).await?;
    ensure!(anonymous.status() == StatusCode::CREATED);
    let place = anonymous.headers()["location"].to_str()?.to_owned();
    ensure!(server.get(&place).await?.0 == StatusCode::OK);

    let status = async |path: &str, body: Value, key: Option<&str>| {
        let answer = server.post(path, &body, key).await?;
        let status = answer.status();
        if !status.is_success() {
            ensure!(answer.headers()["content-type"] == "application/problem+json");
            let problem: Value = serde_json::from_slice(&answer.bytes().await?)?;
            ensure!(problem["status"] == status.as_u16(), "{problem}");
        }
        anyhow::Ok(status.as_u16())
    };
    let deposits = "/accounts/alice/deposits";
    let withdrawals = "/accounts/alice/withdrawals";
    for (path, body, key, expected) in [
        ("/accounts", json!({"id": "alice"}), None, 409),
        ("/accounts", json!({"id": "a/b"}), None, 400),
        ("/accounts", json!({"id": "bob", "amount": -1}), None, 400),
        ("/accounts", json!({"id": "bob", "funds": 1}), None, 400),
        ("/accounts/bob/deposits", json!({"amount": 1}), None, 404),
        (deposits, json!({"amount": 0}), None, 400),
        (deposits, json!({"amount": 0.5}), None, 400),
        (deposits, json!({"amount": 1e300}), None, 400),
        (deposits, json!({"amount": u64::MAX}), None, 400),
        (deposits, json!({"amount": "1"}), None, 400),
        (deposits, json!({}), None, 400),
        (deposits, json!({"amount": 1}), Some("no key!"), 400),
        (deposits, json!("x".repeat(5_000)), None, 413),
        (withdrawals, json!({"amount": 501}), None, 409),
        (withdrawals, json!({"amount": 100}), Some("rent"), 200),
        // The answer was lost: the same request again changes nothing.
        (withdrawals, json!({"amount": 100}), Some("rent"), 200),
        (withdrawals, json!({"amount": 99}), Some("rent"), 422),
        (deposits, json!({"amount": 7}), None, 200),
        (withdrawals, json!({"amount": 407}), None, 200),
        ("/nowhere", json!({}), None, 404),
    ] {
        let found = status(path, body.clone(), key).await?;
        ensure!(found == expected, "{path} {body}: {found}, not {expected}");
    }
    has(&server, "alice", 4, 0).await?;
    ensure!(server.get("/accounts/bob").await?.0 == StatusCode::NOT_FOUND);
    let typeless = server.client.post(server.url(deposits)).body("{}");
    ensure!(typeless.send().await?.status() == StatusCode::UNSUPPORTED_MEDIA_TYPE);

    // A balance has a largest value.
    let most = json!({"id": "rich", "amount": 1_000_000_000_000_u64});
    ensure!(status("/accounts", most, None).await? == 201);

    redis.kill()?;
    let read = server.get("/accounts/alice").await?.0;
    ensure!(read == StatusCode::SERVICE_UNAVAILABLE, "{read}");
    let write = status(deposits, json!({"amount": 1}), None).await?;
    ensure!(write == 503, "{write}");
    Ok(())
}

#[tokio::test]
async fn sums_are_exact_with_two_servers_that_are_killed_and_a_projector_too() -> Outcome {
    let (redis, mongod) = tokio::try_join!(Redis::start(), Mongod::start())?;
    let settings = redis_at(redis.url());
    let (first, mut second) = tokio::try_join!(Bank::server(&settings), Bank::server(&settings))?;
    let mut projector = Bank::start("projector", &projecting(redis.url(), &mongod))?;
    open(&first, "alice", 0).await?;
    let (mut deposited, mut withdrawn) = (0, 0);
    for round in 0..4 {
        // Six clients at once, each at its own server first; one of the servers is killed meanwhile.
        let servers = [&first, &second];
        let client = async |number: usize| {
            let mut servers = servers;
            servers.rotate_left(number % 2);
            for amount in 1..=8 {
                let path = "/accounts/alice/deposits";
                let (status, body) = change(&servers, path, amount).await?;
                ensure!(status == StatusCode::OK, "{status} {body}");
            }
            let (status, body) = change(&servers, "/accounts/alice/withdrawals", 5).await?;
            ensure!(status == StatusCode::OK, "{status} {body}");
            anyhow::Ok(())
        };
        let clients = try_join_all((0..6).map(client));
        let kill = async {
            // In the middle of the round.
            eventually("half of the round is done", async || {
                let (_, account) = first.get("/accounts/alice").await?;
                let version = account["version"].as_u64().context("a version")?;
                ensure!(version > round * 54 + 20, "{version}");
                Ok(())
            })
            .await?;
            second.process.signal(nix::sys::signal::Signal::SIGKILL)?;
            projector.restart()
        };
        let (done, killed) = futures_util::future::join(clients, kill).await;
        done?;
        killed?;
        second.restart()?;
        second.until_listening().await?;
        deposited += 6 * (1..=8).sum::<u64>();
        withdrawn += 6 * 5;
        let version = (round + 1) * 54 + 1;
        // Both servers compute it from the events; the second one has no memory of them.
        has(&first, "alice", version, deposited - withdrawn).await?;
        has(&second, "alice", version, deposited - withdrawn).await?;
    }
    let funds = (deposited - withdrawn) as i64;
    is_projected(&mongod, "alice", 4 * 54 + 1, funds).await
}

#[tokio::test]
async fn a_redis_that_writes_each_append_to_its_disk_loses_nothing_when_killed() -> Outcome {
    let mut redis = Redis::new()?
        .with("appendonly yes")
        .with("appendfsync always")
        .started()
        .await?;
    let server = Bank::server(&redis_at(redis.url())).await?;
    open(&server, "alice", 0).await?;
    for round in 1..=3_u64 {
        let work = async {
            for _each in 0..30 {
                let (status, body) = change(&[&server], "/accounts/alice/deposits", 2).await?;
                ensure!(status == StatusCode::OK, "{status} {body}");
            }
            anyhow::Ok(())
        };
        let kill = async {
            eventually("some deposits are there", async || {
                let (_, account) = server.get("/accounts/alice").await?;
                ensure!(account["version"].as_u64() > Some((round - 1) * 30 + 11));
                Ok(())
            })
            .await?;
            redis.restart().await
        };
        let (done, restarted) = futures_util::future::join(work, kill).await;
        done?;
        restarted?;
        has(&server, "alice", round * 30 + 1, round * 60).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_failover_of_redis_loses_no_change_that_a_replica_confirmed() -> Outcome {
    let (mut redis, mongod) = tokio::try_join!(SentinelSetup::start(None, None), Mongod::start())?;
    let url = redis.url();
    let mut settings = redis_at(url.clone());
    settings.push(("REPLICAS", "1".to_owned()));
    let confirming = Bank::server(&settings).await?;
    let _projector = Bank::start("projector", &projecting(url.clone(), &mongod))?;
    open(&confirming, "alice", 0).await?;
    let mut deposits = 0;
    for _each in 0..20 {
        let (status, body) = change(&[&confirming], "/accounts/alice/deposits", 3).await?;
        ensure!(status == StatusCode::OK, "{status} {body}");
        deposits += 1;
    }
    // Without the replica nothing is confirmed: the caller is told, and the change is not lost.
    redis.replica.freeze()?;
    let body = json!({"amount": 3});
    let told = confirming
        .post("/accounts/alice/deposits", &body, Some("told"))
        .await?;
    ensure!(told.status() == StatusCode::SERVICE_UNAVAILABLE, "{told:?}");
    // Many at once are all told, and reads wait for none of them.
    let keys: Vec<_> = (0..12).map(|number| format!("many-{number}")).collect();
    let many = keys.iter().map(async |key| {
        let told = confirming.post("/accounts/alice/deposits", &body, Some(key));
        let answer: Value = told.await?.json().await?;
        let detail = answer["detail"].as_str().unwrap_or_default();
        ensure!(detail.contains("of 1 replicas confirmed it"), "{answer}");
        anyhow::Ok(())
    });
    let read = async {
        for _each in 0..20 {
            let (status, account) = confirming.get("/accounts/alice").await?;
            ensure!(status == StatusCode::OK, "{status} {account}");
        }
        anyhow::Ok(())
    };
    let (many, read) = futures_util::future::join(try_join_all(many), read).await;
    many?;
    read?;
    redis.replica.thaw()?;
    eventually("the replica confirms the repetition", async || {
        let again = confirming
            .post("/accounts/alice/deposits", &body, Some("told"))
            .await?;
        ensure!(again.status() == StatusCode::OK, "{again:?}");
        Ok(())
    })
    .await?;
    deposits += 1 + keys.len() as u64;
    has(&confirming, "alice", deposits + 1, deposits * 3).await?;

    redis.master.kill()?;
    redis.until_failed_over().await?;
    // The promoted server has no replica, so this server waits for no confirmation.
    let server = Bank::server(&redis_at(url)).await?;
    let (status, body) = change(&[&server], "/accounts/alice/deposits", 3).await?;
    ensure!(status == StatusCode::OK, "{status} {body}");
    deposits += 1;
    has(&server, "alice", deposits + 1, deposits * 3).await?;
    // The first server found the new master too, and still says that no replica confirms.
    has(&confirming, "alice", deposits + 1, deposits * 3).await?;
    is_projected(&mongod, "alice", deposits as i64 + 1, deposits as i64 * 3).await
}
