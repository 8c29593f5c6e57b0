//! `make run-dapr`: a publisher and two subscribers with their Dapr sidecars, on a real MongoDB and
//! a real Redis.
//!
//! The processes are those of `dapr-config/dapr.yaml`: the Dapr CLI reads the file if it is
//! installed, otherwise [`run_file`] does. At its end this program stops everything that it started,
//! in reverse order.
//!
//! The database is in `data`, beside the last known good configurations of the replicas: removing
//! the folder removes both, so no replica holds documents of a database that is gone. Logs
//! and the folder of Redis, which stores nothing, are in `target/run-dapr`.

mod processes;
mod run_file;
mod servers;
mod welcome;

use std::{fmt::Display, io::Write, path::PathBuf, process::ExitCode};

use anyhow::{Context, ensure};
use e2e::testbed::dependencies::repository_root;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{processes::Processes, run_file::RunFile};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            writeln!(std::io::stderr(), "run-dapr: {error:#}").ok();
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<()> {
    // Before any process: a stop at any moment stops the processes in order.
    let mut signals = StopSignals::install()?;
    let file = RunFile::read()?;
    // Checked before anything else: another instance of this program may be running.
    let taken = file.taken_ports();
    ensure!(
        taken.is_empty(),
        "something listens on port {} already: stop it",
        taken.join(", ")
    );
    let mut processes = Processes::new(scratch().join("logs"))?;
    let end = tokio::select! {
        () = signals.received() => Ok(()),
        failed = up(&file, &mut processes) => failed,
    };
    say("stopping");
    tokio::select! {
        () = processes.stop() => {}
        // A second signal skips the orderly stop: the processes are killed when dropped.
        () = signals.received() => {}
    }
    end
}

/// Starts and monitors everything. Returns only with an error.
async fn up(file: &RunFile, processes: &mut Processes) -> anyhow::Result<()> {
    for app in &file.apps {
        app.program()?;
    }

    servers::mongod(&data().join("mongod"), processes).await?;
    servers::redis(&scratch().join("redis"), processes).await?;
    file.start(processes).await.context("the services")?;
    welcome::welcome(file, processes.logs()).await?;
    Err(processes.any_ended().await)
}

/// The folder of the database and of what the replicas keep.
fn data() -> PathBuf {
    repository_root().join("data")
}

/// The folder of what may be lost.
fn scratch() -> PathBuf {
    repository_root().join("target/run-dapr")
}

/// The requests to stop: Ctrl-C, SIGTERM, and a closed terminal. None of them ends the process by
/// itself any more.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl StopSignals {
    fn install() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Resolves at the next signal, also when it came between two calls.
    async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// Prints one line to the terminal, which may be closed.
fn say(line: impl Display) {
    writeln!(std::io::stdout(), "{line}").ok();
}
