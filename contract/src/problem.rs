//! Error answers of both services: RFC 9457 `application/problem+json`.
//!
//! [`ProblemKind`] is the whole list of problem types that a client may rely on. Each kind has one
//! URN, one title and one HTTP status, so a program matches on the kind and never on a text.
//! Nothing here sends or logs.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{
    access::Right,
    canonical::CanonicalJson,
    document::Document,
    history::ChangeNote,
    ids::{Crc, Revision},
    lenient,
    objects::present,
    references::DanglingReference,
};

/// Media type of a [`Problem`].
pub const MEDIA_TYPE: &str = "application/problem+json";

/// Prefix of every problem type.
const URN_PREFIX: &str = "urn:confcast:problem:";

/// An error answer. `type` is stable and made for programs; `detail` names the fault and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// `urn:confcast:problem:<kind>`.
    #[serde(rename = "type")]
    #[cfg_attr(feature = "utoipa", schema(value_type = String))]
    pub kind: ProblemKind,
    /// The kind in words, the same for every occurrence.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// This occurrence in words.
    pub detail: String,
    /// JSON pointer (RFC 6901) to the value at fault, when the fault is in the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// The parameter or header at fault, when the fault is outside the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Entity tag of the stored document, when a condition failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// The document that is there, when a condition failed or a document to be created exists; `null`
    /// when none is there.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    #[cfg_attr(feature = "utoipa", schema(value_type = Option<Current>))]
    pub current: Option<Current>,
    /// The change that the request conflicts with, when it is known: the newest of the document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_change: Option<Box<ChangeNote>>,
    /// The oldest revision of the collection that can still be answered, when an older one was asked
    /// for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<Revision>,
    /// Why a feed cannot continue: `trimmed`, `epoch` or `ahead`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Which member of a change set is at fault, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    /// Each rule of the schema that the document breaks, at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Violation>,
    /// The right that the caller lacks, when it may not do this.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient::text"
    )]
    #[cfg_attr(feature = "utoipa", schema(value_type = Option<String>))]
    pub right: Option<Right>,
    /// References that the refused write would leave without their document, at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<DanglingReference>,
}

/// Largest value that a problem repeats, in bytes of JSON.
pub const MAX_CURRENT: usize = 64 << 10;

/// What is there now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Current {
    /// Nothing; serialised as `null`.
    Absent,
    /// This document.
    Document(CurrentDocument),
}

// Not derived: an untagged enum buffers what it reads, and a value is read from its own text.
impl<'de> Deserialize<'de> for Current {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let document = Option::<CurrentDocument>::deserialize(deserializer)?;
        Ok(document.map_or(Self::Absent, Self::Document))
    }
}

/// A document that is there now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct CurrentDocument {
    /// Its revision.
    pub revision: Revision,
    /// Checksum of its value.
    pub crc: Crc,
    /// Its value; absent above 64 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_data: Option<CanonicalJson>,
}

impl Current {
    /// What is stored.
    pub fn of(stored: Option<&Document>) -> Self {
        let Some(stored) = stored else {
            return Self::Absent;
        };
        let is_shown = stored.config_data().len() <= MAX_CURRENT;
        let config_data = is_shown.then(|| stored.value().ok()).flatten();
        Self::Document(CurrentDocument {
            revision: stored.revision(),
            crc: stored.crc(),
            config_data,
        })
    }
}

/// One fault of several in a body (RFC 9457 section 3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct Violation {
    /// JSON pointer (RFC 6901) to the value at fault.
    pub pointer: String,
    /// The fault in words.
    pub detail: String,
}

impl Problem {
    /// A problem of a kind; the kind gives status and title.
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            title: kind.title().to_owned(),
            status: kind.status(),
            detail: detail.into(),
            pointer: None,
            field: None,
            etag: None,
            current: None,
            last_change: None,
            oldest: None,
            reason: None,
            index: None,
            right: None,
            errors: Vec::new(),
            references: Vec::new(),
        }
    }

    /// The same problem, with a pointer to a value in the body.
    #[must_use]
    pub fn at(mut self, pointer: impl Into<String>) -> Self {
        self.pointer = Some(pointer.into());
        self
    }

    /// The same problem, with the name of a parameter or header.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }
}

/// Every problem type, in one list.
///
/// Serialised as its URN. A URN that is not in this list is read as [`ProblemKind::Other`], so a
/// client of this version understands the answers of a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProblemKind {
    /// A path, query or header is not of its form.
    BadRequest,
    /// The body is not a document, or not of the form that the route takes.
    BadBody,
    /// A change set has a value where none belongs, lacks one, or names a document twice.
    BadSet,
    /// The token of the caller is missing or wrong.
    Unauthorized,
    /// The caller is not known: the request has no credential, or none that is accepted.
    Unauthenticated,
    /// The caller is known, and has no right for this.
    Forbidden,
    /// The request comes from a web page of another origin, which may not do this.
    ForeignOrigin,
    /// Nothing is served at the path.
    NoSuchRoute,
    /// The collection is not served here.
    UnknownCollection,
    /// The collection has no schema or no sample, or not in that version.
    NoSchema,
    /// The document does not exist (requirement A18).
    NoData,
    /// The collection does not have the requested revision yet.
    NoRevision,
    /// No snapshot has the name.
    NoSnapshot,
    /// The store has no token of this id that the caller may manage.
    NoToken,
    /// As many tokens exist as the limit allows.
    TokensFull,
    /// A token of other grants has this name.
    NameTaken,
    /// The change log has no change set of this id.
    NoSet,
    /// The publisher keeps no such dead letter.
    NoDeadLetter,
    /// The publisher of the collection has no revisions, so there is no head.
    Unversioned,
    /// The path does not have the method.
    MethodNotAllowed,
    /// The route has none of the media types that the client accepts.
    NotAcceptable,
    /// The head of a request did not arrive within its time limit.
    HeadLate,
    /// The body did not arrive within its time limit.
    BodyLate,
    /// The document to be created exists.
    Exists,
    /// Documents of the change set were changed since.
    ChangedSince,
    /// A snapshot of this name exists.
    SnapshotExists,
    /// As many snapshots exist as the limit allows.
    SnapshotsFull,
    /// The dead letter cannot be sent again.
    NotReplayable,
    /// The write would leave a reference to a document that does not exist.
    DanglingReference,
    /// A new epoch is not possible for this store.
    NotDeclared,
    /// The feed cannot continue from the given position without a gap.
    FeedGone,
    /// The past state that is asked for is no longer kept.
    NotKept,
    /// The document is not at the expected revision.
    ConditionFailed,
    /// The document or the body is over its size limit.
    TooLarge,
    /// The change set has too many changes or too many bytes.
    SetTooLarge,
    /// The body has another media type than the route takes.
    MediaType,
    /// The request is for a host name that this service does not have.
    UnknownHost,
    /// The head of a request is over its size limit.
    HeadTooLarge,
    /// The caller sends more requests than a limit allows.
    TooManyRequests,
    /// The document does not match the JSON Schema of its collection.
    Schema,
    /// The document has secrets, and the publisher has no key to seal or open them.
    NoSecretKey,
    /// A stored document cannot be decoded.
    Unreadable,
    /// A queue is full; nothing was done.
    Busy,
    /// The process is stopping; nothing was done.
    Stopping,
    /// The store did not commit, and this is certain.
    NotCommitted,
    /// The store did not say whether it committed.
    OutcomeUnknown,
    /// The store does not answer.
    StoreUnavailable,
    /// As many snapshots are being sent as the limit allows.
    LoadsUnderWay,
    /// As many feed streams are open as the limit allows.
    StreamsFull,
    /// A new epoch cannot be declared now; nothing was changed.
    NotDeclaredNow,
    /// The first load of the replica is not complete.
    Loading,
    /// No publisher confirmed the replica in time, and the settings say that this is not ready.
    Stale,
    /// The collection did not reach the revision that the request asks for in time.
    NotFresh,
    /// A type that this version does not know.
    Other,
}

impl ProblemKind {
    /// Every kind that this version sends.
    pub const ALL: &'static [Self] = &[
        Self::BadRequest,
        Self::BadBody,
        Self::BadSet,
        Self::Unauthorized,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::ForeignOrigin,
        Self::NoSuchRoute,
        Self::UnknownCollection,
        Self::NoSchema,
        Self::NoData,
        Self::NoRevision,
        Self::NoSnapshot,
        Self::NoToken,
        Self::TokensFull,
        Self::NameTaken,
        Self::NoSet,
        Self::NoDeadLetter,
        Self::Unversioned,
        Self::MethodNotAllowed,
        Self::NotAcceptable,
        Self::HeadLate,
        Self::BodyLate,
        Self::Exists,
        Self::ChangedSince,
        Self::SnapshotExists,
        Self::SnapshotsFull,
        Self::NotReplayable,
        Self::DanglingReference,
        Self::NotDeclared,
        Self::FeedGone,
        Self::NotKept,
        Self::ConditionFailed,
        Self::TooLarge,
        Self::SetTooLarge,
        Self::MediaType,
        Self::UnknownHost,
        Self::HeadTooLarge,
        Self::TooManyRequests,
        Self::Schema,
        Self::NoSecretKey,
        Self::Unreadable,
        Self::Busy,
        Self::Stopping,
        Self::NotCommitted,
        Self::OutcomeUnknown,
        Self::StoreUnavailable,
        Self::LoadsUnderWay,
        Self::StreamsFull,
        Self::NotDeclaredNow,
        Self::Loading,
        Self::Stale,
        Self::NotFresh,
    ];

    /// The last part of the URN.
    pub const fn as_str(self) -> &'static str {
        self.parts().0
    }

    /// HTTP status.
    pub const fn status(self) -> u16 {
        self.parts().1
    }

    /// The kind in words.
    pub const fn title(self) -> &'static str {
        self.parts().2
    }

    const fn parts(self) -> (&'static str, u16, &'static str) {
        match self {
            Self::BadRequest => ("bad-request", 400, "The request cannot be read"),
            Self::BadBody => ("bad-body", 400, "The body cannot be read"),
            Self::BadSet => ("bad-set", 400, "The change set is not valid"),
            Self::Unauthorized => ("unauthorized", 401, "Unauthorized"),
            Self::Forbidden => ("forbidden", 403, "A right is missing"),
            Self::Unauthenticated => ("unauthenticated", 401, "The caller is not known"),
            Self::ForeignOrigin => ("foreign-origin", 403, "Not for pages of this origin"),
            Self::NoSuchRoute => ("no-such-route", 404, "No such route"),
            Self::UnknownCollection => ("unknown-collection", 404, "Unknown collection"),
            Self::NoSchema => ("no-schema", 404, "No such schema"),
            Self::NoData => ("no-data", 404, "No such document"),
            Self::NoRevision => ("no-revision", 404, "No such revision"),
            Self::NoToken => ("no-token", 404, "No such token"),
            Self::TokensFull => ("tokens-full", 409, "Too many tokens"),
            Self::NameTaken => ("name-taken", 409, "The name is taken"),
            Self::NoSnapshot => ("no-snapshot", 404, "No such snapshot"),
            Self::NoSet => ("no-set", 404, "No such change set"),
            Self::NoDeadLetter => ("no-dead-letter", 404, "No such dead letter"),
            Self::Unversioned => ("unversioned", 404, "No revisions"),
            Self::MethodNotAllowed => ("method-not-allowed", 405, "Method not allowed"),
            Self::NotAcceptable => ("not-acceptable", 406, "No acceptable media type"),
            Self::HeadLate => ("head-late", 408, "The request is late"),
            Self::HeadTooLarge => (
                "head-too-large",
                431,
                "The head of the request is too large",
            ),
            Self::BodyLate => ("body-late", 408, "The body is late"),
            Self::Exists => ("exists", 409, "The document exists already"),
            Self::ChangedSince => ("changed-since", 409, "Documents were changed since"),
            Self::SnapshotExists => ("snapshot-exists", 409, "The snapshot exists already"),
            Self::SnapshotsFull => ("snapshots-full", 409, "Too many snapshots"),
            Self::NotReplayable => ("not-replayable", 409, "The dead letter stays as it is"),
            Self::DanglingReference => (
                "dangling-reference",
                409,
                "A reference would be without its document",
            ),
            Self::NotDeclared => ("not-declared", 409, "No epoch was declared"),
            Self::FeedGone => ("feed-gone", 410, "The feed cannot continue from there"),
            Self::NotKept => ("not-kept", 410, "The past is not kept"),
            Self::ConditionFailed => ("condition-failed", 412, "The condition does not hold"),
            Self::TooLarge => ("too-large", 413, "The body is too large"),
            Self::SetTooLarge => ("set-too-large", 413, "The change set is too large"),
            Self::MediaType => ("media-type", 415, "Unsupported media type"),
            Self::UnknownHost => ("unknown-host", 421, "Not a name of this service"),
            Self::TooManyRequests => ("too-many-requests", 429, "Too many requests"),
            Self::Schema => (
                "schema",
                422,
                "The schema of the collection refuses the document",
            ),
            Self::NoSecretKey => ("no-secret-key", 500, "A key for secrets is missing"),
            Self::Unreadable => ("unreadable", 500, "A stored document cannot be read"),
            Self::Busy => ("busy", 503, "Not possible right now"),
            Self::Stopping => ("stopping", 503, "Not possible right now"),
            Self::NotCommitted => ("not-committed", 503, "Not possible right now"),
            Self::OutcomeUnknown => ("outcome-unknown", 503, "Not possible right now"),
            Self::StoreUnavailable => ("store-unavailable", 503, "Not possible right now"),
            Self::LoadsUnderWay => ("loads-under-way", 503, "Not possible right now"),
            Self::StreamsFull => ("streams-full", 503, "Not possible right now"),
            Self::NotDeclaredNow => ("not-declared-now", 503, "No epoch was declared"),
            Self::Loading => ("loading", 503, "Loading"),
            Self::Stale => ("stale", 503, "Stale"),
            Self::NotFresh => ("not-fresh", 504, "The revision has not arrived"),
            Self::Other => ("other", 500, "Another problem"),
        }
    }
}

impl fmt::Display for ProblemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{URN_PREFIX}{}", self.as_str())
    }
}

impl FromStr for ProblemKind {
    type Err = ProblemTypeError;

    /// Reads a URN; an unknown one of this project is [`ProblemKind::Other`].
    fn from_str(urn: &str) -> Result<Self, Self::Err> {
        let name = urn.strip_prefix(URN_PREFIX).ok_or(ProblemTypeError)?;
        let known = Self::ALL.iter().find(|kind| kind.as_str() == name);
        Ok(known.copied().unwrap_or(Self::Other))
    }
}

/// The text is not a problem type of Confcast, so the answer comes from another program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a problem type of Confcast: it begins with {URN_PREFIX}")]
pub struct ProblemTypeError;

impl Serialize for ProblemKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ProblemKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let urn = String::deserialize(deserializer)?;
        urn.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_kind_is_read_back_from_its_urn() {
        for kind in ProblemKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(*kind));
        }
        let names: BTreeSet<_> = ProblemKind::ALL.iter().map(|kind| kind.as_str()).collect();
        assert_eq!(names.len(), ProblemKind::ALL.len());
    }

    #[test]
    fn what_is_there_now_is_read_back() {
        let document = CurrentDocument {
            revision: 8,
            crc: Crc(7),
            config_data: Some(CanonicalJson::parse(br#"{"a":1.50}"#).expect("JSON")),
        };
        for current in [Current::Document(document), Current::Absent] {
            let mut problem = Problem::new(ProblemKind::ConditionFailed, "it changed");
            problem.current = Some(current);
            let json = serde_json::to_string(&problem).expect("json");
            assert_eq!(serde_json::from_str::<Problem>(&json).ok(), Some(problem));
        }
    }

    #[test]
    fn an_unknown_kind_is_other_and_a_foreign_type_is_no_kind() {
        assert_eq!("urn:confcast:problem:new".parse(), Ok(ProblemKind::Other));
        assert_eq!("about:blank".parse::<ProblemKind>(), Err(ProblemTypeError));
    }
}
