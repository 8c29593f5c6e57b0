//! Committing a group: one transaction, which is decided before its first write, and whose outcome
//! is always determined.
//!
//! A group that is proven to be committed is answered 2xx. One that is proven not to be committed
//! is evaluated again, or fails with `NotCommitted`. Only if neither can be proven in time does it
//! fail with `OutcomeUnknown`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use chrono::{DateTime, Utc};
use contract::{CollectionName, Document, DocumentId, Revision};
use mongodb::{
    ClientSession,
    bson::{Bson, doc},
};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::debug;
use uuid::Uuid;

use crate::{
    decide::{Command, Decisions, DocumentKey, WorkingSet, WriteResult, references::Facts},
    store::{
        CommitError, Committed,
        audit::{ChainEnd, entries},
        committed_heads::HeadPositions,
        mongo::{
            CALL_TIMEOUT, CHANGES, HEADS, Mongo, ROOM_TIMEOUT, TIMED_OUT,
            audit::{ChainTakenError, OpenChain},
            call, call_until, has_label, rows,
            snapshot::StoreGone,
            transaction::{self, in_snapshot},
        },
    },
};

mod commands;

use commands::WriteCommands;

/// Time limit of a group with all its attempts.
const GROUP_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit of aborting a transaction: the server does it too, later.
const ABORT_TIMEOUT: Duration = Duration::from_secs(1);

/// What the rows of the heads hold that a group read.
type StoredHeads = BTreeMap<CollectionName, StoredHead>;

/// The row of a head as it was read.
struct StoredHead {
    /// Its revision, also when it is none: the filter of the update.
    revision: Bson,
    /// It is not what a publisher wrote: the update replaces all of it.
    damaged: bool,
}

impl Mongo {
    pub(in crate::store) async fn commit(
        &self,
        group: &[Command],
    ) -> Result<Committed, CommitError> {
        let deadline = Instant::now() + GROUP_TIMEOUT;
        loop {
            let room = timeout(ROOM_TIMEOUT, self.declaring.read()).await;
            let attempt = self.attempt(group, deadline).await;
            drop(room);
            match attempt {
                Ok(committed) => return Ok(committed),
                Err(AttemptError::Retry(error)) if Instant::now() >= deadline => {
                    return Err(CommitError::NotCommitted(error));
                }
                // Another publisher was faster: evaluate the group again on what it committed. The
                // pause is random, so that the same two do not collide again.
                Err(AttemptError::Retry(_conflict)) => {
                    sleep(Duration::from_millis(rand::random_range(1..=50))).await
                }
                Err(AttemptError::Final(error)) => return Err(error),
            }
        }
    }

    async fn attempt(
        &self,
        group: &[Command],
        deadline: Instant,
    ) -> Result<Committed, AttemptError> {
        let mut session = call_until(step_deadline(deadline), self.client.start_session())
            .await
            .context("starting a session")
            .map_err(AttemptError::Retry)?;
        // Identifies the records of this attempt: see `is_written`.
        let write_id = Uuid::now_v7().to_string();
        let chain = timeout_at(step_deadline(deadline), self.open_chain())
            .await
            .context(TIMED_OUT)
            .and_then(|in_time| in_time)
            .map_err(AttemptError::Retry)?;
        // Taken before the read: what another task commits during it need not be visible to it.
        let known = self.committed_heads.positions();
        let decided = timeout_at(
            step_deadline(deadline),
            self.decide_and_write(&mut session, group, &write_id, &known, chain.as_ref()),
        )
        .await;
        let (decisions, end) = match decided.context(TIMED_OUT).and_then(|in_time| in_time) {
            Ok(decided) => decided,
            Err(error) => {
                // Nothing was committed, so the locks are released at once.
                abort(&mut session).await;
                if let Some(chain) = chain.filter(|_chain| !error.is::<ChainTakenError>()) {
                    chain.close(None);
                }
                return Err(AttemptError::before_commit(error));
            }
        };
        // Not cut off by a time limit: from here on the outcome has to be determined.
        let finished = self
            .finish(&mut session, &decisions, &write_id, deadline)
            .await;
        if let Some(chain) = chain {
            match &finished {
                Ok(()) => chain.close(end),
                Err(AttemptError::Retry(_nothing_written)) => chain.close(None),
                // What the chain ends with is not known.
                Err(AttemptError::Final(_)) => drop(chain),
            }
        }
        finished?;
        self.committed_heads.record(decisions.after.heads.values());
        Ok(Committed {
            results: decisions.results,
            changes: decisions.changes,
        })
    }

    /// Reads, evaluates and writes. The transaction is still to be committed.
    ///
    /// Everything is decided before the first write, and between the first write and the commit
    /// nothing is awaited but the writes: if a publisher stops there, its locks block the others
    /// until the server ends the transaction.
    async fn decide_and_write(
        &self,
        session: &mut ClientSession,
        group: &[Command],
        write_id: &str,
        known: &HeadPositions,
        chain: Option<&OpenChain<'_>>,
    ) -> anyhow::Result<(Decisions, Option<ChainEnd>)> {
        transaction::start(session)
            .await
            .context("starting a transaction")?;
        let (mut before, head_rows) = self
            .working_set(session, group)
            .await
            .context("reading heads and documents")?;
        // Checked before anything is decided: a write would reuse revisions of the lost history.
        ensure!(
            !self.committed_heads.regressed(known, before.heads.values()),
            RestoredError
        );
        let epoch = before.epoch;
        let now = Utc::now();
        self.add_facts(session, &mut before, group, now).await?;
        let decisions = self.policy.rules.evaluate(before, group, now);
        // The empty transaction is committed all the same: that confirms what was read, and so the
        // results of the commands.
        if decisions.changes.is_empty() {
            return Ok((decisions, None));
        }
        let commands =
            WriteCommands::new(&decisions, &head_rows, write_id, &self.policy.broadcast)?;
        self.write(session, commands, &decisions.referred, write_id)
            .await?;
        let end = match chain {
            Some(chain) => {
                let entries = entries(group, &decisions.results, &decisions.changes);
                Some(self.audit(session, chain, &entries, Some(epoch)).await?)
            }
            None => None,
        };
        Ok((decisions, end))
    }

    /// What a commit of a command would answer now.
    pub(in crate::store) async fn judge(&self, command: Command) -> anyhow::Result<WriteResult> {
        let group = [command];
        let now = Utc::now();
        let before = in_snapshot!(self, |session| {
            let (mut before, _head_rows) = self
                .working_set(session, &group)
                .await
                .context("reading heads and documents")?;
            self.add_facts(session, &mut before, &group, now).await?;
            Ok(before)
        })?;
        let mut decisions = self.policy.rules.evaluate(before, &group, now);
        decisions
            .results
            .pop()
            .context("a command without a result")
    }

    /// Adds what a group needs besides its own documents.
    async fn add_facts(
        &self,
        session: &mut ClientSession,
        before: &mut WorkingSet,
        group: &[Command],
        now: DateTime<Utc>,
    ) -> anyhow::Result<()> {
        let wanted = self.policy.rules.wanted(before, group, now);
        if !wanted.is_empty() {
            before.facts = self
                .facts(session, wanted, before.epoch)
                .await
                .context("reading references")?;
        }
        Ok(())
    }

    async fn write(
        &self,
        session: &mut ClientSession,
        commands: WriteCommands,
        referred: &BTreeSet<DocumentKey>,
        write_id: &str,
    ) -> anyhow::Result<()> {
        // Heads first: two groups that write the same collection conflict here, before either has
        // written documents.
        for (filter, update) in commands.heads {
            let updated = self
                .table(HEADS)
                .update_one(filter, update)
                .session(&mut *session)
                .await
                .context("writing a head")?;
            // The filter contains the revision that was read: another group has changed the head.
            ensure!(updated.matched_count == 1, ConflictError);
        }
        self.mark_referred(session, referred, write_id).await?;
        for command in commands.documents {
            let answer = self
                .database
                .run_command(command)
                .session(&mut *session)
                .await
                .context("writing documents")?;
            // A generic command that failed in part is not an error for the driver.
            if let Some(errors) = answer.get("writeErrors") {
                bail!("MongoDB refused a document: {errors}");
            }
        }
        self.table(CHANGES)
            .insert_many(commands.changes)
            .session(session)
            .await
            .context("writing the change log")?;
        Ok(())
    }

    /// The heads and documents that a group concerns.
    async fn working_set(
        &self,
        session: &mut ClientSession,
        group: &[Command],
    ) -> anyhow::Result<(WorkingSet, StoredHeads)> {
        let mut wanted = BTreeMap::<&CollectionName, BTreeSet<&DocumentId>>::new();
        for write in group.iter().flat_map(Command::writes) {
            wanted
                .entry(&write.collection)
                .or_default()
                .insert(&write.id);
        }
        let (identity, head_rows) = self
            .identity_and_head_rows_in(session, wanted.keys().copied())
            .await?;
        let mut documents = HashMap::new();
        for (collection, ids) in wanted {
            let found = self.touched_documents(session, collection, ids).await?;
            documents.extend(
                found
                    .into_iter()
                    .map(|document| ((collection.clone(), document.id().clone()), document)),
            );
        }
        let mut heads = BTreeMap::new();
        let mut stored = BTreeMap::new();
        for row in head_rows {
            let name = row.head.collection.clone();
            let of_row = StoredHead {
                revision: row.stored_revision,
                damaged: row.damaged,
            };
            stored.insert(name.clone(), of_row);
            heads.insert(name, row.head);
        }
        let working_set = WorkingSet {
            epoch: identity.epoch,
            secret: identity.secret,
            heads,
            documents,
            facts: Facts::default(),
        };
        Ok((working_set, stored))
    }

    /// Those of some documents that exist.
    pub(super) async fn touched_documents(
        &self,
        session: &mut ClientSession,
        collection: &CollectionName,
        mut ids: BTreeSet<&DocumentId>,
    ) -> anyhow::Result<Vec<Document>> {
        // One query per collection, whatever the number of documents.
        let keys: Vec<_> = ids.iter().map(|id| id.as_str()).collect();
        let mut found = Self::raw(self.table_at_snapshot(collection.as_str()))
            .find(doc! { "_id": { "$in": keys } })
            .session(&mut *session)
            .await?;
        let mut documents = Vec::new();
        while let Some(row) = found.next(&mut *session).await.transpose()? {
            let id = rows::id(&row).context("MongoDB answered a row that was not asked for")?;
            ids.remove(&id);
            let document = self
                .document_of_row(
                    Some(&mut *session),
                    collection,
                    &id,
                    Some(&row),
                    Revision::MAX,
                )
                .await?;
            documents.extend(document);
        }
        // A row that is gone: without this a new document would be counted twice in the head.
        for id in self.ids_in_log(session, collection, ids).await? {
            let document = self
                .document_of_row(Some(&mut *session), collection, &id, None, Revision::MAX)
                .await?;
            documents.extend(document);
        }
        Ok(documents)
    }

    /// Those of some ids without a row that the log has. A new id is in no record, so a single query
    /// is usual.
    async fn ids_in_log(
        &self,
        session: &mut ClientSession,
        collection: &CollectionName,
        ids: BTreeSet<&DocumentId>,
    ) -> anyhow::Result<BTreeSet<DocumentId>> {
        if ids.is_empty() {
            return Ok(BTreeSet::new());
        }
        let keys: Vec<_> = ids.iter().map(|id| id.as_str()).collect();
        let found = self
            .table_at_snapshot(CHANGES)
            .distinct(
                "id",
                doc! { "collection": collection.as_str(), "id": { "$in": keys } },
            )
            .session(session)
            .await?;
        let found = found.iter().filter_map(|id| id.as_str()?.parse().ok());
        Ok(found.collect())
    }

    /// Commits the transaction. If the answer is lost, determines the outcome: repeats the commit,
    /// then looks for the records.
    ///
    /// Repeating a commit is safe: the server commits a transaction once, and answers a repeated
    /// commit with the outcome of the first.
    async fn finish(
        &self,
        session: &mut ClientSession,
        decisions: &Decisions,
        write_id: &str,
        deadline: Instant,
    ) -> Result<(), AttemptError> {
        loop {
            // At least a second, even if the group is late: giving up here leaves the outcome
            // unknown.
            let step = step_deadline(deadline.max(Instant::now() + ABORT_TIMEOUT));
            let error = match call_until(step, session.commit_transaction())
                .await
                .context("committing the transaction")
            {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            // Only this label means that the transaction no longer exists. An earlier commit may
            // have succeeded before, so the records are looked up before anything is repeated.
            if has_label(&error, mongodb::error::TRANSIENT_TRANSACTION_ERROR) {
                return match self.is_written(decisions, write_id).await {
                    Ok(true) => Ok(()),
                    // The transaction is gone and left no records: another attempt is safe.
                    Ok(false) => Err(AttemptError::Retry(error)),
                    Err(lost) => Err(AttemptError::Final(CommitError::OutcomeUnknown(lost))),
                };
            }
            if Instant::now() >= deadline {
                return match self.is_written(decisions, write_id).await {
                    Ok(true) => Ok(()),
                    // Records that are not there prove nothing: the commit may still arrive.
                    _ => Err(AttemptError::Final(CommitError::OutcomeUnknown(error))),
                };
            }
            sleep(Duration::from_millis(rand::random_range(1..=50))).await;
        }
    }

    /// Whether the records of this attempt are in the log, read at majority.
    ///
    /// `writeId` distinguishes them from records that another publisher, or another attempt, wrote
    /// at the same revision.
    async fn is_written(&self, decisions: &Decisions, write_id: &str) -> anyhow::Result<bool> {
        // Nothing was to be written.
        let Some(change) = decisions.changes.first() else {
            return Ok(true);
        };
        let revision = i64::try_from(change.revision)?;
        let collection = change.collection.as_str();
        let filter = doc! { "collection": collection, "revision": revision, "writeId": write_id };
        let record = call(self.table(CHANGES).find_one(filter))
            .await
            .context("looking for the records of a commit")?;
        Ok(record.is_some())
    }
}

/// When the next step has to end: after the time limit of a call, but not after the deadline.
fn step_deadline(deadline: Instant) -> Instant {
    (Instant::now() + CALL_TIMEOUT).min(deadline)
}

/// Aborts the transaction of a session. Dropping the session does the same, but later: until then
/// its locks block every other publisher.
async fn abort(session: &mut ClientSession) {
    let deadline = Instant::now() + ABORT_TIMEOUT;
    if let Err(error) = call_until(deadline, session.abort_transaction()).await {
        debug!(
            "a transaction could not be aborted, the server ends it after its time limit: {error:#}"
        );
    }
}

/// Why one attempt to commit a group failed.
enum AttemptError {
    /// Nothing was written, and another attempt may succeed.
    Retry(anyhow::Error),
    /// Another attempt would not help, or could write twice.
    Final(CommitError),
}

impl AttemptError {
    /// An attempt that failed before its commit: nothing was written.
    fn before_commit(error: anyhow::Error) -> Self {
        if is_transient(&error) {
            Self::Retry(error)
        } else if error.is::<RestoredError>() || error.is::<StoreGone>() {
            // Only a declared epoch or a database helps; halves of the group would fail in the same
            // way.
            Self::Final(CommitError::NotCommitted(error))
        } else {
            // The command itself is the cause: the caller tries the halves of the group.
            Self::Final(CommitError::Refused(error))
        }
    }
}

/// A head changed between reading and writing it.
#[derive(Debug, thiserror::Error)]
#[error("another publisher committed to the collection first")]
struct ConflictError;

/// A head is older than what this publisher has seen committed: the database was restored from a
/// backup. Until the new epoch is declared, a write would reuse revisions that replicas have
/// received with other values.
#[derive(Debug, thiserror::Error)]
#[error("the database was restored to an older state, and no new epoch is declared yet")]
struct RestoredError;

/// Whether another attempt may help: after conflicts, elections, time-outs and lost connections.
fn is_transient(error: &anyhow::Error) -> bool {
    error.is::<ConflictError>()
        || error.is::<ChainTakenError>()
        || error.is::<tokio::time::error::Elapsed>()
        || has_label(error, mongodb::error::TRANSIENT_TRANSACTION_ERROR)
}
