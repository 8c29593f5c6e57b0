//! Lines whose documents refer to others that were not written yet: they are tried again when the
//! rest of the file is written, and documents that refer to each other are written as one change
//! set.
//!
//! Nothing is read from the file here.

use std::collections::{BTreeMap, BTreeSet};

use client::{ClientError, Endpoint, RetryPolicy, retry};
use contract::{
    CanonicalJson, CollectionName, DocumentId, Expected, ProblemKind,
    set::{
        ChangeRequest, ChangeSetRequest, ChangeSetWritten, MAX_BYTES, MAX_OPERATIONS,
        RequestOperation,
    },
};
use futures_util::{StreamExt, stream};

use super::{Entry, IN_FLIGHT, Outcome, write};

/// Most bytes of values that wait. What is beyond is refused; importing again writes it.
const MAX_WAITING: usize = 256 << 20;

type Key = (CollectionName, DocumentId);

/// The lines that wait.
#[derive(Debug, Default)]
pub(super) struct Deferred {
    lines: BTreeMap<Key, DeferredLine>,
    bytes: usize,
}

#[derive(Debug)]
struct DeferredLine {
    number: usize,
    entry: Entry,
    /// Why it was refused the last time.
    error: ClientError,
}

impl DeferredLine {
    /// Whether the document lacks one of these, as far as its refusal says.
    fn may_lack(&self, keys: &BTreeSet<Key>) -> bool {
        /// A refusal names no more.
        const NAMED: usize = 20;
        let problem = self.error.problem();
        let references = problem.map_or(&[][..], |problem| &problem.references);
        let lacks = references.iter().any(|reference| {
            let to = &reference.refers_to;
            let id = to.id.parse();
            id.is_ok_and(|id| keys.contains(&(to.collection.clone(), id)))
        });
        !keys.is_empty() && (lacks || references.len() >= NAMED)
    }
}

impl Deferred {
    /// Takes a refused line, if its document refers to one that is not there.
    ///
    /// # Errors
    /// Gives the error back when it does not wait.
    pub(super) fn take(
        &mut self,
        number: usize,
        entry: Entry,
        error: ClientError,
    ) -> Result<(), ClientError> {
        let bytes = self.bytes + entry.config_data.get().len();
        if error.kind() != Some(ProblemKind::DanglingReference) || bytes > MAX_WAITING {
            return Err(error);
        }
        self.bytes = bytes;
        let key = (entry.collection.clone(), entry.id.clone());
        self.lines.insert(
            key,
            DeferredLine {
                number,
                entry,
                error,
            },
        );
        Ok(())
    }

    /// Writes what waits, in the order that the references need.
    ///
    /// # Errors
    /// When the publisher does not answer.
    pub(super) async fn write(
        mut self,
        publisher: &Endpoint,
        outcome: &mut Outcome,
    ) -> Result<(), ClientError> {
        // Each round writes what refers only to what is there by now. After the first one, a line is
        // only tried again when something that it lacks was written.
        let mut tried: BTreeSet<Key> = self.lines.keys().cloned().collect();
        while !tried.is_empty() {
            let written = self.round(&tried, publisher, outcome).await?;
            let lines = self.lines.iter();
            let lacking = lines.filter(|(_key, line)| line.may_lack(&written));
            tried = lacking.map(|(key, _line)| key.clone()).collect();
        }
        while let Some(key) = self.lines.keys().next().cloned() {
            self.write_together(key, publisher, outcome).await?;
        }
        Ok(())
    }

    /// Tries some lines again, and gives the documents that were written.
    async fn round(
        &mut self,
        tried: &BTreeSet<Key>,
        publisher: &Endpoint,
        outcome: &mut Outcome,
    ) -> Result<BTreeSet<Key>, ClientError> {
        let lines: Vec<_> = tried
            .iter()
            .filter_map(|key| Some((key, self.lines.remove(key)?)))
            .collect();
        let mut done = BTreeSet::new();
        let writes = stream::iter(lines).map(async |(key, line)| {
            let written = write(publisher, &line.entry).await;
            (key, line, written)
        });
        let mut writes = std::pin::pin!(writes.buffer_unordered(IN_FLIGHT));
        while let Some((key, line, written)) = writes.next().await {
            match written {
                Ok(written) => {
                    outcome.count(&key.0, written.revision, written.changed);
                    done.insert(key.clone());
                }
                Err(error) if error.kind() == Some(ProblemKind::DanglingReference) => {
                    self.lines
                        .insert(key.clone(), DeferredLine { error, ..line });
                }
                Err(error) => outcome.refuse(line.number, error)?,
            }
        }
        Ok(done)
    }

    /// Writes a document together with those that wait and that it refers to, as one change set.
    async fn write_together(
        &mut self,
        key: Key,
        publisher: &Endpoint,
        outcome: &mut Outcome,
    ) -> Result<(), ClientError> {
        let mut keys = vec![key.clone()];
        let mut error = None;
        loop {
            let known = keys.len();
            self.add_referred(&mut keys, error.as_ref());
            // What is missing is not in the file, or is too much for one set.
            let is_new = keys.len() > known || (error.is_none() && keys.len() > 1);
            if !is_new || keys.len() > MAX_OPERATIONS || self.bytes_of(&keys) > MAX_BYTES {
                break;
            }
            match self.write_set(&keys, publisher).await {
                Ok(written) => {
                    for item in written.items {
                        let key = (item.collection, item.id);
                        if self.lines.remove(&key).is_some() {
                            outcome.count(&key.0, item.revision, true);
                        }
                    }
                    return Ok(());
                }
                Err(refused) => error = Some(refused),
            }
        }
        match self.lines.remove(&key) {
            Some(line) => outcome.refuse(line.number, error.unwrap_or(line.error)),
            None => Ok(()),
        }
    }

    /// Adds the waiting documents that those with `keys` refer to, by the refusals of their own and by
    /// that of their set.
    fn add_referred(&self, keys: &mut Vec<Key>, of_set: Option<&ClientError>) {
        let mut at = 0;
        let mut refusals: Vec<_> = of_set.into_iter().collect();
        while at < keys.len() && keys.len() <= MAX_OPERATIONS {
            refusals.extend(self.lines.get(&keys[at]).map(|line| &line.error));
            for error in refusals.drain(..) {
                let references = error.problem().map(|problem| &problem.references[..]);
                for reference in references.unwrap_or_default() {
                    let to = &reference.refers_to;
                    let Ok(id) = to.id.parse() else { continue };
                    let key = (to.collection.clone(), id);
                    if self.lines.contains_key(&key) && !keys.contains(&key) {
                        keys.push(key);
                    }
                }
            }
            at += 1;
        }
    }

    fn bytes_of(&self, keys: &[Key]) -> usize {
        let lines = keys.iter().filter_map(|key| self.lines.get(key));
        lines.map(|line| line.entry.config_data.get().len()).sum()
    }

    async fn write_set(
        &self,
        keys: &[Key],
        publisher: &Endpoint,
    ) -> Result<ChangeSetWritten, ClientError> {
        let mut changes = Vec::with_capacity(keys.len());
        for key in keys {
            let Some(line) = self.lines.get(key) else {
                continue;
            };
            let op = match publisher.document(&key.0, &key.1).await {
                Ok(_stored) if publisher.writes_exactly() => RequestOperation::Replace,
                Ok(_stored) => RequestOperation::Update,
                Err(error) if error.is_no_document() => RequestOperation::Create,
                Err(error) => return Err(error),
            };
            // The publisher has refused each alone for its references, so it has read the value.
            let value = CanonicalJson::parse(line.entry.config_data.get().as_bytes()).ok();
            changes.push(ChangeRequest {
                collection: key.0.clone(),
                op,
                id: key.1.clone(),
                config_data: value,
                expected: Expected::Any,
            });
        }
        let set = ChangeSetRequest { changes };
        RetryPolicy::COMMAND
            .run(retry::is_busy, || publisher.write_change_set(&set))
            .await
    }
}
