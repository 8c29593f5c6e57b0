//! A limit for live streams, and the end of readers that take nothing.
//!
//! A stream is pulled by its connection: the source is asked for a frame only after the reader took
//! the frame before. A reader that takes nothing for 30 s is cut off together with its connection,
//! because the connection would otherwise hold its memory for as long as the peer stays silent.
//! When the process stops, all streams end at once. Nothing here knows what a frame says; the
//! keep-alive is a comment of server-sent events.

use std::{
    any::Any,
    collections::BTreeMap,
    convert::Infallible,
    future::Future,
    net::{Shutdown, TcpStream},
    os::fd::AsFd,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use actix_web::{HttpRequest, dev::Extensions};
use bytes::Bytes;
use futures_util::Stream;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::problem::ProblemError;

/// Most streams of a process at the same time.
pub const MAX_STREAMS: usize = 1_024;
/// A reader that takes nothing for this long is cut off.
const STALLED: Duration = Duration::from_secs(30);
/// Interval at which stalled readers are searched.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// A stream without a frame sends a keep-alive at this interval.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// The keep-alive: a comment, which readers of server-sent events skip.
const KEEP_ALIVE_FRAME: &[u8] = b":\n\n";
/// Readers that take nothing may delay the stop of the process for this long.
const STOP_GRACE: Duration = Duration::from_millis(500);

/// Source of the frames of one stream. It is asked for a frame only after the reader took the frame
/// before, so it needs no buffer.
pub trait FrameSource {
    /// The next frame, as soon as there is one; `None` at the end of the stream.
    fn next(&mut self) -> impl Future<Output = Option<Bytes>>;
}

/// A second handle to the connection of a request, to cut it off. actix-web gives handlers no way to
/// close a connection whose peer does not read.
#[derive(Debug, Clone)]
pub struct PeerConnection(Arc<TcpStream>);

impl PeerConnection {
    /// Keeps a handle of a new connection in its extensions; for
    /// [`HttpServer::on_connect`](actix_web::HttpServer::on_connect). Only TCP connections have one.
    pub fn remember(io: &dyn Any, extensions: &mut Extensions) {
        if let Some(connection) = Self::of(io) {
            extensions.insert(connection);
        }
    }

    /// A handle of a TCP connection; `None` for any other transport.
    fn of(io: &dyn Any) -> Option<Self> {
        let stream = io.downcast_ref::<tokio::net::TcpStream>()?;
        let handle = stream.as_fd().try_clone_to_owned().ok()?;
        Some(Self(Arc::new(handle.into())))
    }

    /// Closes the connection in both directions; every later write to it fails.
    fn cut(&self) {
        // An error means that it is closed already.
        self.0.shutdown(Shutdown::Both).ok();
    }
}

/// The slots of all streams. Clones share them.
///
/// [`StreamSlots::run`] must run as a task of the process: it finds stalled readers.
#[derive(Debug, Clone)]
pub struct StreamSlots {
    /// Most streams at the same time.
    max: usize,
    stop: CancellationToken,
    readers: Arc<Mutex<Readers>>,
}

/// The readers of all streams.
#[derive(Debug, Default)]
struct Readers {
    next_id: u64,
    by_id: BTreeMap<u64, Reader>,
}

/// One reader.
#[derive(Debug)]
struct Reader {
    /// `None` when the connection is not TCP; then the stream ends without closing it.
    connection: Option<PeerConnection>,
    /// Since when a frame waits to be taken; `None` while the source has none.
    waiting_since: Option<Instant>,
}

/// The slot of one stream. Dropping it frees the slot.
#[derive(Debug)]
pub struct StreamSlot {
    id: u64,
    stop: CancellationToken,
    readers: Arc<Mutex<Readers>>,
}

impl StreamSlots {
    /// `max` slots, until `stop` is cancelled.
    pub fn new(max: usize, stop: CancellationToken) -> Self {
        Self {
            max,
            stop,
            readers: Arc::default(),
        }
    }

    /// A slot for the stream that answers this request. The connection of the request is closed when
    /// the reader stalls.
    ///
    /// # Errors
    /// 503 `streams-full` when no slot is free, or when the process stops.
    pub fn open(&self, request: &HttpRequest) -> Result<StreamSlot, ProblemError> {
        self.try_open(request.conn_data::<PeerConnection>().cloned())
            .ok_or_else(ProblemError::streams_full)
    }

    /// A slot, unless all are in use or the process stops.
    fn try_open(&self, connection: Option<PeerConnection>) -> Option<StreamSlot> {
        let mut readers = lock(&self.readers);
        if readers.by_id.len() >= self.max || self.stop.is_cancelled() {
            return None;
        }
        let id = readers.next_id;
        readers.next_id += 1;
        readers.by_id.insert(
            id,
            Reader {
                connection,
                waiting_since: None,
            },
        );
        Some(StreamSlot {
            id,
            stop: self.stop.clone(),
            readers: self.readers.clone(),
        })
    }

    /// The number of open streams, for metrics.
    pub fn count(&self) -> usize {
        lock(&self.readers).by_id.len()
    }

    /// Cuts off stalled readers until the process stops, then readers that do not take their last
    /// frame.
    ///
    /// # Errors
    /// Never; the supervisor needs the signature.
    pub async fn run(self) -> anyhow::Result<()> {
        let mut ticks = interval(CHECK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let stalled = lock(&self.readers).cut(|reader| {
                reader
                    .waiting_since
                    .is_some_and(|since| since.elapsed() >= STALLED)
            });
            if stalled > 0 {
                tracing::warn!(
                    streams = stalled,
                    "{stalled} streams were cut off because their readers took nothing for {} s",
                    STALLED.as_secs()
                );
            }
        }
        // Streams end by themselves when `stop` is cancelled, unless their reader takes nothing.
        let stopped = Instant::now();
        while self.count() > 0 && stopped.elapsed() < STOP_GRACE {
            sleep(Duration::from_millis(10)).await;
        }
        lock(&self.readers).cut(|_reader| true);
        Ok(())
    }
}

impl Readers {
    /// Removes the readers that match, closes their connections, and counts them.
    fn cut(&mut self, matches: impl Fn(&Reader) -> bool) -> usize {
        let before = self.by_id.len();
        self.by_id.retain(|_id, reader| {
            if !matches(reader) {
                return true;
            }
            if let Some(connection) = &reader.connection {
                connection.cut();
            }
            false
        });
        before - self.by_id.len()
    }
}

impl StreamSlot {
    /// The stream that sends `first` and then the frames of the source.
    ///
    /// It ends with the source, when the process stops, and when the reader was cut off. While the
    /// source has no frame, a keep-alive every 5 s lets the reader notice a dead connection.
    pub fn stream(
        self,
        first: Bytes,
        mut source: impl FrameSource,
    ) -> impl Stream<Item = Result<Bytes, Infallible>> {
        async_stream::stream! {
            self.frame_waits();
            yield Ok(first);
            while self.frame_taken() {
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
                    self.frame_waits();
                    yield Ok(Bytes::from_static(KEEP_ALIVE_FRAME));
                    // Cut off while the keep-alive waited.
                    if !self.frame_taken() {
                        return;
                    }
                };
                let Some(frame) = frame else { return };
                self.frame_waits();
                yield Ok(frame);
            }
        }
    }

    /// From now on a frame waits to be taken by the reader.
    fn frame_waits(&self) {
        if let Some(reader) = lock(&self.readers).by_id.get_mut(&self.id) {
            reader.waiting_since = Some(Instant::now());
        }
    }

    /// The reader took the frame. `false` means that it was cut off before.
    fn frame_taken(&self) -> bool {
        match lock(&self.readers).by_id.get_mut(&self.id) {
            Some(reader) => {
                reader.waiting_since = None;
                true
            }
            None => false,
        }
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        lock(&self.readers).by_id.remove(&self.id);
    }
}

/// Locks the readers. Nobody holds the lock across an await.
fn lock(readers: &Mutex<Readers>) -> MutexGuard<'_, Readers> {
    readers.lock().expect("no holder of this lock can panic")
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
        let slot = slots.try_open(None).expect("a slot");
        assert!(slots.try_open(None).is_none(), "there is one slot");
        let frames: Vec<_> = slot
            .stream(Bytes::from_static(b"!"), Numbers(0))
            .map(|frame| frame.expect("bytes"))
            .collect()
            .await;
        assert_eq!(frames, [&b"!"[..], &[1], &[2]]);
        assert!(slots.try_open(None).is_some(), "the slot is free again");
    }

    #[tokio::test]
    async fn a_stream_ends_when_the_process_stops() {
        let stop = CancellationToken::new();
        let slots = StreamSlots::new(1, stop.clone());
        let slot = slots.try_open(None).expect("a slot");
        let mut stream = pin!(slot.stream(Bytes::new(), Silence));
        assert!(stream.next().await.is_some());
        stop.cancel();
        assert!(stream.next().await.is_none());
        slots.run().await.expect("an end");
    }

    #[tokio::test]
    async fn a_reader_that_takes_nothing_is_cut_off_with_its_connection() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        let peer = tokio::net::TcpStream::connect(address)
            .await
            .expect("connected");
        let (accepted, _peer) = listener.accept().await.expect("accepted");
        let connection = PeerConnection::of(&accepted).expect("TCP");
        let slots = StreamSlots::new(2, CancellationToken::new());
        let stalled = slots.try_open(Some(connection)).expect("a slot");
        let waiting = slots.try_open(None).expect("a slot");
        stalled.frame_waits();
        let long_ago = Instant::now()
            .checked_sub(STALLED)
            .expect("a machine that is up for longer");
        lock(&slots.readers)
            .by_id
            .get_mut(&stalled.id)
            .expect("its slot")
            .waiting_since = Some(long_ago);
        tokio::select! {
            ended = slots.run() => panic!("{ended:?}"),
            closed = peer.readable() => closed.expect("closed"),
        }
        assert_eq!(peer.try_read(&mut [0]).expect("the end"), 0);
        assert!(!stalled.frame_taken() && waiting.frame_taken());
    }
}
