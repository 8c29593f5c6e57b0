//! Long answers from a reading of the store, piece by piece: memory does not grow with the length.

use actix_web::{HttpResponse, HttpResponseBuilder};
use bytes::Bytes;
use contract::{
    listing::{ListFormat, NDJSON},
    snapshot::SnapshotStart,
};
use futures_util::stream;
use service::http::{
    frames::DocumentFrames,
    snapshot_slots::{SnapshotSlot, SnapshotSource},
};

use crate::store::{Chunk, DocumentCursor};

impl SnapshotSource for DocumentCursor {
    type Chunk = Chunk;

    async fn next(&mut self) -> anyhow::Result<Option<Chunk>> {
        Self::next(self).await
    }
}

/// Where the pieces come from.
enum Source {
    /// A list reads the store without a slot: it is one collection.
    Own(DocumentCursor),
    /// A snapshot reads the store through its slot.
    Slot(SnapshotSlot<DocumentCursor>),
}

impl Source {
    async fn next(&mut self) -> anyhow::Result<Option<Chunk>> {
        match self {
            Self::Own(reading) => reading.next().await,
            Self::Slot(slot) => slot.next().await,
        }
    }
}

/// A list of the one collection of a reading.
pub(super) fn list(
    mut response: HttpResponseBuilder,
    reading: DocumentCursor,
    format: ListFormat,
) -> HttpResponse {
    let mut first = Vec::new();
    let frames = DocumentFrames::list(format, reading.heads.first(), &mut first);
    let body = Body {
        source: Source::Own(reading),
        frames,
        out: first,
    };
    body.send(response.content_type(format.media_type()))
}

/// A snapshot of all collections of a reading.
pub(super) async fn snapshot(
    reading: DocumentCursor,
    slot: SnapshotSlot<DocumentCursor>,
) -> HttpResponse {
    let mut first = Vec::new();
    let start = SnapshotStart {
        epoch: reading.epoch,
        heads: reading.heads.clone(),
    };
    let frames = DocumentFrames::snapshot(&start, &mut first);
    slot.hold(reading).await;
    let body = Body {
        source: Source::Slot(slot),
        frames,
        out: first,
    };
    body.send(HttpResponse::Ok().content_type(NDJSON))
}

/// The rest of an answer.
struct Body {
    source: Source,
    frames: DocumentFrames,
    /// What is written and not sent yet.
    out: Vec<u8>,
}

impl Body {
    fn send(self, response: &mut HttpResponseBuilder) -> HttpResponse {
        response.streaming(stream::try_unfold(Some(self), async |body| {
            let Some(mut body) = body else {
                return Ok(None);
            };
            match body.source.next().await {
                Ok(Some(piece)) => {
                    for document in &piece.documents {
                        body.frames
                            .document(&piece.collection, document, &mut body.out);
                    }
                    let out = Bytes::from(std::mem::take(&mut body.out));
                    Ok(Some((out, Some(body))))
                }
                Ok(None) => {
                    body.frames.close(&mut body.out);
                    Ok(Some((Bytes::from(body.out), None)))
                }
                // The answer ends without its last line, which tells the reader that it is not
                // complete.
                Err(error) => {
                    tracing::warn!("a list or a snapshot was cut off: {error:#}");
                    Err(actix_web::error::ErrorServiceUnavailable("cut off"))
                }
            }
        }))
    }
}
