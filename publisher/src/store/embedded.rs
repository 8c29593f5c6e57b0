//! The embedded store: one redb file. It is the default and needs no server.
//!
//! Only one process at a time can have the file open. Every call runs on the blocking thread pool,
//! because redb waits for the disk. A group is one transaction and one fsync.
//!
//! `tables` says what is in the file; `commit` writes groups, `documents` and `log` read, `trim`,
//! `replicas` and `epoch` write the rest.

use std::{
    fmt,
    path::Path,
    sync::{Arc, OnceLock},
};

use anyhow::Context;
use redb::{Database, StorageError, TableError, TransactionError};
use tokio_util::sync::CancellationToken;

use crate::store::{PublisherPolicy, damage::DamageRegister};

mod commit;
mod documents;
mod epoch;
mod log;
mod replicas;
mod tables;
#[cfg(test)]
mod tests;
mod trim;

pub(super) use documents::DocumentRows;

/// The open file. Cloning shares it.
#[derive(Clone)]
pub struct Embedded {
    database: Arc<Database>,
    policy: Arc<PublisherPolicy>,
    failure: Arc<Failure>,
    damage: Arc<DamageRegister>,
}

/// The first failure of the disk, whichever call it occurred in.
///
/// After it redb refuses every write until the file is opened again. It also cannot say whether a
/// commit that failed is in the file: redb determines it when it opens the file. So the process ends
/// and is restarted, instead of answering errors indefinitely.
#[derive(Default)]
struct Failure {
    reason: OnceLock<String>,
    occurred: CancellationToken,
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Embedded")
    }
}

impl Embedded {
    pub(super) async fn open(folder: &Path, policy: Arc<PublisherPolicy>) -> anyhow::Result<Self> {
        let folder = folder.to_owned();
        blocking(move || {
            std::fs::create_dir_all(&folder)
                .with_context(|| format!("creating the folder {}", folder.display()))?;
            let file = folder.join("confcast.redb");
            let database = Database::create(&file).with_context(|| {
                // Most often the file is locked by another process.
                format!(
                    "opening {}: only one process at a time can; is another publisher using it?",
                    file.display()
                )
            })?;
            tables::prepare(&database).with_context(|| format!("reading {}", file.display()))?;
            Ok(Self {
                database: Arc::new(database),
                policy,
                failure: Arc::default(),
                damage: Arc::default(),
            })
        })
        .await
    }

    pub(super) fn policy(&self) -> &PublisherPolicy {
        &self.policy
    }

    pub(super) fn damage(&self) -> &DamageRegister {
        &self.damage
    }

    pub(super) fn broken(&self) -> Option<String> {
        self.failure.reason.get().cloned()
    }

    pub(super) async fn until_broken(&self) {
        self.failure.occurred.cancelled().await;
    }

    /// Runs a call on the blocking thread pool, and notices a disk that failed.
    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Database) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        // Moved into the closure: the call may outlive the request that made it.
        let database = self.database.clone();
        blocking(move || work(&database))
            .await
            .inspect_err(|error| self.check_disk(error))
    }

    /// Records the failure if the error means that the disk failed.
    fn check_disk(&self, error: &anyhow::Error) {
        if disk_failed(error) {
            self.record_failure(error);
        }
    }

    fn record_failure(&self, error: &anyhow::Error) {
        // The first failure is the cause; the ones after it are its consequences.
        self.failure
            .reason
            .get_or_init(|| format!("the embedded store failed on its disk: {error:#}"));
        self.failure.occurred.cancel();
    }
}

/// Whether redb reports that the disk failed, in this call or in an earlier one. After either it
/// refuses every write.
fn disk_failed(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(storage_error)
        .any(|error| matches!(error, StorageError::Io(_) | StorageError::PreviousIo))
}

/// The storage error that an error of redb is or contains. redb does not give it as the source.
fn storage_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a StorageError> {
    if let Some(error) = error.downcast_ref::<StorageError>() {
        return Some(error);
    }
    if let Some(TableError::Storage(error)) = error.downcast_ref::<TableError>() {
        return Some(error);
    }
    if let Some(TransactionError::Storage(error)) = error.downcast_ref::<TransactionError>() {
        return Some(error);
    }
    match error.downcast_ref::<redb::CommitError>() {
        Some(redb::CommitError::Storage(error)) => Some(error),
        _ => None,
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .context("a store call panicked")?
}
