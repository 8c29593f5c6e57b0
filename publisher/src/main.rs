//! The publisher process: settings, then [`publisher::Publisher`] until SIGTERM or SIGINT.

use publisher::{Args, Publisher};
use service::runtime::{process, tasks::StopSignals};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    process::run(
        "publisher",
        |args: Args| args.check(),
        Publisher::build,
        serve,
    )
    .await;
}

async fn serve(publisher: Publisher, mut signals: StopSignals) -> anyhow::Result<()> {
    publisher.run(signals.received()).await
}
