//! The publisher process: settings, then [`publisher::Publisher`] until SIGTERM or SIGINT.

use publisher::{Args, Publisher};
use service::runtime::{process, tasks::StopSignals};

fn main() {
    process::run_to_end(
        "publisher",
        Some(2),
        |args: Args| args.check(),
        Publisher::build,
        serve,
    );
}

async fn serve(publisher: Publisher, signals: StopSignals) -> anyhow::Result<()> {
    let drain = publisher.drain();
    publisher.run(drain.after(signals)).await
}
