//! `make chaos FAULTS=n [SEED=s]`: the fault campaign. RATE is the number of writes per second, VIA
//! is `dapr`, `pubsub`, `streams`, `local` or `feed`.

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use e2e::{
    chaos::{
        campaign::{self, Options, Progress},
        transport,
    },
    testbed::environment::number_or,
};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            writeln!(std::io::stderr(), "chaos: {error:#}").ok();
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<()> {
    let transport = transport::named(&std::env::var("VIA").unwrap_or_default())?;
    // Nine digits at most, so that a person can read the seed out.
    let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64 % 1_000_000_000;
    let options = Options {
        faults: number_or("FAULTS", 100)?,
        seed: number_or("SEED", seed)?,
        rate: number_or("RATE", 60)?,
        transport,
    };
    let progress = Terminal::new(options.faults);
    let seed = options.seed;
    let faults = options.faults;
    let rate = options.rate;
    progress.say(&format!(
        "seed {seed} ({faults} faults, {rate} writes/s, transport {})",
        transport::name(transport)
    ));
    let mut terminated = signal(SignalKind::terminate())?;
    let report = tokio::select! {
        report = campaign::run(&options, &progress) => report?,
        // Dropping the campaign ends its processes.
        _ = tokio::signal::ctrl_c() => anyhow::bail!("stopped; seed {seed}"),
        _ = terminated.recv() => anyhow::bail!("stopped; seed {seed}"),
    };
    progress.bar.finish_and_clear();
    report.check()?;
    writeln!(std::io::stdout(), "{report}").ok();
    Ok(())
}

/// A progress bar on a terminal, lines in all other outputs.
struct Terminal {
    bar: ProgressBar,
    lines: bool,
}

impl Terminal {
    fn new(faults: usize) -> Self {
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} faults, {elapsed}, {msg}");
        let bar = ProgressBar::new(faults as u64)
            .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self {
            bar,
            lines: !std::io::stderr().is_terminal(),
        }
    }
}

impl Progress for Terminal {
    fn say(&self, line: &str) {
        if self.lines {
            writeln!(std::io::stderr(), "{line}").ok();
        }
        self.bar.set_message(line.to_owned());
    }

    fn fault(&self) {
        self.bar.inc(1);
    }
}
