//! The life of a service process, from the command line to the exit code.
//!
//! This is the only place that knows exit codes: 0 after a clean stop, 1 after a failure, 64 when
//! a flag or a setting is wrong. No other code ends the process.

use clap::Parser;
use tracing::{error, info};

use super::{limits, settings::SettingsError, telemetry};

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
    let options = O::try_parse().unwrap_or_else(|error| {
        // `--help` and `--version` arrive here as well; they are printed to standard output.
        let wrong = error.use_stderr();
        match error.print() {
            Ok(()) if !wrong => std::process::exit(0),
            _ => std::process::exit(EXIT_USAGE),
        }
    });
    // Before the settings are checked: their errors are log lines.
    telemetry::init();
    let settings = check(options).unwrap_or_else(|errors| {
        error!("{errors}");
        std::process::exit(EXIT_USAGE);
    });
    limits::raise_open_files();
    match serve(settings).await {
        Ok(()) => info!("the {name} has stopped"),
        Err(error) => {
            error!("the {name} has failed: {error:#}");
            std::process::exit(EXIT_FAILURE);
        }
    }
}
