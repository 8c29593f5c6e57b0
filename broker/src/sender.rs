//! Sends events over one connection.
//!
//! Each call reports its result. While Redis is unavailable it fails at once, so nothing queues
//! here.

use contract::{CollectionName, DocumentId};
use redis::{Cmd, Value, cmd};

use crate::{Address, BrokerError, Link, Names};

/// The sender. Callers share it; their commands go over one connection.
#[derive(Debug)]
pub struct Sender {
    link: Link,
    names: Names,
}

impl Sender {
    /// A sender to a Redis that need not be available yet.
    pub fn new(address: Address, names: Names) -> Self {
        Self {
            link: Link::new(address),
            names,
        }
    }

    /// Where it sends to, for messages.
    pub fn address(&self) -> &Address {
        self.link.address()
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

    /// Sends a command once.
    async fn attempt(&self, command: &Cmd) -> Result<(), BrokerError> {
        let mut connection = self.link.connect().await?;
        connection.ask::<Value>(command).await.map(drop)
    }
}
