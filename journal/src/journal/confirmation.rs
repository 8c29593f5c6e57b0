//! Waits for replicas of Redis, for all appends that wait at the same time together.
//!
//! WAIT holds up its connection, and counts the replicas that have everything which that connection
//! wrote. So appends that wait have a connection of their own, and one WAIT is under way at a time: it
//! is also the answer for each append that was written before it began. This module never reports a
//! confirmation of another connection, which may be one to another master.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use broker::{Address, BrokerError, Lease, Link};
use redis::cmd;
use tokio::sync::Mutex;

use crate::Replicas;

/// The connection of appends that wait, and what was confirmed on it.
#[derive(Debug)]
pub(crate) struct Confirmation {
    pub(crate) replicas: Replicas,
    pub(crate) link: Link,
    /// The number of appends that were answered.
    written: AtomicU64,
    /// Locked while a WAIT is under way.
    last: Mutex<Confirmed>,
}

/// The result of a WAIT.
#[derive(Debug, Default)]
struct Confirmed {
    /// The number of its connection.
    connection: u64,
    /// It was sent after this number of appends had been answered.
    written: u64,
    /// How many replicas have them.
    replicas: u64,
}

impl Confirmation {
    pub(crate) fn new(address: Address, replicas: Replicas) -> Self {
        Self {
            replicas,
            link: Link::new(address),
            written: AtomicU64::new(0),
            last: Mutex::default(),
        }
    }

    /// The number of replicas that have what was written on this connection. Call it after the
    /// answer of the write.
    pub(crate) async fn confirmed(&self, connection: &mut Lease<'_>) -> Result<u64, BrokerError> {
        let own = self.written.fetch_add(1, SeqCst) + 1;
        let mut last = self.last.lock().await;
        if last.connection == connection.connection() && last.written >= own {
            return Ok(last.replicas);
        }
        let written = self.written.load(SeqCst);
        let mut wait = cmd("WAIT");
        wait.arg(self.replicas.count);
        wait.arg(self.replicas.within.as_millis() as u64);
        let replicas = connection.ask(&wait).await?;
        *last = Confirmed {
            connection: connection.connection(),
            written,
            replicas,
        };
        Ok(replicas)
    }
}
