//! The open connections of a server: how many there are, and how long a peer may keep one of them
//! waiting.
//!
//! One rule for every connection and every answer, below the HTTP server ([`io`]): a peer that sends
//! no request, that sends a head too slowly, or that takes an answer too slowly is disconnected, and
//! everything that its request holds (a slot, a snapshot of the store, an old view) is dropped with
//! the connection. Beyond the bound the peer with most connections loses those that wait longest for
//! it. Bodies of requests have the same kind of rule in [`super::bodies`]. Nothing here knows HTTP.

use std::{
    collections::{BTreeMap, HashMap},
    io as std_io, mem,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use contract::text::Escaped;
use futures_util::task::AtomicWaker;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::limits::CONNECTIONS;
pub use certificate::PeerCertificate;
use incoming::BodyLength;
use progress::{Phase, Progress};

mod certificate;
mod handshake;
pub(super) mod incoming;
pub mod io;
mod progress;
mod refusal;
mod socket;

/// Interval of the log line about closed connections.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);
/// Readers that take nothing may delay the stop of the process for this long.
const STOP_GRACE: Duration = Duration::from_millis(500);
/// Beyond the bound one of this many connections is closed at once, so that the search for them does
/// not cost more than the connections do.
const EVICTED_SHARE: usize = 32;

/// How many connections there may be, and how long each may wait for its peer.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// Most open connections.
    pub max: usize,
    /// Most open connections of one address.
    pub per_address: usize,
    /// How long the head of a request may take to arrive; also the rest of a body that no handler
    /// reads.
    pub head: Duration,
    /// How long a connection without a request is kept.
    pub idle: Duration,
    /// How far a reader may fall behind [`Self::rate`], in time. A reader that takes nothing is
    /// disconnected after this time.
    pub stalled: Duration,
    /// Bytes per second that a reader takes at least, on average, while an answer waits for it.
    pub rate: u32,
}

impl ConnectionLimits {
    /// The limits of the services, with this many connections.
    pub fn with_max(max: usize) -> Self {
        Self {
            max,
            per_address: max,
            head: Duration::from_secs(5),
            idle: Duration::from_secs(75),
            stalled: Duration::from_secs(10),
            rate: 16 << 10,
        }
    }
}

/// The open connections of a server. Cloning shares them.
///
/// [`Connections::run`] must run as a task of the process: it ends answers that no reader takes when the
/// process stops.
#[derive(Debug, Clone)]
pub struct Connections(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limits: ConnectionLimits,
    open: Mutex<Open>,
    closed: ClosedCounts,
}

#[derive(Debug, Default)]
struct Open {
    next_id: u64,
    count: usize,
    by_peer: HashMap<IpAddr, BTreeMap<u64, Arc<State>>>,
}

/// Connections that were closed since the last log line, by cause.
#[derive(Debug, Default)]
struct ClosedCounts {
    late_heads: AtomicU64,
    stalled_readers: AtomicU64,
    over_limit: AtomicU64,
    failed_handshakes: AtomicU64,
    /// The newest of them.
    failed_handshake: Mutex<Option<String>>,
}

impl ClosedCounts {
    fn failed_handshake(&self) -> MutexGuard<'_, Option<String>> {
        self.failed_handshake
            .lock()
            .expect("no holder of this lock can panic")
    }
}

/// What is known of a connection outside of its task.
#[derive(Debug)]
struct State {
    progress: Mutex<Progress>,
    /// Set when the connection has to end; its task is woken.
    closed: AtomicBool,
    waker: AtomicWaker,
}

impl State {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress
            .lock()
            .expect("no holder of this lock can panic")
    }

    /// Ends the connection, at the next poll of its task.
    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.waker.wake();
    }
}

/// One connection, as its requests see it. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Connection(Arc<State>);

impl Connection {
    /// The head of a request was received; its answer is complete when the result is dropped.
    pub(super) fn serve(&self, body: BodyLength) -> Serving {
        let mut progress = self.0.progress();
        progress.enter(Phase::Serving, Instant::now());
        progress.is_answered = true;
        progress.incoming.begin_body(body);
        drop(progress);
        Serving(self.clone())
    }

    /// The server has read the body of the current request to its end.
    pub(super) fn end_body(&self) {
        self.0.progress().incoming.end_body();
    }

    /// The body of a request is read until the result is dropped: meanwhile the connection waits for
    /// its peer, and is among the first that are closed when there are too many.
    pub(super) fn read_body(&self) -> ReadingBody {
        self.0.progress().enter(Phase::Body, Instant::now());
        ReadingBody(self.clone())
    }
}

/// A request is being answered.
#[derive(Debug)]
pub(super) struct Serving(Connection);

impl Drop for Serving {
    fn drop(&mut self) {
        let state = &self.0.0;
        let mut progress = state.progress();
        progress.enter(Phase::Idle, Instant::now());
        // Of most requests nothing is left, and what comes next wakes the task by itself.
        let is_left = mem::take(&mut progress.wakes_at_end) || !progress.incoming.is_complete();
        progress.incoming.end_answer();
        drop(progress);
        if is_left {
            state.waker.wake();
        }
    }
}

/// The body of a request is being read.
#[derive(Debug)]
pub(super) struct ReadingBody(Connection);

impl Drop for ReadingBody {
    fn drop(&mut self) {
        self.0.0.progress().enter(Phase::Serving, Instant::now());
    }
}

/// The place of a connection among the open ones. Dropping it frees the place.
#[derive(Debug)]
struct Place {
    id: u64,
    peer: IpAddr,
    state: Arc<State>,
    connections: Connections,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.open().remove(self.peer, self.id);
    }
}

impl Connections {
    /// No connections yet.
    pub fn new(limits: ConnectionLimits) -> Self {
        Self(Arc::new(Shared {
            limits,
            open: Mutex::default(),
            closed: ClosedCounts::default(),
        }))
    }

    /// The limits.
    pub fn limits(&self) -> &ConnectionLimits {
        &self.0.limits
    }

    /// Open connections.
    pub fn count(&self) -> usize {
        self.open().count
    }

    /// A place for a new connection; `None` when there is none, and no other connection waits for its
    /// peer.
    fn enter(&self, peer: IpAddr) -> Option<Place> {
        let mut open = self.open();
        let of_peer = open.by_peer.get(&peer).map_or(0, BTreeMap::len);
        if of_peer >= self.0.limits.per_address {
            let most = self.0.limits.per_address / EVICTED_SHARE + 1;
            let closed = open.evict_waiting(peer, most);
            self.0
                .closed
                .over_limit
                .fetch_add(closed.max(1) as u64, Ordering::Relaxed);
            if closed == 0 {
                return None;
            }
        }
        // The places of closed connections become free a moment later, when their tasks run. The
        // bound leaves capacity for them.
        if open.count >= self.0.limits.max {
            let closed = open.evict(peer, self.0.limits.max / EVICTED_SHARE + 1);
            self.0
                .closed
                .over_limit
                .fetch_add(closed as u64, Ordering::Relaxed);
            if closed == 0 {
                self.0.closed.over_limit.fetch_add(1, Ordering::Relaxed);
                return None;
            }
        }
        let state = Arc::new(State {
            progress: Mutex::new(Progress::new(Instant::now())),
            closed: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        });
        let id = open.next_id;
        open.next_id += 1;
        open.count += 1;
        open.by_peer
            .entry(peer)
            .or_default()
            .insert(id, state.clone());
        drop(open);
        Some(Place {
            id,
            peer,
            state,
            connections: self.clone(),
        })
    }

    /// Logs how many connections were closed, in intervals, until `stop`; then ends the answers that
    /// their readers do not take.
    ///
    /// # Errors
    /// Never; the supervisor needs the signature.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        while stop
            .run_until_cancelled(sleep(REPORT_INTERVAL))
            .await
            .is_some()
        {
            self.report();
        }
        sleep(STOP_GRACE).await;
        let open = self.open();
        for state in open.by_peer.values().flat_map(BTreeMap::values) {
            if state.progress().is_blocked() {
                state.close();
            }
        }
        Ok(())
    }

    /// A TLS handshake failed. The newest reason of an interval is logged.
    fn handshake_failed(&self, peer: IpAddr, error: &std_io::Error) {
        let closed = &self.0.closed;
        closed.failed_handshakes.fetch_add(1, Ordering::Relaxed);
        // The text of a peer may be part of the error.
        let reason = format!("{peer}: {}", Escaped(&error.to_string()));
        *closed.failed_handshake() = Some(reason);
    }

    /// One line for all connections that were closed since the last one, and one for handshakes.
    fn report(&self) {
        let ClosedCounts {
            late_heads,
            stalled_readers,
            over_limit,
            failed_handshakes,
            ..
        } = &self.0.closed;
        let counts = [late_heads, stalled_readers, over_limit, failed_handshakes];
        let [late_heads, stalled_readers, over_limit, failed_handshakes] =
            counts.map(|count| count.swap(0, Ordering::Relaxed));
        if late_heads + stalled_readers + over_limit > 0 {
            warn!(
                late_heads,
                stalled_readers,
                over_limit,
                open = self.count(),
                "connections were closed in the last {} s: {late_heads} sent a request too slowly, \
                 {stalled_readers} took an answer too slowly, {over_limit} were beyond the bound of \
                 {} connections ({CONNECTIONS}), {} of one address ({CONNECTIONS}_PER_ADDRESS)",
                REPORT_INTERVAL.as_secs(),
                self.0.limits.max,
                self.0.limits.per_address,
            );
        }
        if failed_handshakes > 0 {
            warn!(
                failed_handshakes,
                "{failed_handshakes} TLS handshakes failed in the last {} s; the last one: {}",
                REPORT_INTERVAL.as_secs(),
                self.0.closed.failed_handshake().take().unwrap_or_default(),
            );
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.0
            .open
            .lock()
            .expect("no holder of this lock can panic")
    }
}

impl Open {
    fn remove(&mut self, peer: IpAddr, id: u64) {
        let Some(of_peer) = self.by_peer.get_mut(&peer) else {
            return;
        };
        if of_peer.remove(&id).is_some() {
            self.count -= 1;
        }
        if of_peer.is_empty() {
            self.by_peer.remove(&peer);
        }
    }

    /// Closes up to `most` connections in favour of a new one of `peer`, and counts them: of the
    /// address with most connections, those that wait for their peer, the longest wait first. Where
    /// none waits, one that is being answered, if that address has more than twice as many as `peer`.
    fn evict(&mut self, peer: IpAddr, most: usize) -> usize {
        let share = self.by_peer.get(&peer).map_or(0, BTreeMap::len);
        let Some((&largest, of_peer)) =
            self.by_peer.iter().max_by_key(|(_, of_peer)| of_peer.len())
        else {
            return 0;
        };
        let oldest = of_peer.keys().next().copied();
        let may_lose_one = of_peer.len() > 2 * share + 1;
        match (self.evict_waiting(largest, most), oldest) {
            (0, Some(oldest)) if may_lose_one => {
                self.close(largest, oldest);
                1
            }
            (closed, _oldest) => closed,
        }
    }

    /// Closes up to `most` connections of an address that wait for their peer, the longest wait
    /// first, and counts them.
    fn evict_waiting(&mut self, peer: IpAddr, most: usize) -> usize {
        let Some(of_peer) = self.by_peer.get(&peer) else {
            return 0;
        };
        let mut waiting: Vec<_> = of_peer
            .iter()
            .filter_map(|(id, state)| Some((state.progress().waits_for_peer()?, *id)))
            .collect();
        waiting.sort_unstable();
        waiting.truncate(most);
        for (_since, id) in &waiting {
            self.close(peer, *id);
        }
        waiting.len()
    }

    /// Closes a connection. Its place is free from now on, so that it is not closed a second time.
    fn close(&mut self, peer: IpAddr, id: u64) {
        if let Some(state) = self.by_peer.get(&peer).and_then(|of_peer| of_peer.get(&id)) {
            state.close();
        }
        self.remove(peer, id);
    }
}
