//! All that was started, in layers: what was started last is stopped first.

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
/// How often it is asked whether one has ended.
const POLL: Duration = Duration::from_millis(100);
/// Ties a program to the life of its parent, and becomes that program.
const SETPRIV: &str = "/usr/bin/setpriv";

/// Everything that runs.
#[derive(Debug)]
pub(crate) struct Processes {
    layers: Vec<Vec<(String, Process)>>,
    logs: PathBuf,
}

impl Processes {
    /// Nothing yet; every process will have a fresh log in this folder.
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

    /// What is started from here on is stopped before everything else.
    pub(crate) fn next_layer(&mut self) {
        self.layers.push(vec![]);
    }

    pub(crate) fn start(&mut self, name: &str, command: &Command) -> anyhow::Result<()> {
        // Ctrl-C in a terminal reaches a whole group; these are told one layer after the other.
        let process = Process::start(name, &self.logs, tied_to_us(command).process_group(0))?;
        self.layers
            .last_mut()
            .context("a layer was begun")?
            .push((name.to_owned(), process));
        Ok(())
    }

    /// Waits for a condition, unless something ends before it is met.
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

    /// Resolves when one ends, with its last words.
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

    /// Asks one layer after the other to finish; what does not in time is killed.
    pub(crate) async fn stop(&mut self) {
        while let Some(layer) = self.layers.last_mut() {
            for (_, process) in layer.iter().rev() {
                // One that cannot be told has ended.
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

/// The same command, told to stop when we end without a word (kill -9), where util-linux is there
/// to arrange that.
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
