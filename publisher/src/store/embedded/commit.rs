//! Committing a group: read what it concerns, evaluate it and write the result, in one
//! transaction.
//!
//! redb allows one write transaction at a time, so no group is evaluated against heads that another
//! one is changing.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use anyhow::Context;
use chrono::Utc;
use contract::Change;
use redb::{ReadableTable, WriteTransaction};

use crate::{
    decide::{Command, Decisions, DocumentKey, WorkingSet},
    store::{
        CommitError, Committed,
        embedded::{
            Embedded,
            tables::{CHANGES, DOCUMENTS, HEADS, PENDING, document, head, identity_in},
        },
    },
};

impl Embedded {
    pub(in crate::store) async fn commit(
        &self,
        group: Arc<[Command]>,
    ) -> Result<Committed, CommitError> {
        let store = self.clone();
        let committed = tokio::task::spawn_blocking(move || store.commit_blocking(&group)).await;
        // A panic may have occurred before or after the commit.
        committed.unwrap_or_else(|panic| Err(self.outcome_unknown(panic.into())))
    }

    fn commit_blocking(&self, group: &[Command]) -> Result<Committed, CommitError> {
        let (transaction, decisions) = self
            .decide_and_write(group)
            .inspect_err(|error| self.check_disk(error))
            .map_err(CommitError::NotCommitted)?;
        if let Some(transaction) = transaction {
            // The pages may have reached the disk before the error. Only opening the file again
            // shows whether the commit is in it, so the process has to end.
            transaction
                .commit()
                .context("committing the transaction")
                .map_err(|error| self.outcome_unknown(error))?;
        }
        Ok(Committed {
            results: decisions.results,
            changes: decisions.changes,
        })
    }

    /// Evaluates a group and writes what it changes. The transaction is still to be committed;
    /// `None` if nothing changed.
    fn decide_and_write(
        &self,
        group: &[Command],
    ) -> anyhow::Result<(Option<WriteTransaction>, Decisions)> {
        let transaction = self
            .database
            .begin_write()
            .context("beginning the transaction")?;
        let before = working_set(&transaction, group).context("reading heads and documents")?;
        let decisions = self.policy.rules.evaluate(before, group, Utc::now());
        // A commit would cost an fsync for nothing.
        if decisions.changes.is_empty() {
            transaction.abort().context("aborting the transaction")?;
            return Ok((None, decisions));
        }
        write(
            &transaction,
            &decisions.changes,
            &decisions.after,
            self.policy.events_enabled,
        )
        .context("writing the changes")?;
        Ok((Some(transaction), decisions))
    }

    /// After this error the store is broken: see [`Embedded::broken`].
    pub(super) fn outcome_unknown(&self, error: anyhow::Error) -> CommitError {
        self.record_failure(&error);
        CommitError::OutcomeUnknown(error)
    }
}

/// The heads and documents that a group concerns.
fn working_set(transaction: &WriteTransaction, group: &[Command]) -> anyhow::Result<WorkingSet> {
    let identity = identity_in(transaction)?;
    let heads = transaction.open_table(HEADS)?;
    let documents = transaction.open_table(DOCUMENTS)?;
    let mut working_set = WorkingSet {
        epoch: identity.epoch,
        secret: identity.secret.clone(),
        heads: BTreeMap::new(),
        documents: HashMap::new(),
    };
    for write in group.iter().flat_map(Command::writes) {
        // Reading a head parses JSON: once per collection, not once per write.
        if !working_set.heads.contains_key(&write.collection) {
            working_set.heads.insert(
                write.collection.clone(),
                head(&heads, &write.collection, &identity)?,
            );
        }
        if let Some(row) = documents.get((write.collection.as_str(), write.id.as_str()))? {
            let key: DocumentKey = (write.collection.clone(), write.id.clone());
            working_set
                .documents
                .insert(key, document(write.id.clone(), row.value()));
        }
    }
    Ok(working_set)
}

/// Writes log, documents and heads. `pending` = the changes have to be published.
fn write(
    transaction: &WriteTransaction,
    changes: &[Change],
    after: &WorkingSet,
    pending: bool,
) -> anyhow::Result<()> {
    let mut heads = transaction.open_table(HEADS)?;
    let mut documents = transaction.open_table(DOCUMENTS)?;
    let mut log = transaction.open_table(CHANGES)?;
    let mut unpublished = transaction.open_table(PENDING)?;
    for change in changes {
        let collection = change.collection.as_str();
        let position = (collection, change.revision);
        let document = (collection, change.id.as_str());
        log.insert(position, serde_json::to_vec(change)?.as_slice())?;
        // In the same transaction as the change, so that no committed change is without its event.
        if pending {
            unpublished.insert(position, change.time.timestamp_millis())?;
        }
        match &change.config_data {
            Some(config) => {
                documents.insert(document, (change.revision, config.as_str()))?;
            }
            // A deleted document has no row: its last revision is in the log only.
            None => {
                documents.remove(document)?;
            }
        }
    }
    // Once per collection, not once per change.
    let changed: BTreeSet<_> = changes.iter().map(|change| &change.collection).collect();
    for name in changed {
        heads.insert(
            name.as_str(),
            serde_json::to_vec(&after.heads[name])?.as_slice(),
        )?;
    }
    Ok(())
}
