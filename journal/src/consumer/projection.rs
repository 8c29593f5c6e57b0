//! What a consumer feeds: the interface of a projection, and how it can fail.

use crate::{Aggregate, AggregateId, Delivered, JournalError};

/// What a consumer feeds. Both calls must be idempotent: events are delivered at least once.
pub trait Projection<A: Aggregate>: Sync {
    /// Stores the effect of events. They may have been stored before, and events before them may be
    /// missing. Returns the events that can never be stored; the others are acknowledged.
    fn project(
        &self,
        events: &[Delivered<A::Event>],
    ) -> impl Future<Output = Result<Vec<Rejected>, ProjectionError>> + Send;

    /// Stores the effect of all events of one aggregate, read from the journal. The result is
    /// `false` when one of them can never be stored by this program.
    fn catch_up(
        &self,
        id: &AggregateId,
    ) -> impl Future<Output = Result<bool, ProjectionError>> + Send;
}

/// An event that a projection can never store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Its position.
    pub position: String,
    /// Why.
    pub reason: String,
}

/// A projection is unavailable; the same events are given to it again later.
#[derive(Debug, thiserror::Error)]
pub enum ProjectionError {
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The store of the projection failed.
    #[error("the store of the projection is unavailable: {0}")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
}
