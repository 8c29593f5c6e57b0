//! A limit for long answers that are sent at the same time: snapshots, which many replicas may want
//! at once, and lists. Each holds a session of the store, old pages of its file, or an old view.
//!
//! A request that finds no free slot is queued for a short time; then it is answered 503. Slots go
//! round: the address that holds fewest comes first, and then the replica that has asked for the
//! longest time without an answer, also over several requests. So a client that takes a slot, ends
//! the connection and comes again never keeps the others from one. A reader that stalls loses its
//! connection, and with it the slot ([`super::connections`]); no answer holds a slot for longer than
//! [`LONGEST`]. Nothing here knows a store.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use actix_web::HttpRequest;
use contract::fleet::MAX_INSTANCE;
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

/// Longest time that a request is queued: replicas give up on an answer that does not begin within
/// 2 s.
const QUEUED: Duration = Duration::from_millis(1_500);
/// Longest time of one answer, however fast its reader is: old pages are kept for no longer.
pub const LONGEST: Duration = Duration::from_secs(600);
/// How long a request that was answered 503 is remembered, so that the next one of that replica keeps
/// its place.
const REMEMBERED: Duration = Duration::from_secs(30);
/// Most requests that are queued, and most that are remembered.
const MAX_QUEUED: usize = 1_024;

/// The client that wants a slot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Asker {
    /// Its address.
    address: IpAddr,
    /// What it calls itself. Only a hint: it tells apart the replicas behind one address.
    name: Option<String>,
}

impl Asker {
    /// The client of a request.
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
pub struct SnapshotSlots(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// Notified when the first in the queue may have changed.
    changed: Notify,
}

#[derive(Debug)]
struct Queue {
    free: usize,
    next_id: u64,
    waiting: BTreeMap<u64, Asker>,
    /// Since when each client has asked, without a slot since.
    asking: HashMap<Asker, Asking>,
    /// Slots in use by address.
    held: HashMap<IpAddr, usize>,
}

#[derive(Debug, Clone, Copy)]
struct Asking {
    since: Instant,
    last: Instant,
}

/// The slot of one answer. Dropping it frees the slot.
#[derive(Debug)]
pub struct SnapshotSlot {
    shared: Arc<Shared>,
    address: IpAddr,
    until: Instant,
}

/// A place in the queue. Dropping it leaves the queue.
struct Ticket<'a> {
    shared: &'a Arc<Shared>,
    id: u64,
}

impl SnapshotSlots {
    /// `max` slots.
    pub fn new(max: usize) -> Self {
        Self(Arc::new(Shared {
            queue: Mutex::new(Queue {
                free: max,
                next_id: 0,
                waiting: BTreeMap::new(),
                asking: HashMap::new(),
                held: HashMap::new(),
            }),
            changed: Notify::new(),
        }))
    }

    /// A slot, as soon as it is this client's turn; `None` when that takes more than 1.5 s. The caller
    /// then answers 503 with `Retry-After`, and the replica tries again.
    pub async fn open(&self, asker: Asker) -> Option<SnapshotSlot> {
        let shared = &self.0;
        let id = shared.queue().join(asker, Instant::now())?;
        let ticket = Ticket { shared, id };
        let turn = async {
            loop {
                // Before the queue is looked at, so that no change is missed.
                let mut changed = std::pin::pin!(shared.changed.notified());
                changed.as_mut().enable();
                if let Some(address) = shared.queue().take(id) {
                    return SnapshotSlot {
                        shared: shared.clone(),
                        address,
                        until: Instant::now() + LONGEST,
                    };
                }
                changed.await;
            }
        };
        let slot = timeout(QUEUED, turn).await.ok();
        drop(ticket);
        slot
    }

    /// Slots in use.
    pub fn in_use(&self) -> usize {
        self.0.queue().held.values().sum()
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("no holder of this lock can panic")
    }
}

impl Queue {
    /// A place in the queue; `None` when it is full.
    fn join(&mut self, asker: Asker, now: Instant) -> Option<u64> {
        if self.waiting.len() >= MAX_QUEUED {
            return None;
        }
        if self.asking.len() >= MAX_QUEUED {
            self.asking
                .retain(|_asker, asking| now - asking.last < REMEMBERED);
        }
        if let Some(asking) = self.asking.get_mut(&asker) {
            if now - asking.last >= REMEMBERED {
                asking.since = now;
            }
            asking.last = now;
        } else if self.asking.len() < MAX_QUEUED {
            let asking = Asking {
                since: now,
                last: now,
            };
            self.asking.insert(asker.clone(), asking);
        }
        let id = self.next_id;
        self.next_id += 1;
        self.waiting.insert(id, asker);
        Some(id)
    }

    /// Takes a slot for this place in the queue, if it is the first and a slot is free.
    fn take(&mut self, id: u64) -> Option<IpAddr> {
        if self.free == 0 {
            return None;
        }
        let first = self.waiting.iter().min_by_key(|(id, asker)| {
            let held = self.held.get(&asker.address).copied().unwrap_or(0);
            let since = self.asking.get(*asker).map(|asking| asking.since);
            // A client that is not remembered comes last.
            (held, since.is_none(), since, **id)
        });
        if first.is_none_or(|(first, _asker)| *first != id) {
            return None;
        }
        let asker = self.waiting.remove(&id)?;
        self.asking.remove(&asker);
        self.free -= 1;
        *self.held.entry(asker.address).or_default() += 1;
        Some(asker.address)
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.shared.queue().waiting.remove(&self.id);
        // The next one is the first now, and more than one slot may be free.
        self.shared.changed.notify_waiters();
    }
}

impl SnapshotSlot {
    /// Whether the answer has had the slot for too long and has to end.
    pub fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }
}

impl Drop for SnapshotSlot {
    fn drop(&mut self) {
        let mut queue = self.shared.queue();
        queue.free += 1;
        if let Some(held) = queue.held.get_mut(&self.address) {
            *held -= 1;
            if *held == 0 {
                queue.held.remove(&self.address);
            }
        }
        drop(queue);
        self.shared.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asker(last: u8, name: &str) -> Asker {
        Asker {
            address: [10, 0, 0, last].into(),
            name: Some(name.to_owned()),
        }
    }

    #[tokio::test]
    async fn a_request_without_a_slot_is_queued_for_a_limited_time() {
        let slots = SnapshotSlots::new(1);
        let first = slots.open(asker(1, "a")).await.expect("a slot");
        let (second, ()) = tokio::join!(slots.open(asker(1, "b")), async { drop(first) });
        let second = second.expect("the slot that became free");
        assert!(
            slots.open(asker(1, "c")).await.is_none(),
            "a request is not queued indefinitely"
        );
        drop(second);
        assert!(
            slots.open(asker(1, "d")).await.is_some(),
            "a request that gave up took no slot"
        );
        assert_eq!(slots.in_use(), 0);
    }

    /// 40 clients of one address take a slot, end at once and come again with another name. A replica
    /// of the same address gets a slot after those that asked before it.
    #[test]
    fn clients_that_come_again_and_again_keep_no_replica_from_a_slot() {
        let slots = SnapshotSlots::new(1);
        let mut queue = slots.0.queue();
        let mut now = Instant::now();
        let mut names = 0..;
        let mut name = || format!("forged-{}", names.next().expect("endless"));
        for _client in 0..40 {
            queue.join(asker(1, &name()), now);
        }
        now += Duration::from_millis(1);
        let mut honest = queue.join(asker(1, "honest"), now).expect("a place");
        let mut grants = 0;
        loop {
            now += Duration::from_millis(1);
            // The honest replica gives up after 1.5 s and asks again; it keeps its place.
            if grants == 20 {
                queue.waiting.remove(&honest);
                honest = queue.join(asker(1, "honest"), now).expect("a place");
            }
            let ids: Vec<_> = queue.waiting.keys().copied().collect();
            let (id, address) = ids
                .into_iter()
                .find_map(|id| Some((id, queue.take(id)?)))
                .expect("someone is first");
            if id == honest {
                break;
            }
            grants += 1;
            assert!(grants <= 40, "the honest replica was never first");
            queue.free += 1;
            queue.held.remove(&address);
            queue.join(asker(1, &name()), now);
        }
        assert_eq!(grants, 40);
    }

    #[test]
    fn an_address_without_a_slot_comes_before_one_that_holds_some() {
        let slots = SnapshotSlots::new(2);
        let mut queue = slots.0.queue();
        let now = Instant::now();
        let first = queue.join(asker(1, "a"), now).expect("a place");
        let second = queue.join(asker(1, "b"), now).expect("a place");
        let other = queue
            .join(asker(2, "c"), now + Duration::from_secs(1))
            .expect("a place");
        assert!(queue.take(first).is_some());
        assert!(queue.take(second).is_none(), "its address holds a slot");
        assert!(queue.take(other).is_some());
    }
}
