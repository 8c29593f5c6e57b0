//! Publishing from Rust: a unit of work with the request it belongs to. What it queues leaves as
//! one change set when it is committed, or never (requirement B3, B4).
//!
//! Documents, change records and what is owed to subscribers are one transaction of the store, so
//! "after the commit" is not a promise to keep here: an event that nobody committed does not exist.
//! A unit never holds a transaction open: it holds a list, and a [`Unit::commit`] hands it over at
//! once.
//!
//! ```
//! use publisher::{app::Publisher, settings::RedisSettings, unit::{Change, Changes, Context, Failure, Reason}};
//! use serde::Serialize;
//!
//! #[derive(Serialize)]
//! struct Skill { prompt: &'static str, turns: u32 }
//!
//! /// A handler of a service.
//! async fn rename(changes: Changes, context: Context) -> Result<(), Failure> {
//!     let mut unit = changes.unit(context);
//!     unit.publish_after_commit(Change::create("Skills", "billing", &Skill { prompt: "Hello", turns: 3 })?);
//!     unit.publish_after_commit(Change::delete("Skills", "invoices")?.expecting(1));
//!     // Up to here nobody sees anything, and leaving early would write nothing.
//!     let done = unit.commit().await?;
//!     assert_eq!(done.items.len(), 2);
//!     Ok(())
//! }
//!
//! # #[tokio::main]
//! # async fn main() -> anyhow::Result<()> {
//! # let folder = tempfile::tempdir()?;
//! # let store = format!("file:{}", folder.path().display());
//! // Or `Publisher::build` with an HTTP API, which replicas need of at least one publisher of the store.
//! let settings = Settings::read(&["--store-url", &store, "--collections", "Skills", "--events-manager", "LOCAL"])?;
//! let publisher = Publisher::without_http(settings).await?;
//! let changes = publisher.changes();
//!
//! let service = async {
//!     let context = Context::default().with_user_id("ada")?.with_organisation_id("hectare")?;
//!     // Now: it is committed when this returns.
//!     let change = Change::create("Skills", "invoices", &Skill { prompt: "Hi", turns: 1 })?;
//!     changes.unit(context.clone()).publish(change).await?;
//!     rename(changes.clone(), context.clone()).await?;
//!     // The first fault takes all of it back, and says which change has it.
//!     let again = rename(changes.clone(), context).await.expect_err("it is there already");
//!     assert_eq!((again.reason, again.index()), (Reason::Exists, Some(0)));
//!     anyhow::Ok(())
//! };
//! // The publisher ends in order when the service does.
//! let mut served = Ok(());
//! publisher.run(async { served = service.await }).await?;
//! served
//! # }
//! ```

use std::sync::Arc;

pub use contract::{
    Context,
    set::{ChangeRequest as Change, ChangeRequestError, ChangeSetWritten, SetItemWritten},
};
use uuid::Uuid;

use crate::{
    api::error::ApiError,
    decide::{DocumentKey, Set, Write},
    metrics::Metrics,
    store::PublisherPolicy,
    write::{change_set as members, change_set::Members, queue::Writer},
};

mod failure;

pub use failure::{Failure, Reason};

/// Where units of work come from. Cloning shares the publisher behind it, which may end before its
/// clones do.
#[derive(Debug, Clone)]
pub struct Changes {
    writer: Writer,
    terms: Arc<PublisherPolicy>,
    metrics: Arc<Metrics>,
}

impl Changes {
    pub(crate) fn new(writer: Writer, terms: Arc<PublisherPolicy>, metrics: Arc<Metrics>) -> Self {
        Self {
            writer,
            terms,
            metrics,
        }
    }

    /// A unit of work for a request. Every change of it carries the context.
    pub fn unit(&self, context: Context) -> Unit {
        Unit {
            changes: self.clone(),
            context,
            queued: Ok(Members::default()),
        }
    }

    async fn write_set(&self, members: Members) -> Result<ChangeSetWritten, Failure> {
        let (id, members) = (Uuid::now_v7().to_string(), members.into_writes());
        if members.is_empty() {
            return Ok(ChangeSetWritten {
                id,
                items: Vec::new(),
            });
        }
        let places = members.iter().map(place).collect();
        let done = self.counted(
            self.writer
                .write_set(Set {
                    id: id.clone(),
                    members,
                })
                .await,
        )?;
        Ok(ChangeSetWritten {
            id,
            items: members::items(places, &done),
        })
    }

    fn counted<T>(&self, result: Result<T, ApiError>) -> Result<T, Failure> {
        self.metrics.write(
            result
                .as_ref()
                .map_or_else(|error| error.problem.status, |_done| 200),
        );
        result.map_err(Failure::from)
    }
}

/// A unit of work. What it queued leaves with [`Unit::commit`]; without it nothing does, and
/// nothing was written.
///
/// Futures of Rust do nothing before they are awaited, and may be dropped: then a change, a batch
/// or a unit is there whole or not at all, and only reading tells.
#[derive(Debug)]
#[must_use = "without commit() nothing that is queued leaves"]
pub struct Unit {
    changes: Changes,
    context: Context,
    /// What waits for the commit, or why there will be none: then nothing more is kept.
    queued: Result<Members, Failure>,
}

impl Unit {
    /// Publishes one change now: it is committed when this returns, whatever becomes of the unit.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn publish(&self, change: Change) -> Result<SetItemWritten, Failure> {
        let write = members::write(&self.changes.terms, &self.context, change)?;
        let (collection, id) = place(&write);
        let written = self
            .changes
            .writer
            .write(write)
            .await
            .map_err(|error| error.under("/configData"));
        let done = self.changes.counted(written)?;
        Ok(SetItemWritten {
            collection,
            id,
            revision: done.revision,
        })
    }

    /// Publishes a change set now: all of it is committed when this returns, in order, or nothing
    /// is. No changes are no set.
    ///
    /// # Errors
    /// See [`Failure`]; it names the change at fault.
    pub async fn publish_batch(
        &self,
        changes: impl IntoIterator<Item = Change>,
    ) -> Result<ChangeSetWritten, Failure> {
        let mut members = Members::default();
        for change in changes {
            members.add(&self.changes.terms, &self.context, change)?;
        }
        self.changes.write_set(members).await
    }

    /// Queues a change for the commit. What can be seen to be wrong with it at once is told by
    /// [`Unit::commit`].
    pub fn publish_after_commit(&mut self, change: Change) {
        if let Ok(members) = &mut self.queued
            && let Err(error) = members.add(&self.changes.terms, &self.context, change)
        {
            self.queued = Err(error.into());
        }
    }

    /// As [`Unit::publish_after_commit`], for several.
    pub fn publish_batch_after_commit(&mut self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            self.publish_after_commit(change);
        }
    }

    /// Commits all that is queued as one change set, in order: all of it or nothing. Where nothing
    /// is queued it does nothing. A set is at most 256 changes and 4 MiB of values, and has a
    /// document once.
    ///
    /// # Errors
    /// See [`Failure`]; the change at fault is named in the order of queueing.
    pub async fn commit(self) -> Result<ChangeSetWritten, Failure> {
        self.changes.write_set(self.queued?).await
    }

    /// Forgets all that is queued, as dropping the unit does.
    pub fn rollback(self) {}
}

fn place(write: &Write) -> DocumentKey {
    (write.collection.clone(), write.id.clone())
}
