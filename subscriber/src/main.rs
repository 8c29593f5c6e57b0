//! The subscriber process: settings, then [`subscriber::app::App`] until it is asked to stop.

use std::process::ExitCode;

use clap::Parser;
use service::{limits, settings::EXIT_CODE, tasks::asked_to_stop, telemetry};
use subscriber::{app::App, settings::Options};

#[tokio::main]
async fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => {
            let wrong = error.use_stderr();
            return match error.print() {
                Ok(()) if !wrong => ExitCode::SUCCESS,
                _ => ExitCode::from(EXIT_CODE as u8),
            };
        }
    };
    telemetry::init();
    let settings = match options.settings() {
        Ok(settings) => settings,
        Err(mistakes) => {
            tracing::error!("{mistakes}");
            return ExitCode::from(EXIT_CODE as u8);
        }
    };
    limits::raise_open_files();
    let ended = match App::build(settings) {
        Ok(app) => app.run(asked_to_stop()).await,
        Err(error) => Err(error),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
