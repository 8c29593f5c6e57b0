//! Logging: one line per event on standard error, filtered by `RUST_LOG`. Standard output stays
//! free for results.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// What is shown without `RUST_LOG`. The HTTP server announces every worker; our own lines say what
/// it would.
const DEFAULT_FILTER: &str = "info,actix_server=warn";

/// Starts logging. Call it once, first thing.
pub fn init() {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_unset| EnvFilter::new(DEFAULT_FILTER));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}
