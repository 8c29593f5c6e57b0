//! Commands of the operator: the check and the reload.
//!
//! A command is started without a shell, with what it needs of the environment and without the token and keys
//! of this process. It has a deadline, after which it and what it started are killed (`descendants`), and its
//! output is bounded.

use std::{
    io,
    path::Path,
    process::{ExitStatus, Stdio},
    str::FromStr,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::{Child, Command},
    task::spawn_blocking,
    time::timeout,
};

use crate::{
    descendants::Mark,
    error::{CommandFailure, Output},
};

/// Stands for the folder of the files.
const FOLDER: &str = "{dir}";
/// The same for the command's own use.
const FOLDER_VARIABLE: &str = "CONFCAST_DIR";
/// Most bytes of output that a message shows.
const MAX_OUTPUT: usize = 4 << 10;
/// How long the output is read after the end of a command: what it started may hold it open.
const LAST_OUTPUT: Duration = Duration::from_millis(200);
/// What no command gets of the environment.
const WITHHELD: [&str; 2] = ["AURA_CONFIGURATION_TOKEN", "AURA_CONFIGURATION_SECRET_KEYS"];

/// A command with its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    text: String,
    program: String,
    arguments: Vec<String>,
}

/// Why a text is no command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommandLineError {
    /// There is nothing.
    #[error("expected a command")]
    Empty,
    /// A quote is not closed.
    #[error("a quote is not closed")]
    Quote,
}

/// Words as a shell splits them, quotes included; nothing else of a shell.
impl FromStr for CommandLine {
    type Err = CommandLineError;

    fn from_str(text: &str) -> Result<Self, CommandLineError> {
        let mut words = shlex::split(text)
            .ok_or(CommandLineError::Quote)?
            .into_iter();
        Ok(Self {
            text: text.to_owned(),
            program: words.next().ok_or(CommandLineError::Empty)?,
            arguments: words.collect(),
        })
    }
}

impl std::fmt::Display for CommandLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl CommandLine {
    /// Runs it, with the folder in place of `{dir}`.
    ///
    /// # Errors
    /// When it cannot be started, fails, or does not end in time.
    pub(crate) async fn run(&self, folder: &Path, limit: Duration) -> Result<(), CommandFailure> {
        let shown = folder.to_string_lossy();
        let mark = Mark::new();
        let mut command = Command::new(self.program.replace(FOLDER, &shown));
        command
            .args(
                self.arguments
                    .iter()
                    .map(|word| word.replace(FOLDER, &shown)),
            )
            .env(FOLDER_VARIABLE, folder)
            .env(Mark::VARIABLE, mark.value())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        for name in WITHHELD {
            command.env_remove(name);
        }
        let mut group = Group::new(command.spawn().map_err(CommandFailure::Start)?, mark);
        let (stdout, stderr) = (group.child.stdout.take(), group.child.stderr.take());
        let mut output = OutputEnd::default();
        let mut errors = OutputEnd::default();
        let ended = {
            let reading = async {
                tokio::join!(output.read(stdout), errors.read(stderr));
            };
            tokio::pin!(reading);
            let waiting = async {
                // It may close its output long before it ends.
                let mut is_read = false;
                let status = loop {
                    tokio::select! {
                        status = group.ended() => break status,
                        () = &mut reading, if !is_read => is_read = true,
                    }
                };
                if !is_read {
                    timeout(LAST_OUTPUT, reading).await.ok();
                }
                status
            };
            timeout(limit, waiting).await
        };
        group.kill().await;
        let shown = Output(format!("{}{}", errors.text(), output.text()));
        match ended {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(CommandFailure::Status(status, shown)),
            Ok(Err(error)) => Err(CommandFailure::Start(error)),
            Err(_elapsed) => Err(CommandFailure::Late(limit, shown)),
        }
    }
}

/// A child that leads a group of processes. It is killed with all that it started when it is dropped before
/// its end, as it is when this process is asked to stop; then the drop waits for that.
struct Group {
    child: Child,
    id: Option<Pid>,
    mark: Mark,
}

impl Group {
    fn new(child: Child, mark: Mark) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self {
            id: id.and_then(Pid::from_raw),
            child,
            mark,
        }
    }

    async fn ended(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        // From here on its number may be that of another process; what it started on purpose goes on.
        self.id = None;
        Ok(status)
    }

    /// Kills it with all that it started, unless it has ended.
    async fn kill(&mut self) {
        if let Some(mark) = self.kill_group() {
            spawn_blocking(move || mark.kill_all()).await.ok();
        }
    }

    /// Kills the group, unless its leader has ended. What made a group of its own has the mark.
    fn kill_group(&mut self) -> Option<Mark> {
        let id = self.id.take()?;
        // An error means that it has ended.
        kill_process_group(id, Signal::KILL).ok();
        Some(self.mark.clone())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(mark) = self.kill_group() {
            mark.kill_all();
        }
    }
}

/// The end of an output.
#[derive(Default)]
struct OutputEnd(Vec<u8>);

impl OutputEnd {
    /// Reads to the end, so that the command is never blocked, and keeps the last bytes.
    async fn read(&mut self, from: Option<impl AsyncRead + Unpin>) {
        let Some(mut from) = from else { return };
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            self.0.extend_from_slice(&buffer[..count]);
            let surplus = self.0.len().saturating_sub(MAX_OUTPUT);
            self.0.drain(..surplus);
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    async fn run(text: &str, limit: Duration) -> Result<(), String> {
        let command: CommandLine = text.parse().expect("a command");
        let folder = Path::new("/a folder");
        command
            .run(folder, limit)
            .await
            .map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn the_folder_is_one_word_whatever_it_is_called() {
        run("test '{dir}/x' = '/a folder/x'", LONG)
            .await
            .expect("equal");
        run("sh -c 'test \"$CONFCAST_DIR\" = \"/a folder\"'", LONG)
            .await
            .expect("equal");
    }

    #[tokio::test]
    async fn a_failure_shows_the_end_of_the_output() {
        let long = "sh -c 'yes x | head -c 100000; echo the reason >&2; exit 3'";
        let failure = run(long, LONG).await.expect_err("it fails");
        assert!(
            failure.contains("exit status: 3") && failure.contains("the reason"),
            "{failure}"
        );
        assert!(failure.len() < 3 * MAX_OUTPUT);
        let missing = run("/no/such/program", LONG)
            .await
            .expect_err("it is missing");
        assert!(missing.contains("cannot be started"), "{missing}");
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_killed_with_what_it_started() {
        is_killed("sleep 600 & echo $! >{file}; wait").await;
    }

    #[tokio::test]
    async fn what_left_the_group_of_a_command_and_lost_its_parent_is_killed_too() {
        is_killed("(setsid sh -c \"echo \\$\\$ >{file}; exec sleep 600\" &); sleep 600").await;
    }

    /// A command that writes the number of a process to `{file}` and hangs is killed with that.
    async fn is_killed(script: &str) {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("pid");
        let script = script.replace("{file}", &file.to_string_lossy());
        let failure = run(&format!("sh -c '{script}'"), Duration::from_secs(2))
            .await
            .expect_err("it hangs");
        assert!(failure.contains("did not end within 2s"), "{failure}");
        let id = std::fs::read_to_string(&file).expect("the number");
        let deadline = Instant::now() + LONG;
        // A killed process stays as a zombie until its parent, now init, has read its end.
        let is_gone = || {
            let state = std::fs::read_to_string(format!("/proc/{}/stat", id.trim()));
            state.map_or(true, |state| state.contains(") Z "))
        };
        while !is_gone() {
            assert!(Instant::now() < deadline, "{id} still runs");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_a_command_leaves_running_does_not_hold_it_up() {
        let began = Instant::now();
        run("sh -c 'sleep 20 & exit 0'", LONG)
            .await
            .expect("it ended");
        assert!(began.elapsed() < Duration::from_secs(15));
    }

    #[test]
    fn a_text_that_is_no_command_is_refused() {
        assert_eq!("".parse::<CommandLine>(), Err(CommandLineError::Empty));
        assert_eq!("a 'b".parse::<CommandLine>(), Err(CommandLineError::Quote));
    }
}
