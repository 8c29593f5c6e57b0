//! The frame of a list of documents, written chunk by chunk, so that no side holds the whole list.
//!
//! GetAll answers `{"head":{…},"items":[…]}`, or as newline-delimited JSON a line `{"head":{…}}`,
//! one line per item, and the end line of a snapshot, which shows that nothing was cut off. A
//! collection without revisions has no head.

use std::io::Write;

use crate::{Document, Head, document::JSON, snapshot};

/// Media type of newline-delimited JSON.
pub const NDJSON: &str = "application/x-ndjson";

/// The format of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListFormat {
    /// One JSON object.
    Json,
    /// One JSON text per line.
    NdJson,
}

impl ListFormat {
    /// Its media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => JSON,
            Self::NdJson => NDJSON,
        }
    }
}

/// Writes one list.
#[derive(Debug)]
pub struct ListWriter {
    form: ListFormat,
    count: u64,
}

impl ListWriter {
    /// Begins a list.
    pub fn open(form: ListFormat, head: &Head, out: &mut Vec<u8>) -> Self {
        let head = to_json(head);
        match form {
            ListFormat::Json => write(out, format_args!(r#"{{"head":{head},"items":["#)),
            ListFormat::NdJson => write(out, format_args!("{{\"head\":{head}}}\n")),
        }
        Self { form, count: 0 }
    }

    /// Begins a list of a collection that has no head, because its publisher has no revisions.
    pub fn open_headless(form: ListFormat, out: &mut Vec<u8>) -> Self {
        if form == ListFormat::Json {
            out.extend_from_slice(br#"{"items":["#);
        }
        Self { form, count: 0 }
    }

    /// Adds a document.
    pub fn item(&mut self, document: &Document, out: &mut Vec<u8>) {
        if self.form == ListFormat::Json && self.count > 0 {
            out.push(b',');
        }
        out.extend_from_slice(document.json());
        if self.form == ListFormat::NdJson {
            out.push(b'\n');
        }
        self.count += 1;
    }

    /// Ends the list.
    pub fn close(self, out: &mut Vec<u8>) {
        match self.form {
            ListFormat::Json => out.extend_from_slice(b"]}"),
            ListFormat::NdJson => end_line(self.count, out),
        }
    }
}

/// The first line of a snapshot, with its line feed.
pub fn start_line(start: &snapshot::SnapshotStart, out: &mut Vec<u8>) {
    write(out, format_args!("{}\n", to_json(start)));
}

/// The last line of a snapshot, with its line feed.
pub fn end_line(count: u64, out: &mut Vec<u8>) {
    write(
        out,
        format_args!("{}\n", to_json(&snapshot::SnapshotEnd { end: true, count })),
    );
}

fn to_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("wire types have string keys and finite numbers only")
}

fn write(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a Vec accepts all");
}
