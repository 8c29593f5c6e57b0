//! The subscriber process: settings, then [`subscriber::app::App`] until SIGTERM or SIGINT.

use service::runtime::{process, tasks::StopSignals};
use subscriber::{
    app::App,
    settings::{Options, Settings},
};

fn main() {
    process::run_to_end(
        "subscriber",
        None,
        |options: Options| options.settings(),
        async |settings: Settings| App::build(settings),
        serve,
    );
}

async fn serve(app: App, mut signals: StopSignals) -> anyhow::Result<()> {
    app.run(signals.received()).await
}
