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

async fn serve(app: App, signals: StopSignals) -> anyhow::Result<()> {
    let drain = app.drain();
    app.run(drain.after(signals)).await
}
