//! The embedded store: one SQLite file. It is the default and needs no server.
//!
//! Only one process at a time has the folder. A group is one transaction, and its answer is given
//! after its sync. Every call runs on the blocking thread pool, because SQLite waits for the disk, except
//! the commit of a group, for which the writer has a thread; no
//! transaction outlives its call, so no reader can keep the write-ahead log from being reused.
//!
//! `folder` opens, `connections` runs transactions, `failure` says what an error means, `tables` and
//! `rows` say what is in the file, `whole_log` how much of the log is proven; `commit` writes groups,
//! `documents`, `log` and `past` read, `trim`, `bases`, `snapshots`, `replicas`, `dead_letters`,
//! `audit` and `epoch` write the rest.

use std::{collections::BTreeSet, fmt, path::Path, sync::Arc};

use anyhow::Context;
use contract::CollectionName;
use prometheus_client::metrics::counter::Counter;
use rusqlite::Transaction;
use service::http::histograms::CallTimes;

use crate::store::{
    CommitError, PublisherPolicy,
    damage::DamageRegister,
    embedded::{
        absence::Absence,
        audit::AuditPublisher,
        connections::{Connections, Durability, End, Lease},
        failure::Failure,
        open_lists::OpenLists,
        whole_log::WholeLog,
    },
};

mod absence;
mod audit;
mod bases;
mod commit;
mod connections;
mod dead_letters;
mod document_log;
mod documents;
mod epoch;
mod failure;
mod folder;
mod log;
mod open_lists;
mod past;
mod references;
mod repair;
mod replicas;
mod rows;
mod snapshots;
mod tables;
#[cfg(test)]
mod tests;
mod tokens;
mod trim;
mod whole_log;

pub(super) use documents::DocumentRows;
pub(super) use failure::is_disk_full;

/// The open file. Cloning shares it.
#[derive(Clone)]
pub struct Embedded(Arc<Inner>);

struct Inner {
    policy: Arc<PublisherPolicy>,
    connections: Connections,
    failure: Failure,
    damage: DamageRegister,
    times: CallTimes,
    absence: Absence,
    whole_log: WholeLog,
    lists: OpenLists,
    audit: AuditPublisher,
    /// Released last, when all connections are closed.
    _lock: folder::Lock,
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Embedded")
    }
}

impl Embedded {
    /// Opens the store of a folder, or makes one. Identity and heads are read and verified; documents
    /// are verified when they are read, and by the scrub.
    pub(super) async fn open(folder: &Path, policy: Arc<PublisherPolicy>) -> anyhow::Result<Self> {
        let folder = folder.to_owned();
        blocking(move || {
            let lock = folder::Lock::acquire(&folder)?;
            let file = folder::prepare(&folder)?;
            let store = Self(Arc::new(Inner {
                connections: Connections::open(&file)
                    .map_err(|error| failure::at_start(&file, error))?,
                policy,
                failure: Failure::default(),
                damage: DamageRegister::default(),
                times: CallTimes::default(),
                absence: Absence::default(),
                whole_log: WholeLog::default(),
                lists: OpenLists::default(),
                audit: AuditPublisher::default(),
                _lock: lock,
            }));
            store
                .prepare()
                .map_err(|error| failure::at_start(&file, error))?;
            Ok(store)
        })
        .await
    }

    /// Adds the heads of new collections, and reads all heads.
    fn prepare(&self) -> anyhow::Result<()> {
        let collections = &*self.0.policy.collections.all();
        let connections = &self.0.connections;
        connections.write_blocking(|transaction| {
            tables::check_format(transaction)?;
            tables::add_heads(transaction, collections)?;
            tables::add_past(transaction)?;
            audit::create_table(transaction)?;
            Ok(End::Commit(()))
        })?;
        let indexed = connections.write_blocking(|transaction| {
            document_log::make(transaction)?;
            Ok(End::Commit(()))
        });
        if let Err(error) = indexed {
            // Without it all answers are the same.
            self.note(&error);
            tracing::error!(
                "the embedded store has no table of the change log by document, so each read of a \
                 damaged or absent document reads all of the log: {error:#}"
            );
        }
        let made = connections.write_blocking(|transaction| {
            dead_letters::create_table(transaction)?;
            tokens::create_table(transaction)?;
            Ok(End::Commit(()))
        });
        if let Err(error) = made {
            // Everything else works without it.
            self.note(&error);
            tracing::error!(
                "the embedded store has no table of dead letters, so none is kept: {error:#}"
            );
        }
        for collection in collections {
            let read =
                connections.read_blocking(|transaction| self.check_head(transaction, collection));
            self.note_damage(collection, read);
        }
        Ok(())
    }

    /// As [`Self::prepare`], for collections that are served from now on.
    pub(super) async fn add_collections(
        &self,
        collections: &BTreeSet<CollectionName>,
    ) -> anyhow::Result<()> {
        let added = collections.clone();
        self.write(Durability::Synced, move |_store, transaction| {
            tables::add_heads(transaction, &added)?;
            Ok(End::Commit(()))
        })
        .await?;
        // One that was served before has a head.
        for collection in collections {
            let name = collection.clone();
            let read = self.read(move |store, transaction| store.check_head(transaction, &name));
            self.note_damage(collection, read.await);
        }
        Ok(())
    }

    fn check_head(
        &self,
        transaction: &Transaction<'_>,
        collection: &CollectionName,
    ) -> anyhow::Result<()> {
        let identity = tables::identity(transaction)?;
        self.head(transaction, collection, &identity).map(drop)
    }

    /// A damaged collection keeps no other one from being served.
    fn note_damage(&self, collection: &CollectionName, read: anyhow::Result<()>) {
        if let Err(error) = read {
            self.note(&error);
            tracing::error!(
                "the head of {collection} in the embedded store is not readable: {error:#}"
            );
        }
    }

    pub(super) fn policy(&self) -> &PublisherPolicy {
        &self.0.policy
    }

    pub(super) fn damage(&self) -> &DamageRegister {
        &self.0.damage
    }

    pub(super) fn times(&self) -> &CallTimes {
        &self.0.times
    }

    pub(super) fn broken(&self) -> Option<String> {
        self.0.failure.broken()
    }

    pub(super) fn disk_full(&self) -> Counter {
        self.0.failure.disk_full().clone()
    }

    pub(super) async fn until_broken(&self) {
        self.0.failure.until_broken().await;
    }

    /// Where the last write was refused because the disk is full, another one is attempted.
    ///
    /// # Errors
    /// When the disk failed or is full, or the file is damaged beyond single rows.
    pub(super) async fn check_file(&self) -> anyhow::Result<()> {
        if self.0.failure.probe() {
            let probe = self.write(Durability::Synced, |_store, transaction| {
                // The same content as before: it takes a page of the write-ahead log.
                tables::put_identity(transaction, &tables::identity(transaction)?)?;
                Ok(End::Commit(()))
            });
            // The outcome is recorded.
            drop(probe.await);
        }
        self.0.failure.check()
    }

    /// Runs a call in a read transaction of its own.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self, &Transaction<'_>) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        // Moved into the closure: the call may outlive the request that made it.
        let store = self.clone();
        let lease = self.0.connections.reader().await?;
        let done = blocking(move || {
            let mut lease = lease;
            let transaction = lease.read()?;
            work(&store, &transaction)
        })
        .await;
        done.inspect_err(|error| self.note(error))
    }

    /// Runs a call in a write transaction, and commits it unless the call says otherwise.
    async fn write<T: Send + 'static>(
        &self,
        durability: Durability,
        work: impl FnOnce(&Self, &Transaction<'_>) -> anyhow::Result<End<T>> + Send + 'static,
    ) -> Result<T, CommitError> {
        let store = self.clone();
        let lease = self.writer().await?;
        let done = tokio::task::spawn_blocking(move || store.write_here(lease, durability, work));
        // A panic may have occurred before or after the commit.
        let panicked = |panic: tokio::task::JoinError| {
            let error = panic.into();
            self.0.failure.record(&error);
            Err(CommitError::OutcomeUnknown(error))
        };
        done.await.unwrap_or_else(panicked)
    }

    /// The connection that writes.
    async fn writer(&self) -> Result<Lease, CommitError> {
        let lease = self.0.connections.writer().await;
        lease.map_err(CommitError::NotCommitted)
    }

    /// As [`Self::write`], on the thread of the caller.
    fn write_here<T>(
        &self,
        mut lease: Lease,
        durability: Durability,
        work: impl FnOnce(&Self, &Transaction<'_>) -> anyhow::Result<End<T>>,
    ) -> Result<T, CommitError> {
        let mut commits = false;
        let written = lease.write(durability, |transaction| {
            work(self, transaction).inspect(|end| commits = matches!(end, End::Commit(_result)))
        });
        if commits && written.is_ok() {
            self.0.failure.wrote();
        }
        // Whatever becomes of the write, the write-ahead log has its bound.
        self.0.connections.bound_wal(&lease);
        written.inspect_err(|error| match error {
            CommitError::OutcomeUnknown(cause) => self.0.failure.record(cause),
            CommitError::NotCommitted(cause) | CommitError::Refused(cause) => self.note(cause),
        })
    }

    /// Records what an error says about disk, file and rows.
    fn note(&self, error: &anyhow::Error) {
        if let Some(record) = error.root_cause().downcast_ref() {
            self.0.damage.report_record(record);
        }
        if let Some(mismatch) = error.root_cause().downcast_ref() {
            self.0.damage.report_sum(mismatch);
        }
        self.0.failure.note(error);
        self.0.absence.note(error);
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .context("a store call panicked")?
}
