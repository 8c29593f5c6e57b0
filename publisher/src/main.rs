//! The publisher process: settings, then [`publisher::Publisher`] until SIGTERM or SIGINT.

use publisher::{Args, Publisher, Settings};
use service::runtime::{process, tasks};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    process::run("publisher", |args: Args| args.check(), serve).await;
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    Publisher::build(settings)
        .await?
        .run(tasks::asked_to_stop())
        .await
}
