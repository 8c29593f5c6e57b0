//! The text of a long answer: a list of one collection, or a snapshot of several, document by
//! document.
//!
//! An answer is sent in pieces, so that its memory does not grow with its length. Nothing here
//! reads documents.

use contract::{
    CollectionName, Document, Head,
    listing::{self, ListFormat, ListWriter},
    snapshot::SnapshotStart,
};

/// Writes the documents of one answer. Each call appends to `out`; the caller sends `out` and empties
/// it when it is large enough.
///
/// An answer without [`DocumentFrames::close`] has no end line, so that a reader knows that it is
/// incomplete.
#[derive(Debug)]
pub enum DocumentFrames {
    /// A list of one collection.
    List(ListWriter),
    /// A snapshot; its last line proves that it is complete.
    Snapshot {
        /// Documents so far.
        count: u64,
    },
}

impl DocumentFrames {
    /// Begins a list. Without a head (the publisher has no revisions) the list begins without one.
    pub fn list(format: ListFormat, head: Option<&Head>, out: &mut Vec<u8>) -> Self {
        Self::List(match head {
            Some(head) => ListWriter::open(format, head, out),
            None => ListWriter::open_headless(format, out),
        })
    }

    /// Begins a snapshot with its first line, which has the heads.
    pub fn snapshot(start: &SnapshotStart, out: &mut Vec<u8>) -> Self {
        listing::start_line(start, out);
        Self::Snapshot { count: 0 }
    }

    /// Adds a document. A list has one collection, so it ignores `collection`.
    pub fn document(
        &mut self,
        collection: &CollectionName,
        document: &Document,
        out: &mut Vec<u8>,
    ) {
        match self {
            Self::List(list) => list.item(document, out),
            Self::Snapshot { count } => {
                document.snapshot_line(collection, out);
                *count += 1;
            }
        }
    }

    /// Ends the answer.
    pub fn close(self, out: &mut Vec<u8>) {
        match self {
            Self::List(list) => list.close(out),
            Self::Snapshot { count } => listing::end_line(count, out),
        }
    }
}
