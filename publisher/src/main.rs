//! The publisher process: settings, then [`publisher::app::Publisher`] until SIGTERM or SIGINT.

use publisher::{
    app::Publisher,
    settings::{Args, Settings},
};
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
