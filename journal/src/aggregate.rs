//! What the user of a journal writes: aggregates and views, as pure functions. Nothing here reads or
//! writes.

use serde::{Serialize, de::DeserializeOwned};

use crate::{AggregateId, AppendId};

/// A kind of aggregate: what one journal stores. Its default is the state before the first event.
///
/// Both functions are pure. `decide` sees only the state and the command; it is called again after a
/// conflict, with a newer state.
pub trait Aggregate: Default + Send + Sync + 'static {
    /// What happened. It is stored as JSON, so a version of a program must read what all versions
    /// before it wrote.
    type Event: Serialize + DeserializeOwned + Send + Sync;
    /// What a caller wants.
    type Command: Send + Sync;
    /// Why a command is refused.
    type Error: std::error::Error + Send + Sync + 'static;

    /// The events that a command makes; none when it changes nothing.
    ///
    /// # Errors
    /// When the state does not allow the command.
    fn decide(&self, command: &Self::Command) -> Result<Vec<Self::Event>, Self::Error>;

    /// Changes the state by an event that was decided, here or elsewhere. It cannot refuse it.
    fn apply(&mut self, event: &Self::Event);
}

/// What a projection shows of one aggregate. Its default is the view before the first event.
pub trait View: Default + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The events of the aggregate.
    type Event;

    /// Changes the view by the next event.
    fn apply(&mut self, event: &Self::Event);
}

/// An event as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded<E> {
    /// The version of the aggregate with this event: the n-th event has version n
    /// (requirement E4).
    pub version: u64,
    /// The append that stored it.
    pub append: AppendId,
    /// Its position among the events of all aggregates: the id of its entry (requirement E2).
    pub position: String,
    /// The event.
    pub event: E,
}

/// An aggregate at a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded<A> {
    /// Its id.
    pub id: AggregateId,
    /// The number of its events; 0 when it does not exist.
    pub version: u64,
    /// Its state after these events.
    pub state: A,
}

impl<A: Aggregate> Loaded<A> {
    /// The aggregate before its first event.
    pub fn absent(id: AggregateId) -> Self {
        Self {
            id,
            version: 0,
            state: A::default(),
        }
    }
}
