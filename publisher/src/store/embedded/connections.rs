//! The connections to the file, and the transactions on them: one writer and a few readers.
//!
//! A transaction ends with the call that began it. A call waits for a connection on the runtime, so
//! that waiting calls take no blocking thread.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::Context;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::store::{CommitError, embedded::failure};

/// Reads that run at the same time.
const READERS: usize = 8;
/// How long a connection waits for a lock of another program, for example of a backup.
const BUSY: Duration = Duration::from_secs(1);
/// Prepared statements that a connection keeps. There are fewer.
const STATEMENTS: usize = 64;
/// Length of the write-ahead log at which it is emptied by force, in bytes. SQLite itself reuses it
/// after 1000 pages (8 MiB), except while reads overlap all the time.
pub(super) const WAL_LIMIT: u64 = 32 << 20;

/// Whether a commit returns after its sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// After it: what was answered is on the disk.
    Synced,
    /// Before it: the next synced commit makes it durable. For what may be lost.
    Later,
}

/// How a write transaction ends.
pub(super) enum End<T> {
    /// It is committed.
    Commit(T),
    /// Nothing was written.
    RollBack(T),
}

/// All connections to one file.
pub(super) struct Connections {
    readers: Arc<Pool>,
    writer: Arc<Pool>,
    wal: PathBuf,
    /// Length of the write-ahead log at which it is emptied next.
    wal_limit: AtomicU64,
}

impl Connections {
    /// # Errors
    /// When the file cannot be opened.
    pub(super) fn open(file: &Path) -> anyhow::Result<Self> {
        // The writer is first: it recovers what a stopped process left in the write-ahead log.
        let writer = writer(file)?;
        let readers = (0..READERS)
            .map(|_| reader(file))
            .collect::<anyhow::Result<_>>()?;
        Ok(Self {
            readers: Pool::of(readers),
            writer: Pool::of(vec![writer]),
            wal: file.with_extension("sqlite-wal"),
            wal_limit: AtomicU64::new(WAL_LIMIT),
        })
    }

    pub(super) async fn reader(&self) -> anyhow::Result<Lease> {
        Pool::lease(&self.readers).await
    }

    pub(super) async fn writer(&self) -> anyhow::Result<Lease> {
        Pool::lease(&self.writer).await
    }

    /// Before anything else uses the store.
    pub(super) fn read_blocking<T>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let mut lease = Pool::lease_free(&self.readers)?;
        work(&lease.read()?)
    }

    /// Before anything else uses the store.
    pub(super) fn write_blocking<T>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> anyhow::Result<End<T>>,
    ) -> anyhow::Result<T> {
        let mut lease = Pool::lease_free(&self.writer)?;
        Ok(lease.write(Durability::Synced, work)?)
    }

    /// Empties the write-ahead log if it is too long. Without this, reads that overlap all the time
    /// would keep it growing: SQLite reuses it only in a moment without a reader.
    pub(super) fn bound_wal(&self, writer: &Lease) {
        let length = fs::metadata(&self.wal).map_or(0, |file| file.len());
        if length < self.wal_limit.load(Relaxed) {
            return;
        }
        // It waits for the reads that run, each for one call, and keeps new ones off the log.
        let blocked = writer
            .connection()
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| {
                row.get::<_, bool>(0)
            });
        let next = match blocked {
            Ok(false) => WAL_LIMIT,
            // Another program reads the file. Every try makes a write wait, so there are few.
            other => {
                tracing::warn!(
                    "the write-ahead log of the embedded store is {length} bytes long and cannot be \
                     emptied; another program may be reading the file: {}",
                    other.map_or_else(|error| error.to_string(), |_busy| "busy".to_owned())
                );
                length.saturating_mul(2)
            }
        };
        self.wal_limit.store(next, Relaxed);
    }
}

/// Opens the file for writing.
pub(super) fn writer(file: &Path) -> anyhow::Result<Connection> {
    let connection = open(file)?;
    connection.pragma_update(None, "journal_size_limit", WAL_LIMIT)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

fn reader(file: &Path) -> anyhow::Result<Connection> {
    let connection = open(file)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

fn open(file: &Path) -> anyhow::Result<Connection> {
    // A path is never taken for a URI. The file is made by `folder` only: an empty one is no store.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // A memory map turns an error of the disk into the end of the process.
    connection.pragma_update(None, "mmap_size", 0)?;
    // A page whose cells overlap is recognised when it is read.
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "foreign_keys", false)?;
    Ok(connection)
}

/// Connections that wait for a call.
struct Pool {
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
}

impl Pool {
    fn of(connections: Vec<Connection>) -> Arc<Self> {
        Arc::new(Self {
            permits: Arc::new(Semaphore::new(connections.len())),
            idle: Mutex::new(connections),
        })
    }

    async fn lease(pool: &Arc<Self>) -> anyhow::Result<Lease> {
        let permit = pool.permits.clone().acquire_owned().await?;
        Self::with(pool, permit)
    }

    fn lease_free(pool: &Arc<Self>) -> anyhow::Result<Lease> {
        let permit = pool.permits.clone().try_acquire_owned()?;
        Self::with(pool, permit)
    }

    fn with(pool: &Arc<Self>, permit: OwnedSemaphorePermit) -> anyhow::Result<Lease> {
        let mut idle = pool.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = idle.pop();
        Ok(Lease {
            connection: Some(connection.context("a permit without a connection")?),
            pool: pool.clone(),
            _permit: permit,
        })
    }
}

/// A connection for one call. It returns to the pool when it is dropped.
pub(super) struct Lease {
    /// `None` only while it is dropped.
    connection: Option<Connection>,
    pool: Arc<Pool>,
    /// Dropped after the connection was returned.
    _permit: OwnedSemaphorePermit,
}

impl Lease {
    fn connection(&self) -> &Connection {
        self.connection
            .as_ref()
            .expect("it is there until the drop")
    }

    fn connection_mut(&mut self) -> &mut Connection {
        self.connection
            .as_mut()
            .expect("it is there until the drop")
    }

    /// Leaves no room for more pages.
    #[cfg(test)]
    pub(super) fn set_max_page_count(&self, pages: u32) {
        self.connection()
            .pragma_update_and_check(None, "max_page_count", pages, |_row| Ok(()))
            .expect("set");
    }

    pub(super) fn read(&mut self) -> anyhow::Result<Transaction<'_>> {
        Ok(self.connection_mut().transaction()?)
    }

    /// Runs `work` in a write transaction. Only this function commits.
    ///
    /// # Errors
    /// See [`CommitError`]. It is unknown whether a transaction was written whose commit failed,
    /// except where the disk was full: SQLite then wrote no whole commit frame, so recovery ignores
    /// what it wrote.
    pub(super) fn write<T>(
        &mut self,
        durability: Durability,
        work: impl FnOnce(&Transaction<'_>) -> anyhow::Result<End<T>>,
    ) -> Result<T, CommitError> {
        let begin = |connection: &Connection| {
            // Set before each transaction, so that no failure leaves the wrong one behind.
            let synchronous = match durability {
                Durability::Synced => "FULL",
                Durability::Later => "NORMAL",
            };
            connection.pragma_update(None, "synchronous", synchronous)
        };
        let connection = self.connection_mut();
        begin(connection)
            .context("setting the durability")
            .map_err(CommitError::NotCommitted)?;
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .context("beginning the transaction")
            .map_err(CommitError::NotCommitted)?;
        match work(&transaction) {
            Ok(End::Commit(result)) => match transaction.commit() {
                Ok(()) => Ok(result),
                Err(error) if failure::is_full(&error) => Err(CommitError::NotCommitted(
                    anyhow::Error::from(error).context("committing the transaction"),
                )),
                Err(error) => Err(CommitError::OutcomeUnknown(
                    anyhow::Error::from(error).context("committing the transaction"),
                )),
            },
            Ok(End::RollBack(result)) => Ok(result),
            // Dropping the transaction rolls it back.
            Err(error) => Err(CommitError::NotCommitted(error)),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut idle = self
            .pool
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        idle.extend(self.connection.take());
    }
}
