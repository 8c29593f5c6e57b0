//! Long answers, piece by piece: nothing is gathered before the first byte.

use actix_web::{HttpResponse, HttpResponseBuilder};
use bytes::Bytes;
use contract::listing::{ListFormat, ListWriter, NDJSON, end_line, start_line};
use futures_util::stream;

use crate::{
    api::snapshot_slots::Load,
    store::{Chunk, DocumentCursor},
};

/// Where the pieces come from: a reading of its own, or the one at a place for those who load.
enum Source {
    Own(DocumentCursor),
    Placed(Load),
}

impl Source {
    async fn next(&mut self) -> anyhow::Result<Option<Chunk>> {
        match self {
            Self::Own(reading) => reading.next().await,
            Self::Placed(load) => load.next().await,
        }
    }
}

/// How the pieces are written.
enum Frame {
    List(Option<ListWriter>),
    Snapshot { count: u64 },
}

impl Frame {
    fn piece(&mut self, piece: &Chunk, out: &mut Vec<u8>) {
        for document in &piece.documents {
            match self {
                Self::List(listing) => listing
                    .iter_mut()
                    .for_each(|listing| listing.item(document, out)),
                Self::Snapshot { count } => {
                    *count += 1;
                    document.snapshot_line(&piece.collection, out);
                }
            }
        }
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        match self {
            Self::List(listing) => listing
                .take()
                .into_iter()
                .for_each(|listing| listing.close(out)),
            Self::Snapshot { count } => end_line(*count, out),
        }
    }
}

/// A list of the one collection of a reading.
pub(super) fn list(
    mut response: HttpResponseBuilder,
    reading: DocumentCursor,
    form: ListFormat,
) -> HttpResponse {
    let mut first = Vec::new();
    let listing = reading
        .heads
        .first()
        .map(|head| ListWriter::open(form, head, &mut first));
    send(
        response.content_type(form.media_type()),
        first,
        Source::Own(reading),
        Frame::List(listing),
    )
}

/// A snapshot of all collections of a reading.
pub(super) async fn snapshot(
    mut response: HttpResponseBuilder,
    reading: DocumentCursor,
    load: Load,
) -> HttpResponse {
    let mut first = Vec::new();
    start_line(
        &contract::snapshot::SnapshotStart {
            epoch: reading.epoch,
            heads: reading.heads.clone(),
        },
        &mut first,
    );
    load.hold(reading).await;
    send(
        response.content_type(NDJSON),
        first,
        Source::Placed(load),
        Frame::Snapshot { count: 0 },
    )
}

fn send(
    response: &mut HttpResponseBuilder,
    first: Vec<u8>,
    source: Source,
    frame: Frame,
) -> HttpResponse {
    let start = Some((source, frame, first));
    response.streaming(stream::try_unfold(start, async |state| {
        let Some((mut source, mut frame, mut out)) = state else {
            return Ok(None);
        };
        match source.next().await {
            Ok(Some(piece)) => {
                frame.piece(&piece, &mut out);
                Ok(Some((Bytes::from(out), Some((source, frame, Vec::new())))))
            }
            Ok(None) => {
                frame.close(&mut out);
                Ok(Some((Bytes::from(out), None)))
            }
            // The answer is cut off without its end, which is how the reader knows.
            Err(error) => {
                tracing::warn!("a list was cut off: {error:#}");
                Err(actix_web::error::ErrorServiceUnavailable("cut off"))
            }
        }
    }))
}
