//! Logging: one line per event on standard error, filtered by `RUST_LOG`, as text or as JSON; and spans of
//! traces, where an endpoint of OpenTelemetry is set (`export`).
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
    EnvFilter, Layer,
    field::{MakeExt, RecordFields},
    fmt::{
        FormatFields,
        format::{Format, JsonFields, Writer, debug_fn},
    },
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

mod export;
mod rate;
mod variables;

pub use export::finish;
use rate::LineEnd;

/// The filter without `RUST_LOG`. The HTTP server logs the start of every worker at INFO; the
/// services log one line of their own instead. Its HTTP parser logs every malformed request as an
/// error, which any peer can cause.
const DEFAULT_FILTER: &str =
    "info,actix_server=warn,actix_http::h1::dispatcher=off,opentelemetry=warn";
const VARIABLE: &str = "RUST_LOG";
/// `text` or `json`. It has no flag: the mistakes of all others are log lines.
pub(super) const FORMAT_VARIABLE: &str = "AURA_CONFIGURATION_LOG_FORMAT";

/// Starts logging, and sending spans where that is set. Call it once, before anything else logs. `name`
/// is that of the service.
///
/// The result is what is wrong with the variables. Logging has started nevertheless, with the defaults.
///
/// # Panics
/// On the second call in a process, and outside of a runtime.
pub fn init(name: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let variable = |name| std::env::var_os(name).unwrap_or_default();
    let filter = filter(&variable(VARIABLE).to_string_lossy()).unwrap_or_else(|error| {
        wrong.push(error);
        EnvFilter::new(DEFAULT_FILTER)
    });
    let format = variable(FORMAT_VARIABLE)
        .to_string_lossy()
        .trim()
        .to_ascii_lowercase();
    let is_json = match format.as_str() {
        "" | "text" => false,
        "json" => true,
        other => {
            wrong.push(format!(
                "{FORMAT_VARIABLE}={other:?}: expected text or json"
            ));
            false
        }
    };
    let spans = export::layer(name).unwrap_or_else(|error| {
        wrong.push(error);
        None
    });
    // Filters of layers cost more than that of a whole subscriber.
    match spans {
        None => tracing_subscriber::registry()
            .with(filter)
            .with(lines(is_json))
            .init(),
        Some(spans) => tracing_subscriber::registry()
            .with(lines(is_json).with_filter(filter))
            .with(spans)
            .init(),
    }
    wrong
}

/// The layer that writes lines.
fn lines<S>(is_json: bool) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'span> tracing_subscriber::registry::LookupSpan<'span>,
{
    let ansi = !is_json && std::io::stderr().is_terminal();
    let format = Format::default().with_target(false).with_ansi(ansi);
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(ansi);
    if is_json {
        let format = format.json().flatten_event(true).with_current_span(false);
        let layer = layer.fmt_fields(JsonFields::new());
        layer
            .event_format(rate::Rated::new(format, LineEnd::Json))
            .boxed()
    } else {
        let layer = layer.fmt_fields(EscapedFields);
        layer
            .event_format(rate::Rated::new(format, LineEnd::Text))
            .boxed()
    }
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
