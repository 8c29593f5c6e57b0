//! The change log, and whether it has what the audit log says of it.
//!
//! Each collection is read by itself and around what is missing or damaged, so that one damaged change
//! hides no other one. Nothing here judges the audit log.

use std::collections::BTreeMap;

use client::{ClientError, Endpoint};
use contract::{
    CollectionName, Epoch, FeedPage, Head, ProblemKind, Revision,
    access::{Right, Target as Access},
    audit::{AuditRecord, AuditedChange, verify::changes},
    sha256::Sha256,
};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

/// Changes of a page of the change log.
const CHANGES: usize = 1_000;
/// Changes of a collection that are looked for at most where others are missing: each costs a request.
const MAX_MISSING: usize = 1_000;
/// Status of an answer to a caller that may not read.
const FORBIDDEN: u16 = 403;

/// The change log as it was before the audit log was read, so that each change has its record there.
pub(super) struct ChangeLog {
    collections: BTreeMap<CollectionName, Collection>,
    /// Whether the caller may read it.
    pub(super) is_read: bool,
    pub(super) compared: usize,
    pub(super) faults: Vec<String>,
    /// Changes that the audit log names and that are not in the log any more: their number.
    removed: usize,
    /// Changes of collections that were not read.
    unread: usize,
    /// Changes of which the publisher leaves parts out.
    not_whole: usize,
    /// The newest change of each collection that is after what was read, with its record.
    later: BTreeMap<CollectionName, (Epoch, Revision, String)>,
    repairs: Vec<String>,
    notes: Vec<String>,
}

struct Collection {
    oldest: Revision,
    newest: Revision,
    /// Those that no audit record named yet.
    changes: BTreeMap<(Epoch, Revision), Logged>,
}

/// A change of the change log.
struct Logged {
    digest: Sha256,
    /// Whether it is as it is stored. A publisher leaves out the parts of a change set that are in
    /// collections that the reader may not read.
    is_whole: bool,
}

impl ChangeLog {
    /// All changes that can be read.
    ///
    /// # Errors
    /// When the publisher does not answer. A missing right is a note.
    pub(super) async fn read(publisher: &Endpoint) -> anyhow::Result<Self> {
        let mut log = Self {
            collections: BTreeMap::new(),
            is_read: false,
            compared: 0,
            faults: Vec::new(),
            removed: 0,
            unread: 0,
            not_whole: 0,
            later: BTreeMap::new(),
            repairs: Vec::new(),
            notes: Vec::new(),
        };
        let heads = match publisher.heads().await {
            Ok(heads) => heads,
            Err(error) if error.status() == Some(FORBIDDEN) => {
                let note = format!("the change log was not compared: {error}");
                log.notes.push(note);
                return Ok(log);
            }
            Err(error) => return Err(error.into()),
        };
        log.is_read = true;
        let identity = publisher.identity().await?;
        let reads_all = identity.may(Right::Read, Access::Service);
        for head in heads {
            let (name, newest) = (head.collection.clone(), head.revision);
            match collection(publisher, head, reads_all).await {
                Ok(Some(collection)) => {
                    if collection.newest < newest {
                        log.faults.push(format!(
                            "more than {MAX_MISSING} revisions of {name} are missing or damaged in the \
                             change log: it was not compared after revision {}",
                            collection.newest
                        ));
                    }
                    log.collections.insert(name, collection);
                }
                Ok(None) => log.notes.push(format!(
                    "the change log of {name} was not compared: its history was replaced meanwhile"
                )),
                Err(error) if error.status() == Some(FORBIDDEN) => {
                    let note = format!("the change log of {name} was not compared: {error}");
                    log.notes.push(note);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(log)
    }

    /// Compares what a record of the audit log names.
    pub(super) fn compare(&mut self, record: &AuditRecord) {
        let place = format!("record {} of chain {}", record.sequence, record.chain);
        if record.kind == "repair" && record.detail["applied"] == true {
            let time = record.time.to_rfc3339();
            self.repairs
                .push(format!("{} at {time} ({place})", record.actor));
        }
        for change in changes(record) {
            self.compare_change(&change, &place);
        }
    }

    fn compare_change(&mut self, change: &AuditedChange, place: &str) {
        let AuditedChange {
            collection: name,
            epoch,
            revision,
            ..
        } = change;
        let Some(collection) = self.collections.get_mut(name) else {
            self.unread += 1;
            return;
        };
        let Some(logged) = collection.changes.remove(&(*epoch, *revision)) else {
            if *revision < collection.oldest {
                self.removed += 1;
            } else if *revision > collection.newest {
                let later = (*epoch, *revision, place.to_owned());
                let newest = self.later.entry(name.clone()).or_insert(later.clone());
                if *revision > newest.1 {
                    *newest = later;
                }
            } else {
                self.faults.push(format!(
                    "revision {revision} of {name} is missing or damaged in the change log: {place} \
                     names it"
                ));
            }
            return;
        };
        let is_equal = logged.digest == change.record;
        if !is_equal && !logged.is_whole {
            self.not_whole += 1;
            return;
        }
        self.compared += 1;
        if !is_equal {
            self.faults.push(format!(
                "revision {revision} of {name} in the change log is not what {place} says: it was \
                 edited"
            ));
        }
    }

    /// Judges what was committed after the change log was read: the log has it now.
    ///
    /// # Errors
    /// When the publisher does not answer.
    pub(super) async fn finish(&mut self, publisher: &Endpoint) -> anyhow::Result<()> {
        for (name, (epoch, revision, place)) in std::mem::take(&mut self.later) {
            let head = publisher.head(&name).await?;
            if head.epoch == epoch && head.revision < revision {
                self.faults.push(format!(
                    "the change log of {name} ends with revision {}: {place} names revision {revision}",
                    head.revision
                ));
            }
        }
        Ok(())
    }

    /// What was not compared, and why.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = self.notes.clone();
        let left = self.collections.values();
        let left: usize = left.map(|collection| collection.changes.len()).sum();
        let counts = [
            (
                left,
                "changes of the change log are in no audit record: they were committed while no log \
                 was kept, before retention removed their records, or by other means than a publisher",
            ),
            (
                self.removed,
                "changes that audit records name are older than the change log: its retention or a \
                 repair removed them",
            ),
            (
                self.unread,
                "changes that audit records name are in collections that were not read here",
            ),
            (
                self.not_whole,
                "changes of change sets were not compared: the caller may not read all collections, \
                 so the publisher leaves parts of the sets out",
            ),
        ];
        let counts = counts.iter().filter(|(count, _what)| *count > 0);
        notes.extend(counts.map(|(count, what)| format!("{count} {what}")));
        if !self.repairs.is_empty() {
            notes.push(format!(
                "repairs were applied by {}",
                self.repairs.join(", ")
            ));
        }
        notes
    }
}

/// The changes of a collection; `None` where its history was replaced meanwhile.
async fn collection(
    publisher: &Endpoint,
    head: Head,
    reads_all: bool,
) -> Result<Option<Collection>, ClientError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Position {
        epoch: Epoch,
        revision: Revision,
        change_set: Option<IgnoredAny>,
    }
    let mut found = Collection {
        oldest: head.oldest,
        newest: head.revision,
        changes: BTreeMap::new(),
    };
    let mut missing = 0;
    let mut since = head.oldest.saturating_sub(1);
    while since < head.revision && missing < MAX_MISSING {
        let page = publisher
            .collection_page(&head.collection, since, head.epoch, CHANGES)
            .await;
        let page: FeedPage<Box<RawValue>> = match page {
            Ok(page) => page,
            Err(error) if error.kind() == Some(ProblemKind::FeedGone) => {
                let now = publisher.head(&head.collection).await?;
                if now.epoch != head.epoch {
                    return Ok(None);
                }
                if now.oldest > since + 1 {
                    // Retention removed it meanwhile.
                    found.oldest = now.oldest;
                    since = now.oldest - 1;
                } else {
                    since += 1;
                    missing += 1;
                }
                continue;
            }
            Err(error) => return Err(error),
        };
        let before = since;
        for item in page.items {
            // What cannot be read is missing.
            let Ok(Position {
                epoch,
                revision,
                change_set,
            }) = serde_json::from_str(item.get())
            else {
                continue;
            };
            since = since.max(revision);
            if let Ok(digest) = AuditedChange::digest_of_json(item.get().as_bytes()) {
                let is_whole = reads_all || change_set.is_none();
                let logged = Logged { digest, is_whole };
                found.changes.insert((epoch, revision), logged);
            }
        }
        if since == before {
            since += 1;
            missing += 1;
        }
    }
    found.newest = found.newest.min(since);
    Ok(Some(found))
}
