//! A real Redis server: alone, with a password, with users, with TLS. The modules below hold a
//! cluster and a setup with a sentinel.
//!
//! Each server also listens without TLS for the test itself, whatever the services use.

use std::process::Command;

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::testbed::{
    dependencies,
    ports::free_port,
    process::{Process, folder},
    wait::eventually,
};

pub mod certificates;
pub mod cluster;
pub mod resp;
pub mod sentinel;

use certificates::Certificates;
use resp::{Client, Listener, Reply};

/// A server, running or stopped. Its port stays the same; its data is lost when the process ends.
#[derive(Debug)]
pub struct Redis {
    process: Option<Process>,
    folder: TempDir,
    port: u16,
    directives: Vec<String>,
    password: Option<String>,
    tls: Option<(u16, Certificates)>,
}

impl Redis {
    /// Starts a server without authentication.
    ///
    /// # Errors
    /// When the server does not answer in time.
    pub async fn start() -> anyhow::Result<Self> {
        Self::new()?.started().await
    }

    /// A server that is not started yet.
    ///
    /// # Errors
    /// When no port is free.
    pub fn new() -> anyhow::Result<Self> {
        let folder = folder()?;
        let port = free_port()?;
        Ok(Self {
            process: None,
            folder,
            port,
            directives: Vec::new(),
            password: None,
            tls: None,
        })
    }

    /// The same server with one more line in its configuration file.
    #[must_use]
    pub fn with(mut self, directive: impl Into<String>) -> Self {
        self.directives.push(directive.into());
        self
    }

    /// The same server with a password for the default user. The test itself uses it too.
    #[must_use]
    pub fn with_password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self.with(format!("requirepass {password:?}"))
    }

    /// The same server with a TLS port and a certificate of a new authority, which no client trusts
    /// yet.
    ///
    /// # Errors
    /// When no certificate can be created.
    pub fn with_tls(mut self) -> anyhow::Result<Self> {
        let port = free_port()?;
        let certificates = Certificates::make(self.folder.path())?;
        let directives = [
            format!("tls-port {port}"),
            format!("tls-cert-file {}", certificates.certificate.display()),
            format!("tls-key-file {}", certificates.key.display()),
            format!("tls-ca-cert-file {}", certificates.authority.display()),
            "tls-auth-clients no".to_owned(),
        ];
        self.directives.extend(directives);
        self.tls = Some((port, certificates));
        Ok(self)
    }

    /// The same server, started and ready.
    ///
    /// # Errors
    /// When the server does not answer in time.
    pub async fn started(mut self) -> anyhow::Result<Self> {
        self.launch()?;
        self.until_ready().await?;
        Ok(self)
    }

    /// Starts the server without data and does not wait.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch(&mut self) -> anyhow::Result<()> {
        let config = self.folder.path().join("redis.conf");
        let fixed = [
            format!("port {}", self.port),
            "bind 127.0.0.1".to_owned(),
            "save \"\"".to_owned(),
            "appendonly no".to_owned(),
            format!("dir {}", self.folder.path().display()),
        ];
        let lines: Vec<_> = fixed
            .iter()
            .chain(&self.directives)
            .map(String::as_str)
            .collect();
        std::fs::write(&config, lines.join("\n") + "\n")?;
        let mut command = Command::new(dependencies::path_of("REDIS_SERVER")?);
        command.arg(config);
        self.process = Some(Process::start("redis", self.folder.path(), &mut command)?);
        Ok(())
    }

    /// Waits until the server answers `PING`.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn until_ready(&self) -> anyhow::Result<()> {
        eventually("redis answers", async || {
            ensure!(
                self.command_text(&["PING"]).await? == "+PONG\r\n",
                "not yet"
            );
            Ok(())
        })
        .await
        .with_context(|| self.process.as_ref().map(Process::tail).unwrap_or_default())
    }

    /// The running process, if it runs.
    pub fn process(&mut self) -> Option<&mut Process> {
        self.process.as_mut()
    }

    /// Kills the server (SIGKILL). Its data is lost.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        Process::end(&mut self.process)
    }

    /// Starts the server again on the same port, without data.
    ///
    /// # Errors
    /// When the server does not answer in time.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.kill()?;
        self.launch()?;
        self.until_ready().await
    }

    /// Freezes the process (SIGSTOP): connections stay open, and no command is answered.
    ///
    /// # Errors
    /// When it does not run.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.process
            .as_ref()
            .context("redis does not run")?
            .signal(Signal::SIGSTOP)
    }

    /// Ends the freeze (SIGCONT).
    ///
    /// # Errors
    /// When it does not run.
    pub fn thaw(&self) -> anyhow::Result<()> {
        self.process
            .as_ref()
            .context("redis does not run")?
            .signal(Signal::SIGCONT)
    }

    /// Closes every connection except its own.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn close_connections(&self) -> anyhow::Result<()> {
        let mut client = self.client().await?;
        for kind in ["normal", "pubsub"] {
            client
                .command(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"])
                .await?;
        }
        Ok(())
    }

    /// The number of connections that wait for events, by a pattern or by reading streams.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn listeners(&self) -> anyhow::Result<usize> {
        let list = self
            .client()
            .await?
            .command(&["CLIENT", "LIST"])
            .await?
            .into_text()?;
        let waits = |line: &&str| {
            line.contains(" cmd=xread ") || line.contains(" psub=") && !line.contains(" psub=0 ")
        };
        Ok(list.lines().filter(waits).count())
    }

    /// The port without TLS.
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

    /// The URL for a user. The name may be empty; name and password must be percent-encoded.
    pub fn url_as(&self, user: &str, password: &str) -> String {
        format!("redis://{user}:{password}@{}", self.host())
    }

    /// The TLS URL and the file of the authority to trust.
    ///
    /// # Errors
    /// When the server has no TLS.
    pub fn tls(&self) -> anyhow::Result<(String, String)> {
        let (port, certificates) = self.tls.as_ref().context("it has no TLS")?;
        Ok((
            format!("rediss://127.0.0.1:{port}"),
            certificates.authority.display().to_string(),
        ))
    }

    /// A connection of the test's own client.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn client(&self) -> anyhow::Result<Client> {
        Client::connect(&self.host(), self.password.as_deref()).await
    }

    /// A connection that receives messages, by `SUBSCRIBE` or `PSUBSCRIBE`.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn listen(&self, command: &str, to: &str) -> anyhow::Result<Listener> {
        Listener::listen(self.client().await?, command, to).await
    }

    /// Publishes a message. Returns the number of clients that received it.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn publish(&self, channel: &str, body: impl AsRef<[u8]>) -> anyhow::Result<i64> {
        let words: [&[u8]; 3] = [b"PUBLISH", channel.as_bytes(), body.as_ref()];
        self.client().await?.command(&words).await?.into_integer()
    }

    /// Sends one command and returns the parsed reply.
    ///
    /// # Errors
    /// When the server does not answer, or replies with an error.
    pub async fn command(&self, words: &[&str]) -> anyhow::Result<Reply> {
        self.client().await?.command(words).await
    }

    /// Sends one command and returns the bytes of the reply, which must fit into 64 KiB.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn command_text(&self, words: &[&str]) -> anyhow::Result<String> {
        self.client().await?.raw(words).await
    }
}
