//! A service as a process, for tests of how it starts and ends: its log, signals, and exit code.
//! The tests of both services share it.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, ensure};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStderr, Command},
    time::timeout,
};

/// A time that no test waits for unless it fails.
const DEADLINE: Duration = Duration::from_secs(20);

/// A running service. It is killed when it is dropped.
pub(crate) struct Life {
    child: Child,
    lines: Lines<BufReader<ChildStderr>>,
    log: String,
}

impl Life {
    /// Starts a program with these flags and with no setting of the environment.
    pub(crate) fn start(program: &str, flags: &[&str]) -> anyhow::Result<Self> {
        let mut child = Command::new(program)
            .args(flags)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {program}"))?;
        let stderr = child.stderr.take().context("it is piped")?;
        Ok(Self {
            child,
            lines: BufReader::new(stderr).lines(),
            log: String::new(),
        })
    }

    /// Reads the log until a line contains the text. Returns the log up to there.
    pub(crate) async fn until(&mut self, text: &str) -> anyhow::Result<&str> {
        let found = timeout(DEADLINE, async {
            while let Some(line) = self.lines.next_line().await? {
                self.log += &line;
                self.log.push('\n');
                if line.contains(text) {
                    return Ok(());
                }
            }
            anyhow::bail!("the log ends")
        });
        found
            .await
            .map_err(anyhow::Error::from)
            .flatten()
            .with_context(|| format!("no line with {text:?} in the log:\n{}", self.log))?;
        Ok(&self.log)
    }

    /// Reads the log until a line contains the text, and returns the base URL with the address in it.
    pub(crate) async fn url(&mut self, text: &str) -> anyhow::Result<String> {
        let log = self.until(text).await?;
        let line = log.lines().last().unwrap_or_default();
        let address = line.split("address=").nth(1).context("an address")?;
        let address = address.split_whitespace().next().unwrap_or_default();
        Ok(format!("http://{address}"))
    }

    /// Sends a signal, for example `TERM`.
    pub(crate) async fn signal(&self, name: &str) -> anyhow::Result<()> {
        let id = self.child.id().context("it has ended")?;
        // The command of the shell, because every system has it.
        let sent = Command::new("sh")
            .args(["-c", &format!("kill -{name} {id}")])
            .status();
        ensure!(sent.await?.success(), "the signal {name} was not sent");
        Ok(())
    }

    /// Waits for the end of the process, at most for this time. Returns its exit code, which is
    /// `None` when a signal ended it, and its log.
    pub(crate) async fn ended(mut self, within: Duration) -> anyhow::Result<(Option<i32>, String)> {
        let ended = timeout(within, async {
            while let Some(line) = self.lines.next_line().await? {
                self.log += &line;
                self.log.push('\n');
            }
            self.child.wait().await
        });
        let status = ended
            .await
            .with_context(|| format!("it did not end in {within:?}:\n{}", self.log))??;
        Ok((status.code(), self.log))
    }
}
