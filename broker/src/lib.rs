//! RedisConfig as a broker of events: where it is ([`Address`]), what things are called there
//! ([`Names`]), how an event is sent ([`Sender`]) and how events come ([`listen`]: by [`pubsub`] or
//! by [`streams`]), by the [`settings`] of both ends. [`groups`] looks after what Dapr leaves
//! behind there.
//!
//! The only crate that names the RedisConfig client. It carries bytes: it never looks into an event and
//! never decides what becomes of one.

mod address;
mod connection;
pub mod groups;
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
pub use listening::{BrokerEvent, listen};
pub use names::{Channel, Names, Prefix, PrefixError};
pub use sender::Sender;

/// How long one answer may take.
pub const ANSWER: Duration = Duration::from_secs(2);

/// A RedisConfig that carries events, and how it does.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    /// Where it is.
    pub address: Address,
    /// What things are called there.
    pub names: Names,
    /// How events travel.
    pub delivery: Delivery,
}

/// How events travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Delivery {
    /// Pub/Sub: who is away when an event is published never gets it (requirement A9).
    #[default]
    PubSub,
    /// Streams: the newest events are kept, and every reader has its own place in them.
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

/// What to listen to.
#[derive(Debug, Clone)]
pub enum Subscription {
    /// Whole collections.
    Collections(BTreeSet<CollectionName>),
    /// One document (requirement A8). Where its collection has one channel, or is a stream, its
    /// neighbours are heard too.
    Document(CollectionName, DocumentId),
}

/// A place in the stream of each collection: the id of the last entry that was taken.
pub type Cursors = BTreeMap<CollectionName, String>;

/// What a listener hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReceivedEvent {
    /// An event, as it was sent.
    Event {
        /// The collection of the channel or stream it came by.
        collection: CollectionName,
        /// The document of the channel, where documents have their own.
        id: Option<DocumentId>,
        /// The data of the event.
        body: Vec<u8>,
        /// Its place in the stream, where there is one.
        cursor: Option<String>,
    },
    /// The stream of a collection cannot be read, while others can; it is tried again.
    Refused {
        /// The collection.
        collection: CollectionName,
        /// What RedisConfig says.
        error: String,
    },
    /// The stream of a collection began anew, or could not be read until now: events of it may be
    /// lost.
    Lost {
        /// The collection.
        collection: CollectionName,
        /// Where its reading begins now.
        cursor: String,
    },
}

/// Waits between attempts, for ever: from a tenth of a second, doubling, to one, each with as much
/// again of jitter.
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
        // It has no end; one that had would go on at its longest.
        self.0.next().unwrap_or(Duration::from_secs(2))
    }
}
