//! A floor or peer that is a process of its own and listens, as ours does. It has no logic of its
//! own.

use std::process::Command;

use e2e::{
    client::Api,
    testbed::{process::Process, wait::eventually},
};
use tempfile::TempDir;

/// A running process; killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    process: Process,
    /// The folder of the process.
    _folder: TempDir,
    url: String,
}

impl Server {
    /// Starts the process in a folder, and waits until it answers.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) async fn start(
        name: &str,
        port: u16,
        folder: TempDir,
        command: &mut Command,
    ) -> anyhow::Result<Self> {
        let process = Process::start(name, folder.path(), command.current_dir(folder.path()))?;
        let url = format!("http://127.0.0.1:{port}");
        let api = Api::new(url.clone());
        let answers = eventually("it answers", async || api.status_of("/v1/status").await).await;
        answers.map_err(|error| error.context(process.tail()))?;
        Ok(Self {
            process,
            _folder: folder,
            url,
        })
    }

    /// Its base URL.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// A client for it.
    pub(crate) fn api(&self) -> Api {
        Api::new(self.url.clone())
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }
}
