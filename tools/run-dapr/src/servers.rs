//! MongoDB and Redis on their usual ports, which `dapr-config/dapr.yaml` and
//! `components/pubsub.yaml` name.
//!
//! A server that already runs there is used if it is suitable: `dapr init` leaves a Redis, and many
//! developers have a MongoDB.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail, ensure};
use mongodb::{
    Client, Database,
    bson::{Document, doc},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{processes::Processes, say};

const MONGOD: u16 = 27017;
const REDIS: u16 = 6379;

/// Provides a MongoDB that is the primary of replica set rs0.
pub(crate) async fn mongod(data: &Path, processes: &mut Processes) -> anyhow::Result<()> {
    let admin = admin().await?;
    if is_taken(MONGOD).await {
        let usable = primary(&admin).await.is_ok();
        ensure!(
            usable,
            "port {MONGOD} is taken, but not by the primary of a MongoDB replica set rs0: stop what uses it"
        );
        say(format_args!(
            "MongoDB: the one that runs on port {MONGOD}, database confcast"
        ));
        return Ok(());
    }
    say(format_args!("MongoDB: starting on port {MONGOD}"));
    let mut command = server("MONGOD", data)?;
    command.arg("--dbpath").arg(data).args([
        "--port",
        &MONGOD.to_string(),
        "--bind_ip",
        "127.0.0.1",
    ]);
    command.args([
        "--replSet",
        "rs0",
        "--wiredTigerCacheSizeGB",
        "0.25",
        "--nounixsocket",
    ]);
    // A publisher that dies inside a transaction holds its locks for this long.
    command.args(["--setParameter", "transactionLifetimeLimitSeconds=3"]);
    // The set has no other member that could take over meanwhile.
    command.args([
        "--setParameter",
        "shutdownTimeoutMillisForSignaledShutdown=0",
    ]);
    processes.next_layer();
    processes.start("mongod", &command)?;
    processes
        .until("mongod answers", async || {
            Ok(admin.run_command(doc! { "ping": 1 }).await?)
        })
        .await?;
    if hello(&admin).await?.get("setName").is_none() {
        let members =
            doc! { "_id": "rs0", "members": [{ "_id": 0, "host": format!("127.0.0.1:{MONGOD}") }] };
        let initiated = admin.run_command(doc! { "replSetInitiate": members }).await;
        // With old data it may already be initiated, and only not know it yet.
        if let Err(error) = initiated
            && !error.to_string().contains("AlreadyInitialized")
        {
            return Err(error).context("making mongod a replica set");
        }
    }
    processes
        .until("mongod is primary", || primary(&admin))
        .await
}

async fn admin() -> anyhow::Result<Database> {
    let url = format!(
        "mongodb://127.0.0.1:{MONGOD}/?directConnection=true&serverSelectionTimeoutMS=2000"
    );
    Ok(Client::with_uri_str(url).await?.database("admin"))
}

async fn hello(admin: &Database) -> anyhow::Result<Document> {
    Ok(admin.run_command(doc! { "hello": 1 }).await?)
}

async fn primary(admin: &Database) -> anyhow::Result<()> {
    let hello = hello(admin).await?;
    ensure!(
        hello.get_str("setName")? == "rs0" && hello.get_bool("isWritablePrimary")?,
        "not yet"
    );
    Ok(())
}

/// Provides a Redis. It stores nothing: events are only notifications, and a sidecar that restarts
/// reads every stream again.
pub(crate) async fn redis(data: &Path, processes: &mut Processes) -> anyhow::Result<()> {
    if is_taken(REDIS).await {
        pong().await.with_context(|| {
            format!("port {REDIS} is taken, but not by a Redis without password")
        })?;
        say(format_args!("Redis: the one that runs on port {REDIS}"));
        return Ok(());
    }
    say(format_args!("Redis: starting on port {REDIS}"));
    let mut command = server("REDIS_SERVER", data)?;
    command.args([
        "--port",
        &REDIS.to_string(),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
    ]);
    command.arg("--dir").arg(data);
    processes.next_layer();
    processes.start("redis", &command)?;
    processes.until("redis answers", pong).await
}

async fn pong() -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", REDIS)).await?;
    stream.write_all(b"PING\r\n").await?;
    let mut answer = [0; 64];
    let read = stream.read(&mut answer).await?;
    ensure!(
        answer[..read].starts_with(b"+PONG"),
        "it answers PING with {:?}",
        String::from_utf8_lossy(&answer[..read])
    );
    Ok(())
}

/// The command of a server with its own data folder.
fn server(part: &str, data: &Path) -> anyhow::Result<Command> {
    fs::create_dir_all(data).with_context(|| format!("making {}", data.display()))?;
    Ok(Command::new(program(part)?))
}

/// Returns the path of a program that `provide.sh` provided. The makefile requests these three
/// only, not all parts of the tests.
pub(crate) fn program(part: &str) -> anyhow::Result<PathBuf> {
    match std::env::var_os(part) {
        Some(path) => Ok(path.into()),
        None => bail!("{part} is not set: `make run-dapr` provides it"),
    }
}

async fn is_taken(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).await.is_ok()
}
