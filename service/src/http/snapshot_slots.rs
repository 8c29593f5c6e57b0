//! A limit for long answers that are sent at the same time: snapshots, which many replicas may want
//! at once, and lists. Each holds a session of the store, old pages of its file, or an old view.
//!
//! A request that finds no free slot is queued for a short time; then it is answered 503. A slot that
//! becomes free is given to one request: the address that holds fewest comes first, and then the
//! replica that has asked for the longest time without an answer, also over several requests. So a
//! client that takes a slot, ends the connection and comes again never keeps the others from one. A
//! reader that stalls loses its connection, and with it the slot ([`super::connections`]); no answer
//! holds a slot for longer than `LONGEST`. Nothing here knows a store.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use actix_web::HttpRequest;
use contract::fleet::MAX_INSTANCE;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

/// Longest time that a request is queued: replicas give up on an answer that does not begin within
/// 2 s.
const QUEUED: Duration = Duration::from_millis(1_500);
/// Longest time of one answer, however fast its reader is: old pages are kept for no longer.
const LONGEST: Duration = Duration::from_secs(600);
/// How long a request that was answered 503 is remembered, so that the next one of that replica keeps
/// its place.
const REMEMBERED: Duration = Duration::from_secs(30);
/// Most requests that are queued, and most that are remembered.
const MAX_QUEUED: usize = 1_024;

/// The client of a request for a slot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Client {
    /// Its address.
    address: IpAddr,
    /// Its name by its own account. Only a hint: it distinguishes the replicas behind one address.
    name: Option<String>,
}

impl Client {
    /// The client that sent the request.
    pub fn of(request: &HttpRequest) -> Self {
        let name = request
            .headers()
            .get(contract::snapshot::INSTANCE)
            .and_then(|name| name.to_str().ok())
            .filter(|name| name.len() <= MAX_INSTANCE);
        Self {
            address: request
                .peer_addr()
                .map_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), |peer| {
                    peer.ip().to_canonical()
                }),
            name: name.map(str::to_owned),
        }
    }
}

/// The slots of all answers of a kind. Clones share them.
#[derive(Debug, Clone)]
pub struct SnapshotSlots(Arc<Mutex<Queue>>);

#[derive(Debug)]
struct Queue {
    free: usize,
    /// Requests without a slot, in the order of arrival. While there are some, no slot is free.
    waiting: Vec<Waiting>,
    /// Since when each client has asked, without a slot since.
    asking: HashMap<Client, Asking>,
    /// Slots in use by address.
    held: HashMap<IpAddr, usize>,
}

#[derive(Debug)]
struct Waiting {
    client: Client,
    slot: oneshot::Sender<SnapshotSlot>,
}

#[derive(Debug, Clone, Copy)]
struct Asking {
    since: Instant,
    last: Instant,
}

/// The slot of one answer. Dropping it gives it to the next request.
#[derive(Debug)]
pub struct SnapshotSlot {
    slots: SnapshotSlots,
    address: IpAddr,
    until: Instant,
}

impl SnapshotSlots {
    /// `max` slots.
    pub fn new(max: usize) -> Self {
        Self(Arc::new(Mutex::new(Queue {
            free: max,
            waiting: Vec::new(),
            asking: HashMap::new(),
            held: HashMap::new(),
        })))
    }

    /// A slot, as soon as this client comes first; `None` when that takes more than 1.5 s. The caller
    /// then answers 503 with `Retry-After`, and the replica tries again.
    pub async fn open(&self, client: Client) -> Option<SnapshotSlot> {
        let slot = self.queue().join(client, Instant::now())?;
        self.give_free_slots();
        // A slot that comes after the deadline is dropped, and so given to the next request.
        timeout(QUEUED, slot).await.ok()?.ok()
    }

    /// Gives the free slots to the requests that come first. Each is chosen once and only it is woken.
    fn give_free_slots(&self) {
        loop {
            let Some(first) = self.queue().first() else {
                return;
            };
            let slot = SnapshotSlot {
                slots: self.clone(),
                address: first.client.address,
                until: Instant::now() + LONGEST,
            };
            // If the request has just ended, the slot is dropped here, while the queue is not locked.
            drop(first.slot.send(slot));
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().expect("no holder of this lock can panic")
    }
}

impl Queue {
    /// A place in the queue; `None` when it is full.
    fn join(&mut self, client: Client, now: Instant) -> Option<oneshot::Receiver<SnapshotSlot>> {
        if self.waiting.len() >= MAX_QUEUED {
            self.forget_ended();
        }
        if self.waiting.len() >= MAX_QUEUED {
            return None;
        }
        if self.asking.len() >= MAX_QUEUED {
            self.asking
                .retain(|_client, asking| now - asking.last < REMEMBERED);
        }
        if let Some(asking) = self.asking.get_mut(&client) {
            if now - asking.last >= REMEMBERED {
                asking.since = now;
            }
            asking.last = now;
        } else if self.asking.len() < MAX_QUEUED {
            let asking = Asking {
                since: now,
                last: now,
            };
            self.asking.insert(client.clone(), asking);
        }
        let (slot, place) = oneshot::channel();
        self.waiting.push(Waiting { client, slot });
        Some(place)
    }

    /// Takes a slot for the request that comes first; `None` if no slot is free or no request waits.
    fn first(&mut self) -> Option<Waiting> {
        if self.free == 0 {
            return None;
        }
        self.forget_ended();
        let waiting = self.waiting.iter().enumerate();
        let (first, _waiting) = waiting.min_by_key(|(place, Waiting { client, .. })| {
            let held = self.held.get(&client.address).copied().unwrap_or(0);
            let since = self.asking.get(client).map(|asking| asking.since);
            // A client that is not remembered comes last.
            (held, since.is_none(), since, *place)
        })?;
        let first = self.waiting.remove(first);
        self.asking.remove(&first.client);
        self.free -= 1;
        *self.held.entry(first.client.address).or_default() += 1;
        Some(first)
    }

    /// Takes a slot back.
    fn take_back(&mut self, address: IpAddr) {
        self.free += 1;
        if let Some(held) = self.held.get_mut(&address) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&address);
            }
        }
    }

    /// Removes the requests that have ended or were answered 503.
    fn forget_ended(&mut self) {
        self.waiting.retain(|waiting| !waiting.slot.is_closed());
    }
}

impl SnapshotSlot {
    /// Checks that the answer may go on.
    ///
    /// # Errors
    /// `TimedOut`, also in the log, when the answer has had the slot for `LONGEST` and has to end.
    pub fn check(&self) -> io::Result<()> {
        if Instant::now() < self.until {
            return Ok(());
        }
        tracing::warn!(
            peer = %self.address,
            "the list or snapshot for {} was cut off: the peer did not take it within {} s",
            self.address,
            LONGEST.as_secs()
        );
        Err(io::ErrorKind::TimedOut.into())
    }
}

impl Drop for SnapshotSlot {
    fn drop(&mut self) {
        self.slots.queue().take_back(self.address);
        self.slots.give_free_slots();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        sync::atomic::{AtomicUsize, Ordering},
        task::{Context, Poll, Wake, Waker},
    };

    use futures_util::future::join_all;
    use tokio::task::unconstrained;

    use super::*;

    fn client(last: u8, name: &str) -> Client {
        Client {
            address: [10, 0, 0, last].into(),
            name: Some(name.to_owned()),
        }
    }

    #[tokio::test]
    async fn a_request_without_a_slot_is_queued_for_a_limited_time() {
        let slots = SnapshotSlots::new(1);
        let first = slots.open(client(1, "a")).await.expect("a slot");
        let (second, ()) = tokio::join!(slots.open(client(1, "b")), async { drop(first) });
        let second = second.expect("the slot that became free");
        assert!(
            slots.open(client(1, "c")).await.is_none(),
            "a request is not queued indefinitely"
        );
        drop(second);
        assert!(
            slots.open(client(1, "d")).await.is_some(),
            "a request that gave up took no slot"
        );
        assert!(slots.queue().held.is_empty());
    }

    /// How often one of the tasks that share it was woken.
    #[derive(Default)]
    struct WakeUps(AtomicUsize);

    impl Wake for WakeUps {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn a_free_slot_wakes_one_of_a_thousand_requests() {
        let slots = SnapshotSlots::new(1);
        let mut slot = slots.open(client(1, "first")).await;
        let wake_ups = Arc::new(WakeUps::default());
        let waker = Waker::from(wake_ups.clone());
        let mut context = Context::from_waker(&waker);
        let mut waiting: Vec<_> = (0..1_000)
            .map(|number| Box::pin(unconstrained(slots.open(client(1, &number.to_string())))))
            .collect();
        for request in &mut waiting {
            assert!(request.as_mut().poll(&mut context).is_pending());
        }
        // Some end before they have a slot; each of the others is the next one once.
        waiting.drain(500..);
        for (number, mut request) in waiting.into_iter().enumerate() {
            drop(slot.take());
            assert_eq!(wake_ups.0.load(Ordering::Relaxed), number + 1);
            let Poll::Ready(given) = request.as_mut().poll(&mut context) else {
                panic!("request {number} is the first");
            };
            slot = given;
        }
        drop(slot);
        assert_eq!(slots.queue().free, 1);
    }

    #[tokio::test]
    async fn a_request_that_ends_with_a_slot_not_yet_taken_gives_it_to_the_next() {
        let slots = SnapshotSlots::new(1);
        let slot = slots.open(client(1, "a")).await;
        let mut context = Context::from_waker(Waker::noop());
        let mut ends = Box::pin(slots.open(client(1, "b")));
        let mut next = pin!(slots.open(client(1, "c")));
        assert!(ends.as_mut().poll(&mut context).is_pending());
        assert!(next.as_mut().poll(&mut context).is_pending());
        drop(slot);
        drop(ends);
        assert!(next.await.is_some());
    }

    #[tokio::test]
    async fn requests_that_ended_take_no_place_in_the_queue() {
        let slots = SnapshotSlots::new(1);
        let _slot = slots.open(client(1, "a")).await;
        let many = (0..MAX_QUEUED).map(|_number| slots.open(client(1, "b")));
        let given = join_all(many).await;
        assert!(given.iter().all(Option::is_none));
        assert!(slots.queue().join(client(1, "c"), Instant::now()).is_some());
    }

    /// 40 clients of one address take a slot, end at once and come again with another name. A replica
    /// of the same address gets a slot after those that asked before it.
    #[test]
    fn clients_that_come_again_and_again_keep_no_replica_from_a_slot() {
        let slots = SnapshotSlots::new(1);
        let mut queue = slots.queue();
        let mut now = Instant::now();
        let mut names = 0..;
        let mut name = || format!("forged-{}", names.next().expect("endless"));
        let mut places = Vec::new();
        for _client in 0..40 {
            places.push(queue.join(client(1, &name()), now));
        }
        now += Duration::from_millis(1);
        let mut replica = queue.join(client(1, "replica"), now).expect("a place");
        let mut grants = 0;
        loop {
            now += Duration::from_millis(1);
            // The replica gives up after 1.5 s and asks again; it keeps its place.
            if grants == 20 {
                drop(replica);
                replica = queue.join(client(1, "replica"), now).expect("a place");
            }
            let first = queue.first().expect("one is first").client;
            if first == client(1, "replica") {
                break;
            }
            grants += 1;
            assert!(grants <= 40, "the replica was never first");
            queue.take_back(first.address);
            places.push(queue.join(client(1, &name()), now));
        }
        assert_eq!(grants, 40);
        drop(replica);
    }

    #[test]
    fn an_address_without_a_slot_comes_before_one_that_holds_some() {
        let slots = SnapshotSlots::new(2);
        let mut queue = slots.queue();
        let now = Instant::now();
        let _first = queue.join(client(1, "a"), now).expect("a place");
        let _second = queue.join(client(1, "b"), now).expect("a place");
        let _other = queue
            .join(client(2, "c"), now + Duration::from_secs(1))
            .expect("a place");
        let mut first = || queue.first().map(|waiting| waiting.client);
        assert_eq!(first(), Some(client(1, "a")));
        assert_eq!(first(), Some(client(2, "c")), "1 holds a slot");
        assert_eq!(first(), None, "no slot is free");
    }
}
