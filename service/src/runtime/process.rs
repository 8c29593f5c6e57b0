//! The life of a service process, from the command line to the exit code.
//!
//! This is the only place that knows exit codes: 0 after a clean stop, also during the start, 1
//! after a failure, 64 when a flag or a setting is wrong. No other code ends the process.

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use clap::Parser;
use contract::environment;
use tracing::{error, info, warn};

use super::{
    limits,
    settings::{self, ReadError, SettingsError},
    tasks::StopSignals,
    telemetry,
};

/// Exit code after a failure: a task failed, or something could not be opened.
pub const EXIT_FAILURE: i32 = 1;
/// Exit code when a flag or a setting is wrong: `EX_USAGE` of `sysexits.h`.
pub const EXIT_USAGE: i32 = 64;

/// How long the end of the process waits for calls that block a thread, for example of a file system
/// that does not answer.
const BLOCKING_GRACE: Duration = Duration::from_secs(5);

/// Runs a service to its end, in a runtime with a number of threads (`None`: one for each processor).
/// Calls that block a thread are waited for until a time limit; without it one that never returns
/// would keep the process alive after its end.
///
/// See `run` for the arguments.
pub fn run_to_end<O: Parser, S, R>(
    name: &str,
    threads: Option<usize>,
    check: impl FnOnce(O) -> Result<S, SettingsError>,
    start: impl AsyncFnOnce(S) -> anyhow::Result<R>,
    serve: impl AsyncFnOnce(R, StopSignals) -> anyhow::Result<()>,
) {
    allocator::keep_freed_memory();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = threads {
        runtime.worker_threads(threads);
    }
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            // No log yet.
            let line = format!("the {name} does not start: its threads cannot be started: {error}");
            writeln!(io::stderr(), "{line}").ok();
            std::process::exit(EXIT_FAILURE);
        }
    };
    runtime.block_on(run(name, check, start, serve));
    // While the runtime still drives connections.
    telemetry::finish();
    let stopped = Instant::now();
    runtime.shutdown_timeout(BLOCKING_GRACE);
    if stopped.elapsed() >= BLOCKING_GRACE {
        warn!(
            "the {name} ends although a blocking call, for example to a file system, has not \
             returned within {} s",
            BLOCKING_GRACE.as_secs()
        );
    }
}

/// Runs a service: reads the command line, checks the settings, and awaits `start`, then `serve`.
///
/// `check` turns the command line into settings and opens nothing. `start` opens stores and ports;
/// it is dropped at any of its awaits when the process is asked to stop, which is a clean stop too.
/// `serve` returns after a clean stop, which [`StopSignals`] asks for.
///
/// `name` stands in log lines ("the publisher has stopped"). After a success it returns, and `main`
/// ends with exit code 0. After a failure, and after a stop during the start, the process ends at
/// once: a blocking call that hangs must not keep it alive.
async fn run<O: Parser, S, R>(
    name: &str,
    check: impl FnOnce(O) -> Result<S, SettingsError>,
    start: impl AsyncFnOnce(S) -> anyhow::Result<R>,
    serve: impl AsyncFnOnce(R, StopSignals) -> anyhow::Result<()>,
) {
    // Before the first log line: from then on a stop is orderly.
    let signals = StopSignals::install();
    // Before the settings are checked: their errors are log lines.
    let mut wrong = telemetry::init(name);
    let settings = match settings::read(std::env::args_os(), check) {
        Ok(settings) => Some(settings),
        Err(ReadError::CommandLine(error)) => {
            // `--help` and `--version` arrive here as well; they are printed to standard output.
            let usage = error.use_stderr();
            match error.print() {
                Ok(()) if !usage => std::process::exit(0),
                _ => std::process::exit(EXIT_USAGE),
            }
        }
        Err(ReadError::Settings(SettingsError(errors))) => {
            wrong.extend(errors);
            None
        }
        Err(ReadError::OnlyChecked) if wrong.is_empty() => {
            report_unread_names::<O>(name);
            info!("the {name} was asked to check its settings, and they are right");
            telemetry::finish();
            std::process::exit(0);
        }
        Err(ReadError::OnlyChecked) => None,
    };
    report_unread_names::<O>(name);
    let settings = match settings {
        Some(settings) if wrong.is_empty() => settings,
        _ => refuse(name, &wrong),
    };
    limits::raise_open_files();
    let mut signals = signals.unwrap_or_else(|error| {
        error!("the {name} does not start: it cannot receive SIGTERM and SIGINT: {error}");
        std::process::exit(EXIT_FAILURE);
    });
    info!("the {name} starts");
    let started = tokio::select! {
        biased;
        () = signals.received() => {
            // Nothing was accepted that has to be finished, and both stores survive an end at any
            // moment.
            info!("the {name} has stopped: it was asked to while it was starting");
            std::process::exit(0);
        }
        started = start(settings) => started,
    };
    let served = match started {
        Ok(started) => serve(started, signals).await,
        Err(error) => Err(error),
    };
    match served {
        Ok(()) => info!("the {name} has stopped"),
        Err(error) => {
            // Found where a file that a setting names was read, before anything was opened.
            if let Some(SettingsError(wrong)) = error.downcast_ref() {
                refuse(name, wrong);
            }
            error!("the {name} has failed: {error:#}");
            telemetry::finish();
            std::process::exit(EXIT_FAILURE);
        }
    }
}

/// Ends the process because of wrong settings, one line for each.
fn refuse(name: &str, wrong: &[String]) -> ! {
    for error in wrong {
        error!("wrong setting: {error}");
    }
    let plural = if wrong.len() == 1 {
        "setting is"
    } else {
        "settings are"
    };
    error!("the {name} does not start: {} {plural} wrong", wrong.len());
    std::process::exit(EXIT_USAGE);
}

/// Without these lines the setting of a misspelt name, or of another program, would have no effect
/// unnoticed.
fn report_unread_names<O: Parser>(program: &str) {
    let command = O::command();
    for (variable, value) in std::env::vars_os() {
        if let Some(warning) = environment::warning(&variable.to_string_lossy()) {
            warn!("{warning}");
            continue;
        }
        let is_read = command
            .get_arguments()
            .any(|argument| argument.get_env() == Some(&variable));
        // It is read before the settings, by both services.
        let is_read = is_read || variable == telemetry::FORMAT_VARIABLE;
        let is_known = variable
            .to_str()
            .is_some_and(|variable| environment::NAMES.contains(&variable));
        if is_known && !is_read && !value.is_empty() {
            // Programs may share one file of variables, so it is no warning.
            let variable = variable.display();
            info!("the environment variable {variable} is set, and the {program} does not read it");
        }
    }
}
