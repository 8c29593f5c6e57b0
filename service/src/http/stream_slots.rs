//! A limit for live streams.
//!
//! A stream is pulled by its connection: the source is asked for a frame only after the reader took
//! the frame before. A reader that takes nothing loses its connection ([`super::connections`]), and
//! with it the slot. When the process stops, all streams end at once. Nothing here knows what a frame
//! says; the keep-alive is a comment of server-sent events.

use std::{
    convert::Infallible,
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::Stream;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::problem::ProblemError;

/// Most streams of a process at the same time.
pub const MAX_STREAMS: usize = 1_024;
/// A stream without a frame sends a keep-alive at this interval.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// The keep-alive: a comment, which readers of server-sent events skip.
const KEEP_ALIVE_FRAME: &[u8] = b":\n\n";

/// Source of the frames of one stream. It is asked for a frame only after the reader took the frame
/// before, so it needs no buffer.
pub trait FrameSource {
    /// The next frame, as soon as there is one; `None` at the end of the stream.
    fn next(&mut self) -> impl Future<Output = Option<Bytes>>;
}

/// The slots of all streams. Clones share them.
#[derive(Debug, Clone)]
pub struct StreamSlots {
    /// Most streams at the same time.
    max: usize,
    stop: CancellationToken,
    open: Arc<AtomicUsize>,
}

/// The slot of one stream. Dropping it frees the slot.
#[derive(Debug)]
pub struct StreamSlot {
    stop: CancellationToken,
    open: Arc<AtomicUsize>,
}

impl StreamSlots {
    /// `max` slots, until `stop` is cancelled.
    pub fn new(max: usize, stop: CancellationToken) -> Self {
        Self {
            max,
            stop,
            open: Arc::default(),
        }
    }

    /// A slot for a stream.
    ///
    /// # Errors
    /// 503 `streams-full` when no slot is free, or when the process stops.
    pub fn open(&self) -> Result<StreamSlot, ProblemError> {
        let slot = StreamSlot {
            stop: self.stop.clone(),
            open: self.open.clone(),
        };
        // The slot is counted before it is known to be free; dropping it counts it back.
        let open = slot.open.fetch_add(1, Ordering::Relaxed);
        if open >= self.max || self.stop.is_cancelled() {
            return Err(ProblemError::streams_full());
        }
        Ok(slot)
    }
}

impl StreamSlot {
    /// The stream that sends `first` and then the frames of the source.
    ///
    /// It ends with the source, and when the process stops. While the source has no frame, a
    /// keep-alive every 5 s lets the reader notice a dead connection.
    pub fn stream(
        self,
        first: Bytes,
        mut source: impl FrameSource,
    ) -> impl Stream<Item = Result<Bytes, Infallible>> {
        async_stream::stream! {
            yield Ok(first);
            loop {
                let mut next = pin!(source.next());
                // A source that has no frame for a while is awaited, with keep-alives in between.
                let frame = loop {
                    // The stop comes first: a busy source must not delay the end of the process.
                    let frame = tokio::select! {
                        biased;
                        () = self.stop.cancelled() => return,
                        frame = &mut next => Some(frame),
                        () = sleep(KEEP_ALIVE) => None,
                    };
                    if let Some(frame) = frame {
                        break frame;
                    }
                    yield Ok(Bytes::from_static(KEEP_ALIVE_FRAME));
                };
                let Some(frame) = frame else { return };
                yield Ok(frame);
            }
        }
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    /// Two frames: 1 and 2.
    struct Numbers(u8);

    impl FrameSource for Numbers {
        async fn next(&mut self) -> Option<Bytes> {
            self.0 += 1;
            (self.0 < 3).then(|| Bytes::from(vec![self.0]))
        }
    }

    /// A source that never has a frame.
    struct Silence;

    impl FrameSource for Silence {
        async fn next(&mut self) -> Option<Bytes> {
            std::future::pending().await
        }
    }

    #[tokio::test]
    async fn a_stream_sends_the_frames_of_its_source_and_frees_its_slot() {
        let slots = StreamSlots::new(1, CancellationToken::new());
        let slot = slots.open().expect("a slot");
        assert!(slots.open().is_err(), "there is one slot");
        let frames: Vec<_> = slot
            .stream(Bytes::from_static(b"!"), Numbers(0))
            .map(|frame| frame.expect("bytes"))
            .collect()
            .await;
        assert_eq!(frames, [&b"!"[..], &[1], &[2]]);
        assert!(slots.open().is_ok(), "the slot is free again");
    }

    #[tokio::test]
    async fn a_stream_ends_when_the_process_stops() {
        let stop = CancellationToken::new();
        let slots = StreamSlots::new(1, stop.clone());
        let slot = slots.open().expect("a slot");
        let mut stream = pin!(slot.stream(Bytes::new(), Silence));
        assert!(stream.next().await.is_some());
        stop.cancel();
        assert!(stream.next().await.is_none());
        assert!(
            slots.open().is_err(),
            "a process that stops opens no stream"
        );
    }
}
