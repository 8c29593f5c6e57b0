//! Logging: one line per event on standard error, filtered by `RUST_LOG`.
//!
//! Nothing is logged to standard output: it stays free for results. A value of others cannot end a
//! line or reach the terminal as a control, and no peer can fill the disk with lines: every message
//! and every field is escaped here, and every line has a rate (`rate`), so no call has to remember
//! it.

use std::{
    fmt::{self, Write},
    io::IsTerminal,
};

use contract::text::Escaper;
use tracing::{Level, field::Field};
use tracing_subscriber::{
    EnvFilter,
    field::{MakeExt, RecordFields},
    fmt::{
        FormatFields,
        format::{Format, Writer, debug_fn},
    },
};

mod rate;

/// The filter without `RUST_LOG`. The HTTP server logs the start of every worker at INFO; the
/// services log one line of their own instead. Its HTTP parser logs every malformed request as an
/// error, which any peer can cause.
const DEFAULT_FILTER: &str = "info,actix_server=warn,actix_http::h1::dispatcher=off";
const VARIABLE: &str = "RUST_LOG";

/// Starts logging. Call it once, before anything else logs.
///
/// # Errors
/// What is wrong with `RUST_LOG`. Logging has started nevertheless, with the default filter.
///
/// # Panics
/// On the second call in a process.
pub fn init() -> Result<(), String> {
    let given = std::env::var_os(VARIABLE).unwrap_or_default();
    let read = filter(&given.to_string_lossy());
    let (filter, outcome) = match read {
        Ok(filter) => (filter, Ok(())),
        Err(wrong) => (EnvFilter::new(DEFAULT_FILTER), Err(wrong)),
    };
    let ansi = std::io::stderr().is_terminal();
    let format = Format::default().with_target(false).with_ansi(ansi);
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(ansi)
        .event_format(rate::Rated::new(format))
        .fmt_fields(EscapedFields)
        .init();
    outcome
}

/// Reads a filter; an empty one is the default. A word alone must be a level: the parser would take
/// a misspelt level for the name of a module, and nothing would be logged.
fn filter(text: &str) -> Result<EnvFilter, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(EnvFilter::new(DEFAULT_FILTER));
    }
    let is_level = |word: &str| word.eq_ignore_ascii_case("off") || word.parse::<Level>().is_ok();
    let expected = "expected off, error, warn, info, debug or trace, or MODULE=LEVEL";
    let wrong = |reason: &dyn fmt::Display| format!("{VARIABLE}={text:?}: {reason}");
    // A directive with a span has a grammar of its own, which may contain commas.
    if text.contains('[') {
        return EnvFilter::try_new(text).map_err(|error| wrong(&error));
    }
    let parts: Vec<&str> = text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .collect();
    for part in &parts {
        let level = part
            .rsplit_once('=')
            .map_or(*part, |(_module, level)| level.trim());
        if !is_level(level) {
            return Err(wrong(&format_args!("{part:?}: {expected}")));
        }
    }
    EnvFilter::try_new(parts.join(",")).map_err(|error| wrong(&format_args!("{error}; {expected}")))
}

/// Writes the fields of an event or span as `message name=value`, with hidden characters escaped.
struct EscapedFields;

impl<'writer> FormatFields<'writer> for EscapedFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        debug_fn(
            |writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug| {
                let mut escaper = Escaper(writer);
                if field.name() == "message" {
                    write!(escaper, "{value:?}")
                } else {
                    write!(escaper, "{}={value:?}", field.name())
                }
            },
        )
        .delimited(" ")
        .format_fields(writer, fields)
    }
}

#[cfg(test)]
mod tests;
