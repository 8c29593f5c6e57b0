//! The end of a process is not delayed without limit.

use std::time::{Duration, Instant};

use service::runtime::{process, tasks::StopSignals};

/// Takes the command line of a test.
#[derive(clap::Parser)]
struct Any {
    #[arg(allow_hyphen_values = true, trailing_var_arg = true)]
    _words: Vec<String>,
}

/// A read of a named pipe, or of a file system that does not answer, kept a stopped process alive.
#[test]
fn a_call_that_blocks_for_ever_does_not_keep_a_process_alive() {
    let (never, blocked) = std::sync::mpsc::channel::<()>();
    let start = Instant::now();
    process::run_to_end(
        "service",
        None,
        |_any: Any| Ok(()),
        async |()| Ok(()),
        async |(), _signals: StopSignals| {
            let waits = tokio::task::spawn_blocking(move || blocked.recv());
            drop(waits);
            Ok(())
        },
    );
    assert!(start.elapsed() < Duration::from_secs(15));
    drop(never);
}
