//! A child process that cannot outlive its test: it is killed and awaited on drop. Its output goes
//! to a file.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A running program.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// Length of the log file in bytes when this process started.
    before: u64,
}

impl Process {
    /// Starts a program. Its output is appended to `<folder>/<name>.log`. Settings of the services
    /// in the environment of the test are not passed on.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &str, folder: &Path, command: &mut Command) -> anyhow::Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let out = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&log)?;
        let before = out.metadata()?.len();
        for (key, _value) in std::env::vars().filter(|(key, _)| is_setting(key)) {
            if !command.get_envs().any(|(set, _)| set == key.as_str()) {
                command.env_remove(key);
            }
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn();
        let child = child.with_context(|| format!("starting {name}: {command:?}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
            before,
        })
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        kill(pid, signal).with_context(|| format!("{signal} to {}", self.name))
    }

    /// Kills the process of a part, if it runs, as [`Process::kill`].
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn end(running: &mut Option<Self>) -> anyhow::Result<()> {
        running.take().map_or(Ok(()), |mut process| process.kill())
    }

    /// Kills the process (SIGKILL) and waits until it has ended.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends SIGTERM and waits up to 20 s for the end of the process.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.ended(Duration::from_secs(20)).await
    }

    /// Waits until the process ends.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn ended(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bail!("{} did not end in {within:?}\n{}", self.name, self.tail())
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether the process runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The output of this process, without that of earlier processes in the same folder.
    pub fn run_output(&self) -> String {
        self.output()
            .get(self.before as usize..)
            .unwrap_or_default()
            .to_owned()
    }

    /// The whole log file: the output of this process and of earlier ones in the same folder.
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The last 25 lines of the output.
    pub fn tail(&self) -> String {
        let output = self.output();
        let lines: Vec<_> = output.lines().collect();
        format!(
            "--- {}\n{}",
            self.name,
            lines[lines.len().saturating_sub(25)..].join("\n")
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.runs() && self.kill().is_err() {
            // Nothing more can be done for a process that cannot be killed.
        }
        if std::thread::panicking() {
            #[expect(
                clippy::print_stderr,
                reason = "a failed test shows the output of its parts"
            )]
            {
                eprintln!("{}", self.tail());
            }
        }
    }
}

fn is_setting(key: &str) -> bool {
    ["AURA_", "DAPR_", "APP_API_TOKEN", "RUST_LOG", "POD_NAME"]
        .iter()
        .any(|prefix| key.starts_with(prefix))
}

/// A temporary folder below `target/e2e`, removed when the returned guard is dropped.
///
/// # Errors
/// When it cannot be created.
pub fn folder() -> anyhow::Result<tempfile::TempDir> {
    let all = crate::testbed::dependencies::repository_root().join("target/e2e");
    std::fs::create_dir_all(&all)?;
    Ok(tempfile::tempdir_in(all)?)
}
