//! A long answer in pieces, from one pinned view: a change that is applied while the answer is sent
//! is not in it.
//!
//! It holds one piece at a time, however long the answer is, and takes no lock.

use std::{collections::VecDeque, io, sync::Arc};

use bytes::Bytes;
use contract::{CollectionName, DocumentId};
use futures_util::{Stream, stream};
use replica::View;
use service::http::{frames::DocumentFrames, snapshot_slots::SnapshotSlot};

/// A piece ends with the first document that reaches this size, in bytes.
const PIECE_BYTES: usize = 64 * 1024;

/// The pieces of one answer.
pub(super) struct Pieces {
    view: Arc<View>,
    /// Collections that are not sent yet. The first one continues after the document `after`.
    collections: VecDeque<CollectionName>,
    after: Option<DocumentId>,
    /// `None` after the last piece.
    frames: Option<DocumentFrames>,
    out: Vec<u8>,
    slot: SnapshotSlot,
}

impl Pieces {
    /// The answer that begins with `begun` and continues with all documents of the collections.
    pub(super) fn new(
        view: Arc<View>,
        collections: impl IntoIterator<Item = CollectionName>,
        frames: DocumentFrames,
        begun: Vec<u8>,
        slot: SnapshotSlot,
    ) -> Self {
        Self {
            view,
            collections: collections.into_iter().collect(),
            after: None,
            frames: Some(frames),
            out: begun,
            slot,
        }
    }

    /// The pieces as the body of an answer.
    pub(super) fn into_stream(self) -> impl Stream<Item = Result<Bytes, io::Error>> {
        stream::iter(self)
    }
}

impl Iterator for Pieces {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<io::Result<Bytes>> {
        let frames = self.frames.as_mut()?;
        if let Err(over) = self.slot.check() {
            return Some(Err(over));
        }
        while let Some(name) = self.collections.front() {
            let held = self.view.root().collection(name);
            let after = self.after.take();
            for document in held
                .into_iter()
                .flat_map(|held| held.documents_after(after.as_ref()))
            {
                frames.document(name, document, &mut self.out);
                if self.out.len() >= PIECE_BYTES {
                    self.after = Some(document.id().clone());
                    return Some(Ok(std::mem::take(&mut self.out).into()));
                }
            }
            self.collections.pop_front();
        }
        self.frames.take()?.close(&mut self.out);
        Some(Ok(std::mem::take(&mut self.out).into()))
    }
}
