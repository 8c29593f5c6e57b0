//! A real NATS server with JetStream, and the streams that this repository ships.

use std::{process::Command, time::Duration};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

use crate::testbed::{
    SCHEMA_FREE, dependencies,
    ports::free_port,
    process::{Process, folder},
    wait::eventually,
};

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(5);

/// A server, running or stopped. Port and streams stay the same over restarts.
#[derive(Debug)]
pub struct Nats {
    process: Option<Process>,
    folder: TempDir,
    port: u16,
}

impl Nats {
    /// Starts a server, with the streams of the components.
    ///
    /// # Errors
    /// When it is not ready in time, or refuses a stream.
    pub async fn start() -> anyhow::Result<Self> {
        let mut nats = Self {
            process: None,
            folder: folder()?,
            port: free_port()?,
        };
        nats.restart().await?;
        for file in ["confcast", "dead-letters"] {
            nats.add_stream(file).await?;
        }
        Ok(nats)
    }

    /// Adds a shipped stream. The stream of events takes the collections without a schema as well, which
    /// a user adds in the same place.
    async fn add_stream(&self, file: &str) -> anyhow::Result<()> {
        let path = format!("components/nats/streams/{file}.json");
        let path = dependencies::repository_root().join(path);
        let mut stream: Value = serde_json::from_slice(&std::fs::read(path)?)?;
        let subjects = stream["subjects"].as_array_mut().context("subjects")?;
        if subjects.len() > 1 {
            subjects.extend(SCHEMA_FREE.map(Value::from));
        }
        let name = stream["name"].as_str().context("a name")?;
        let subject = format!("$JS.API.STREAM.CREATE.{name}");
        let answer = timeout(ANSWER, self.ask(&subject, &stream.to_string())).await??;
        ensure!(answer.get("error").is_none(), "{file}: {answer}");
        Ok(())
    }

    /// Sends a request to the API of JetStream, by the text protocol of NATS.
    ///
    /// # Errors
    /// When there is no answer in JSON.
    pub async fn ask(&self, subject: &str, body: &str) -> anyhow::Result<Value> {
        let mut connection = BufReader::new(TcpStream::connect(self.host()).await?);
        let options = json!({"verbose": false, "pedantic": false});
        let length = body.len();
        let request = format!(
            "CONNECT {options}\r\nSUB answer 1\r\nPUB {subject} answer {length}\r\n{body}\r\n"
        );
        connection.write_all(request.as_bytes()).await?;
        // INFO first, perhaps PING, then `MSG answer 1 LENGTH` and the answer.
        let mut line = String::new();
        while !line.starts_with("MSG ") {
            line.clear();
            let read = connection.read_line(&mut line).await?;
            ensure!(read > 0 && !line.starts_with("-ERR"), "no answer: {line}");
        }
        line.clear();
        connection.read_line(&mut line).await?;
        Ok(serde_json::from_str(&line)?)
    }

    /// Kills the server (SIGKILL). Its streams stay.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        Process::end(&mut self.process)
    }

    /// Starts the server, again after [`Self::kill`], and waits until it answers.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.kill()?;
        let mut command = Command::new(dependencies::path_of("NATS_SERVER")?);
        command.args(["--addr", "127.0.0.1", "--port", &self.port.to_string()]);
        command
            .args(["--jetstream", "--store_dir"])
            .arg(self.folder.path().join("data"));
        self.process = Some(Process::start("nats", self.folder.path(), &mut command)?);
        eventually("nats answers", async || {
            // Where nothing answers the subject, NATS is silent.
            let answer = timeout(ANSWER, self.ask("$JS.API.INFO", "")).await??;
            ensure!(answer.get("error").is_none(), "{answer}");
            Ok(())
        })
        .await
        .with_context(|| self.process.as_ref().map(Process::tail).unwrap_or_default())
    }

    /// `127.0.0.1:<port>`
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}
