//! A real Redis: alone, behind a password, with users, by TLS; and, in the modules, in a cluster
//! and watched by a sentinel.
//!
//! Each server also listens without TLS for the test itself, whatever the services are told to use.

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

/// A server, running or not. Its port stays the same; its data is gone with the process.
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
    /// Starts a server that asks nobody who they are.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start() -> anyhow::Result<Self> {
        Self::new()?.started().await
    }

    /// One that does not run yet.
    ///
    /// # Errors
    /// When no port or folder can be had.
    pub fn new() -> anyhow::Result<Self> {
        let (folder, port) = (folder()?, free_port()?);
        Ok(Self {
            process: None,
            folder,
            port,
            directives: Vec::new(),
            password: None,
            tls: None,
        })
    }

    /// The same with one more line in its configuration file.
    #[must_use]
    pub fn with(mut self, directive: impl Into<String>) -> Self {
        self.directives.push(directive.into());
        self
    }

    /// The same with a password for the default user, which the test itself uses as well.
    #[must_use]
    pub fn with_password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self.with(format!("requirepass {password:?}"))
    }

    /// The same with a port for TLS, and a certificate of an authority that nobody knows yet.
    ///
    /// # Errors
    /// When no certificate can be made.
    pub fn with_tls(mut self) -> anyhow::Result<Self> {
        let (port, certificates) = (free_port()?, Certificates::make(self.folder.path())?);
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

    /// The same, running and ready.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn started(mut self) -> anyhow::Result<Self> {
        self.launch()?;
        self.until_ready().await?;
        Ok(self)
    }

    /// Starts it, empty, and does not wait for anything.
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
        .with_context(|| self.process.as_ref().map(Process::tail).unwrap_or_default())
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
        self.process
            .take()
            .map_or(Ok(()), |mut process| process.kill())
    }

    /// Starts it again, empty, on the same port.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.kill()?;
        self.launch()?;
        self.until_ready().await
    }

    /// Freezes it: its connections stay and nothing is answered.
    ///
    /// # Errors
    /// When it does not run.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.process
            .as_ref()
            .context("redis does not run")?
            .signal(Signal::SIGSTOP)
    }

    /// Thaws it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn thaw(&self) -> anyhow::Result<()> {
        self.process
            .as_ref()
            .context("redis does not run")?
            .signal(Signal::SIGCONT)
    }

    /// Cuts every connection but the one that says so.
    ///
    /// # Errors
    /// When the server is not there.
    pub async fn cut(&self) -> anyhow::Result<()> {
        let mut client = self.client().await?;
        for kind in ["normal", "pubsub"] {
            client
                .ask(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"])
                .await?;
        }
        Ok(())
    }

    /// How many connections wait for events: by a pattern, or by reading streams.
    ///
    /// # Errors
    /// When the server is not there.
    pub async fn listeners(&self) -> anyhow::Result<usize> {
        let list = self
            .client()
            .await?
            .ask(&["CLIENT", "LIST"])
            .await?
            .into_text()?;
        let waits = |line: &&str| {
            line.contains(" cmd=xread ") || line.contains(" psub=") && !line.contains(" psub=0 ")
        };
        Ok(list.lines().filter(waits).count())
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

    /// The same for a user, whose name may be empty; both as they stand in a URL.
    pub fn url_as(&self, user: &str, password: &str) -> String {
        format!("redis://{user}:{password}@{}", self.host())
    }

    /// Where it is reached by TLS, and the authority to trust.
    ///
    /// # Errors
    /// When it has no TLS.
    pub fn tls(&self) -> anyhow::Result<(String, String)> {
        let (port, certificates) = self.tls.as_ref().context("it has no TLS")?;
        Ok((
            format!("rediss://127.0.0.1:{port}"),
            certificates.authority.display().to_string(),
        ))
    }

    /// A connection of an ordinary client.
    ///
    /// # Errors
    /// When the server is not there.
    pub async fn client(&self) -> anyhow::Result<Client> {
        Client::connect(&self.host(), self.password.as_deref()).await
    }

    /// An ordinary client that listens, by `SUBSCRIBE` or `PSUBSCRIBE`.
    ///
    /// # Errors
    /// When the server is not there.
    pub async fn listen(&self, command: &str, to: &str) -> anyhow::Result<Listener> {
        Listener::listen(self.client().await?, command, to).await
    }

    /// Publishes as an ordinary client does; how many heard it.
    ///
    /// # Errors
    /// When the server is not there.
    pub async fn publish(&self, channel: &str, body: impl AsRef<[u8]>) -> anyhow::Result<i64> {
        let words: [&[u8]; 3] = [b"PUBLISH", channel.as_bytes(), body.as_ref()];
        self.client().await?.ask(&words).await?.into_integer()
    }

    /// Asks one thing and gives back the answer, taken apart.
    ///
    /// # Errors
    /// When the server is not there, or refuses.
    pub async fn tell(&self, words: &[&str]) -> anyhow::Result<Reply> {
        self.client().await?.ask(words).await
    }

    /// Sends one command and gives back the raw answer, which has to fit into 64 KiB.
    ///
    /// # Errors
    /// When the server is not there.
    pub async fn ask(&self, words: &[&str]) -> anyhow::Result<String> {
        self.client().await?.raw(words).await
    }
}
