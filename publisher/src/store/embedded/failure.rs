//! What an error of SQLite means for the store, in words.
//!
//! A failed disk ends the process: SQLite cannot say whether a commit that failed is in the file, and
//! opening the file again shows it. A damaged file does not: what can be read is served.

use std::{
    path::Path,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use prometheus_client::metrics::counter::Counter;
use rusqlite::ErrorCode;
use tokio_util::sync::CancellationToken;

/// Time from one attempt to write to a full disk to the next, at least, where nothing else writes.
const PROBE: Duration = Duration::from_secs(3);

/// The first failure of disk and file, whichever call it occurred in.
#[derive(Default)]
pub(super) struct Failure {
    /// Why this process has to end.
    broken: OnceLock<String>,
    occurred: CancellationToken,
    /// Why parts of the file cannot be read.
    damaged: OnceLock<String>,
    /// Why the last write was refused, and when one was last attempted. A success removes it.
    full: Mutex<Option<(String, Instant)>>,
    /// Attempts to write that a full disk refused: one that takes a small write may refuse a larger one.
    disk_full: Counter,
}

impl Failure {
    pub(super) fn broken(&self) -> Option<String> {
        self.broken.get().cloned()
    }

    pub(super) async fn until_broken(&self) {
        self.occurred.cancelled().await;
    }

    pub(super) fn check(&self) -> anyhow::Result<()> {
        let full = self.full().as_ref().map(|(reason, _at)| reason.clone());
        match self
            .broken()
            .or_else(|| self.damaged.get().cloned())
            .or(full)
        {
            Some(reason) => Err(anyhow::anyhow!(reason)),
            None => Ok(()),
        }
    }

    pub(super) fn disk_full(&self) -> &Counter {
        &self.disk_full
    }

    /// A write was committed.
    pub(super) fn wrote(&self) {
        *self.full() = None;
    }

    /// Whether a write has to be attempted to find out whether there is space again. One caller at a
    /// time is told so.
    pub(super) fn probe(&self) -> bool {
        match &mut *self.full() {
            Some((_reason, at)) if at.elapsed() >= PROBE => {
                *at = Instant::now();
                true
            }
            _not_full_or_too_early => false,
        }
    }

    fn full(&self) -> MutexGuard<'_, Option<(String, Instant)>> {
        // No code that holds the lock leaves the value half changed.
        self.full.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store is broken.
    pub(super) fn record(&self, error: &anyhow::Error) {
        // The first failure is the cause; the ones after it are its consequences.
        self.broken
            .get_or_init(|| format!("the embedded store failed on its disk: {error:#}"));
        self.occurred.cancel();
    }

    /// Finds out what an error says about disk and file.
    pub(super) fn note(&self, error: &anyhow::Error) {
        match cause(error) {
            Some(Cause::Disk) => self.record(error),
            Some(Cause::Damaged) => {
                let mut first = false;
                let reason = self.damaged.get_or_init(|| {
                    first = true;
                    format!("the file of the embedded store is damaged: {error:#}")
                });
                if first {
                    tracing::error!("{reason}; restore a backup");
                }
            }
            Some(Cause::Full) => {
                let reason = format!("the disk of the embedded store is full: {error:#}");
                *self.full() = Some((reason, Instant::now()));
                self.disk_full.inc();
            }
            _ => {}
        }
    }
}

/// What an error says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// The disk failed, or the file was removed or made read-only.
    Disk,
    /// Nothing more can be written; nothing was.
    Full,
    /// Pages of the file are not what SQLite wrote.
    Damaged,
    /// The file is no database of SQLite.
    Foreign,
    /// Another program writes to the file.
    Busy,
}

fn cause(error: &anyhow::Error) -> Option<Cause> {
    error
        .chain()
        .filter_map(|error| error.downcast_ref::<rusqlite::Error>())
        .find_map(cause_of)
}

fn cause_of(error: &rusqlite::Error) -> Option<Cause> {
    match error.sqlite_error_code()? {
        ErrorCode::SystemIoFailure
        | ErrorCode::CannotOpen
        | ErrorCode::ReadOnly
        | ErrorCode::PermissionDenied => Some(Cause::Disk),
        ErrorCode::DiskFull => Some(Cause::Full),
        ErrorCode::DatabaseCorrupt => Some(Cause::Damaged),
        ErrorCode::NotADatabase => Some(Cause::Foreign),
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Some(Cause::Busy),
        _ => None,
    }
}

/// Whether the disk is full, so that nothing was written.
pub(in crate::store) fn is_disk_full(error: &anyhow::Error) -> bool {
    cause(error) == Some(Cause::Full)
}

pub(super) fn is_full(error: &rusqlite::Error) -> bool {
    cause_of(error) == Some(Cause::Full)
}

/// The words for an error that keeps the store from being opened.
pub(super) fn at_start(file: &Path, error: anyhow::Error) -> anyhow::Error {
    let file = file.display();
    let words = match cause(&error) {
        Some(Cause::Disk) => format!(
            "{file} cannot be read and written: check the permissions of file and folder, and \
             whether the file system is read-only or fails"
        ),
        Some(Cause::Full) => format!("the disk of {file} is full"),
        Some(Cause::Damaged) => format!(
            "{file} is damaged: it was cut or overwritten; restore a backup, or start with another \
             folder"
        ),
        Some(Cause::Foreign) => format!(
            "{file} is not a database of SQLite: it was overwritten or is another file; restore a \
             backup, or start with another folder"
        ),
        Some(Cause::Busy) => {
            format!("{file} is locked by another program that writes to it; stop that program")
        }
        None => format!("reading {file}"),
    };
    error.context(words)
}
