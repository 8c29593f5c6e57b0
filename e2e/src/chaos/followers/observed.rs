//! What followers are told and read, kept for one round as [`super::super::observations`] are.

use serde::Serialize;

use super::super::record::{DocumentKey, Millis};
use crate::testbed::SCHEMA_FREE;

/// One observation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Followed {
    /// A message of a stream.
    Message(StreamMessage),
    /// A folder of files.
    Folder(FolderView),
    /// What no stream and no folder may have.
    Wrong {
        /// When.
        at: Millis,
        /// In words.
        what: String,
    },
}

/// A message of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StreamMessage {
    /// When it arrived.
    pub at: Millis,
    /// Number of the stream.
    pub stream: u64,
    /// The epoch of its revisions.
    pub epoch: String,
    /// What it stands for.
    pub kind: MessageKind,
    /// Its documents.
    pub items: Vec<StreamItem>,
}

/// What a message stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum MessageKind {
    /// All documents that are held.
    All,
    /// Documents that change together.
    Together,
    /// A document as it is: changes up to it may be left out.
    State,
    /// The change at this revision, after every change before it.
    Change(u64),
}

/// A document in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct StreamItem {
    /// The document.
    pub key: DocumentKey,
    /// Its revision, or that of its deletion; `None` of one that is gone since an earlier stream.
    pub revision: Option<u64>,
    /// Token of its value; `None` when it is deleted.
    pub token: Option<u64>,
}

/// A folder of files, and the revisions that it is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FolderView {
    /// When it had been read.
    pub at: Millis,
    /// The epoch of the revisions.
    pub epoch: String,
    /// In the order of [`SCHEMA_FREE`].
    pub revisions: [u64; SCHEMA_FREE.len()],
    /// Its documents with the tokens of their values.
    pub tokens: Vec<(DocumentKey, u64)>,
}
