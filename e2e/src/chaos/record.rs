//! Every request of the campaign with the token of its value, its times and its outcome.
//!
//! It records and never judges. A token stands for exactly one request, so every value that a
//! reader sees leads to one entry.

use serde::Serialize;

use super::{observations::SeenValue, past::PastReading};
use crate::testbed::SCHEMA_FREE;

/// Milliseconds since the campaign began.
pub type Millis = u64;

/// Documents per collection. Number 0 is never deleted, so that no collection may ever look empty.
pub const DOCUMENTS: u8 = 30;
/// Number of all documents.
pub const SLOTS: usize = SCHEMA_FREE.len() * DOCUMENTS as usize;

/// Names a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct DocumentKey {
    /// Index of its collection in [`SCHEMA_FREE`].
    pub collection: u8,
    /// Its number there.
    pub number: u8,
}

impl DocumentKey {
    /// All documents, in the order of [`Self::slot`].
    pub fn all() -> impl Iterator<Item = Self> {
        let numbers = |collection| (0..DOCUMENTS).map(move |number| Self { collection, number });
        (0..SCHEMA_FREE.len() as u8).flat_map(numbers)
    }

    /// Its index in a [`super::observations::DocumentTable`].
    pub fn slot(self) -> usize {
        usize::from(self.collection) * usize::from(DOCUMENTS) + usize::from(self.number)
    }

    /// Its collection.
    pub fn collection(self) -> &'static str {
        SCHEMA_FREE[usize::from(self.collection)]
    }

    /// Its id.
    pub fn id(self) -> String {
        format!("d{:02}", self.number)
    }

    /// The key of a collection and an id, if the campaign writes such a document.
    pub fn parse(collection: &str, id: &str) -> Option<Self> {
        let collection = SCHEMA_FREE.iter().position(|name| *name == collection)? as u8;
        let number = id
            .strip_prefix('d')?
            .parse()
            .ok()
            .filter(|number| *number < DOCUMENTS)?;
        Some(Self { collection, number })
    }

    /// Whether it is never deleted.
    pub fn is_anchor(self) -> bool {
        self.number == 0
    }
}

impl std::fmt::Display for DocumentKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.collection(), self.id())
    }
}

/// Outcome of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Outcome {
    /// Not answered yet.
    Open,
    /// 2xx: the write is durable.
    Acked,
    /// Certainly not done: 4xx, or a 503 with a problem that says so.
    Refused,
    /// Possibly done: no answer, or an answer that does not say.
    Unknown,
}

/// One document of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct WrittenDocument {
    /// The document.
    pub key: DocumentKey,
    /// The request deletes it. Otherwise it writes a value with the token of the request.
    pub deletes: bool,
    /// The revision of the write, when it was acknowledged.
    pub revision: Option<u64>,
    /// Token of the value that a rollback gave back, when it is known.
    pub restored: Option<u64>,
}

/// One request.
#[derive(Debug, Clone, Serialize)]
pub struct Write {
    /// Kind of request: `put`, `set`, and so on.
    pub what: &'static str,
    /// Number of the client.
    pub writer: usize,
    /// When it was sent.
    pub started: Millis,
    /// When its outcome was known.
    pub ended: Option<Millis>,
    /// What it was told.
    pub outcome: Outcome,
    /// The HTTP status; 0 if there was no answer.
    pub status: u16,
    /// The documents that it changes, in order. Of a rollback without a certain outcome: all that it
    /// may have changed.
    pub members: Vec<WrittenDocument>,
    /// Whether it gives documents earlier values back: its own token is then no value.
    pub is_rollback: bool,
}

/// A named snapshot.
#[derive(Debug, Clone, Serialize)]
pub struct NamedState {
    /// Its name, which no other one has.
    pub name: String,
    /// When the request that makes it was sent.
    pub started: Millis,
    /// When it was acknowledged.
    pub ended: Millis,
    /// When the request that deletes it was sent.
    pub deleting: Option<Millis>,
}

/// A restore of the database from a dump.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Restore {
    /// When the dump began. It has every write that was acknowledged before.
    pub dumped: Millis,
    /// When the restore was complete. Writes that are sent afterwards remain.
    pub restored: Millis,
    /// Counter of the epoch that the restore ended. This epoch and all earlier ones are abandoned.
    pub ended: u64,
}

/// A row of the store that was changed by other means than a publisher.
#[derive(Debug, Clone, Serialize)]
pub struct SpoiltRow {
    /// The document, or one beside the row that nobody wrote.
    pub key: DocumentKey,
    /// When.
    pub at: Millis,
    /// What was done.
    pub what: String,
    /// What a reader would see of it, which was never committed; `None` if the row cannot be read.
    pub wrong: Option<SeenValue>,
}

/// A document that was read through a publisher while its row was spoilt.
#[derive(Debug, Clone, Serialize)]
pub struct Probe {
    /// The document.
    pub key: DocumentKey,
    /// When the request was sent.
    pub sent: Millis,
    /// When its answer arrived.
    pub got: Millis,
    /// The path of the request.
    pub path: String,
    /// The answer.
    pub answer: ProbeAnswer,
}

/// An answer to a probe.
#[derive(Debug, Clone, Serialize)]
pub enum ProbeAnswer {
    /// A value, or that there is none.
    Value(Option<SeenValue>),
    /// It says that a row is damaged, and which.
    Named,
    /// Another answer.
    Other(String),
}

/// All requests. The token of a request is its index.
#[derive(Debug, Default, Serialize)]
pub struct WriteRecord {
    /// The requests.
    pub writes: Vec<Write>,
    /// The restores.
    pub restores: Vec<Restore>,
    /// The number of restores before each epoch, as far as it was observed.
    pub epochs: Vec<(String, usize)>,
    /// The rows that were spoilt.
    pub spoilt: Vec<SpoiltRow>,
    /// What publishers answered meanwhile, of this round.
    pub probes: Vec<Probe>,
    /// The acknowledged named snapshots.
    pub snapshots: Vec<NamedState>,
    /// What publishers answered about the past, of this round.
    pub past: Vec<PastReading>,
}

impl WriteRecord {
    /// Records a request before it is sent. Returns its token.
    pub fn begin(
        &mut self,
        what: &'static str,
        writer: usize,
        started: Millis,
        members: impl IntoIterator<Item = (DocumentKey, bool)>,
    ) -> u64 {
        let members = members
            .into_iter()
            .map(|(key, deletes)| WrittenDocument {
                key,
                deletes,
                revision: None,
                restored: None,
            })
            .collect();
        let outcome = Outcome::Open;
        self.writes.push(Write {
            what,
            writer,
            started,
            ended: None,
            outcome,
            status: 0,
            members,
            is_rollback: false,
        });
        self.writes.len() as u64 - 1
    }

    /// Records a rollback before it is sent, with all documents that it may change.
    pub fn begin_rollback(
        &mut self,
        what: &'static str,
        writer: usize,
        started: Millis,
        keys: impl IntoIterator<Item = DocumentKey>,
    ) -> u64 {
        // Whether a document is deleted, only the answer says.
        let token = self.begin(
            what,
            writer,
            started,
            keys.into_iter().map(|key| (key, true)),
        );
        self.writes[token as usize].is_rollback = true;
        token
    }

    /// Records what an acknowledged rollback did: each document with its new revision, and the
    /// revision whose value it has again, unless it was deleted.
    pub fn rolled_back(&mut self, token: u64, changed: &[(DocumentKey, u64, Option<u64>)]) {
        let members = changed
            .iter()
            .map(|(key, revision, restored)| WrittenDocument {
                key: *key,
                deletes: restored.is_none(),
                revision: Some(*revision),
                restored: restored.and_then(|restored| self.token_at(*key, restored)),
            });
        let members = members.collect();
        self.writes[token as usize].members = members;
    }

    /// Token of the value that a revision gave a document, as far as it was acknowledged.
    fn token_at(&self, key: DocumentKey, revision: u64) -> Option<u64> {
        // A restored database uses the revisions after its dump again, so what it may have lost is
        // left out.
        let may_be_lost = |write: &Write| {
            let ended = write.ended.unwrap_or(Millis::MAX);
            let mut restores = self.restores.iter();
            restores.any(|it| write.started < it.restored && ended > it.dumped)
        };
        let writes = self.writes.iter().enumerate().rev();
        let mut writes = writes.filter(|(_, write)| !may_be_lost(write));
        writes.find_map(|(token, write)| {
            let mut members = write.members.iter();
            let member = members.find(|it| it.key == key && it.revision == Some(revision))?;
            if write.is_rollback {
                Some(member.restored)
            } else {
                Some(Some(token as u64))
            }
        })?
    }

    /// Records the outcome of a request; `revisions` are in the order of its documents.
    pub fn end(
        &mut self,
        token: u64,
        ended: Millis,
        status: u16,
        outcome: Outcome,
        revisions: &[u64],
    ) {
        let write = &mut self.writes[token as usize];
        (write.ended, write.outcome, write.status) = (Some(ended), outcome, status);
        for (member, revision) in write.members.iter_mut().zip(revisions) {
            member.revision = Some(*revision);
        }
    }

    /// Number of requests with an outcome.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.writes
            .iter()
            .filter(|write| write.outcome == outcome)
            .count()
    }
}
