//! The subscriber process: settings, then [`subscriber::app::App`] until SIGTERM or SIGINT.

use service::runtime::{process, tasks};
use subscriber::{
    app::App,
    settings::{Options, Settings},
};

#[tokio::main]
async fn main() {
    process::run("subscriber", |options: Options| options.settings(), serve).await;
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    App::build(settings)?.run(tasks::asked_to_stop()).await
}
