//! The component process: settings, then [`component::app::App`] until SIGTERM or SIGINT.

use component::{
    app::App,
    settings::{Options, Settings},
};
use service::runtime::{process, tasks::StopSignals};

fn main() {
    process::run_to_end(
        "confcast-component",
        None,
        |options: Options| options.settings(),
        async |settings: Settings| App::build(settings).await,
        serve,
    );
}

async fn serve(app: App, signals: StopSignals) -> anyhow::Result<()> {
    let drain = app.drain();
    app.run(drain.after(signals)).await
}
