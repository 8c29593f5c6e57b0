//! A real Redis.

use std::process::Command;

use anyhow::{Context, ensure};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    parts,
    process::{Process, folder, free_port},
    wait::eventually,
};

/// A running server. Its data is gone with it.
#[derive(Debug)]
pub struct Redis {
    process: Option<Process>,
    folder: TempDir,
    port: u16,
}

impl Redis {
    /// Starts a server.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start() -> anyhow::Result<Self> {
        let mut redis = Self { process: None, folder: folder()?, port: free_port()? };
        redis.launch()?;
        redis.until_ready().await?;
        Ok(redis)
    }

    /// Starts it, empty, and does not wait for anything.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(parts::part("REDIS_SERVER")?);
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        command.arg("--dir").arg(self.folder.path());
        self.process = Some(Process::start("redis", self.folder.path(), &mut command)?);
        Ok(())
    }

    /// Waits until it answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn until_ready(&self) -> anyhow::Result<()> {
        eventually("redis answers", async || {
            ensure!(self.ask(&["PING"]).await? == "+PONG\r\n", "not yet");
            Ok(())
        })
        .await
    }

    /// The running process, if it runs.
    pub fn process(&mut self) -> Option<&mut Process> {
        self.process.as_mut()
    }

    /// kill -9. What it held is gone with it.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process.take().map_or(Ok(()), |mut process| process.kill())
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:<port>`
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `redis://127.0.0.1:<port>`
    pub fn url(&self) -> String {
        format!("redis://{}", self.host())
    }

    /// Sends one command and gives back the raw answer, which has to fit into 64 KiB.
    ///
    /// # Errors
    /// When the server is not there.
    pub async fn ask(&self, words: &[&str]) -> anyhow::Result<String> {
        let mut stream = TcpStream::connect(self.host()).await?;
        let mut command = format!("*{}\r\n", words.len());
        for word in words {
            command.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        stream.write_all(command.as_bytes()).await?;
        let mut answer = vec![0; 64 << 10];
        let read = stream.read(&mut answer).await.context("reading the answer of redis")?;
        Ok(String::from_utf8_lossy(&answer[..read]).into_owned())
    }
}
