//! A long answer in pieces, from one pinned view: what is applied while it is sent is not in it.
//!
//! It holds one piece at a time, however long the answer is, and takes no lock.

use std::{collections::VecDeque, convert::Infallible, sync::Arc};

use bytes::Bytes;
use contract::{
    CollectionName, Document, DocumentId,
    listing::{self, ListWriter},
};
use replica::View;

/// A piece ends with the first document that reaches this size.
const PIECE: usize = 64 * 1024;

/// How documents are written one after the other.
pub(super) enum Frame {
    List(ListWriter),
    Snapshot { count: u64 },
}

impl Frame {
    fn item(&mut self, collection: &CollectionName, document: &Document, out: &mut Vec<u8>) {
        match self {
            Self::List(listing) => listing.item(document, out),
            Self::Snapshot { count } => {
                document.snapshot_line(collection, out);
                *count += 1;
            }
        }
    }

    fn close(self, out: &mut Vec<u8>) {
        match self {
            Self::List(listing) => listing.close(out),
            Self::Snapshot { count } => listing::end_line(count, out),
        }
    }
}

/// The pieces of one answer.
pub(super) struct Pieces {
    view: Arc<View>,
    /// What is still to be written: the first of them from `after` on.
    collections: VecDeque<CollectionName>,
    after: Option<DocumentId>,
    /// `None` once the last piece was given.
    frame: Option<Frame>,
    out: Vec<u8>,
}

impl Pieces {
    /// The answer that goes on after `begun` with all documents of these collections.
    pub(super) fn new(
        view: Arc<View>,
        collections: VecDeque<CollectionName>,
        frame: Frame,
        begun: Vec<u8>,
    ) -> Self {
        Self {
            view,
            collections,
            after: None,
            frame: Some(frame),
            out: begun,
        }
    }
}

impl Iterator for Pieces {
    type Item = Result<Bytes, Infallible>;

    fn next(&mut self) -> Option<Self::Item> {
        let frame = self.frame.as_mut()?;
        while let Some(name) = self.collections.front() {
            let (held, after) = (self.view.root().collection(name), self.after.take());
            for document in held
                .into_iter()
                .flat_map(|held| held.documents_after(after.as_ref()))
            {
                frame.item(name, document, &mut self.out);
                if self.out.len() >= PIECE {
                    self.after = Some(document.id().clone());
                    return Some(Ok(std::mem::take(&mut self.out).into()));
                }
            }
            self.collections.pop_front();
        }
        self.frame.take()?.close(&mut self.out);
        Some(Ok(std::mem::take(&mut self.out).into()))
    }
}
