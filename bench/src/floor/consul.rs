//! One Consul server with its default durability, and consul-template, where `make bench` built them. Only its
//! key-value store is used.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::ensure;
use e2e::testbed::{
    ports::free_port,
    process::{Process, folder},
    wait::eventually,
};
use reqwest::Client;
use serde_json::Value;
use tempfile::TempDir;

/// What `make bench` built.
#[derive(Debug)]
pub(crate) struct Programs {
    consul: PathBuf,
    template: PathBuf,
}

/// A running server. Its data is deleted with it.
#[derive(Debug)]
pub(crate) struct Consul {
    client: Client,
    /// HOST:PORT of its HTTP API.
    address: String,
    _process: Process,
    /// On the same disk as the stores of our own programs.
    _folder: TempDir,
}

impl Consul {
    /// The programs, where the variables `CONSUL` and `CONSUL_TEMPLATE` name them.
    pub(crate) fn programs() -> Option<Programs> {
        let program = |name| std::env::var_os(name).filter(|path| !path.is_empty());
        Some(Programs {
            consul: program("CONSUL")?.into(),
            template: program("CONSUL_TEMPLATE")?.into(),
        })
    }

    /// Starts a server and waits until it takes writes.
    pub(crate) async fn start(programs: &Programs) -> anyhow::Result<Self> {
        let folder = folder()?;
        let port = free_port()?;
        let mut command = Command::new(&programs.consul);
        command
            .args(["agent", "-server", "-bootstrap-expect=1", "-node=bench"])
            .args(["-bind=127.0.0.1", "-client=127.0.0.1", "-log-level=warn"])
            .arg(format!("-http-port={port}"))
            .arg(format!("-server-port={}", free_port()?))
            .arg(format!("-serf-lan-port={}", free_port()?))
            .args([
                "-serf-wan-port=-1",
                "-dns-port=-1",
                "-grpc-port=-1",
                "-grpc-tls-port=-1",
            ])
            // It would ask a server of its makers for a newer version.
            .args(["-hcl", "disable_update_check = true"])
            .args(["-hcl", "connect { enabled = false }", "-data-dir"])
            .arg(folder.path().join("data"));
        let server = Self {
            client: client::http().build()?,
            address: format!("127.0.0.1:{port}"),
            _process: Process::start("consul", folder.path(), &mut command)?,
            _folder: folder,
        };
        eventually("Consul takes writes", async || {
            server.put("ready", &Value::Null).await
        })
        .await
        .map_err(|error| error.context(server._process.tail()))?;
        Ok(server)
    }

    /// Writes a value.
    pub(crate) async fn put(&self, key: &str, value: &Value) -> anyhow::Result<()> {
        let url = format!("http://{}/v1/kv/{key}", self.address);
        let answer = self.client.put(url).body(value.to_string()).send().await?;
        let answer = answer.error_for_status()?.text().await?;
        ensure!(answer.trim() == "true", "Consul answers {answer}");
        Ok(())
    }

    /// consul-template with its default options. It renders one template into one file.
    pub(crate) fn template(
        &self,
        programs: &Programs,
        folder: &Path,
        source: &Path,
        to: &Path,
    ) -> anyhow::Result<Process> {
        let mut command = Command::new(&programs.template);
        command.args([
            "-log-level=warn",
            "-consul-addr",
            &self.address,
            "-template",
        ]);
        command.arg(format!("{}:{}", source.display(), to.display()));
        Process::start("consul-template", folder, &mut command)
    }
}
