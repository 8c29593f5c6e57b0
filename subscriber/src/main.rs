//! The subscriber process: settings, then [`subscriber::app::App`] until SIGTERM or SIGINT.

use service::runtime::{process, tasks::StopSignals};
use subscriber::{
    app::App,
    settings::{Options, Settings},
};

#[tokio::main]
async fn main() {
    process::run(
        "subscriber",
        |options: Options| options.settings(),
        async |settings: Settings| App::build(settings),
        serve,
    )
    .await;
}

async fn serve(app: App, mut signals: StopSignals) -> anyhow::Result<()> {
    app.run(signals.received()).await
}
