//! Answers without an end: how many there may be, what they send when there is nothing to say, and
//! when they are cut off.
//!
//! A stream is read by the connection: nothing is asked of its source before what came of it last
//! was taken. One that takes nothing for 30 s is cut off, and so is its connection, which would
//! hold its memory for as long as its peer is silent. All end at once when the process is told to
//! stop. StreamSlots are server-sent events; what they say nothing here knows, nor the web framework
//! that sends it.

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

use bytes::Bytes;
use futures_util::Stream;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

/// StreamSlots at once.
pub const MOST: usize = 1_024;
/// A reader that takes nothing for so long is cut off.
const STALLED: Duration = Duration::from_secs(30);
/// How often is looked for those.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A stream that has nothing to say says so this often.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// And says this: a comment, which readers of server-sent events leave out.
const SIGN_OF_LIFE: &[u8] = b":\n\n";
/// Readers that take nothing may hold up the end for so long.
const LAST_MOMENT: Duration = Duration::from_millis(500);

/// Where the pieces of a stream come from.
pub trait FrameSource {
    /// The next piece, as soon as there is one; `None` at the end.
    fn next(&mut self) -> impl Future<Output = Option<Bytes>>;
}

/// A second handle to the connection of a request, to cut it off.
#[derive(Debug, Clone)]
pub struct PeerConnection(Arc<TcpStream>);

impl PeerConnection {
    /// The handle, if this is a TCP connection. Web frameworks show a new connection in this form.
    pub fn of(io: &dyn Any) -> Option<Self> {
        let stream = io.downcast_ref::<tokio::net::TcpStream>()?;
        let handle = stream.as_fd().try_clone_to_owned().ok()?;
        Some(Self(Arc::new(handle.into())))
    }

    fn cut(&self) {
        // It may be closed by now.
        self.0.shutdown(Shutdown::Both).ok();
    }
}

/// The places. Cloning shares them.
#[derive(Debug, Clone)]
pub struct StreamSlots {
    most: usize,
    stop: CancellationToken,
    places: Arc<Mutex<Places>>,
}

#[derive(Debug, Default)]
struct Places {
    next: u64,
    taken: BTreeMap<u64, Reader>,
}

#[derive(Debug)]
struct Reader {
    connection: Option<PeerConnection>,
    /// Since when a piece waits to be taken.
    waits: Option<Instant>,
}

/// The place of one stream, free again when this is dropped.
#[derive(Debug)]
pub struct StreamSlot {
    id: u64,
    stop: CancellationToken,
    places: Arc<Mutex<Places>>,
}

impl StreamSlots {
    /// This many places, until `stop`.
    pub fn new(most: usize, stop: CancellationToken) -> Self {
        Self {
            most,
            stop,
            places: Arc::default(),
        }
    }

    /// A place, if there is one.
    pub fn begin(&self, connection: Option<PeerConnection>) -> Option<StreamSlot> {
        let mut places = lock(&self.places);
        if places.taken.len() >= self.most || self.stop.is_cancelled() {
            return None;
        }
        let id = places.next;
        places.next += 1;
        places.taken.insert(
            id,
            Reader {
                connection,
                waits: None,
            },
        );
        Some(StreamSlot {
            id,
            stop: self.stop.clone(),
            places: self.places.clone(),
        })
    }

    /// How many there are now.
    pub fn count(&self) -> usize {
        lock(&self.places).taken.len()
    }

    /// Cuts off readers that stalled; at the end, whoever does not take the last piece.
    ///
    /// # Errors
    /// Never; the signature is the supervisor's.
    pub async fn run(self) -> anyhow::Result<()> {
        let mut rounds = interval(LOOK_EVERY);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.stop.run_until_cancelled(rounds.tick()).await.is_some() {
            let cut = lock(&self.places)
                .cut(|reader| reader.waits.is_some_and(|since| since.elapsed() >= STALLED));
            if cut > 0 {
                tracing::warn!(
                    streams = cut,
                    "{cut} streams were cut off: nobody took anything from them"
                );
            }
        }
        let told = Instant::now();
        while self.count() > 0 && told.elapsed() < LAST_MOMENT {
            sleep(Duration::from_millis(10)).await;
        }
        lock(&self.places).cut(|_reader| true);
        Ok(())
    }
}

impl Places {
    fn cut(&mut self, who: impl Fn(&Reader) -> bool) -> usize {
        let before = self.taken.len();
        self.taken.retain(|_id, reader| {
            let cut = who(reader);
            reader
                .connection
                .iter()
                .filter(|_connection| cut)
                .for_each(PeerConnection::cut);
            !cut
        });
        before - self.taken.len()
    }
}

impl StreamSlot {
    /// The stream that sends `first` and then what the source says.
    pub fn stream(
        self,
        first: Bytes,
        mut source: impl FrameSource,
    ) -> impl Stream<Item = Result<Bytes, Infallible>> {
        async_stream::stream! {
            self.handed();
            yield Ok(first);
            while self.goes_on() {
                let mut next = pin!(source.next());
                // What takes longer than a moment is waited for, with a sign of life now and then.
                let piece = loop {
                    let piece = tokio::select! {
                        biased;
                        () = self.stop.cancelled() => return,
                        piece = &mut next => Some(piece),
                        () = sleep(KEEP_ALIVE) => None,
                    };
                    if let Some(piece) = piece {
                        break piece;
                    }
                    self.handed();
                    yield Ok(Bytes::from_static(SIGN_OF_LIFE));
                    if !self.goes_on() {
                        return;
                    }
                };
                let Some(piece) = piece else { return };
                self.handed();
                yield Ok(piece);
            }
        }
    }

    fn handed(&self) {
        if let Some(reader) = lock(&self.places).taken.get_mut(&self.id) {
            reader.waits = Some(Instant::now());
        }
    }

    /// The last piece was taken. `false` = too late.
    fn goes_on(&self) -> bool {
        lock(&self.places)
            .taken
            .get_mut(&self.id)
            .map(|reader| reader.waits = None)
            .is_some()
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        lock(&self.places).taken.remove(&self.id);
    }
}

fn lock(places: &Mutex<Places>) -> MutexGuard<'_, Places> {
    places.lock().expect("no holder of this lock can panic")
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    struct Numbers(u8);

    impl FrameSource for Numbers {
        async fn next(&mut self) -> Option<Bytes> {
            self.0 += 1;
            (self.0 < 3).then(|| Bytes::from(vec![self.0]))
        }
    }

    struct Silence;

    impl FrameSource for Silence {
        async fn next(&mut self) -> Option<Bytes> {
            std::future::pending().await
        }
    }

    #[tokio::test]
    async fn a_stream_is_what_its_source_says() {
        let streams = StreamSlots::new(1, CancellationToken::new());
        let place = streams.begin(None).expect("a place");
        assert!(streams.begin(None).is_none(), "there is one place");
        let all: Vec<_> = place
            .stream(Bytes::from_static(b"!"), Numbers(0))
            .map(|piece| piece.expect("bytes"))
            .collect()
            .await;
        assert_eq!(all, [&b"!"[..], &[1], &[2]]);
        assert!(streams.begin(None).is_some(), "its place is free again");
    }

    #[tokio::test]
    async fn the_end_of_the_process_ends_it() {
        let stop = CancellationToken::new();
        let streams = StreamSlots::new(1, stop.clone());
        let stream = streams
            .begin(None)
            .expect("a place")
            .stream(Bytes::new(), Silence);
        let mut stream = pin!(stream);
        assert!(stream.next().await.is_some());
        stop.cancel();
        assert!(stream.next().await.is_none());
        streams.run().await.expect("an end");
    }

    /// A connection whose peer reads nothing is closed.
    #[tokio::test]
    async fn whoever_takes_nothing_is_cut_off() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let peer = tokio::net::TcpStream::connect(listener.local_addr().expect("an address"))
            .await
            .expect("connected");
        let (ours, _peer) = listener.accept().await.expect("accepted");
        let connection = PeerConnection::of(&ours).expect("TCP");
        let streams = StreamSlots::new(2, CancellationToken::new());
        let (stalls, waits) = (
            streams.begin(Some(connection)).expect("a place"),
            streams.begin(None).expect("a place"),
        );
        let long_ago = Instant::now()
            .checked_sub(STALLED)
            .expect("this machine is up for longer");
        stalls.handed();
        lock(&streams.places)
            .taken
            .get_mut(&stalls.id)
            .expect("its place")
            .waits = Some(long_ago);
        tokio::select! {
            ended = streams.run() => panic!("{ended:?}"),
            closed = peer.readable() => closed.expect("closed"),
        }
        assert_eq!(peer.try_read(&mut [0]).expect("the end"), 0);
        assert!(!stalls.goes_on() && waits.goes_on());
    }
}
