//! The audit log: records of who did what, each chained to the one before it by a hash.
//!
//! An [`Entry`] says what happened. [`Entry::seal`] makes a record of it at the end of a chain: its
//! digest is the SHA-256 of the record without it, and the next record carries that digest. So no
//! record can be changed, removed, inserted or moved without a trace in all later ones; what nothing
//! later names, the end of a chain, is held by [`Tip`]s that are kept elsewhere. [`verify`] checks.
//!
//! A record has never a value of a document, never a token and never a key. Nothing here stores a
//! record or reads a clock.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use event::{AuditEvent, AuditedChange, AuditedOperation, Refusal, WriteDetail};

use crate::{
    canonical::{CanonicalJson, JsonError},
    ids::{FormatError, strings},
    sha256::Sha256,
};

mod event;
#[cfg(test)]
mod tests;
pub mod verify;

/// Most records of a page of the audit log.
pub const PAGE: usize = 1_000;
/// Bytes of records of a page, approximately.
pub const PAGE_BYTES: usize = 1 << 20;
/// Most tips that the first record of a chain names.
pub const MAX_TIPS: usize = 64;
/// Longest text of an actor that a record has, in bytes; a longer one is cut.
pub const MAX_ACTOR: usize = 256;
/// The actor of what a service does that embeds the publisher.
pub const EMBEDDED: &str = "embedded";
/// The actor of what a publisher does by itself.
pub const PUBLISHER: &str = "publisher";

/// What the hash of a record begins with, so that it is the hash of nothing else.
pub(crate) const DOMAIN: &[u8] = b"confcast audit record 1\n";
/// The member of a record that its hash leaves out.
const DIGEST: &str = "digest";

/// Names a chain: 1 to 64 lower-case letters, digits and hyphens. Those that a publisher makes sort by
/// the time at which they began.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(transparent)]
#[cfg_attr(feature = "utoipa", schema(value_type = String, min_length = 1, max_length = 64))]
pub struct ChainId(String);

strings!(ChainId; numbers:);

impl ChainId {
    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ChainId {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let valid = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'-');
        if (1..=64).contains(&text.len()) && text.bytes().all(valid) {
            return Ok(Self(text.to_owned()));
        }
        let expected = "1 to 64 lower-case letters, digits and hyphens";
        Err(FormatError::new("audit chain", text, expected))
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A record of a chain, by its digest. A tip that is kept outside of the store proves that no record up
/// to it was removed or replaced.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Tip {
    /// The chain.
    pub chain: ChainId,
    /// The position of the record in it, from 1.
    pub sequence: u64,
    /// The digest of the record.
    #[cfg_attr(feature = "utoipa", schema(value_type = String))]
    pub digest: Sha256,
}

/// Answer to `GET /v1/audit/tips`: the newest record of each chain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Tips {
    /// Whether records are written now.
    pub enabled: bool,
    /// One for each chain, in the order of the chains.
    pub tips: Vec<Tip>,
    /// Whether the store has one chain for all publishers. Another one begins with a reason then.
    #[serde(default)]
    pub one_chain: bool,
    /// What retention leaves; absent where no records are written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<AuditRetention>,
}

/// What the retention of the audit log leaves, by the settings of the publisher that answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct AuditRetention {
    /// Days after which records are removed; 0 = they are kept.
    pub keep_days: u32,
    /// Bytes of records that are kept at most.
    pub keep_bytes: u64,
}

/// What [`AuditPage`] has in the place of a row of the store that is not the record of its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DamagedRow {
    /// Which row, and what is wrong with it.
    pub damaged: String,
    /// The text that it has.
    pub text: String,
}

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum AuditOutcome {
    /// It was done.
    Done,
    /// The caller may not do it.
    Refused,
    /// It failed, or its outcome is not known.
    Failed,
}

/// What happened, not yet in a chain.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// When, by the clock of the publisher.
    pub time: DateTime<Utc>,
    /// The caller whose name was proven; [`EMBEDDED`] or [`PUBLISHER`] where there is none.
    pub actor: String,
    /// The user that the caller named.
    pub user: Option<String>,
    /// The correlation id of the request.
    pub correlation_id: Option<String>,
    /// How it ended.
    pub outcome: AuditOutcome,
    /// What it was.
    pub event: AuditEvent,
}

impl Entry {
    /// Something that an actor did.
    pub fn done(time: DateTime<Utc>, actor: impl Into<String>, event: AuditEvent) -> Self {
        Self {
            time,
            actor: actor.into(),
            user: None,
            correlation_id: None,
            outcome: AuditOutcome::Done,
            event,
        }
    }

    /// The record of this entry after `last`, or the first one of a chain.
    ///
    /// # Errors
    /// When it has no JSON form; no entry of a publisher is like that.
    pub fn seal(&self, chain: &ChainId, last: Option<&Tip>) -> Result<SealedRecord, JsonError> {
        let record = Unsealed {
            chain,
            sequence: last.map_or(0, |tip| tip.sequence) + 1,
            time: self.time,
            actor: cut(&self.actor),
            user: self.user.as_deref().map(cut),
            correlation_id: self.correlation_id.as_deref(),
            outcome: self.outcome,
            event: &self.event,
            previous: last.map_or(Sha256::ZERO, |tip| tip.digest),
        };
        let sequence = record.sequence;
        let mut value = serde_json::to_value(record).map_err(|error| JsonError {
            pointer: String::new(),
            reason: error.to_string(),
        })?;
        let digest = digest(&CanonicalJson::of(&value)?);
        if let Value::Object(members) = &mut value {
            members.insert(DIGEST.to_owned(), digest.to_string().into());
        }
        Ok(SealedRecord {
            text: CanonicalJson::of(&value)?,
            tip: Tip {
                chain: chain.clone(),
                sequence,
                digest,
            },
        })
    }
}

/// A record as it is stored: its text and what the next one is chained to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedRecord {
    /// The record, [`AuditRecord`], in canonical form.
    pub text: CanonicalJson,
    /// Its position and digest.
    pub tip: Tip,
}

/// An entry with its place in a chain.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Unsealed<'a> {
    chain: &'a ChainId,
    sequence: u64,
    time: DateTime<Utc>,
    actor: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<&'a str>,
    outcome: AuditOutcome,
    #[serde(flatten)]
    event: &'a AuditEvent,
    previous: Sha256,
}

/// The longest beginning of a text that an actor may have.
fn cut(text: &str) -> &str {
    let mut end = MAX_ACTOR.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn digest(without_digest: &CanonicalJson) -> Sha256 {
    Sha256::of(&[DOMAIN, without_digest.as_str().as_bytes()])
}

/// A record of the audit log as it is read. Kinds and details of later versions are read as well.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct AuditRecord {
    /// The chain.
    pub chain: ChainId,
    /// Its position in the chain, from 1, without a gap.
    pub sequence: u64,
    /// When it happened, by the clock of the publisher. Nothing is ordered by it.
    pub time: DateTime<Utc>,
    /// The caller whose name was proven, for example `token:deploy` or `anonymous`; `embedded` for a
    /// service that embeds the publisher, `publisher` for what a publisher does by itself.
    pub actor: String,
    /// The user that the caller named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The correlation id of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// How it ended.
    pub outcome: AuditOutcome,
    /// What it was, for example `write` or `refusal`.
    pub kind: String,
    /// More about it, by kind.
    #[serde(default)]
    #[cfg_attr(feature = "utoipa", schema(value_type = std::collections::BTreeMap<String, serde_json::Value>))]
    pub detail: Value,
    /// The digest of the record before it; zeros in the first one.
    #[cfg_attr(feature = "utoipa", schema(value_type = String))]
    pub previous: Sha256,
    /// SHA-256 of `confcast audit record 1`, a line feed and the canonical form of the record without
    /// this member.
    #[cfg_attr(feature = "utoipa", schema(value_type = String))]
    pub digest: Sha256,
}

impl AuditRecord {
    /// Its place and digest.
    pub fn tip(&self) -> Tip {
        Tip {
            chain: self.chain.clone(),
            sequence: self.sequence,
            digest: self.digest,
        }
    }
}

/// Where the next page of the audit log begins: after a record. As text `<chain>:<sequence>`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AuditCursor {
    /// The chain; all later ones follow.
    pub chain: ChainId,
    /// The record.
    pub sequence: u64,
}

strings!(; numbers: AuditCursor);

impl FromStr for AuditCursor {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let parsed = text.split_once(':').and_then(|(chain, sequence)| {
            Some(Self {
                chain: chain.parse().ok()?,
                sequence: sequence.parse().ok()?,
            })
        });
        parsed.ok_or_else(|| FormatError::new("audit position", text, "<chain>:<sequence>"))
    }
}

impl fmt::Display for AuditCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.chain, self.sequence)
    }
}

/// A page of the audit log: `GET /v1/audit`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct AuditPage<T = AuditRecord> {
    /// The records, by chain and position. A record is as it is stored. A row that is not the record of
    /// its place is an object of `damaged`, in words, and `text`.
    pub items: Vec<T>,
    /// `after` of the next page; absent on the last one. A page may be empty and have a next one: a
    /// request reads a bounded number of records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "utoipa", schema(value_type = Option<String>))]
    pub next: Option<AuditCursor>,
}
