//! The placement service of Dapr, which tells sidecars where actors are. Workflows are actors.

use std::process::Command;

use anyhow::ensure;
use tempfile::TempDir;

use crate::testbed::{
    dependencies,
    ports::free_port,
    process::{Process, folder},
    wait::eventually,
};

/// A running service.
#[derive(Debug)]
pub struct Placement {
    /// Ends with the service.
    _process: Process,
    _folder: TempDir,
    port: u16,
}

impl Placement {
    /// Starts the service and waits until it is healthy.
    ///
    /// # Errors
    /// When it is not in time.
    pub async fn start() -> anyhow::Result<Self> {
        let folder = folder()?;
        let (port, health, raft) = (free_port()?, free_port()?, free_port()?);
        let mut command = Command::new(dependencies::path_of("DAPR_PLACEMENT")?);
        command
            .args(["--listen-address=127.0.0.1", &format!("--port={port}")])
            .args(["--healthz-listen-address=127.0.0.1"])
            .arg(format!("--healthz-port={health}"))
            // Of its own store, with itself alone; by default a port that all share.
            .arg(format!(
                "--initial-cluster=dapr-placement-0=127.0.0.1:{raft}"
            ))
            .arg("--enable-metrics=false");
        let process = Process::start("placement", folder.path(), &mut command)?;
        eventually("the placement service is healthy", async || {
            let health = format!("http://127.0.0.1:{health}/healthz");
            let answer = crate::http().build()?.get(health).send().await?;
            ensure!(answer.status().is_success(), "{}", answer.status());
            Ok(())
        })
        .await
        .map_err(|error| error.context(process.tail()))?;
        Ok(Self {
            _process: process,
            _folder: folder,
            port,
        })
    }

    /// The flag by which a sidecar uses it.
    pub fn flag(&self) -> String {
        format!("--placement-host-address=127.0.0.1:{}", self.port)
    }
}
