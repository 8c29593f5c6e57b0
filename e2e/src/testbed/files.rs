//! `confcast files` as a process: documents of all collections without a schema as files in a folder.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};
use tempfile::TempDir;

use crate::testbed::{
    SCHEMA_FREE,
    dependencies::own_program,
    process::{Process, folder},
    wait::eventually,
};

/// The program, running or stopped. Its folder stays the same over restarts.
#[derive(Debug)]
pub struct Files {
    process: Option<Process>,
    folder: TempDir,
    publishers: String,
}

impl Files {
    /// Of the publishers at these base URLs.
    ///
    /// # Errors
    /// When its folder cannot be created.
    pub fn of(publishers: &[String]) -> anyhow::Result<Self> {
        Ok(Self {
            process: None,
            folder: folder()?,
            publishers: publishers.join(","),
        })
    }

    /// The folder with the link to the newest files.
    pub fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    /// The file with its status.
    pub fn status(&self) -> PathBuf {
        self.folder.path().join("status.json")
    }

    /// Starts it and does not wait. Changes are gathered for half a second at most.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(own_program("confcast")?);
        command
            .arg("files")
            .args(SCHEMA_FREE)
            .args(["--publisher", &self.publishers, "--instance", "files"])
            .args(["--wait-min", "50ms", "--wait-max", "500ms"])
            .arg("--to")
            .arg(self.out())
            .arg("--status-file")
            .arg(self.status())
            .current_dir(self.folder.path());
        self.process = Some(Process::start("files", self.folder.path(), &mut command)?);
        Ok(())
    }

    /// Waits until there are files.
    ///
    /// # Errors
    /// When there are none in time.
    pub async fn until_ready(&self) -> anyhow::Result<()> {
        let link = self.out().join("current");
        eventually("there are files", async || {
            ensure!(Path::new(&link).exists(), "no {}", link.display());
            Ok(())
        })
        .await
        .with_context(|| self.process.as_ref().map(Process::tail).unwrap_or_default())
    }

    /// The running process, if it runs.
    pub fn process(&mut self) -> Option<&mut Process> {
        self.process.as_mut()
    }

    /// Kills it (SIGKILL).
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        Process::end(&mut self.process)
    }
}
