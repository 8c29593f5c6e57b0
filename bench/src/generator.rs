//! wrk, the load generator for HTTP: one thread and 64 connections. Requests are ready before the
//! first is sent. It reports how busy it was, because a saturated generator would measure itself.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, ensure};
use e2e::testbed::{dependencies, process::folder};
use nix::{
    time::{clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::process::Command;

use crate::{
    Bench,
    figures::{Comparison, Row},
};

/// Connections, each with one request in flight.
pub(crate) const CONNECTIONS: u64 = 64;

/// Requests in their wire form, in the file that `e2e/dependencies/wrk/requests.lua` reads.
#[derive(Debug)]
pub(crate) struct Requests {
    _folder: TempDir,
    file: PathBuf,
    count: usize,
}

/// The order in which requests are sent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Order {
    /// Each request once, except the given number of first ones. The run ends with the last.
    OnceAfter(usize),
    /// All requests, repeatedly.
    Again,
}

/// The result of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    report: WrkReport,
    /// Processor time of the server, in seconds.
    processor: f64,
}

/// The report of the script.
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

/// The assignment of processors.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Processors {
    /// Generator and server share all processors.
    Shared,
    /// Generator and server have one processor each, so that the load of the generator does not
    /// make figures more similar.
    Apart,
}

impl Requests {
    /// Writes the requests to a file.
    ///
    /// # Errors
    /// When the file cannot be written.
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
    /// The number of answered requests.
    pub(crate) fn answered(&self) -> u64 {
        self.report.answered
    }

    /// Answers per second.
    pub(crate) fn rate(&self) -> f64 {
        self.report.answered as f64 / self.report.seconds
    }

    /// Processor time of the server per answer, in seconds. It is independent of the speed of the
    /// generator.
    pub(crate) fn processor(&self) -> f64 {
        self.processor / self.report.answered as f64
    }
}

/// Two rows of runs beside other runs: answers per second, and processor time of the server per answer.
#[derive(Debug)]
pub(crate) struct Compared {
    rate: Comparison,
    processor: Comparison,
}

impl Compared {
    pub(crate) fn new(rate: Comparison, processor: Comparison) -> Self {
        Self { rate, processor }
    }

    /// The figures of one round.
    pub(crate) fn round(&mut self, ours: &Run, beside: &Run) {
        self.rate.round(ours.rate(), beside.rate());
        self.processor.round(ours.processor(), beside.processor());
    }

    pub(crate) fn rows(self) -> Vec<Row> {
        let rows = [self.rate, self.processor];
        rows.into_iter().filter_map(Comparison::row).collect()
    }
}

/// Sends requests to the server with process id `id` for a duration. Every answer must be
/// successful.
///
/// # Errors
/// When wrk does not run, or the server refused a request.
pub(crate) async fn run(
    bench: &Bench,
    (url, id): (&str, u32),
    (requests, order): (&Requests, Order),
    processors: Processors,
) -> anyhow::Result<Run> {
    // wrk counts in whole seconds.
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

/// The command of wrk on its processors. It also moves the server to its own.
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

/// The first and the last processor that this process may use, when there are at least two.
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

/// Processor time of all threads of a process, including system calls, in seconds.
pub(crate) fn processor_seconds(id: u32) -> anyhow::Result<f64> {
    // In nanoseconds, where proc(5) counts ticks of 10 ms.
    let clock = clock_getcpuclockid(Pid::from_raw(id.try_into()?))?;
    Ok(Duration::from(clock_gettime(clock)?).as_secs_f64())
}
