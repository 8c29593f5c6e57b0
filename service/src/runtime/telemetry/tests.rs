//! A log line stays one line, and a wrong filter is named.

use std::{
    io,
    sync::{Arc, Mutex},
};

use super::*;

/// Collects what is logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("a writer").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn text_of_others_cannot_forge_a_line_or_control_a_terminal() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .fmt_fields(EscapedFields)
        .finish();
    let foreign = "x\nERROR forged \u{1b}[2J\u{9b}2J\u{202e}";
    tracing::subscriber::with_default(subscriber, || {
        let error = io::Error::other(foreign);
        let span = tracing::info_span!("request", of = %foreign);
        span.in_scope(|| {
            tracing::info!(op = %foreign, quoted = foreign, ?foreign, "refused: {foreign}");
            tracing::warn!(error = &error as &dyn std::error::Error, "the answer");
        });
    });
    let text = String::from_utf8(lines.0.lock().expect("lines").clone()).expect("UTF-8");
    assert_eq!(text.lines().count(), 2, "{text}");
    let hidden = |line: &str| line.contains(contract::text::is_hidden);
    assert!(!text.lines().any(hidden), "{text:?}");
    assert!(text.contains("refused: x\\nERROR forged"), "{text}");
    assert!(text.contains("op=x\\nERROR"), "{text}");
}

#[test]
fn a_line_that_is_repeated_without_end_is_written_a_few_times() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(Level::DEBUG)
        .with_writer(move || writer.clone())
        .event_format(rate::Rated::new(
            Format::default().with_ansi(false),
            LineEnd::Text,
        ))
        .fmt_fields(EscapedFields)
        .finish();
    tracing::subscriber::with_default(subscriber, || {
        for number in 0..1_000 {
            tracing::warn!(number, "a stranger sent what is refused");
            tracing::debug!("asked for");
        }
        tracing::warn!("another line");
    });
    let text = String::from_utf8(lines.0.lock().expect("lines").clone()).expect("UTF-8");
    let count = |what| text.lines().filter(|line| line.contains(what)).count();
    assert!((1..100).contains(&count("a stranger")), "{text}");
    assert_eq!(count("asked for"), 1_000);
    assert_eq!(count("another line"), 1);
    assert!(!text.contains("\n\n"), "no empty lines");
}

#[test]
fn a_misspelt_level_is_refused_and_filters_are_taken() {
    for wrong in ["infoo", "info,publisher=wran", "6x", "publisher", "a=b=c"] {
        let error = filter(wrong).expect_err(wrong);
        assert!(
            error.starts_with("RUST_LOG=") && error.contains("expected"),
            "{error}"
        );
    }
    for right in [
        "",
        " ",
        "info\n",
        "WARN",
        "off",
        "debug,publisher=trace, replica::sync=warn",
        "info,[request{id=1}]=debug",
        "info,",
    ] {
        assert!(filter(right).is_ok(), "{right:?}");
    }
}

#[test]
fn a_json_line_is_one_object_with_all_its_fields_whatever_they_say() {
    let lines = Lines::default();
    let writer = lines.clone();
    let format = Format::default().json().flatten_event(true);
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .fmt_fields(JsonFields::new())
        .event_format(rate::Rated::new(format, LineEnd::Json))
        .finish();
    let foreign = "x\n}{\"\u{1b}[2J\u{9b}\u{202e}";
    tracing::subscriber::with_default(subscriber, || {
        tracing::info!(of = foreign, "refused: {foreign}");
        for _line in 0..1_000 {
            tracing::warn!("again");
        }
    });
    let text = String::from_utf8(lines.0.lock().expect("lines").clone()).expect("UTF-8");
    let hidden = |line: &str| line.contains(contract::text::is_hidden);
    assert!(!text.lines().any(hidden), "{text:?}");
    let read = |line| serde_json::from_str::<serde_json::Value>(line).expect(line);
    let first = read(text.lines().next().expect("a line"));
    assert_eq!(first["of"], foreign);
    assert_eq!(first["message"], format!("refused: {foreign}"));
    assert_eq!(first["level"], "INFO");
    let all: Vec<_> = text.lines().map(read).collect();
    assert!(all.len() < 100, "{text}");
}
