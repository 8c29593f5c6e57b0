//! The check of a command before it waits in the queue, and the memory that it takes.
//!
//! What is refused here never reaches the task that commits. The rules themselves are in
//! [`crate::decide`].

use std::sync::Arc;

use service::runtime::log_rate::LogRate;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use super::{QUEUE_TIME, large_work::LargeWork};
use crate::{
    decide::{Action, Checked, Command, IN_TRANSACTION_BYTES, Write, WriteError, references},
    store::{Store, integrity},
};

/// Most bytes of large values in the queue, and as many of small ones: a flood of large values
/// leaves room for the others.
const LANE_BYTES: usize = 32 << 20;
/// Most searches for what refers to a document at the same time: each reads whole collections.
const SEARCHES: usize = 2;
/// Referring documents that are enough: more than a command has writes.
const REFERRERS: usize = 300;
/// Memory that a write takes besides its value: a set of deletions is not small.
const WRITE_BYTES: usize = 256;

/// Checks commands before they wait. Clones share the memory.
#[derive(Debug, Clone)]
pub(super) struct Ahead {
    store: Store,
    large_work: LargeWork,
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
    /// Searches for what refers to a document.
    searches: Arc<Semaphore>,
}

/// A command's share of the memory of the queue.
pub(super) type Memory = Vec<OwnedSemaphorePermit>;

impl Ahead {
    pub(super) fn new(store: Store) -> Self {
        Self {
            store,
            large_work: LargeWork::default(),
            small: Arc::new(Semaphore::new(LANE_BYTES)),
            large: Arc::new(Semaphore::new(LANE_BYTES)),
            searches: Arc::new(Semaphore::new(SEARCHES)),
        }
    }

    pub(super) fn large_work(&self) -> &LargeWork {
        &self.large_work
    }

    /// Free bytes, for small and for large values.
    pub(super) fn free_bytes(&self) -> [usize; 2] {
        [&self.small, &self.large].map(|lane| lane.available_permits())
    }

    /// Memory for a command as it was given.
    ///
    /// # Errors
    /// [`WriteError::Busy`]. It is refused and not awaited: a client that waits for memory would hold
    /// its request in memory.
    pub(super) fn reserve(&self, bytes: usize) -> Result<OwnedSemaphorePermit, WriteError> {
        let lane = if bytes > IN_TRANSACTION_BYTES {
            &self.large
        } else {
            &self.small
        };
        let bytes = u32::try_from(bytes).map_err(|_too_large| WriteError::Busy)?;
        lane.clone()
            .try_acquire_many_owned(bytes)
            .map_err(|_full| WriteError::Busy)
    }

    /// Checks each write of a command, with its document as it is stored now if its value depends on
    /// it. `all` leaves no value to the transaction; `since` is the time at which the command came.
    ///
    /// # Errors
    /// The first refusal; in a change set with its position.
    pub(super) async fn check(
        &self,
        command: &mut Command,
        all: bool,
        since: Instant,
        memory: &mut Memory,
    ) -> Result<(), WriteError> {
        let in_set = matches!(command, Command::ChangeSet(_));
        for (index, write) in command.writes_mut().iter_mut().enumerate() {
            self.check_write(write, all, since, memory)
                .await
                .map_err(|error| {
                    if in_set {
                        error.under("/configData").in_change_set(index)
                    } else {
                        error
                    }
                })?;
        }
        self.check_deletes(command, since).await
    }

    /// Searches for what refers to the documents that a command deletes, and refuses it for documents
    /// in use. It takes time in proportion to the collections, which the transaction must not take.
    ///
    /// # Errors
    /// The refusal, or [`WriteError::Busy`] when no search can begin in time.
    pub(super) async fn check_deletes(
        &self,
        command: &mut Command,
        since: Instant,
    ) -> Result<(), WriteError> {
        let policy = self.store.policy();
        let sought = references::deleted_in_use(&policy.rules.schemas.all(), command);
        if sought.is_empty() {
            return Ok(());
        }
        // Whether it may be deleted at all comes first, and costs a look-up only.
        for write in command.writes() {
            if sought.contains(&write.key()) && !self.may_delete(write).await? {
                return Ok(());
            }
        }
        let permit = timeout_at(since + QUEUE_TIME, self.searches.clone().acquire_owned()).await;
        let permit = permit.map_err(|_elapsed| WriteError::Busy)?;
        // The search may outlive this request, and then keeps its permit.
        let found = self.store.search_ahead(sought, REFERRERS, permit).await;
        // Not left to the transaction: there the search would hold up all other writes.
        let (searched, found) = found.map_err(|error| {
            unread(
                &error,
                format_args!("what refers to a document could not be searched before its deletion"),
            )
        })?;
        if let Some(refusal) = references::refused(command, &found) {
            return Err(refusal);
        }
        let searched = Arc::new(searched);
        for write in command.writes_mut() {
            if matches!(write.action, Action::Delete) {
                write.checked = Some(Checked::Unreferenced(searched.clone()));
            }
        }
        Ok(())
    }

    /// Whether a checked command would be accepted now.
    pub(super) async fn judge(&self, command: Command) -> Result<(), WriteError> {
        let judged = self.store.judge(command).await;
        let judged = judged.map_err(|error| {
            unread(
                &error,
                format_args!("the outcome of a write could not be previewed"),
            )
        })?;
        judged.map(drop)
    }

    /// Whether the document of a deletion exists and is as expected.
    async fn may_delete(&self, write: &Write) -> Result<bool, WriteError> {
        let stored = self.read(write).await?;
        Ok(stored.is_some_and(|stored| write.expects(&stored)))
    }

    async fn check_write(
        &self,
        write: &mut Write,
        all: bool,
        since: Instant,
        memory: &mut Memory,
    ) -> Result<(), WriteError> {
        let mut bytes = write.action.size();
        let mut stored = None;
        if write.checks_stored() {
            // Without a schema the rest of the check is small, unless a value is large; the
            // transaction then asks for this one.
            let schemas = &self.store.policy().rules.schemas;
            let has_schema = schemas.get(&write.collection).is_some();
            if !all && !has_schema && bytes <= IN_TRANSACTION_BYTES {
                return Ok(());
            }
            stored = self.read(write).await?;
            bytes += stored
                .as_ref()
                .map_or(0, |stored| stored.config_data().len());
            // For the value that is made of both.
            memory.push(self.reserve(bytes)?);
        }
        let store = self.store.clone();
        let unchecked = write.clone();
        write.checked = self
            .large_work
            .run(since, bytes, move || {
                store
                    .policy()
                    .rules
                    .check_ahead(&unchecked, stored.as_ref())
            })
            .await??;
        Ok(())
    }

    async fn read(&self, write: &Write) -> Result<Option<contract::Document>, WriteError> {
        let read = self.store.document(&write.collection, &write.id).await;
        let what = format_args!(
            "{}/{} could not be read before a write of it",
            write.collection, write.id
        );
        read.map_err(|error| unread(&error, what))
    }
}

/// The answer when the store cannot be read; `what` begins the line in the log.
fn unread(error: &anyhow::Error, what: std::fmt::Arguments<'_>) -> WriteError {
    if integrity::is_damage(error) {
        return WriteError::Unreadable(error.root_cause().to_string());
    }
    static FAILURES: LogRate = LogRate::new();
    if let Some(left_out) = FAILURES.due() {
        tracing::warn!("{what}, so it is answered 503: {error:#}{left_out}");
    }
    WriteError::NotCommitted
}

/// Memory that a command takes in the queue and in a group, in bytes.
pub(super) fn size(command: &Command) -> usize {
    let writes = command.writes().iter();
    writes
        .map(|write| {
            let made = write.checked.as_ref().map_or(0, |checked| checked.size());
            WRITE_BYTES + write.action.size() + made
        })
        .sum()
}
