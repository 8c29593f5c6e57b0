//! Redis as a broker of events: its address ([`Address`]), the names of channels and streams
//! ([`Names`]), one shared connection ([`Link`]), sending ([`Sender`]), receiving ([`listen`], by [`pubsub`] or [`streams`]), the
//! [`settings`] that both ends share, and the consumer groups that Dapr creates ([`groups`]).
//!
//! This is the only crate that connects to Redis; `journal` sends commands of its own over a
//! [`Link`]. It carries bytes: it never parses an event and never decides about one. It logs nothing;
//! each error is returned or reported.
//!
//! Two deliveries exist. With Pub/Sub an event reaches the listeners that are connected at that
//! moment. With streams Redis keeps the newest events, and a listener continues from its position.

mod address;
mod connection;
pub mod groups;
mod link;
mod listening;
mod names;
pub mod pubsub;
mod sender;
pub mod settings;
pub mod streams;

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
    time::Duration,
};

pub use address::{Address, AddressError};
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
pub use connection::{BrokerError, Connection};
use contract::{CollectionName, DocumentId};
pub use link::{Lease, Link};
pub use listening::{BrokerEvent, listen};
pub use names::{Channel, Names, Prefix, PrefixError};
pub use sender::Sender;

/// Time limit of one answer of Redis, for commands that do not block.
pub const ANSWER: Duration = Duration::from_secs(2);

/// A Redis that carries events: everything that a sender or a listener needs to know.
///
/// The publisher and the subscribers must have the same configuration; neither can detect that the
/// other uses another prefix, database or delivery.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    /// Its address.
    pub address: Address,
    /// The names of its channels and streams.
    pub names: Names,
    /// How events are delivered.
    pub delivery: Delivery,
}

/// How Redis delivers events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Delivery {
    /// Pub/Sub: a replica that is not connected when an event is published never receives it
    /// (requirement A9).
    #[default]
    PubSub,
    /// Streams: the newest events are kept, and every reader has its own position.
    Streams,
}

impl FromStr for Delivery {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text.to_ascii_uppercase().as_str() {
            "PUBSUB" => Ok(Self::PubSub),
            "STREAMS" => Ok(Self::Streams),
            _ => Err("expected PUBSUB or STREAMS"),
        }
    }
}

/// The events that a listener wants. A listener has one subscription for its whole life.
#[derive(Debug, Clone)]
pub enum Subscription {
    /// Whole collections.
    Collections(BTreeSet<CollectionName>),
    /// One document (requirement A8). Where its collection has one channel or a stream, events of
    /// other documents arrive as well.
    Document(CollectionName, DocumentId),
}

/// The position in the stream of each collection: the id of the last entry that was processed.
pub type Cursors = BTreeMap<CollectionName, String>;

/// Something that arrived from Redis. Its body was not parsed, so it need not be an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReceivedEvent {
    /// An event, as it was sent.
    Event {
        /// The collection of its channel or stream.
        collection: CollectionName,
        /// The document of its channel, where documents have channels of their own.
        id: Option<DocumentId>,
        /// The data of the event.
        body: Vec<u8>,
        /// Its position in the stream, where there is one.
        cursor: Option<String>,
    },
    /// The stream of a collection cannot be read, while others can. Reading it is retried.
    Refused {
        /// The collection.
        collection: CollectionName,
        /// The error of Redis.
        error: String,
    },
    /// The stream of a collection began again, or could not be read until now. Events of it may be
    /// lost.
    Lost {
        /// The collection.
        collection: CollectionName,
        /// The position from which it is read now.
        cursor: String,
    },
}

/// The waits between attempts to connect, without end: 0.1 s, doubling up to 1 s, each with up to as much
/// jitter again.
#[derive(Debug)]
pub(crate) struct Backoff(ExponentialBackoff);

impl Default for Backoff {
    fn default() -> Self {
        let delays = ExponentialBuilder::new().with_jitter().without_max_times();
        Self(
            delays
                .with_min_delay(Duration::from_millis(100))
                .with_max_delay(Duration::from_secs(1))
                .build(),
        )
    }
}

impl Backoff {
    /// The next wait.
    pub(crate) fn next_wait(&mut self) -> Duration {
        // The iterator has no end; the fallback is its longest wait.
        self.0.next().unwrap_or(Duration::from_secs(2))
    }
}
