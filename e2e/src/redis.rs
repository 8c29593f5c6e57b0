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
    _process: Process,
    _folder: TempDir,
    port: u16,
}

impl Redis {
    /// Starts a server.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start() -> anyhow::Result<Self> {
        let (folder, port) = (folder()?, free_port()?);
        let mut command = Command::new(parts::part("REDIS_SERVER")?);
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        command.arg("--dir").arg(folder.path());
        let process = Process::start("redis", folder.path(), &mut command)?;
        let redis = Self { _process: process, _folder: folder, port };
        eventually("redis answers", async || {
            ensure!(redis.ask(&["PING"]).await? == "+PONG\r\n", "not yet");
            Ok(())
        })
        .await?;
        Ok(redis)
    }

    /// `127.0.0.1:<port>`
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
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
