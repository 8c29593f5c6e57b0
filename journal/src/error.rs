//! Why a call failed. An error says whether events were stored; nothing here decides about a retry.

use broker::BrokerError;
use contract::text::Escaped;

use crate::{AggregateId, AppendId};

/// Why a journal did not do what was asked. Unless a variant says otherwise, nothing was stored.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// An aggregate with this id exists (requirement E1).
    #[error("the aggregate {0} already exists")]
    AlreadyExists(AggregateId),
    /// No aggregate has this id.
    #[error("no aggregate {0} exists")]
    NotFound(AggregateId),
    /// The aggregate has another version than the append expects: somebody else changed it.
    #[error("the aggregate {id} has version {actual}, not {expected}")]
    Conflict {
        /// The aggregate.
        id: AggregateId,
        /// The version that was expected.
        expected: u64,
        /// The version that it has; 0 when it does not exist.
        actual: u64,
    },
    /// An append without events, or with more than the limit.
    #[error("an append has 1 to {most} events, not {count}")]
    EventCount {
        /// The number of events.
        count: usize,
        /// The limit.
        most: usize,
    },
    /// An event is too large.
    #[error("an event has {bytes} bytes as JSON, more than {most}")]
    EventSize {
        /// Its size.
        bytes: usize,
        /// The limit.
        most: usize,
    },
    /// The aggregate would have too many events.
    #[error("the aggregate {id} has {version} events, and at most {most} are allowed")]
    TooLong {
        /// The aggregate.
        id: AggregateId,
        /// The number of its events.
        version: u64,
        /// The limit.
        most: u64,
    },
    /// An event cannot be written as JSON.
    #[error("an event cannot be written as JSON: {0}")]
    Unencodable(#[source] serde_json::Error),
    /// A stored event cannot be read: another program wrote it, or a newer version of this one.
    #[error("event {version} of the aggregate {id} cannot be read: {}", Escaped(.reason))]
    Undecodable {
        /// The aggregate.
        id: AggregateId,
        /// The version of the event.
        version: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// Events of the aggregate are missing in Redis: a key was evicted, removed or changed by
    /// another program. The aggregate is not changed any more.
    #[error(
        "the aggregate {id} is damaged: version {expected} was expected, and {found} was found"
    )]
    Damaged {
        /// The aggregate.
        id: AggregateId,
        /// The version that should be there.
        expected: u64,
        /// The version that is there.
        found: u64,
    },
    /// **The events are stored**, but too few replicas of Redis confirmed them in time: a failover
    /// may lose them. The same append, repeated with the same id, waits for the replicas again.
    #[error(
        "version {version} of {id} is stored, and {confirmed} of {wanted} replicas confirmed it"
    )]
    NotReplicated {
        /// The aggregate.
        id: AggregateId,
        /// Its version with the events.
        version: u64,
        /// The number of replicas that confirmed.
        confirmed: u64,
        /// The number that the journal asks for.
        wanted: u32,
        /// Why Redis did not wait for them, for example because the user has no right to WAIT.
        source: Option<BrokerError>,
    },
    /// Redis is unavailable or refuses the command.
    #[error("Redis is unavailable: {0}")]
    Unavailable(#[source] BrokerError),
    /// Redis did not answer: **the events may be stored or not.** The same append, repeated with the
    /// same id, is stored once.
    #[error("the outcome of the append {append} is unknown: {source}")]
    OutcomeUnknown {
        /// The id to repeat it with.
        append: AppendId,
        /// Why there was no answer.
        source: BrokerError,
    },
    /// Redis answered something that the journal did not write.
    #[error("Redis answered something unexpected: {}", Escaped(.0))]
    Answer(String),
}

/// Why a command was not executed.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError<E: std::error::Error> {
    /// The aggregate refuses it.
    #[error(transparent)]
    Refused(E),
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
}
