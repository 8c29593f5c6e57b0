//! Log lines of a command that runs as long as a service: on standard error, filtered by `RUST_LOG`.

use std::io::{self, Write};

use anyhow::Context;
use contract::text::Escaped;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

/// Starts logging. Call it once.
///
/// # Errors
/// When `RUST_LOG` is no filter.
pub(super) fn init() -> anyhow::Result<()> {
    let filter = std::env::var("RUST_LOG").unwrap_or_default();
    let filter = match filter.trim() {
        "" => "info",
        filter => filter,
    };
    let filter = EnvFilter::try_new(filter).context("RUST_LOG")?;
    let format = std::env::var("AURA_CONFIGURATION_LOG_FORMAT").unwrap_or_default();
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(false)
        .with_writer(Lines);
    match format.trim().to_ascii_lowercase().as_str() {
        "" | "text" => lines.init(),
        "json" => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .init(),
        _ => anyhow::bail!("AURA_CONFIGURATION_LOG_FORMAT: expected text or json"),
    }
    Ok(())
}

/// Standard error, a line at a time: text of others, such as the output of a check, can neither end a line
/// nor reach the terminal as a control.
struct Lines;

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let text = text.strip_suffix('\n').unwrap_or(&text);
        writeln!(io::stderr().lock(), "{}", Escaped(text))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
