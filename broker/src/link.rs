//! One shared connection, which is opened when it is first needed and again after it broke.
//!
//! While Redis is unavailable each call fails at once, so nothing queues here. No command is sent
//! twice: the caller knows whether a repetition is harmless.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Instant,
};

use redis::{Cmd, FromRedisValue};
use tokio::sync::Mutex;

use crate::{ANSWER, Address, Backoff, BrokerError, Connection};

/// The link to a Redis that need not be available yet. Callers share it; their commands go over one
/// connection.
#[derive(Debug)]
pub struct Link {
    address: Address,
    state: Mutex<State>,
}

/// Locked while the connection is checked or opened, so that only one is opened at a time.
#[derive(Default)]
struct State {
    connection: Option<Standing>,
    /// Counts connections: a failure on an old one says nothing about the new one.
    number: u64,
    /// The waits after failed attempts; it begins again after a connection that worked.
    backoff: Backoff,
    /// Until then a call fails at once.
    not_before: Option<Instant>,
}

/// A connection, and whether a command ever succeeded on it. One without any success is not opened
/// again at once.
#[derive(Clone)]
struct Standing {
    connection: Connection,
    proven: Arc<AtomicBool>,
}

/// The connection of a [`Link`], for the commands of one caller. All commands of one lease go over
/// the same connection, so a command about the state of a connection (WAIT) follows its write.
#[derive(Debug)]
pub struct Lease<'a> {
    link: &'a Link,
    number: u64,
    standing: Standing,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is = if self.connection.is_some() {
            "connected"
        } else {
            "unavailable"
        };
        write!(f, "State({is})")
    }
}

impl fmt::Debug for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Standing(proven: {})", self.proven.load(Relaxed))
    }
}

impl Link {
    /// A link to an address. It connects later.
    pub fn new(address: Address) -> Self {
        Self {
            address,
            state: Mutex::default(),
        }
    }

    /// Where it connects to, for messages.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The connection. It is opened here when there is none and the wait is over.
    ///
    /// # Errors
    /// When there is none; no command was sent.
    pub async fn connect(&self) -> Result<Lease<'_>, BrokerError> {
        let mut state = self.state.lock().await;
        if let Some(standing) = &state.connection {
            return Ok(Lease {
                link: self,
                number: state.number,
                standing: standing.clone(),
            });
        }
        if state
            .not_before
            .is_some_and(|moment| Instant::now() < moment)
        {
            return Err(BrokerError::Unavailable);
        }
        // Boxed: the future is large, and is needed once per connection.
        match Box::pin(self.address.connect(ANSWER)).await {
            Ok(connection) => {
                let standing = Standing {
                    connection,
                    proven: Arc::default(),
                };
                state.connection = Some(standing.clone());
                state.number += 1;
                Ok(Lease {
                    link: self,
                    number: state.number,
                    standing,
                })
            }
            Err(error) => {
                state.wait();
                Err(error)
            }
        }
    }

    /// Forgets a connection, unless it was replaced already.
    async fn ended(&self, number: u64) {
        let mut state = self.state.lock().await;
        if state.number != number {
            return;
        }
        match state.connection.take() {
            // It worked before, so Redis is probably there: the next call connects at once.
            Some(standing) if standing.proven.load(Relaxed) => state.backoff = Backoff::default(),
            Some(_unproven) => state.wait(),
            None => {}
        }
    }
}

impl State {
    /// Begins the next wait.
    fn wait(&mut self) {
        self.not_before = Some(Instant::now() + self.backoff.next_wait());
    }
}

impl Lease<'_> {
    /// The number of the connection: two leases with the same number share it.
    pub fn connection(&self) -> u64 {
        self.number
    }

    /// Sends a command once, and forgets the connection if it cannot be used any more.
    ///
    /// # Errors
    /// When Redis refuses it or does not answer in time.
    pub async fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, BrokerError> {
        match self.standing.connection.ask(command).await {
            Ok(answer) => {
                self.standing.proven.store(true, Relaxed);
                Ok(answer)
            }
            Err(error) => {
                // A refused command leaves the connection as it is.
                if error.ends_the_connection() {
                    self.link.ended(self.number).await;
                }
                Err(error)
            }
        }
    }
}
