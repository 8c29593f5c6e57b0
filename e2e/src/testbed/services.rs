//! The services of this repository as processes: publisher and subscriber.

use std::{collections::BTreeMap, path::PathBuf, process::Command};

use anyhow::ensure;
use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::net::UnixStream;

use crate::{
    client::Api,
    testbed::{
        dependencies::{self, Build},
        ports::free_port,
        process::{Process, folder},
        wait::eventually,
    },
};

/// A service, running or stopped. Port, folder and settings stay the same over restarts, also when
/// another version of it is started.
#[derive(Debug)]
pub struct Service {
    program: &'static str,
    build: Build,
    process: Option<Process>,
    folder: TempDir,
    port: u16,
    settings: BTreeMap<String, String>,
}

impl Service {
    /// A publisher with an embedded store in its folder, unless the settings name another store.
    ///
    /// # Errors
    /// When no port is free or the folder cannot be created.
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

    /// A subscriber of the publishers at these base URLs.
    ///
    /// # Errors
    /// When no port is free or the folder cannot be created.
    pub fn subscriber(name: &str, publishers: &[String]) -> anyhow::Result<Self> {
        let service = Self::new("subscriber")?;
        Ok(service
            .with("AURA_CONFIGURATION_API_URL", publishers.join(","))
            .with("AURA_CONFIGURATION_INSTANCE", name))
    }

    /// A Dapr component over the publishers at these base URLs, with its socket in its folder.
    ///
    /// # Errors
    /// When no port is free or the folder cannot be created.
    pub fn component(name: &str, publishers: &[String]) -> anyhow::Result<Self> {
        let service = Self::new("confcast-component")?;
        let sockets = service.sockets().display().to_string();
        Ok(service
            .with("AURA_CONFIGURATION_API_URL", publishers.join(","))
            .with("AURA_CONFIGURATION_INSTANCE", name)
            .with("AURA_CONFIGURATION_EVENTS_MANAGER", "FEED")
            .with("DAPR_COMPONENTS_SOCKETS_FOLDER", sockets))
    }

    /// Where a component has its socket.
    pub fn sockets(&self) -> PathBuf {
        self.folder.path().join("sockets")
    }

    /// The socket of a component.
    pub fn socket(&self) -> PathBuf {
        self.sockets().join("confcast.sock")
    }

    fn new(program: &'static str) -> anyhow::Result<Self> {
        let port = free_port()?;
        let service = Self {
            program,
            build: Build::Current,
            process: None,
            folder: folder()?,
            port,
            settings: BTreeMap::new(),
        };
        Ok(service.with("AURA_CONFIGURATION_LISTEN", format!("127.0.0.1:{port}")))
    }

    /// The same service with one more setting.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.set(name, value);
        self
    }

    /// Adds a setting. It takes effect at the next start.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.settings.insert(name.to_owned(), value.into());
    }

    /// Removes a setting. It takes effect at the next start.
    pub fn unset(&mut self, name: &str) {
        self.settings.remove(name);
    }

    /// Makes it a program of this version. It takes effect at the next start.
    pub fn set_build(&mut self, build: Build) {
        self.build = build;
    }

    /// Stops the service, and starts it as a program of this version.
    ///
    /// # Errors
    /// When it does not stop, or is not ready in time.
    pub async fn restart_as(&mut self, build: Build) -> anyhow::Result<()> {
        self.stop().await?;
        self.set_build(build);
        self.start().await
    }

    /// Starts the service and does not wait.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(self.build.program(self.program)?);
        command.current_dir(self.folder.path()).envs(&self.settings);
        self.process = Some(Process::start(
            self.program,
            self.folder.path(),
            &mut command,
        )?);
        Ok(())
    }

    /// Starts the service and waits until `/readyz` says that it is ready.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        self.launch()?;
        self.until_ready().await
    }

    /// Waits until `/readyz` says that it is ready.
    ///
    /// # Errors
    /// When it ends, or is not ready in time.
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

    /// Waits until the component takes calls on its socket.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn until_socket(&self) -> anyhow::Result<()> {
        let socket = self.socket();
        eventually("the component listens", async || {
            UnixStream::connect(&socket).await?;
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
    /// When the service does not run.
    pub fn process(&mut self) -> anyhow::Result<&mut Process> {
        self.process
            .as_mut()
            .ok_or_else(|| anyhow::anyhow!("{} does not run", self.program))
    }

    /// The working folder of the service.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Kills the service (SIGKILL).
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        Process::end(&mut self.process)
    }

    /// Freezes the process (SIGSTOP).
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&mut self) -> anyhow::Result<()> {
        self.process()?.signal(Signal::SIGSTOP)
    }

    /// Ends the freeze (SIGCONT).
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&mut self) -> anyhow::Result<()> {
        self.process()?.signal(Signal::SIGCONT)
    }

    /// Stops the service (SIGTERM) and checks that it exits with success.
    ///
    /// # Errors
    /// When it does not end in time, or exits with a failure.
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

    /// The HTTP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The base URL.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A client of the service's API.
    pub fn api(&self) -> Api {
        Api::new(self.url())
    }

    /// The whole log file of the running service, that of earlier runs included.
    pub fn output(&self) -> String {
        self.process
            .as_ref()
            .map(Process::output)
            .unwrap_or_default()
    }
}
