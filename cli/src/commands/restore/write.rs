//! One round of writes: what is different, in change sets, in the order of the backup; then the deletions.

use std::collections::{BTreeSet, VecDeque};

use client::{ClientError, Endpoint, RetryPolicy, retry};
use contract::{
    CanonicalJson, Expected, ProblemKind,
    set::{ChangeRequest, ChangeSetRequest, MAX_BYTES, MAX_OPERATIONS, RequestOperation},
};

use super::state::{Fingerprint, Found, Key, Plan, Selection, Stored};
use crate::{
    backup_file::{BackupFile, Next},
    output,
    progress::ProgressLine,
};

/// Refusals that an error shows.
const SHOWN: usize = 20;

/// What a round did.
#[derive(Debug, Default)]
pub(super) struct Round {
    /// Documents with secrets that the publisher has taken.
    pub(super) accepted: BTreeSet<Key>,
    /// Documents that the publisher refuses, and why; the first ones.
    refused: Vec<String>,
    /// Number of all refusals.
    refusals: u64,
}

impl Round {
    fn refuse(&mut self, change: &ChangeRequest, error: &ClientError) {
        self.refusals += 1;
        if self.refused.len() < SHOWN {
            let ChangeRequest { collection, id, .. } = change;
            self.refused.push(format!("{collection}/{id}: {error}"));
        }
    }

    /// Why the store does not become the backup; the refusals are printed.
    pub(super) fn reason(&self, plan: &Plan) -> String {
        if self.refused.is_empty() {
            let example = plan
                .example()
                .map(|(collection, id)| format!(", as {collection}/{id}"));
            return format!(
                "{} documents are different again{}: stop the writers first",
                plan.changes(),
                example.unwrap_or_default()
            );
        }
        for line in &self.refused {
            output::note(line);
        }
        format!("the publisher refuses {} documents", self.refusals)
    }
}

/// A change set that is being filled.
#[derive(Debug, Default)]
struct Batch {
    changes: Vec<ChangeRequest>,
    bytes: usize,
}

impl Batch {
    /// Adds a change; gives the filled set where it no longer fits.
    fn add(&mut self, change: ChangeRequest) -> Option<Vec<ChangeRequest>> {
        let bytes = change.config_data.as_ref();
        let bytes = bytes.map_or(0, |value| value.as_str().len());
        let is_full = self.changes.len() == MAX_OPERATIONS || self.bytes + bytes > MAX_BYTES;
        let full = is_full.then(|| std::mem::take(self).changes);
        self.bytes += bytes;
        self.changes.push(change);
        full.filter(|full| !full.is_empty())
    }
}

/// Writes what is different from the backup. A set whose references are not there yet is left to the next
/// round, or, in halves, what of it can be written alone is written.
///
/// # Errors
/// When the publisher does not answer, or would refuse every further set as well.
pub(super) async fn write_all(
    publisher: &Endpoint,
    file: &BackupFile,
    selection: &Selection,
    stored: &Stored,
    in_halves: bool,
    progress: &ProgressLine,
) -> anyhow::Result<Round> {
    let mut writing = Writing {
        publisher,
        in_halves,
        progress,
        round: Round::default(),
    };
    let mut batch = Batch::default();
    let mut documents = file.documents()?;
    while let Next::Document(item) = documents.next()? {
        if !selection.contains(&item.collection) {
            continue;
        }
        let value = item.document.config_data();
        let key = (item.collection, item.document.id().clone());
        let op = match stored.get(&key) {
            None => RequestOperation::Create,
            Some((_now, Found::Same)) => continue,
            Some(_different) => RequestOperation::Replace,
        };
        let change = change(key, op, Some(CanonicalJson::parse(value)?));
        if let Some(full) = batch.add(change) {
            writing.send(full).await?;
        }
    }
    let gone = stored
        .iter()
        .filter(|(_key, (_now, found))| *found == Found::OnlyInStore);
    let mut gone: Vec<&Key> = gone.map(|(key, _of_store)| key).collect();
    gone.sort();
    for key in gone {
        let change = change(key.clone(), RequestOperation::Delete, None);
        if let Some(full) = batch.add(change) {
            writing.send(full).await?;
        }
    }
    writing.send(batch.changes).await?;
    Ok(writing.round)
}

fn change(
    (collection, id): Key,
    op: RequestOperation,
    config_data: Option<CanonicalJson>,
) -> ChangeRequest {
    ChangeRequest {
        collection,
        op,
        id,
        config_data,
        expected: Expected::Any,
    }
}

struct Writing<'a> {
    publisher: &'a Endpoint,
    in_halves: bool,
    progress: &'a ProgressLine,
    round: Round,
}

impl Writing<'_> {
    /// Writes a set, without the documents that are refused.
    async fn send(&mut self, changes: Vec<ChangeRequest>) -> Result<(), ClientError> {
        let mut sets = VecDeque::from([changes]);
        while let Some(changes) = sets.pop_front() {
            if changes.is_empty() {
                continue;
            }
            let mut set = ChangeSetRequest { changes };
            let write = || self.publisher.write_change_set(&set);
            let error = match RetryPolicy::COMMAND.run(retry::is_busy, write).await {
                Ok(_written) => {
                    self.written(set.changes);
                    continue;
                }
                Err(error) => error,
            };
            let at = error.problem().and_then(|problem| problem.index);
            match (error.kind(), at) {
                (Some(ProblemKind::DanglingReference), _) if !self.in_halves => {
                    // The next round has more of what it refers to.
                    self.round.refuse(&set.changes[0], &error);
                }
                (Some(ProblemKind::DanglingReference | ProblemKind::SetTooLarge), _)
                    if set.changes.len() > 1 =>
                {
                    let second = set.changes.split_off(set.changes.len() / 2);
                    sets.push_front(second);
                    sets.push_front(set.changes);
                }
                // More of the same would be refused as well: of this caller, or of all.
                _ if !matches!(error.status(), Some(400 | 404 | 409 | 412 | 413 | 422)) => {
                    return Err(error);
                }
                (_, Some(at)) if at < set.changes.len() => {
                    let refused = set.changes.remove(at);
                    self.round.refuse(&refused, &error);
                    sets.push_front(set.changes);
                }
                _ if set.changes.len() == 1 => self.round.refuse(&set.changes[0], &error),
                _ => return Err(error),
            }
        }
        Ok(())
    }

    fn written(&mut self, changes: Vec<ChangeRequest>) {
        self.progress.restored(changes.len() as u64);
        for change in changes {
            let value = change.config_data.as_ref();
            if value.is_some_and(|value| Fingerprint::of(value.as_str().as_bytes()).has_secrets()) {
                self.round.accepted.insert((change.collection, change.id));
            }
        }
    }
}
