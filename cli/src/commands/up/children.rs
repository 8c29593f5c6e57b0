//! The services of `confcast up` as child processes: started, logged, stopped.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, anyhow, ensure};
use console::{Color, Style, Term};
use futures_util::future::{join_all, select_all};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    time::timeout,
};

use crate::output;

/// How long services may take to stop; they limit themselves to 10 s.
const GRACE: Duration = Duration::from_secs(15);
/// Length of the longest usual name, `subscriber-9`.
const NAME_WIDTH: usize = 12;
const COLORS: [Color; 5] = [
    Color::Cyan,
    Color::Green,
    Color::Yellow,
    Color::Magenta,
    Color::Blue,
];

/// All services that were started.
#[derive(Debug, Default)]
pub(super) struct Children(Vec<Service>);

#[derive(Debug)]
struct Service {
    name: String,
    process: Child,
}

impl Children {
    /// Starts the program of this name that is in the folder of this program.
    pub(super) fn start(
        &mut self,
        name: &str,
        program: &str,
        settings: &[(&str, String)],
    ) -> anyhow::Result<()> {
        let own = std::env::current_exe().context("cannot find the folder of this program")?;
        let path = own.with_file_name(program);
        ensure!(
            path.is_file(),
            "{} does not exist: build it with `cargo build -p {program}`",
            path.display()
        );
        let process = Command::new(own)
            .arg("with-parent")
            .arg(std::process::id().to_string())
            .arg(path)
            .envs(settings.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C in a terminal is sent to a whole group; this program alone stops its children.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        self.0.push(Service {
            name: name.to_owned(),
            process,
        });
        Ok(())
    }

    /// Copies every line that the children write to standard error, with their names, until all
    /// have ended.
    pub(super) fn log(&mut self) -> impl Future<Output = ()> + use<> {
        let mut pipes = Vec::new();
        for (Service { name, process }, color) in self.0.iter_mut().zip(COLORS.into_iter().cycle())
        {
            let prefix = prefix(name, color, Term::stderr().features().colors_supported());
            let outputs: [Option<Box<dyn AsyncRead + Unpin>>; 2] = [
                process.stdout.take().map(|pipe| Box::new(pipe) as _),
                process.stderr.take().map(|pipe| Box::new(pipe) as _),
            ];
            pipes.extend(
                outputs.into_iter().flatten().map(|pipe| {
                    copy_lines(prefix.clone(), pipe, |line| output::coloured_note(&line))
                }),
            );
        }
        async { _ = join_all(pipes).await }
    }

    /// Resolves when a child ends, with the reason in words.
    pub(super) async fn any_ended(&mut self) -> anyhow::Error {
        let waits = self.0.iter_mut().map(|Service { name, process }| {
            Box::pin(async move {
                match process.wait().await {
                    Ok(status) => anyhow!(
                        "{name} ended ({status}), so everything is stopped; its last lines contain the reason"
                    ),
                    Err(error) => anyhow!(error).context(format!("cannot watch {name}")),
                }
            })
        });
        select_all(waits).await.0
    }

    /// Asks all children to stop, and kills those that do not stop in time, or when `hurry` resolves.
    pub(super) async fn stop(&mut self, hurry: impl Future) {
        for Service { process, .. } in &self.0 {
            // A child without an id, or that cannot be signalled, has ended.
            if let Some(pid) = process.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
                kill_process(pid, Signal::TERM).ok();
            }
        }
        let all = join_all(self.0.iter_mut().map(|service| service.process.wait()));
        tokio::select! {
            _ = timeout(GRACE, all) => {}
            _ = hurry => {}
        }
        for Service { name, process } in &mut self.0 {
            if !matches!(process.try_wait(), Ok(Some(_))) {
                output::note(format_args!(
                    "confcast: {name} did not stop in time and is killed"
                ));
                process.kill().await.ok();
            }
        }
    }
}

fn prefix(name: &str, color: Color, colorful: bool) -> String {
    let style = Style::new().fg(color).force_styling(colorful);
    style.apply_to(format!("{name:NAME_WIDTH$} |")).to_string()
}

/// Gives every line of a pipe to `write`, with a prefix. Lines need not be UTF-8: a child must never
/// block because its output is not read.
async fn copy_lines(prefix: String, pipe: impl AsyncRead + Unpin, write: impl Fn(String)) {
    let mut lines = BufReader::new(pipe).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        write(format!("{prefix} {}", String::from_utf8_lossy(&line)));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[tokio::test]
    async fn every_line_has_the_name_of_its_service() {
        let written = RefCell::new(Vec::new());
        let pipe: &[u8] = b"ready\n\xff odd\n\nlast";
        copy_lines(prefix("publisher", Color::Cyan, false), pipe, |line| {
            written.borrow_mut().push(line)
        })
        .await;
        assert_eq!(
            written.into_inner(),
            [
                "publisher    | ready",
                "publisher    | \u{fffd} odd",
                "publisher    | ",
                "publisher    | last"
            ]
        );
    }

    #[test]
    fn names_are_coloured_on_a_terminal_only() {
        assert_eq!(
            prefix("a", Color::Cyan, true),
            "\u{1b}[36ma            |\u{1b}[0m"
        );
    }
}
