//! Logging: one line per event on standard error, filtered by `RUST_LOG`.
//!
//! Nothing is logged to standard output: it stays free for results.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// The filter without `RUST_LOG`. The HTTP server logs the start of every worker at INFO; the
/// services log one line of their own instead.
const DEFAULT_FILTER: &str = "info,actix_server=warn";

/// Starts logging. Call it once, before anything else logs.
///
/// # Panics
/// On the second call in a process.
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
