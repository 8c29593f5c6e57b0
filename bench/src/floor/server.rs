//! A floor or peer that is a process of its own and listens, as ours is. It does nothing by itself.

use std::process::Command;

use e2e::{
    client::Api,
    testbed::{process::Process, wait::eventually},
};
use tempfile::TempDir;

/// A running one; killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    process: Process,
    /// Where it runs.
    _folder: TempDir,
    url: String,
}

impl Server {
    /// Starts it in a folder, and waits until it answers.
    ///
    /// # Errors
    /// When it does not.
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
