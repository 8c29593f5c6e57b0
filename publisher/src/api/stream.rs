//! Long answers from a reading of the store, piece by piece: nothing here holds more than one piece.
//! What is kept of a snapshot for several readers is bounded by [`service::http::shared_text`].

use std::io;

use actix_web::{HttpResponse, HttpResponseBuilder};
use bytes::Bytes;
use contract::{listing::ListFormat, snapshot::SnapshotStart};
use futures_util::{Stream, stream};
use service::{
    http::{frames::DocumentFrames, snapshot_slots::SnapshotSlot},
    runtime::log_rate::LogRate,
};

use crate::{policy::listed, store::DocumentCursor};

/// A list of the one collection of a reading.
pub(super) fn list(
    mut response: HttpResponseBuilder,
    reading: DocumentCursor,
    slot: SnapshotSlot,
    format: ListFormat,
) -> HttpResponse {
    let mut first = Vec::new();
    let frames = DocumentFrames::list(format, reading.heads.first(), &mut first);
    let body = Body {
        reading,
        slot,
        frames,
        out: first,
    };
    response
        .content_type(format.media_type())
        .streaming(body.pieces())
}

/// The pieces of a snapshot of all collections of a reading.
pub(super) fn snapshot(
    reading: DocumentCursor,
    slot: SnapshotSlot,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let mut first = Vec::new();
    let start = SnapshotStart {
        epoch: reading.epoch,
        heads: reading.heads.clone(),
    };
    let frames = DocumentFrames::snapshot(&start, &mut first);
    let body = Body {
        reading,
        slot,
        frames,
        out: first,
    };
    body.pieces()
}

/// The rest of an answer.
struct Body {
    reading: DocumentCursor,
    slot: SnapshotSlot,
    frames: DocumentFrames,
    /// What is written and not sent yet.
    out: Vec<u8>,
}

impl Body {
    fn pieces(self) -> impl Stream<Item = io::Result<Bytes>> + Send {
        stream::try_unfold(Some(self), async |body| {
            let Some(mut body) = body else {
                return Ok(None);
            };
            body.slot.check()?;
            match body.reading.next().await {
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
                // The answer ends without its last line, so the reader knows that it is not complete.
                Err(error) => {
                    static FAILURES: LogRate = LogRate::new();
                    if let Some(left_out) = FAILURES.due() {
                        let heads = &body.reading.heads;
                        tracing::warn!(
                            collections = heads.len(),
                            "a list or a snapshot of {} was cut off: {error:#}{left_out}",
                            listed(heads.iter().map(|head| &head.collection)),
                        );
                    }
                    Err(io::Error::other("cut off"))
                }
            }
        })
    }
}
