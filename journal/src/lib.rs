//! Event sourcing on Redis Streams: the events of an aggregate are its only truth, and its state is
//! computed from them.
//!
//! An [`Aggregate`] is two pure functions: `decide` makes events of a command, `apply` changes the
//! state by an event. A [`Journal`] stores the events and replays them; [`Journal::execute`] does
//! both for one command. A [`Consumer`] reads the events of all aggregates in a consumer group and
//! gives them to a [`Projection`]; [`MongoProjection`] keeps one row for each aggregate in MongoDB.
//!
//! The crate holds no state between calls, caches nothing and starts no task. It never decides what
//! an event means, never overwrites or removes an event of an aggregate, and never reports an append
//! as stored that Redis did not store. What a failover of Redis can lose: `docs/journal.md`.

mod aggregate;
mod consumer;
mod error;
mod journal;
#[cfg(feature = "mongodb")]
mod mongo;
mod names;

pub use aggregate::{Aggregate, Loaded, Recorded, View};
pub use broker::{Address, AddressError, BrokerError};
pub use consumer::{
    Consumer, ConsumerOptions, DeadLetter, Delivered, Projection, ProjectionError, Rejected,
};
pub use error::{ExecuteError, JournalError};
pub use journal::{Appended, Executed, Journal, Limits, Replicas, ReplicasError};
#[cfg(feature = "mongodb")]
pub use mongo::MongoProjection;
pub use names::{AggregateId, AppendId, GroupName, InvalidName, JournalName};

/// Compiles the Rust of the page about the journal.
#[cfg(doctest)]
#[doc = include_str!("../../docs/journal.md")]
mod documented {}
