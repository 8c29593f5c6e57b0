//! The life of a service process, from the command line to the exit code.
//!
//! This is the only place that knows exit codes: 0 after a clean stop, 1 after a failure, 64 when
//! a flag or a setting is wrong. No other code ends the process.

use clap::Parser;
use contract::environment;
use tracing::{error, info, warn};

use super::{
    limits,
    settings::{self, ReadError, SettingsError},
    telemetry,
};

/// Exit code after a failure: a task failed, or something could not be opened.
pub const EXIT_FAILURE: i32 = 1;
/// Exit code when a flag or a setting is wrong: `EX_USAGE` of `sysexits.h`.
pub const EXIT_USAGE: i32 = 64;

/// Runs a service: reads the command line, checks the settings, and awaits `serve`.
///
/// `check` turns the command line into settings and opens nothing; `serve` opens stores and ports and
/// returns after a clean stop.
///
/// `name` stands in log lines ("the publisher has stopped"). After a success it returns, and `main`
/// ends with exit code 0. After a failure the process ends at once: a blocking call that hangs must
/// not keep it alive.
pub async fn run<O: Parser, S>(
    name: &str,
    check: impl FnOnce(O) -> Result<S, SettingsError>,
    serve: impl AsyncFnOnce(S) -> anyhow::Result<()>,
) {
    // Before the settings are checked: their errors are log lines.
    let wrong_filter = telemetry::init().err();
    let mut wrong = Vec::from_iter(wrong_filter);
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
    };
    warn_of_misspelt_names();
    let settings = match settings {
        Some(settings) if wrong.is_empty() => settings,
        _ => refuse(name, &wrong),
    };
    limits::raise_open_files();
    match serve(settings).await {
        Ok(()) => info!("the {name} has stopped"),
        Err(error) => {
            // Found where a file that a setting names was read, before anything was opened.
            if let Some(SettingsError(wrong)) = error.downcast_ref() {
                refuse(name, wrong);
            }
            error!("the {name} has failed: {error:#}");
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

/// A misspelt name would leave its setting at the default without a word.
fn warn_of_misspelt_names() {
    for (name, _value) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if let Some(meant) = environment::misspelt(&name) {
            warn!("the environment variable {name} is not read by any program; was {meant} meant?");
        }
    }
}
