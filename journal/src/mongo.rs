//! A projection into MongoDB: one row for each aggregate, with one position, its version.
//!
//! A row is `{_id, version, append, …}` and the members of the view beside them. An event is applied
//! only where the row has the version before it, in one conditional write, so a repeated event
//! changes nothing and an event is never applied twice (requirement E7). An event that comes too early, or that does
//! not continue what the row has, makes the projection read the aggregate from the journal. A row
//! is never removed.

mod row;

use std::{collections::BTreeMap, marker::PhantomData, time::Duration};

use contract::text::Escaped;
use futures_util::{StreamExt, TryStreamExt, stream};
use mongodb::{
    Collection, Database,
    bson::{Document, doc},
    error::{Error, ErrorKind, WriteFailure},
    options::{
        Acknowledgment, CollectionOptions, ReadConcern, ReadPreference, SelectionCriteria,
        WriteConcern,
    },
};
use tokio::time::timeout;
use tracing::{error, warn};

use row::{Row, continued, document, row_of};

use crate::{
    Aggregate, AggregateId, AppendId, Delivered, Journal, JournalError, Projection,
    ProjectionError, Rejected, View,
};

/// Time limit of one call of MongoDB.
const CALL: Duration = Duration::from_secs(10);
/// Aggregates that are written at the same time.
const AT_ONCE: usize = 16;
/// How often a row is read again because another process wrote it in between.
const ATTEMPTS: usize = 8;
/// Error code: a row with this `_id` exists.
const DUPLICATE_KEY: i32 = 11_000;
/// Error codes of a row that MongoDB never accepts: the validator refuses it, it is too large.
const NEVER: [i32; 3] = [121, 10_334, 17_419];

/// The projection of the view `V` of a journal into a collection of MongoDB.
#[derive(Debug)]
pub struct MongoProjection<A, V> {
    journal: Journal<A>,
    rows: Collection<Document>,
    view: PhantomData<fn() -> V>,
}

/// A row with all events that could be read from the journal.
struct Replayed<V> {
    row: Row<V>,
    /// The first event that cannot be read, and why.
    unreadable: Option<(u64, String)>,
}

/// Why a row was not written.
enum RowError {
    /// It can never be.
    Never(String),
    /// It may be later.
    Unavailable(ProjectionError),
}

impl From<JournalError> for RowError {
    fn from(error: JournalError) -> Self {
        Self::Unavailable(error.into())
    }
}

impl<A, V> MongoProjection<A, V>
where
    A: Aggregate,
    V: View<Event = A::Event>,
{
    /// A projection into a collection, which only projections of this journal write. Rows are
    /// written with write concern `majority` and journal, so no failover of MongoDB loses an
    /// event that was acknowledged.
    pub fn new(journal: Journal<A>, database: &Database, collection: &str) -> Self {
        let durable = WriteConcern::builder()
            .w(Acknowledgment::Majority)
            .journal(true)
            .build();
        let options = CollectionOptions::builder()
            .read_concern(ReadConcern::majority())
            .write_concern(durable)
            .selection_criteria(SelectionCriteria::ReadPreference(ReadPreference::Primary))
            .build();
        Self {
            journal,
            rows: database.collection_with_options(collection, options),
            view: PhantomData,
        }
    }

    /// Stores events of one aggregate, which are in the order of their delivery.
    async fn store(
        &self,
        id: &AggregateId,
        events: Vec<&Delivered<A::Event>>,
    ) -> Result<Vec<Rejected>, ProjectionError> {
        match self.advance(id, &events).await {
            Ok(None) => Ok(Vec::new()),
            Ok(Some((version, reason))) => {
                // The events after it are in the journal, and are applied when it can be read.
                let unreadable = events.iter().filter(|event| event.version == version);
                Ok(unreadable.map(|event| rejected(event, &reason)).collect())
            }
            Err(RowError::Never(reason)) => {
                // One letter stands for the aggregate.
                let first = events.first().into_iter();
                Ok(first.map(|event| rejected(event, &reason)).collect())
            }
            Err(RowError::Unavailable(error)) => Err(error),
        }
    }

    /// Brings the row of an aggregate to the events, or to the journal when they do not continue it.
    /// The result is the first event that cannot be read, if there is one.
    async fn advance(
        &self,
        id: &AggregateId,
        events: &[&Delivered<A::Event>],
    ) -> Result<Option<(u64, String)>, RowError> {
        for _attempt in 0..ATTEMPTS {
            let held = self.read(id).await?;
            let before = (held.version, held.append.clone());
            let replayed = match continued(held, events) {
                Ok(row) => Replayed {
                    row,
                    unreadable: None,
                },
                Err(held) => self.replay(id, held).await?,
            };
            let after = (replayed.row.version, replayed.row.append.clone());
            if after == before || self.write(id, before, &replayed.row).await? {
                return Ok(replayed.unreadable);
            }
        }
        let contended = format!("the row of {id} was changed by another process each time");
        Err(RowError::Unavailable(ProjectionError::Store(
            contended.into(),
        )))
    }

    /// The row with the newer events of the journal. A row whose newest event is not the journal's
    /// has events that the journal lost, for example in a failover: it is made again from the first.
    async fn replay(&self, id: &AggregateId, mut row: Row<V>) -> Result<Replayed<V>, RowError> {
        if row.version > 0 && !self.continues(id, &row).await? {
            warn!(
                journal = %self.journal.name(),
                %id,
                version = row.version,
                "the row has an event that the journal does not have: it is made again from the \
                 events of the journal"
            );
            row = Row::absent();
        }
        let unreadable = loop {
            let page = self.journal.page(id, row.version, u64::MAX).await?;
            for recorded in &page.events {
                row.apply(&recorded.event, recorded.version, &recorded.append);
            }
            match page.failed {
                Some(failed) => break Some((row.version + 1, failed.to_string())),
                None if !page.more => break None,
                None => {}
            }
        };
        if row.version == 0 {
            // Nothing is removed: without events there is nothing that the row could show instead.
            let absent = || format!("the journal has no event of the aggregate {id}");
            return Err(RowError::Never(
                unreadable.map_or_else(absent, |(_, reason)| reason),
            ));
        }
        Ok(Replayed { row, unreadable })
    }

    /// Whether the newest event of a row is the one of the journal with this version.
    async fn continues(&self, id: &AggregateId, row: &Row<V>) -> Result<bool, RowError> {
        let version = row.version;
        let page = self.journal.page(id, version - 1, version).await?;
        match (page.events.first(), page.failed) {
            (Some(recorded), _) => Ok(row.append.as_ref() == Some(&recorded.append)),
            // It was applied by a program that could read it, so the row is kept.
            (None, Some(_unreadable)) => Ok(true),
            (None, None) => Ok(false),
        }
    }

    /// The row of an aggregate.
    async fn read(&self, id: &AggregateId) -> Result<Row<V>, RowError> {
        let found = call(self.rows.find_one(doc! { "_id": id.as_str() })).await;
        match found.map_err(unavailable)? {
            None => Ok(Row::absent()),
            Some(row) => row_of(row).map_err(|reason| {
                RowError::Never(format!("the row {id} is not of this projection: {reason}"))
            }),
        }
    }

    /// Writes a row where it still is as it was read. The result is `false` when it is not.
    async fn write(
        &self,
        id: &AggregateId,
        (version, append): (u64, Option<AppendId>),
        row: &Row<V>,
    ) -> Result<bool, RowError> {
        let next = document(id, row).map_err(RowError::Never)?;
        let written = match append {
            None => call(self.rows.insert_one(next)).await.map(|_inserted| true),
            Some(append) => {
                let is = doc! { "_id": id.as_str(), "version": version as i64, "append": append.as_str() };
                let replaced = call(self.rows.replace_one(is, next)).await;
                replaced.map(|replaced| replaced.matched_count == 1)
            }
        };
        match written {
            Err(CallError::Mongo(error)) => match write_code(&error) {
                Some(DUPLICATE_KEY) => Ok(false),
                Some(code) if NEVER.contains(&code) => Err(RowError::Never(error.to_string())),
                _ => Err(unavailable(CallError::Mongo(error))),
            },
            written => written.map_err(unavailable),
        }
    }
}

impl<A, V> Projection<A> for MongoProjection<A, V>
where
    A: Aggregate,
    V: View<Event = A::Event>,
{
    async fn project(
        &self,
        events: &[Delivered<A::Event>],
    ) -> Result<Vec<Rejected>, ProjectionError> {
        let mut aggregates = BTreeMap::<&AggregateId, Vec<&Delivered<A::Event>>>::new();
        for event in events {
            aggregates.entry(&event.id).or_default().push(event);
        }
        let mut stored = Vec::with_capacity(aggregates.len());
        for (id, events) in aggregates {
            stored.push(self.store(id, events));
        }
        let stored = stream::iter(stored).buffer_unordered(AT_ONCE);
        let rejected: Vec<Vec<Rejected>> = stored.try_collect().await?;
        Ok(rejected.into_iter().flatten().collect())
    }

    async fn catch_up(&self, id: &AggregateId) -> Result<bool, ProjectionError> {
        match self.advance(id, &[]).await {
            Ok(None) => Ok(true),
            Ok(Some((version, reason))) => {
                warn!(
                    journal = %self.journal.name(),
                    %id,
                    "the row ends before event {version}: {}",
                    Escaped(reason)
                );
                Ok(false)
            }
            Err(RowError::Never(reason)) => {
                error!(
                    journal = %self.journal.name(),
                    %id,
                    "the aggregate has no up-to-date row: {}",
                    Escaped(reason)
                );
                Ok(false)
            }
            Err(RowError::Unavailable(error)) => Err(error),
        }
    }
}

fn rejected<E>(event: &Delivered<E>, reason: &str) -> Rejected {
    Rejected {
        position: event.position.clone(),
        reason: reason.to_owned(),
    }
}

/// Why a call of MongoDB failed.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error(transparent)]
    Mongo(#[from] Error),
    #[error("MongoDB did not answer in time")]
    Timeout,
}

async fn call<T>(action: impl IntoFuture<Output = Result<T, Error>>) -> Result<T, CallError> {
    match timeout(CALL, action.into_future()).await {
        Ok(answer) => Ok(answer?),
        Err(_elapsed) => Err(CallError::Timeout),
    }
}

fn unavailable(error: CallError) -> RowError {
    RowError::Unavailable(ProjectionError::Store(error.into()))
}

fn write_code(error: &Error) -> Option<i32> {
    match &*error.kind {
        ErrorKind::Write(WriteFailure::WriteError(error)) => Some(error.code),
        ErrorKind::Command(error) => Some(error.code),
        _ => None,
    }
}
