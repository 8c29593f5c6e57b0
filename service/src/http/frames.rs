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

/// Writes the documents of one answer.
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

    /// Begins a snapshot.
    pub fn snapshot(start: &SnapshotStart, out: &mut Vec<u8>) -> Self {
        listing::start_line(start, out);
        Self::Snapshot { count: 0 }
    }

    /// Adds a document.
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
