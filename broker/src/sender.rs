//! Sends events over one connection, which is opened when it is first needed and again after it
//! broke.
//!
//! Each call reports its result. While Redis is unavailable it fails at once, so nothing queues
//! here.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Instant,
};

use contract::{CollectionName, DocumentId};
use redis::{Cmd, Value, cmd};
use tokio::sync::Mutex;

use crate::{ANSWER, Address, Backoff, BrokerError, Connection, Names};

/// The sender. Callers share it; their commands go over one connection.
#[derive(Debug)]
pub struct Sender {
    address: Address,
    names: Names,
    link: Mutex<Link>,
}

/// Locked while the connection is checked or opened, so that only one is opened at a time.
#[derive(Default)]
struct Link {
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

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Link({})",
            if self.connection.is_some() {
                "connected"
            } else {
                "unavailable"
            }
        )
    }
}

impl Sender {
    /// A sender to a Redis that need not be available yet.
    pub fn new(address: Address, names: Names) -> Self {
        Self {
            address,
            names,
            link: Mutex::default(),
        }
    }

    /// Where it sends to, for messages.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Publishes to the channel of the collection or of one of its documents (requirement A7, A8).
    ///
    /// # Errors
    /// When it is not certain that the event was published.
    pub async fn publish(
        &self,
        collection: &CollectionName,
        id: Option<&DocumentId>,
        body: &[u8],
    ) -> Result<(), BrokerError> {
        let channel = match id {
            Some(id) => self.names.document_channel(collection, id),
            None => self.names.channel(collection),
        };
        self.send(cmd("PUBLISH").arg(channel).arg(body)).await
    }

    /// Appends to the stream of the collection, which keeps approximately `keep` entries.
    ///
    /// # Errors
    /// When it is not certain that the event was appended.
    pub async fn append(
        &self,
        collection: &CollectionName,
        body: &[u8],
        keep: u64,
    ) -> Result<(), BrokerError> {
        let mut command = cmd("XADD");
        command
            .arg(self.names.stream(collection))
            .arg("MAXLEN")
            .arg("~")
            .arg(keep)
            .arg("*");
        self.send(command.arg(crate::streams::FIELD).arg(body))
            .await
    }

    /// A connection that broke while idle costs the first command after it, so that command is sent
    /// again at once. It may have arrived, and then arrives twice, which is harmless.
    async fn send(&self, command: &Cmd) -> Result<(), BrokerError> {
        match self.attempt(command).await {
            Err(BrokerError::Redis(error)) if error.is_connection_dropped() => {
                self.attempt(command).await
            }
            sent => sent,
        }
    }

    /// Sends a command once, and forgets the connection if it cannot be used any more.
    async fn attempt(&self, command: &Cmd) -> Result<(), BrokerError> {
        let (
            number,
            Standing {
                mut connection,
                proven,
            },
        ) = self.connection().await?;
        match connection.ask::<Value>(command).await {
            Ok(_answer) => {
                proven.store(true, Relaxed);
                Ok(())
            }
            Err(error) => {
                // A refused command leaves the connection as it is.
                if error.ends_the_connection() {
                    self.ended(number).await;
                }
                Err(error)
            }
        }
    }

    /// Forgets a connection, unless it was replaced already.
    async fn ended(&self, number: u64) {
        let mut link = self.link.lock().await;
        if link.number != number {
            return;
        }
        match link.connection.take() {
            // It worked before, so Redis is probably there: the next call connects at once.
            Some(standing) if standing.proven.load(Relaxed) => link.backoff = Backoff::default(),
            Some(_unproven) => link.wait(),
            None => {}
        }
    }

    /// The connection and its number. It is opened here when there is none and the wait is over.
    async fn connection(&self) -> Result<(u64, Standing), BrokerError> {
        let mut link = self.link.lock().await;
        if let Some(standing) = &link.connection {
            return Ok((link.number, standing.clone()));
        }
        if link
            .not_before
            .is_some_and(|moment| Instant::now() < moment)
        {
            return Err(BrokerError::Unavailable);
        }
        match self.address.connect(ANSWER).await {
            Ok(connection) => {
                let standing = Standing {
                    connection,
                    proven: Arc::default(),
                };
                link.connection = Some(standing.clone());
                link.number += 1;
                Ok((link.number, standing))
            }
            Err(error) => {
                link.wait();
                Err(error)
            }
        }
    }
}

impl Link {
    /// Begins the next wait.
    fn wait(&mut self) {
        self.not_before = Some(Instant::now() + self.backoff.next_wait());
    }
}
