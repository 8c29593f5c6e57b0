//! wrk, which makes the load of what is served over HTTP: one thread, 64 connections, requests that
//! are ready before the first is sent. It says itself how busy it was, because one that has no time
//! left would measure itself.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, ensure};
use e2e::testbed::{dependencies, process::folder};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::process::Command;

use crate::Bench;

/// Connections, each with one request under way.
pub(crate) const CONNECTIONS: u64 = 64;

/// Linux counts in these for programs, whatever it does itself.
const TICKS: f64 = 100.0;

/// Requests as they go over the wire, in the file that `e2e/dependencies/wrk/requests.lua` reads.
#[derive(Debug)]
pub(crate) struct Requests {
    _folder: TempDir,
    file: PathBuf,
    count: usize,
}

/// In which order requests are sent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Order {
    /// Each once, all but so many of the first; the run ends with the last.
    OnceAfter(usize),
    /// All, again and again.
    Again,
}

/// What came of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    report: WrkReport,
    /// Seconds that the server had a processor.
    processor: f64,
}

/// What the script says.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrkReport {
    answered: u64,
    seconds: f64,
    busy_seconds: f64,
    refused: u64,
    broken: u64,
    p50: f64,
    p99: f64,
}

/// Who shares a processor with whom.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Processors {
    /// Everybody has all of them.
    Shared,
    /// The generator has one and the server has another, so that what the generator takes makes no
    /// figures alike.
    Apart,
}

impl Requests {
    /// Writes them.
    ///
    /// # Errors
    /// When they cannot be written.
    pub(crate) fn write(
        requests: impl Iterator<Item = anyhow::Result<Vec<u8>>>,
    ) -> anyhow::Result<Self> {
        use std::io::Write;
        let folder = folder()?;
        let file = folder.path().join("requests");
        let mut out = std::io::BufWriter::new(std::fs::File::create(&file)?);
        let mut count = 0;
        for request in requests {
            let request = request?;
            writeln!(out, "{}", request.len())?;
            out.write_all(&request)?;
            count += 1;
        }
        out.flush()?;
        Ok(Self {
            _folder: folder,
            file,
            count,
        })
    }
}

impl Run {
    /// Requests that were answered.
    pub(crate) fn answered(&self) -> u64 {
        self.report.answered
    }

    /// Answers a second.
    pub(crate) fn rate(&self) -> f64 {
        self.report.answered as f64 / self.report.seconds
    }

    /// Seconds of a processor that an answer took the server, whatever the generator could do.
    pub(crate) fn processor(&self) -> f64 {
        self.processor / self.report.answered as f64
    }
}

/// Sends requests to a server, the process `id`, for so long. Every one must be answered well.
///
/// # Errors
/// When wrk does not run, or something was refused.
pub(crate) async fn run(
    bench: &Bench,
    (url, id): (&str, u32),
    (requests, order): (&Requests, Order),
    processors: Processors,
) -> anyhow::Result<Run> {
    // It counts in whole seconds.
    let seconds = bench.lasting(Duration::from_secs(3)).as_secs_f64().ceil();
    let mut command = wrk(processors, id).await?;
    command.args([
        "--threads",
        "1",
        "--connections",
        &CONNECTIONS.to_string(),
        "--duration",
        &format!("{seconds}s"),
    ]);
    command
        .arg("--script")
        .arg(dependencies::repository_root().join("e2e/dependencies/wrk/requests.lua"))
        .arg(url)
        .arg("--");
    command.arg(&requests.file);
    match order {
        Order::Again => command.arg("again"),
        Order::OnceAfter(first) => {
            ensure!(
                first < requests.count,
                "{} requests are too few",
                requests.count
            );
            command.args(["once", &(first + 1).to_string()])
        }
    };
    let before = processor_seconds(id)?;
    let output = command
        .kill_on_drop(true)
        .output()
        .await
        .context("running wrk")?;
    let processor = processor_seconds(id)? - before;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().rfind(|line| line.starts_with('{'));
    let line = line.with_context(|| {
        format!(
            "wrk printed {text:?}, {:?}",
            String::from_utf8_lossy(&output.stderr)
        )
    })?;
    let report: WrkReport = serde_json::from_str(line)?;
    ensure!(
        report.answered > 0 && report.refused == 0 && report.broken == 0,
        "not all went well: {line}"
    );
    let run = Run { report, processor };
    bench.say(&format!(
        "{:.0} answers a second, median {:.2} ms, p99 {:.2} ms; the generator was busy for {:.0} %",
        run.rate(),
        report.p50 * 1e3,
        report.p99 * 1e3,
        100.0 * report.busy_seconds / report.seconds
    ));
    Ok(run)
}

/// wrk where it shall run, with the server put where that shall.
async fn wrk(processors: Processors, server: u32) -> anyhow::Result<Command> {
    let wrk = dependencies::path_of("WRK")?;
    let (Processors::Apart, Some((one, other))) = (processors, two_processors()?) else {
        return Ok(Command::new(wrk));
    };
    let mut pin = Command::new("taskset");
    pin.args([
        "--all-tasks",
        "--cpu-list",
        "--pid",
        &other,
        &server.to_string(),
    ]);
    let pinned = pin
        .output()
        .await
        .context("running taskset (Debian: util-linux)")?;
    ensure!(
        pinned.status.success(),
        "taskset: {}",
        String::from_utf8_lossy(&pinned.stderr)
    );
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", &one]).arg(wrk);
    Ok(command)
}

/// The first and the last that this process may use, when there are two.
fn two_processors() -> anyhow::Result<Option<(String, String)>> {
    let status = std::fs::read_to_string(Path::new("/proc/self/status"))?;
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .unwrap_or_default()
        .trim();
    let mut numbers = list.split([',', '-']);
    Ok(numbers
        .next()
        .zip(numbers.next_back())
        .map(|(one, other)| (one.to_owned(), other.to_owned())))
}

/// How long all threads of a process have had a processor, their calls of the system included
/// (proc(5): utime and stime).
fn processor_seconds(id: u32) -> anyhow::Result<f64> {
    let file = format!("/proc/{id}/stat");
    let stat = std::fs::read_to_string(&file).with_context(|| format!("reading {file}"))?;
    // The second member is the name, in parentheses, and may hold anything.
    let (_name, members) = stat
        .rsplit_once(')')
        .with_context(|| format!("{file}: {stat}"))?;
    let ticks: Vec<u64> = members
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<u64>() as f64 / TICKS)
}
