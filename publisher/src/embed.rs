//! Publishing from Rust: a unit of work that belongs to a request of the embedding service. Its
//! queued changes are published as one change set when it is committed, or never (requirements B3
//! and B4).
//!
//! The store writes documents, change records and the outbox in one transaction, so an event of a
//! change that was not committed does not exist. A unit never holds a transaction open: it is a
//! list of changes, and [`Unit::commit`] hands over the whole list.
//!
//! ```
//! use contract::ProblemKind;
//! use publisher::{
//!     Publisher, Settings,
//!     embed::{ChangeRequest, Changes, Context, WriteError},
//! };
//! use serde::Serialize;
//!
//! #[derive(Serialize)]
//! struct Skill {
//!     prompt: &'static str,
//!     turns: u32,
//! }
//!
//! /// A request handler of a service.
//! async fn rename(changes: Changes, context: Context) -> Result<(), WriteError> {
//!     let skill = Skill { prompt: "Hello", turns: 3 };
//!     let mut unit = changes.unit(context);
//!     unit.publish_after_commit(ChangeRequest::create("Skills", "billing", &skill)?);
//!     unit.publish_after_commit(ChangeRequest::delete("Skills", "invoices")?.expecting(1));
//!     // Nothing is visible yet. If the function returned here, nothing would be written.
//!     let written = unit.commit().await?;
//!     assert_eq!(written.items.len(), 2);
//!     Ok(())
//! }
//!
//! # #[tokio::main]
//! # async fn main() -> anyhow::Result<()> {
//! # let folder = tempfile::tempdir()?;
//! # let store = format!("file:{}", folder.path().display());
//! // Use `Publisher::build` for a publisher with the HTTP API. Replicas need at least one publisher
//! // of the store that has it.
//! let settings = Settings::read(&[
//!     "--store-url", &store, "--collections", "Skills", "--events-manager", "LOCAL",
//! ])?;
//! let publisher = Publisher::without_http(settings).await?;
//! let changes = publisher.changes();
//!
//! let service = async {
//!     let context = Context::default().with_user_id("ada")?.with_organisation_id("hectare")?;
//!     // `publish` does not wait for a commit of the unit: the change is committed when it returns.
//!     let skill = Skill { prompt: "Hi", turns: 1 };
//!     let change = ChangeRequest::create("Skills", "invoices", &skill)?;
//!     changes.unit(context.clone()).publish(change).await?;
//!     rename(changes.clone(), context.clone()).await?;
//!     // The first error refuses the whole set and names the change that has it.
//!     let error = rename(changes.clone(), context).await.expect_err("the document exists");
//!     assert_eq!((error.kind(), error.index()), (ProblemKind::Exists, Some(0)));
//!     anyhow::Ok(())
//! };
//! // The publisher stops in order when the service ends. The drain of the settings happens only where the
//! // caller awaits it: `let drain = publisher.drain();` before `run`, `drain.run().await` last in its future.
//! let mut outcome = Ok(());
//! publisher.run(async { outcome = service.await }).await?;
//! outcome
//! # }
//! ```

use std::sync::Arc;

pub use contract::{
    Context, ProblemKind,
    set::{ChangeRequest, ChangeRequestError, ChangeSetWritten, SetItemWritten},
};

pub use crate::decide::WriteError;
use crate::{
    metrics::Metrics,
    store::PublisherPolicy,
    write::{
        change_set::{self, ChangeSetBuilder},
        queue::Writer,
    },
};

/// Makes units of work. Clones share the publisher; when it has stopped, every write fails with
/// [`WriteError::Stopping`].
#[derive(Debug, Clone)]
pub struct Changes {
    writer: Writer,
    policy: Arc<PublisherPolicy>,
    metrics: Arc<Metrics>,
}

impl Changes {
    pub(crate) fn new(writer: Writer, policy: Arc<PublisherPolicy>, metrics: Arc<Metrics>) -> Self {
        Self {
            writer,
            policy,
            metrics,
        }
    }

    /// A unit of work for one request. Each of its changes carries the context.
    pub fn unit(&self, context: Context) -> Unit {
        Unit {
            changes: self.clone(),
            context,
            queued: Ok(ChangeSetBuilder::default()),
        }
    }

    async fn write_set(&self, changes: ChangeSetBuilder) -> Result<ChangeSetWritten, WriteError> {
        // There is nothing to commit, and an empty set has no change that could carry its id.
        if changes.is_empty() {
            return Ok(ChangeSetWritten {
                applied: None,
                id: change_set::new_id(),
                items: Vec::new(),
            });
        }
        self.count(self.writer.write_set(changes.build()).await)
    }

    /// Counts the answer to a write in the metrics, under the status that HTTP has for it.
    fn count<T>(&self, result: Result<T, WriteError>) -> Result<T, WriteError> {
        let status = match &result {
            Ok(_) => 200,
            Err(error) => error.kind().status(),
        };
        self.metrics.write(status);
        result
    }
}

/// A unit of work. [`Unit::commit`] publishes its queued changes; without it they are dropped and
/// nothing is written.
///
/// A future of this type may be dropped before it ends, as any future in Rust. Then the change, the
/// batch or the unit is written as a whole or not at all; read the documents to find out.
#[derive(Debug)]
#[must_use = "queued changes are published by commit() only"]
pub struct Unit {
    changes: Changes,
    context: Context,
    /// The changes that wait for the commit, or the first error among them. After an error no more
    /// changes are kept.
    queued: Result<ChangeSetBuilder, WriteError>,
}

impl Unit {
    /// Publishes one change now: it is committed when this returns, also if the unit is dropped
    /// later.
    ///
    /// # Errors
    /// See [`WriteError`]. Pointers begin at the change request.
    pub async fn publish(&self, change: ChangeRequest) -> Result<SetItemWritten, WriteError> {
        let write = change_set::check(&self.changes.policy, &self.context, change)?;
        let collection = write.collection.clone();
        let result = self.changes.writer.write(write).await;
        let outcome = self
            .changes
            .count(result)
            .map_err(|error| error.under("/configData"))?;
        Ok(SetItemWritten {
            collection,
            id: outcome.written.id,
            revision: outcome.written.revision,
        })
    }

    /// Publishes a change set now: when this returns, all changes are committed, in order, or none.
    /// Without changes nothing happens.
    ///
    /// # Errors
    /// See [`WriteError`]; [`WriteError::index`] is the change at fault.
    pub async fn publish_batch(
        &self,
        changes: impl IntoIterator<Item = ChangeRequest>,
    ) -> Result<ChangeSetWritten, WriteError> {
        let mut set = ChangeSetBuilder::default();
        for change in changes {
            set.add(&self.changes.policy, &self.context, change)?;
        }
        self.changes.write_set(set).await
    }

    /// Queues a change for the commit. An error that is found at once is returned by
    /// [`Unit::commit`].
    pub fn publish_after_commit(&mut self, change: ChangeRequest) {
        if let Ok(set) = &mut self.queued
            && let Err(error) = set.add(&self.changes.policy, &self.context, change)
        {
            self.queued = Err(error);
        }
    }

    /// Queues several changes, as [`Unit::publish_after_commit`] does.
    pub fn publish_batch_after_commit(&mut self, changes: impl IntoIterator<Item = ChangeRequest>) {
        for change in changes {
            self.publish_after_commit(change);
        }
    }

    /// Commits all queued changes as one change set, in order: all of them or none. Without queued
    /// changes nothing happens. A set has at most 256 changes and 4 MiB of values, and a document
    /// at most once.
    ///
    /// # Errors
    /// See [`WriteError`]; [`WriteError::index`] is the change at fault, in the order of queueing.
    pub async fn commit(self) -> Result<ChangeSetWritten, WriteError> {
        self.changes.write_set(self.queued?).await
    }

    /// Drops all queued changes. Dropping the unit does the same.
    pub fn rollback(self) {}
}
