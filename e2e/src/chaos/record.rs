//! What was written: every request with its value's token, when it went out, when and how it was
//! answered.
//!
//! It records and never judges. A token stands for exactly one request, so whatever a reader sees
//! leads to one entry.

use serde::Serialize;

use crate::testbed::SCHEMA_FREE;

/// Milliseconds since the campaign began.
pub type Millis = u64;

/// Documents per collection; number 0 is never deleted, so that no collection may ever look empty.
pub const DOCUMENTS: u8 = 30;
/// Places in a table by document.
pub const SLOTS: usize = SCHEMA_FREE.len() * DOCUMENTS as usize;

/// A document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct DocumentKey {
    /// Place of its collection in [`SCHEMA_FREE`].
    pub collection: u8,
    /// Its number there.
    pub number: u8,
}

impl DocumentKey {
    /// All of them, by [`Self::slot`].
    pub fn all() -> impl Iterator<Item = Self> {
        let numbers = |collection| (0..DOCUMENTS).map(move |number| Self { collection, number });
        (0..SCHEMA_FREE.len() as u8).flat_map(numbers)
    }

    /// Its place in a table by document.
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

    /// The document of a collection and an id.
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

/// What a request was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Outcome {
    /// Nothing yet.
    Open,
    /// 2xx: it is durable.
    Acked,
    /// It was certainly not done: 4xx, or a 503 that says so.
    Refused,
    /// It may have been done: no answer, or one that does not know.
    Unknown,
}

/// One document of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct WrittenDocument {
    /// The document.
    pub key: DocumentKey,
    /// It goes; else it gets a value with the token of the request.
    pub deletes: bool,
    /// The revision it came to, when it was acknowledged.
    pub revision: Option<u64>,
}

/// A request.
#[derive(Debug, Clone, Serialize)]
pub struct Write {
    /// What sort: `put`, `set`, ….
    pub what: &'static str,
    /// Who sent it.
    pub writer: usize,
    /// When it went out.
    pub started: Millis,
    /// When its outcome was known.
    pub ended: Option<Millis>,
    /// What it was told.
    pub outcome: Outcome,
    /// The status, or 0 when there was none.
    pub status: u16,
    /// What it changes, in order.
    pub members: Vec<WrittenDocument>,
}

/// A dump of the database that was written back.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Restore {
    /// When the dump began: what was acknowledged before is in it.
    pub dumped: Millis,
    /// When all of it was back: what is sent afterwards stays.
    pub restored: Millis,
    /// The counter of the epoch that it ended: it, and all before it, are histories that were
    /// left.
    pub ended: u64,
}

/// All requests; the token of a request is its place.
#[derive(Debug, Default, Serialize)]
pub struct WriteRecord {
    /// The requests.
    pub writes: Vec<Write>,
    /// The restores.
    pub restores: Vec<Restore>,
    /// Which history each number of restores led to, as far as it was seen.
    pub epochs: Vec<(String, usize)>,
}

impl WriteRecord {
    /// Notes a request before it goes out; its token.
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
        });
        self.writes.len() as u64 - 1
    }

    /// Notes what a request was told; `revisions` in the order of its members.
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

    /// How many had this outcome.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.writes
            .iter()
            .filter(|write| write.outcome == outcome)
            .count()
    }
}
