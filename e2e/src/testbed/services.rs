//! Our own programs: a publisher and subscribers.

use std::{collections::BTreeMap, process::Command};

use anyhow::ensure;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::{
    client::Api,
    testbed::{
        dependencies,
        ports::free_port,
        process::{Process, folder},
        wait::eventually,
    },
};

/// One of our services, running or not. Port and folder stay the same over restarts.
#[derive(Debug)]
pub struct Service {
    program: &'static str,
    process: Option<Process>,
    folder: TempDir,
    port: u16,
    settings: BTreeMap<String, String>,
}

impl Service {
    /// A publisher with an embedded store in its folder, unless the settings say otherwise.
    ///
    /// # Errors
    /// When no port or folder can be had.
    pub fn publisher() -> anyhow::Result<Self> {
        let service = Self::new("publisher")?;
        let store = format!("file:{}", service.folder.path().join("data").display());
        let schemas = dependencies::repository_root()
            .join("schemas")
            .display()
            .to_string();
        Ok(service
            .with("AURA_CONFIGURATION_STORE_URL", store)
            .with("AURA_CONFIGURATION_SCHEMAS_DIR", schemas))
    }

    /// A subscriber of the publishers at these addresses.
    ///
    /// # Errors
    /// When no port or folder can be had.
    pub fn subscriber(name: &str, publishers: &[String]) -> anyhow::Result<Self> {
        let service = Self::new("subscriber")?;
        Ok(service
            .with("AURA_CONFIGURATION_API_URL", publishers.join(","))
            .with("AURA_CONFIGURATION_INSTANCE", name))
    }

    fn new(program: &'static str) -> anyhow::Result<Self> {
        let port = free_port()?;
        let service = Self {
            program,
            process: None,
            folder: folder()?,
            port,
            settings: BTreeMap::new(),
        };
        Ok(service.with("AURA_CONFIGURATION_LISTEN", format!("127.0.0.1:{port}")))
    }

    /// The same with one more setting.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.set(name, value);
        self
    }

    /// One more setting, from its next start on.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.settings.insert(name.to_owned(), value.into());
    }

    /// A setting less, from its next start on.
    pub fn unset(&mut self, name: &str) {
        self.settings.remove(name);
    }

    /// Starts it and does not wait for anything.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(dependencies::own_program(self.program)?);
        command.current_dir(self.folder.path()).envs(&self.settings);
        self.process = Some(Process::start(
            self.program,
            self.folder.path(),
            &mut command,
        )?);
        Ok(())
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        self.launch()?;
        self.until_ready().await
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// When it ends or does not become ready.
    pub async fn until_ready(&mut self) -> anyhow::Result<()> {
        let api = self.api();
        eventually("the service is ready", async || {
            let status = api.status_of("/readyz").await?;
            ensure!(status < 300, "readyz says {status}");
            Ok(())
        })
        .await
        .map_err(|error| {
            error.context(self.process.as_ref().map(Process::tail).unwrap_or_default())
        })
    }

    /// The running process.
    ///
    /// # Errors
    /// When it does not run.
    pub fn process(&mut self) -> anyhow::Result<&mut Process> {
        self.process
            .as_mut()
            .ok_or_else(|| anyhow::anyhow!("{} does not run", self.program))
    }

    /// The folder it runs in.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// kill -9.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process
            .take()
            .map_or(Ok(()), |mut process| process.kill())
    }

    /// Freezes it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&mut self) -> anyhow::Result<()> {
        self.process()?.signal(Signal::SIGSTOP)
    }

    /// Thaws it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&mut self) -> anyhow::Result<()> {
        self.process()?.signal(Signal::SIGCONT)
    }

    /// Asks it to stop, and checks that it ends well.
    ///
    /// # Errors
    /// When it does not end, or not well.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let process = self.process()?;
        let status = process.stop().await?;
        ensure!(
            status.success(),
            "it ended with {status}\n{}",
            process.tail()
        );
        self.process = None;
        Ok(())
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A client for it.
    pub fn api(&self) -> Api {
        Api::new(self.url())
    }

    /// All it has said since it was last started.
    pub fn output(&self) -> String {
        self.process
            .as_ref()
            .map(Process::output)
            .unwrap_or_default()
    }
}
