//! A limit for live streams: of all callers, and of one.
//!
//! A stream is pulled by its connection: the source is asked for a frame only after the reader took
//! the frame before. A reader that takes nothing loses its connection ([`super::connections`]), and
//! with it the slot. When the process stops, all streams end at once. Nothing here knows what a frame
//! says; the keep-alive is a comment of server-sent events.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::Future,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use futures_util::Stream;
use prometheus_client::{
    metrics::{counter::Counter, gauge::ConstGauge},
    registry::Registry,
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    limits::{STREAMS, STREAMS_PER_CALLER, StreamLimits},
    problem::ProblemError,
    source::Source,
};

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
    limits: StreamLimits,
    stop: CancellationToken,
    open: Arc<Mutex<Open>>,
    streams_refused: Counter,
    waits_refused: Counter,
}

/// What a slot is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotUse {
    /// A live stream.
    Stream,
    /// A request that waits: for replicas, or for a revision.
    Wait,
}

/// The streams that are open.
#[derive(Debug, Default)]
struct Open {
    all: usize,
    by_source: HashMap<Source, usize>,
}

/// The slot of one stream. Dropping it frees the slot.
#[derive(Debug)]
pub struct StreamSlot {
    stop: CancellationToken,
    open: Arc<Mutex<Open>>,
    source: Source,
}

impl StreamSlots {
    /// So many slots, until `stop` is cancelled.
    pub fn new(limits: StreamLimits, stop: CancellationToken) -> Self {
        Self {
            limits,
            stop,
            open: Arc::default(),
            streams_refused: Counter::default(),
            waits_refused: Counter::default(),
        }
    }

    /// Adds the metrics of the slots to a registry.
    pub fn register(&self, registry: &mut Registry) {
        let open = i64::try_from(lock(&self.open).all).unwrap_or(i64::MAX);
        registry.register(
            "streams_open",
            "Feed streams that are open, and requests that wait: they share one limit",
            ConstGauge::new(open),
        );
        registry.register(
            "streams_refused",
            "Feed streams refused because the limit of concurrent streams was reached",
            self.streams_refused.clone(),
        );
        registry.register(
            "waits_refused",
            "Requests that would wait, refused because the limit of concurrent streams was reached",
            self.waits_refused.clone(),
        );
    }

    /// A slot for a stream or a wait of a caller.
    ///
    /// # Errors
    /// 503 `streams-full` when no slot is free, when the caller has as many as one may have, or when
    /// the process stops.
    pub fn open(&self, source: Source, slot_use: SlotUse) -> Result<StreamSlot, ProblemError> {
        self.try_open(source).inspect_err(|_full| {
            let refused = match slot_use {
                SlotUse::Stream => &self.streams_refused,
                SlotUse::Wait => &self.waits_refused,
            };
            refused.inc();
        })
    }

    fn try_open(&self, source: Source) -> Result<StreamSlot, ProblemError> {
        let StreamLimits {
            max,
            per_credential,
            per_address,
        } = self.limits;
        let mut open = lock(&self.open);
        if open.all >= max || self.stop.is_cancelled() {
            return Err(ProblemError::streams_full(STREAMS, max));
        }
        let per_caller = match source {
            Source::Named(_) => per_credential,
            Source::Address(_) => per_address,
        };
        let of_source = open.by_source.get(&source).copied().unwrap_or_default();
        if of_source >= per_caller {
            return Err(ProblemError::streams_full(STREAMS_PER_CALLER, per_caller));
        }
        open.all += 1;
        open.by_source.insert(source.clone(), of_source + 1);
        Ok(StreamSlot {
            stop: self.stop.clone(),
            open: self.open.clone(),
            source,
        })
    }
}

fn lock(open: &Mutex<Open>) -> MutexGuard<'_, Open> {
    open.lock().expect("no holder of this lock can panic")
}

impl StreamSlot {
    /// Resolves when the process stops.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }

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
        let mut open = lock(&self.open);
        open.all -= 1;
        // A caller without streams is forgotten.
        match open.by_source.get_mut(&self.source) {
            Some(count) if *count > 1 => *count -= 1,
            _last => drop(open.by_source.remove(&self.source)),
        }
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

    fn slots(max: usize, per_credential: usize, stop: CancellationToken) -> StreamSlots {
        let limits = StreamLimits {
            max,
            per_credential,
            per_address: max,
        };
        StreamSlots::new(limits, stop)
    }

    fn anyone() -> Source {
        Source::Address([127, 0, 0, 1].into())
    }

    #[test]
    fn one_caller_has_its_share_and_leaves_the_rest_to_others() {
        let slots = slots(4, 2, CancellationToken::new());
        let named = |name: &str| Source::Named(name.into());
        let first = slots.open(named("a"), SlotUse::Stream).expect("a slot");
        let _second = slots.open(named("a"), SlotUse::Stream).expect("a slot");
        let refused = slots
            .open(named("a"), SlotUse::Stream)
            .expect_err("the third of one caller");
        assert!(
            refused.to_string().contains(STREAMS_PER_CALLER),
            "{refused}"
        );
        let _others = [named("b"), anyone()]
            .map(|source| slots.open(source, SlotUse::Stream).expect("a slot"));
        let refused = slots
            .open(anyone(), SlotUse::Stream)
            .expect_err("the fifth of all");
        assert!(
            refused.to_string().contains("limit of 4") && refused.to_string().contains(STREAMS)
        );
        let refused = slots.open(anyone(), SlotUse::Wait).expect_err("a wait");
        assert!(refused.to_string().contains(STREAMS), "{refused}");
        let counts = [&slots.streams_refused, &slots.waits_refused].map(Counter::get);
        assert_eq!(counts, [2, 1]);
        drop(first);
        let _again = slots
            .open(named("a"), SlotUse::Stream)
            .expect("the slot is free again");
        assert_eq!(lock(&slots.open).by_source.len(), 3);
    }

    #[tokio::test]
    async fn a_stream_sends_the_frames_of_its_source_and_frees_its_slot() {
        let slots = slots(1, 1, CancellationToken::new());
        let slot = slots.open(anyone(), SlotUse::Stream).expect("a slot");
        assert!(
            slots.open(anyone(), SlotUse::Stream).is_err(),
            "there is one slot"
        );
        let frames: Vec<_> = slot
            .stream(Bytes::from_static(b"!"), Numbers(0))
            .map(|frame| frame.expect("bytes"))
            .collect()
            .await;
        assert_eq!(frames, [&b"!"[..], &[1], &[2]]);
        assert!(
            slots.open(anyone(), SlotUse::Stream).is_ok(),
            "the slot is free again"
        );
    }

    #[tokio::test]
    async fn a_stream_ends_when_the_process_stops() {
        let stop = CancellationToken::new();
        let slots = slots(1, 1, stop.clone());
        let slot = slots.open(anyone(), SlotUse::Stream).expect("a slot");
        let mut stream = pin!(slot.stream(Bytes::new(), Silence));
        assert!(stream.next().await.is_some());
        stop.cancel();
        assert!(stream.next().await.is_none());
        assert!(
            slots.open(anyone(), SlotUse::Stream).is_err(),
            "a process that stops opens no stream"
        );
    }
}
