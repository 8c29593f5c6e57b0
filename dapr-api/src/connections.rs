//! The open connections: how many there are, of all addresses and of one, and which of them give way.
//!
//! Beyond the bound a new connection takes the place of one of the address with most, where that has at
//! least twice as many as the other would have then: of one without a call, if there is one. Nothing here reads or writes.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// One connection, as its calls see it. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Connection {
    /// Ends the connection and everything of it at once.
    pub(crate) closed: CancellationToken,
    /// The calls that are under way.
    pub(crate) calls: watch::Sender<usize>,
}

/// A call that is under way.
pub(crate) struct Call(Connection);

impl Connection {
    /// A call has begun; it ends when the result is dropped.
    pub(crate) fn begin_call(&self) -> Call {
        self.calls.send_modify(|calls| *calls += 1);
        Call(self.clone())
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.calls.send_modify(|calls| *calls -= 1);
    }
}

/// The places of connections. Cloning shares them.
#[derive(Clone)]
pub(crate) struct Places(Arc<Shared>);

struct Shared {
    max: usize,
    per_address: usize,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    next_id: u64,
    count: usize,
    by_address: HashMap<IpAddr, BTreeMap<u64, Connection>>,
}

/// The place of one connection. Dropping it frees the place.
pub(crate) struct Place {
    pub(crate) connection: Connection,
    id: u64,
    address: IpAddr,
    places: Places,
}

impl Places {
    /// `max` places of all addresses, and `per_address` of one.
    pub(crate) fn new(max: usize, per_address: usize) -> Self {
        Self(Arc::new(Shared {
            max,
            per_address,
            open: Mutex::default(),
        }))
    }

    /// A place for a new connection; `None` when there is none for its address.
    pub(crate) fn enter(&self, address: IpAddr) -> Option<Place> {
        let mut open = self.open();
        let of_address = open.by_address.get(&address).map_or(0, BTreeMap::len);
        if of_address >= self.0.per_address {
            return None;
        }
        if open.count >= self.0.max && !open.evict(of_address) {
            return None;
        }
        let id = open.next_id;
        open.next_id += 1;
        open.count += 1;
        let connection = Connection::default();
        let all = open.by_address.entry(address).or_default();
        all.insert(id, connection.clone());
        Some(Place {
            connection,
            id,
            address,
            places: self.clone(),
        })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// Closes a connection in favour of one of an address that has `share` of them; `false` when there is none.
    fn evict(&mut self, share: usize) -> bool {
        let most = self.by_address.iter().max_by_key(|(_, all)| all.len());
        let Some((&address, all)) = most.filter(|(_, all)| all.len() > 2 * share + 1) else {
            return false;
        };
        let without_call = all.iter().find(|(_, one)| *one.calls.borrow() == 0);
        let Some((&id, one)) = without_call.or_else(|| all.iter().next()) else {
            return false;
        };
        one.closed.cancel();
        // Its place is free from now on, so that it is not closed a second time.
        self.remove(address, id);
        true
    }

    fn remove(&mut self, address: IpAddr, id: u64) {
        let Some(all) = self.by_address.get_mut(&address) else {
            return;
        };
        if all.remove(&id).is_some() {
            self.count -= 1;
        }
        if all.is_empty() {
            self.by_address.remove(&address);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.open().remove(self.address, self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREEDY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    #[test]
    fn one_address_has_its_limit_and_frees_it() {
        let places = Places::new(4, 2);
        let first = places.enter(GREEDY).expect("a place");
        let _second = places.enter(GREEDY).expect("a place");
        assert!(places.enter(GREEDY).is_none());
        let _other = places.enter(OTHER).expect("a place");
        drop(first);
        let _again = places.enter(GREEDY).expect("a place");
    }

    #[test]
    fn an_address_that_has_all_gives_way_to_others_with_what_is_idle() {
        let places = Places::new(4, 4);
        let all: Vec<_> = (0..4).map_while(|_| places.enter(GREEDY)).collect();
        let _busy = [&all[0], &all[1], &all[3]].map(|place| place.connection.begin_call());
        assert!(places.enter(GREEDY).is_none(), "its own give way to nobody");
        let _first = places.enter(OTHER).expect("a place");
        let closed = all
            .iter()
            .map(|place| place.connection.closed.is_cancelled());
        assert_eq!(closed.collect::<Vec<_>>(), [false, false, true, false]);
        assert!(places.enter(OTHER).is_none(), "three and one are fair");
        drop(all);
        assert_eq!(places.open().count, 1);
    }
}
