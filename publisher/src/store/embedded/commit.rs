//! Committing a group: read what it concerns, evaluate it and write the result, in one
//! transaction.
//!
//! There is one writing connection, so no group is evaluated against heads that another one is
//! changing.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use anyhow::Context;
use chrono::{DateTime, Utc};
use contract::{Change, Document};
use rusqlite::{Transaction, params};

use crate::{
    decide::{Command, DocumentKey, WorkingSet, WriteResult, references::Facts},
    policy::Broadcast,
    store::{
        CommitError, Committed,
        audit::entries,
        embedded::{
            Embedded,
            connections::{Durability, End},
            open_lists::Image,
            rows, tables,
        },
        integrity::is_damage,
    },
};

impl Embedded {
    /// It waits for the disk on the thread of the caller, which has one for it.
    pub(in crate::store) async fn commit(
        &self,
        group: Arc<[Command]>,
    ) -> Result<Committed, CommitError> {
        let lease = self.writer().await?;
        let committed = self.write_here(lease, Durability::Synced, |store, transaction| {
            store.decide_and_write(transaction, &group)
        });
        match committed {
            Ok((committed, _ended)) => Ok(committed),
            // Mostly it concerns one document, and the rest of the group can be committed.
            Err(CommitError::NotCommitted(error)) if is_damage(&error) => {
                Err(CommitError::Refused(error))
            }
            Err(error) => Err(error),
        }
    }

    /// Evaluates a group and writes what it changes. The guard is to be held until the commit ended.
    fn decide_and_write(
        &self,
        transaction: &Transaction<'_>,
        group: &[Command],
    ) -> anyhow::Result<End<(Committed, Option<impl Drop + Send + use<>>)>> {
        let policy = &self.0.policy;
        let now = Utc::now();
        let before = self.before(transaction, group, now)?;
        let documents = before.documents.clone();
        let decisions = policy.rules.evaluate(before, group, now);
        let (changes, after) = (decisions.changes, decisions.after);
        // A commit would cost a sync for nothing.
        if changes.is_empty() {
            let committed = Committed {
                results: decisions.results,
                changes,
            };
            return Ok(End::RollBack((committed, None)));
        }
        write(transaction, &changes, &after, &policy.broadcast).context("writing the changes")?;
        self.audit(transaction, || entries(group, &decisions.results, &changes))
            .context("writing the audit records")?;
        let ended = self.0.lists.replace(images(documents, &changes));
        let committed = Committed {
            results: decisions.results,
            changes,
        };
        Ok(End::Commit((committed, Some(ended))))
    }

    /// What a commit of a command would answer now.
    pub(in crate::store) async fn judge(&self, command: Command) -> anyhow::Result<WriteResult> {
        self.read(move |store, transaction| {
            let group = [command];
            let now = Utc::now();
            let before = store.before(transaction, &group, now)?;
            let mut decisions = store.0.policy.rules.evaluate(before, &group, now);
            decisions
                .results
                .pop()
                .context("a command without a result")
        })
        .await
    }

    /// All that a group is evaluated over.
    fn before(
        &self,
        transaction: &Transaction<'_>,
        group: &[Command],
        now: DateTime<Utc>,
    ) -> anyhow::Result<WorkingSet> {
        let mut before = self
            .working_set(transaction, group)
            .context("reading heads and documents")?;
        let wanted = self.0.policy.rules.wanted(&before, group, now);
        if !wanted.is_empty() {
            before.facts = self
                .facts(transaction, wanted, before.epoch)
                .context("reading references")?;
        }
        Ok(before)
    }

    /// The heads and documents that a group concerns.
    fn working_set(
        &self,
        transaction: &Transaction<'_>,
        group: &[Command],
    ) -> anyhow::Result<WorkingSet> {
        let identity = tables::identity(transaction)?;
        let mut working_set = WorkingSet {
            epoch: identity.epoch,
            secret: identity.secret.clone(),
            heads: BTreeMap::new(),
            documents: HashMap::new(),
            facts: Facts::default(),
        };
        for write in group.iter().flat_map(Command::writes) {
            // Reading a head parses JSON: once per collection, not once per write.
            if !working_set.heads.contains_key(&write.collection) {
                working_set.heads.insert(
                    write.collection.clone(),
                    self.head(transaction, &write.collection, &identity)?,
                );
            }
            if let Some(document) = self.row(transaction, &write.collection, &write.id)? {
                let key: DocumentKey = (write.collection.clone(), write.id.clone());
                working_set.documents.insert(key, document);
            }
        }
        Ok(working_set)
    }
}

/// What the changes of a group replace: each document as it was before the group.
fn images(mut before: HashMap<DocumentKey, Document>, changes: &[Change]) -> Vec<Image> {
    let mut seen = BTreeSet::new();
    changes
        .iter()
        .filter_map(|change| {
            let key = (change.collection.clone(), change.id.clone());
            seen.insert(key.clone()).then(|| Image {
                document: before.remove(&key),
                key,
                replaced_by: change.revision,
            })
        })
        .collect()
}

/// Writes log, documents and heads. `broadcast` says which changes are pending.
fn write(
    transaction: &Transaction<'_>,
    changes: &[Change],
    after: &WorkingSet,
    broadcast: &Broadcast,
) -> anyhow::Result<()> {
    for change in changes {
        rows::put_record(transaction, change)?;
        // In the same transaction as the change, so that no committed change is without its event.
        if broadcast.publishes(&change.collection) {
            transaction
                .prepare_cached(
                    "INSERT INTO pending (collection, revision, time) VALUES (?1, ?2, ?3)",
                )?
                .execute(params![
                    change.collection.as_str(),
                    change.revision,
                    change.time.timestamp_millis()
                ])?;
        }
        let (collection, id) = (&change.collection, &change.id);
        match &change.config_data {
            Some(config) => {
                rows::put_document(
                    transaction,
                    collection,
                    id,
                    change.revision,
                    config.as_str(),
                )?;
            }
            // A deleted document has no row: its last revision is in the log only.
            None => rows::remove_document(transaction, collection, id)?,
        }
    }
    // Once per collection, not once per change.
    let changed: BTreeSet<_> = changes.iter().map(|change| &change.collection).collect();
    for name in changed {
        tables::put_head(transaction, &after.heads[name])?;
    }
    Ok(())
}
