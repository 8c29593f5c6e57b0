//! The publisher process: settings, then [`publisher::Publisher`] until it is asked to stop.

use clap::Parser;
use publisher::{Args, Publisher};
use service::{limits, settings::EXIT_CODE, tasks, telemetry};
use tracing::{error, info};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    telemetry::init();
    let settings = Args::parse().check().unwrap_or_else(|mistakes| {
        error!("{mistakes}");
        std::process::exit(EXIT_CODE);
    });
    limits::raise_open_files();
    let ended = async {
        Publisher::build(settings)
            .await?
            .run(tasks::asked_to_stop())
            .await
    }
    .await;
    match ended {
        Ok(()) => info!("the publisher has stopped"),
        Err(error) => {
            error!("{error:#}");
            std::process::exit(1);
        }
    }
}
