//! Committing a group: one transaction, decided before its first write, and its outcome always
//! found out.
//!
//! What ends well is answered 2xx; what is proven undone is decided anew or answered
//! `not-committed`; only when neither can be proven in time is the answer `outcome-unknown`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use chrono::Utc;
use contract::{CollectionName, DocumentId, Revision};
use mongodb::{
    ClientSession,
    bson::{Document as Bdoc, doc},
    options::ReadConcern,
};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::debug;
use uuid::Uuid;

use crate::{
    decide::{Command, Decisions, WorkingSet},
    store::{
        CommitError, Committed,
        committed_heads::Marks,
        mongo::{CALL, CHANGES, HEADS, LATE, Mongo, call, call_until, durable, has_label, rows},
    },
};

/// A group, with all its retries.
const GROUP: Duration = Duration::from_secs(5);
/// Giving up a transaction: a courtesy to others, not worth a wait.
const ABORT: Duration = Duration::from_secs(1);
/// Bytes of documents in one command, well below the 16 MiB (and its keys) that a command may have.
const COMMAND_BYTES: usize = 8 << 20;

impl Mongo {
    pub(in crate::store) async fn commit(
        &self,
        group: &[Command],
    ) -> Result<Committed, CommitError> {
        let deadline = Instant::now() + GROUP;
        loop {
            match self.attempt(group, deadline).await {
                Ok(committed) => return Ok(committed),
                Err(Failure::Again(error)) if Instant::now() >= deadline => {
                    return Err(CommitError::NotCommitted(error));
                }
                // Another publisher was quicker: decide anew on what it left, after a moment that
                // differs between us.
                Err(Failure::Again(_conflict)) => {
                    sleep(Duration::from_millis(rand::random_range(1..=50))).await
                }
                Err(Failure::Final(error)) => return Err(error),
            }
        }
    }

    async fn attempt(&self, group: &[Command], deadline: Instant) -> Result<Committed, Failure> {
        let step = || (Instant::now() + CALL).min(deadline);
        let mut session = call_until(step(), self.client.start_session())
            .await
            .map_err(Failure::Again)?;
        let (write_id, marks) = (Uuid::now_v7().to_string(), self.newest.marks());
        let decided = timeout_at(
            step(),
            self.decide_and_write(&mut session, group, &write_id, &marks),
        )
        .await;
        let folded = match decided.context(LATE).and_then(|in_time| in_time) {
            Ok(folded) => folded,
            Err(error) => {
                // Dropping the session would do the same, later; until then its locks hold up every
                // other publisher.
                if let Err(error) =
                    call_until(Instant::now() + ABORT, session.abort_transaction()).await
                {
                    debug!("a transaction could not be aborted, the server will: {error:#}");
                }
                return Err(if is_passing(&error) {
                    Failure::Again(error)
                } else if error.is::<Restored>() {
                    Failure::Final(CommitError::NotCommitted(error))
                } else {
                    Failure::Final(CommitError::Refused(error))
                });
            }
        };
        self.finish(&mut session, &folded, &write_id, deadline)
            .await?;
        self.newest.note(folded.after.heads.values());
        Ok(Committed {
            verdicts: folded.results,
            changes: folded.changes,
        })
    }

    /// Everything is decided before the first write, and between the first write and the commit
    /// nothing is awaited but the writes themselves: a publisher that dies here holds its locks
    /// until the server ends the transaction.
    async fn decide_and_write(
        &self,
        session: &mut ClientSession,
        group: &[Command],
        write_id: &str,
        marks: &Marks,
    ) -> anyhow::Result<Decisions> {
        session
            .start_transaction()
            .read_concern(ReadConcern::snapshot())
            .write_concern(durable())
            .await?;
        let ground = self.ground(session, group).await?;
        ensure!(
            !self.newest.is_behind(marks, ground.heads.values()),
            Restored
        );
        let before: BTreeMap<_, _> = ground
            .heads
            .values()
            .map(|head| (head.collection.clone(), head.revision))
            .collect();
        let folded = self.terms.rules.evaluate(ground, group, Utc::now());
        if folded.changes.is_empty() {
            return Ok(folded);
        }
        let commands = WriteCommands::new(&folded, &before, write_id, self.terms.events_enabled)?;
        for (filter, update) in commands.heads {
            let done = self
                .table(HEADS)
                .update_one(filter, update)
                .session(&mut *session)
                .await?;
            ensure!(done.matched_count == 1, Conflict);
        }
        for command in commands.documents {
            let answer = self
                .database
                .run_command(command)
                .session(&mut *session)
                .await?;
            if let Some(errors) = answer.get("writeErrors") {
                bail!("MongoDB refused a document: {errors}");
            }
        }
        self.table(CHANGES)
            .insert_many(commands.changes)
            .session(session)
            .await?;
        Ok(folded)
    }

    async fn ground(
        &self,
        session: &mut ClientSession,
        group: &[Command],
    ) -> anyhow::Result<WorkingSet> {
        let mut wanted = BTreeMap::<&CollectionName, BTreeSet<&str>>::new();
        for write in group.iter().flat_map(Command::writes) {
            wanted
                .entry(&write.collection)
                .or_default()
                .insert(write.id.as_str());
        }
        let epoch = self.epoch(session).await?;
        let heads = self
            .heads_in(session, epoch, wanted.keys().copied())
            .await?;
        let mut documents = HashMap::new();
        for (collection, ids) in wanted {
            let ids: Vec<_> = ids.into_iter().collect();
            let mut found = Self::raw(self.table_at_snapshot(collection.as_str()))
                .find(doc! { "_id": { "$in": ids } })
                .session(&mut *session)
                .await?;
            while found.advance(session).await? {
                if let Some(document) = self
                    .held(Some(&mut *session), collection, found.current())
                    .await?
                {
                    documents.insert((collection.clone(), document.id().clone()), document);
                }
            }
        }
        Ok(WorkingSet {
            epoch,
            heads: heads
                .into_iter()
                .map(|head| (head.collection.clone(), head))
                .collect(),
            documents,
        })
    }

    /// Commits, and when the answer is lost, finds out: retries the commit, then looks for the
    /// records.
    async fn finish(
        &self,
        session: &mut ClientSession,
        folded: &Decisions,
        write_id: &str,
        deadline: Instant,
    ) -> Result<(), Failure> {
        loop {
            let error = match call_until(
                (Instant::now() + CALL).min(deadline.max(Instant::now() + ABORT)),
                session.commit_transaction(),
            )
            .await
            {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            // Only this says that the transaction is proven gone.
            if has_label(&error, mongodb::error::TRANSIENT_TRANSACTION_ERROR) {
                return match self.is_written(folded, write_id).await {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(Failure::Again(error)),
                    Err(lost) => Err(Failure::Final(CommitError::OutcomeUnknown(lost))),
                };
            }
            if Instant::now() >= deadline {
                return match self.is_written(folded, write_id).await {
                    Ok(true) => Ok(()),
                    // Not there *yet* proves nothing while the commit may still be on its way.
                    _ => Err(Failure::Final(CommitError::OutcomeUnknown(error))),
                };
            }
            sleep(Duration::from_millis(rand::random_range(1..=50))).await;
        }
    }

    /// Whether the records of this very attempt are in the log, as the majority sees it.
    async fn is_written(&self, folded: &Decisions, write_id: &str) -> anyhow::Result<bool> {
        let Some(change) = folded.changes.first() else {
            return Ok(true);
        };
        let revision = i64::try_from(change.revision)?;
        let filter = doc! { "collection": change.collection.as_str(), "revision": revision, "writeId": write_id };
        Ok(call(self.table(CHANGES).find_one(filter)).await?.is_some())
    }
}

/// What a group is, in the language of the database.
struct WriteCommands {
    heads: Vec<(Bdoc, Bdoc)>,
    documents: Vec<Bdoc>,
    changes: Vec<Bdoc>,
}

impl WriteCommands {
    fn new(
        folded: &Decisions,
        before: &BTreeMap<CollectionName, Revision>,
        write_id: &str,
        owe: bool,
    ) -> anyhow::Result<Self> {
        let mut touched = BTreeMap::<&CollectionName, BTreeSet<&DocumentId>>::new();
        let mut changes = Vec::with_capacity(folded.changes.len());
        for change in &folded.changes {
            touched
                .entry(&change.collection)
                .or_default()
                .insert(&change.id);
            changes.push(rows::change_row(change, write_id, owe)?);
        }
        let (mut heads, mut documents) = (Vec::new(), Vec::new());
        for (collection, ids) in touched {
            let head = &folded.after.heads[collection];
            let filter =
                doc! { "_id": collection.as_str(), "revision": i64::try_from(before[collection])? };
            heads.push((filter, doc! { "$set": rows::head_row(head)? }));
            let (mut updates, mut bytes, mut deletes) = (Vec::new(), 0, Vec::new());
            for id in ids {
                let this = doc! { "_id": id.as_str() };
                match folded
                    .after
                    .documents
                    .get(&(collection.clone(), id.clone()))
                {
                    Some(held) => {
                        let row = rows::document_row(held)?;
                        bytes += row.to_vec()?.len();
                        if bytes > COMMAND_BYTES && !updates.is_empty() {
                            documents
                                .push(doc! { "update": collection.as_str(), "updates": std::mem::take(&mut updates) });
                            bytes = 0;
                        }
                        // Upsert, so that a document that came and went within one group needs no
                        // rule of its own.
                        updates.push(doc! { "q": this, "u": row, "upsert": true });
                    }
                    None => deletes.push(doc! { "q": this, "limit": 1 }),
                }
            }
            if !updates.is_empty() {
                documents.push(doc! { "update": collection.as_str(), "updates": updates });
            }
            if !deletes.is_empty() {
                documents.push(doc! { "delete": collection.as_str(), "deletes": deletes });
            }
        }
        Ok(Self {
            heads,
            documents,
            changes,
        })
    }
}

enum Failure {
    /// Nothing was written, and deciding anew may succeed.
    Again(anyhow::Error),
    Final(CommitError),
}

/// A head moved between reading and writing it.
#[derive(Debug, thiserror::Error)]
#[error("another publisher wrote first")]
struct Conflict;

/// A head is behind what this publisher has seen committed: the database was put back to a dump.
/// What is written before that is declared would take revisions that replicas have seen with other
/// values.
#[derive(Debug, thiserror::Error)]
#[error(
    "the database is behind what was committed to it: it was restored, and a new epoch has yet to be declared"
)]
struct Restored;

/// Whether trying again may help: conflicts, elections, time-outs, lost connections.
fn is_passing(error: &anyhow::Error) -> bool {
    error.is::<Conflict>()
        || error.is::<tokio::time::error::Elapsed>()
        || has_label(error, mongodb::error::TRANSIENT_TRANSACTION_ERROR)
}
