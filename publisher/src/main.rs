//! The publisher process: reads the settings, then runs [`publisher::Publisher`] until SIGTERM
//! or SIGINT. Exit code 64 means wrong settings, 1 any other failure.

use std::process::exit;

use clap::Parser;
use publisher::{Args, Publisher, Settings};
use service::{limits, settings::EXIT_CODE, tasks, telemetry};
use tracing::{error, info};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    telemetry::init();
    let settings = Args::parse().check().unwrap_or_else(|mistakes| {
        error!("{mistakes}");
        exit(EXIT_CODE);
    });
    limits::raise_open_files();
    match run(settings).await {
        Ok(()) => info!("the publisher has stopped"),
        Err(error) => {
            error!("the publisher ends because of an error: {error:#}");
            exit(1);
        }
    }
}

async fn run(settings: Settings) -> anyhow::Result<()> {
    let publisher = Publisher::build(settings).await?;
    publisher.run(tasks::asked_to_stop()).await
}
