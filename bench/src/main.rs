//! `make bench [ONLY=1,2] [ROUNDS=5] [SHARE=1]`: speed compared with a floor or a peer that is
//! measured in the same run.
//!
//! Each measure is a module, prints nothing, and returns rows of one table. Floors and peers are in
//! `floor`. The result is the ratio within a round, in which both are measured right after each
//! other, and never an absolute time. `SHARE` reduces all sizes, to test the benchmark; only a full
//! run has valid figures. `OUT` is the output folder, instead of `target/bench`.

mod carrier;
mod component;
mod configuration;
mod costs;
mod documents;
mod events;
mod figures;
mod floor;
mod generator;
mod http;
mod intake;
mod loads;
mod memory;
mod pair;
mod prepare;
mod protection;
mod reads;
mod relay;
mod rendered;
mod replicas;
mod report;
mod rollback;
mod steps;
mod sustained;
mod throughput;
mod values;
mod visible;
mod writes;

use std::{
    collections::BTreeSet,
    io::{IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use e2e::testbed::environment::number_or;
use indicatif::{ProgressBar, ProgressStyle};
use report::{Failure, Report};

/// The time limit of a measure.
const LIMIT: Duration = Duration::from_secs(300);

/// The parameters of every measure.
#[derive(Debug)]
pub(crate) struct Bench {
    /// The number of rounds of each figure.
    pub(crate) rounds: usize,
    /// The share of the full sizes: 1 for valid figures.
    pub(crate) share: f64,
    bar: ProgressBar,
    lines: bool,
}

impl Bench {
    /// This share of `full`; at least one.
    pub(crate) fn sized(&self, full: usize) -> usize {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a count"
        )]
        let part = (full as f64 * self.share).ceil() as usize;
        part.max(1)
    }

    /// This share of the duration `full`.
    pub(crate) fn lasting(&self, full: Duration) -> Duration {
        full.mul_f64(self.share).max(Duration::from_millis(100))
    }

    /// Prints the current step.
    pub(crate) fn say(&self, line: &str) {
        if self.lines {
            writeln!(std::io::stderr(), "{line}").ok();
        }
        self.bar.set_message(line.to_owned());
    }
}

fn main() -> ExitCode {
    // As the services, and as docs/embedding.md says of a service that embeds the library.
    allocator::keep_freed_memory();
    if let Some(ended) = replicas::run_publisher() {
        return ended;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some((first, rest)) = arguments.split_first() {
        match first.as_str() {
            floor::constant::SERVE => return floor::constant::serve(rest),
            floor::appended::SERVE => return floor::appended::serve(rest),
            _other => {}
        }
    }
    // Two workers on every machine, so that figures of different machines can be compared.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let done = runtime
        .context("no runtime")
        .and_then(|runtime| runtime.block_on(run()));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            writeln!(std::io::stderr(), "bench: {error:#}").ok();
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<()> {
    let only = std::env::var("ONLY").unwrap_or_default();
    let only: BTreeSet<u8> = only
        .split(',')
        .filter(|number| !number.is_empty())
        .map(|number| {
            number
                .trim()
                .parse()
                .with_context(|| format!("ONLY={only}: numbers from 1 to 21"))
        })
        .collect::<Result<_, _>>()?;
    let chosen: Vec<u8> = (1..=21)
        .filter(|number| only.is_empty() || only.contains(number))
        .collect();
    let style = ProgressStyle::with_template("{bar:14} {pos}/{len} measures, {elapsed}, {msg}");
    let bar = ProgressBar::new(chosen.len() as u64)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let bench = Bench {
        rounds: number_or("ROUNDS", 5)?,
        share: number_or("SHARE", 1.0)?,
        bar,
        lines: !std::io::stderr().is_terminal(),
    };
    let mut report = Report::default();
    report.machine.processors = std::thread::available_parallelism()?.get();
    (report.machine.rounds, report.machine.share) = (bench.rounds, bench.share);
    for number in chosen {
        bench.say(&format!("measure {number}"));
        report.machine.load.push((number, load()));
        let done = tokio::time::timeout(LIMIT, measure(number, &bench, &mut report)).await;
        if let Err(error) =
            done.unwrap_or_else(|_late| Err(anyhow::anyhow!("it took longer than {LIMIT:?}")))
        {
            report.failures.push(Failure {
                measure: number,
                error: format!("{error:#}"),
            });
        }
        bench.bar.inc(1);
    }
    bench.bar.finish_and_clear();
    let out = std::env::var_os("OUT").filter(|folder| !folder.is_empty());
    let folder = out.map_or_else(
        || e2e::testbed::dependencies::repository_root().join("target/bench"),
        PathBuf::from,
    );
    report.write(&folder)?;
    writeln!(
        std::io::stdout(),
        "{}\n\nbench.json and pictures: {}",
        report.table(),
        folder.display()
    )
    .ok();
    anyhow::ensure!(
        report.failures.is_empty(),
        "{} measures did not come to their end",
        report.failures.len()
    );
    Ok(())
}

async fn measure(number: u8, bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let rows = match number {
        1 | 2 => events::measure(number, bench).await?,
        3 => writes::measure(bench).await?,
        4 => throughput::measure(bench).await?,
        5 | 6 => intake::measure(number, bench).await?,
        7 | 8 => reads::measure(number, bench).await?,
        9 | 11 => loads::measure(number, bench).await?,
        10 => memory::measure(bench).await?,
        12 => {
            replicas::measure(bench, report).await?;
            Vec::new()
        }
        13 => visible::measure(bench).await?,
        15 => rollback::measure(bench).await?,
        16 => protection::measure(bench).await?,
        17 => steps::measure(bench, &mut report.costs).await?,
        18 => replicas::confirmed::measure(bench).await?,
        19 => configuration::measure(bench).await?,
        20 => component::measure(bench).await?,
        21 => rendered::measure(bench).await?,
        _ => sustained::measure(bench).await?,
    };
    report.rows.extend(rows);
    Ok(())
}

/// The load average over one minute.
fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or_default()
}
