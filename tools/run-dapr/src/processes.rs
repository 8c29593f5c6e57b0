//! All started processes, in layers: the last layer is stopped first.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::Context;
use e2e::testbed::{process::Process, wait::eventually};
use nix::sys::signal::Signal;
use tokio::time::sleep;

use crate::say;

/// How long one layer may take to finish.
const GRACE: Duration = Duration::from_secs(20);
/// How often processes are checked for their end.
const POLL: Duration = Duration::from_millis(100);
/// The program that binds another program to the life of its parent.
const SETPRIV: &str = "/usr/bin/setpriv";

/// All running processes.
#[derive(Debug)]
pub(crate) struct Processes {
    layers: Vec<Vec<(String, Process)>>,
    logs: PathBuf,
}

impl Processes {
    /// Starts empty. Every process will have a new log in this folder.
    pub(crate) fn new(logs: PathBuf) -> anyhow::Result<Self> {
        if logs.exists() {
            fs::remove_dir_all(&logs).with_context(|| format!("removing {}", logs.display()))?;
        }
        fs::create_dir_all(&logs).with_context(|| format!("making {}", logs.display()))?;
        Ok(Self {
            layers: vec![],
            logs,
        })
    }

    pub(crate) fn logs(&self) -> &Path {
        &self.logs
    }

    /// Begins a layer: processes that are started from now on are stopped before all others.
    pub(crate) fn next_layer(&mut self) {
        self.layers.push(vec![]);
    }

    pub(crate) fn start(&mut self, name: &str, command: &Command) -> anyhow::Result<()> {
        // Ctrl-C in a terminal reaches a whole process group. A group of its own lets us stop one
        // layer after the other.
        let process = Process::start(name, &self.logs, tied_to_us(command).process_group(0))?;
        self.layers
            .last_mut()
            .context("no layer")?
            .push((name.to_owned(), process));
        Ok(())
    }

    /// Waits for a condition. Fails when a process ends first.
    pub(crate) async fn until<T, F>(
        &mut self,
        what: &str,
        condition: impl Fn() -> F,
    ) -> anyhow::Result<T>
    where
        F: Future<Output = anyhow::Result<T>>,
    {
        tokio::select! {
            met = eventually(what, condition) => {
                met.map_err(|error| anyhow::anyhow!("{error:#}; the logs are in {}", self.logs.display()))
            }
            ended = self.any_ended() => Err(ended),
        }
    }

    /// Resolves when a process ends, with its last log lines.
    pub(crate) async fn any_ended(&mut self) -> anyhow::Error {
        loop {
            for (name, process) in self.layers.iter_mut().flatten() {
                if !process.runs() {
                    return anyhow::anyhow!(
                        "{name} ended, so everything is stopped\n{}",
                        process.tail()
                    );
                }
            }
            sleep(POLL).await;
        }
    }

    /// Stops one layer after the other. A process that does not stop in time is killed.
    pub(crate) async fn stop(&mut self) {
        while let Some(layer) = self.layers.last_mut() {
            for (_, process) in layer.iter().rev() {
                // A process that cannot receive a signal has ended.
                process.signal(Signal::SIGTERM).ok();
            }
            while let Some((name, process)) = layer.last_mut() {
                if process.ended(GRACE).await.is_err() {
                    say(format_args!("{name} did not finish and is killed"));
                }
                layer.pop();
            }
            self.layers.pop();
        }
    }
}

/// The same command, which is stopped when this program is killed (kill -9). This needs util-linux.
fn tied_to_us(command: &Command) -> Command {
    let mut tied = if Path::new(SETPRIV).is_file() {
        let mut tied = Command::new(SETPRIV);
        tied.args(["--pdeathsig", "TERM"])
            .arg(command.get_program());
        tied
    } else {
        Command::new(command.get_program())
    };
    tied.args(command.get_args()).envs(
        command
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    if let Some(folder) = command.get_current_dir() {
        tied.current_dir(folder);
    }
    tied
}
