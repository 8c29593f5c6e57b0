//! Logging: one line per event on standard error, filtered by `RUST_LOG`. Standard output stays free for results.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging. Call it once, first thing. Without `RUST_LOG`, `info` and above of everything is shown.
pub fn init() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_unset| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}
