//! Sends events: one connection for all, made when it is first needed and again after it broke.
//!
//! It says how it went. While Redis is away it says so at once, so that nothing queues here.

use std::time::Instant;

use contract::{CollectionName, DocumentId};
use redis::{Cmd, Value, cmd};
use tokio::sync::Mutex;

use crate::{ANSWER, Address, Backoff, Connection, Error, Names};

/// The sending end.
#[derive(Debug)]
pub struct Sender {
    address: Address,
    names: Names,
    link: Mutex<Link>,
}

/// Held while the connection is looked at or made, so that one is made at a time.
#[derive(Default)]
struct Link {
    connection: Option<Connection>,
    /// Counts connections: a failure of an old one says nothing of the new.
    turn: u64,
    backoff: Backoff,
    not_before: Option<Instant>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Link({})", if self.connection.is_some() { "connected" } else { "away" })
    }
}

impl Sender {
    /// To a Redis that need not be there yet.
    pub fn new(address: Address, names: Names) -> Self {
        Self { address, names, link: Mutex::default() }
    }

    /// Publishes to the channel of the collection, or of one of its documents (seeds.md A7, A8).
    ///
    /// # Errors
    /// When it is not certain that it was published.
    pub async fn publish(
        &self,
        collection: &CollectionName,
        id: Option<&DocumentId>,
        body: &[u8],
    ) -> Result<(), Error> {
        let channel = match id {
            Some(id) => self.names.document_channel(collection, id),
            None => self.names.channel(collection),
        };
        self.send(cmd("PUBLISH").arg(channel).arg(body)).await
    }

    /// Appends to the stream of the collection, which keeps about so many entries.
    ///
    /// # Errors
    /// When it is not certain that it was appended.
    pub async fn append(&self, collection: &CollectionName, body: &[u8], keep: u64) -> Result<(), Error> {
        let mut command = cmd("XADD");
        command.arg(self.names.stream(collection)).arg("MAXLEN").arg("~").arg(keep).arg("*");
        self.send(command.arg(crate::streams::FIELD).arg(body)).await
    }

    /// A connection that broke while nobody looked costs the first command after it: that one is sent again at once. It may
    /// have arrived, and then arrives twice.
    async fn send(&self, command: &Cmd) -> Result<(), Error> {
        match self.attempt(command).await {
            Err(Error::Redis(error)) if error.is_connection_dropped() => self.attempt(command).await,
            sent => sent,
        }
    }

    async fn attempt(&self, command: &Cmd) -> Result<(), Error> {
        let (turn, mut connection) = self.connection().await?;
        let sent = connection.ask::<Value>(command).await;
        if sent.as_ref().is_err_and(Error::ends_the_connection) {
            let mut link = self.link.lock().await;
            if link.turn == turn {
                link.connection = None;
            }
        }
        sent.map(drop)
    }

    async fn connection(&self) -> Result<(u64, Connection), Error> {
        let mut link = self.link.lock().await;
        if let Some(connection) = &link.connection {
            return Ok((link.turn, connection.clone()));
        }
        if link.not_before.is_some_and(|moment| Instant::now() < moment) {
            return Err(Error::Away);
        }
        let connecting = self.address.connect(ANSWER).await;
        match &connecting {
            Ok(connection) => {
                link.connection = Some(connection.clone());
                link.turn += 1;
                link.backoff = Backoff::default();
            }
            Err(_failed) => link.not_before = Some(Instant::now() + link.backoff.next_wait()),
        }
        Ok((link.turn, connecting?))
    }
}
