//! A floor or peer that is a process of its own and listens, as ours does. It has no logic of its
//! own.

use std::{
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::Context;
use e2e::{
    client::Api,
    testbed::{
        ports::free_port,
        process::{Process, folder},
        wait::eventually,
    },
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
    /// Starts this program with `serve`, a port and the path of a file in its folder, which has this
    /// content where there is one.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) async fn of_this_program(
        name: &str,
        serve: &str,
        content: Option<&str>,
    ) -> anyhow::Result<Self> {
        let folder = folder()?;
        let port = free_port()?;
        let file = folder.path().join(name);
        if let Some(content) = content {
            std::fs::write(&file, content)?;
        }
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(serve).arg(port.to_string()).arg(file);
        Self::start(name, port, folder, &mut command).await
    }

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

/// Serves until this program is killed.
pub(crate) fn serve(run: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    if actix_web::rt::System::new().block_on(run).is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The arguments that [`Server::of_this_program`] gives.
///
/// # Errors
/// When there are others.
pub(crate) fn port_and_file(arguments: &[String]) -> anyhow::Result<(u16, &Path)> {
    let [port, file] = arguments else {
        anyhow::bail!("a port and a file are needed")
    };
    Ok((port.parse().context("a port")?, Path::new(file)))
}
