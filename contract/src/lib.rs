//! The promise on the wire: what a publisher says and a subscriber understands.
//!
//! Reading order: [`ids`] (validated names and numbers), [`canonical`] (one spelling for every JSON
//! value), [`document`] and [`listing`], [`change`] (one record of the change log), [`context`]
//! (who asked for it), [`feed`] (how the log is followed), [`event`] (how a change travels),
//! [`head`] and [`snapshot`] (where a collection stands, and all of it), [`set`] (documents that
//! change together), [`fleet`] (replicas and publishers tell each other where they are), [`status`]
//! and [`problem`] (what people and programs read).
//!
//! With the feature `utoipa`, types describe themselves as JSON Schemas, for OpenAPI documents.
//!
//! This crate is pure: it never does I/O, never reads a clock, and knows no web framework,
//! database, runtime or SDK.

pub mod canonical;
pub mod change;
pub mod context;
pub mod document;
pub mod event;
pub mod feed;
pub mod fleet;
pub mod head;
pub mod ids;
pub mod listing;
pub mod problem;
#[cfg(feature = "utoipa")]
pub mod schema;
pub mod set;
pub mod sidecar;
pub mod snapshot;
pub mod status;

pub use canonical::{CanonicalJson, JsonError};
pub use change::{Change, ChangeSet, FeedPage, Operation, SetPart};
pub use context::Context;
pub use document::{Document, Written};
pub use event::EventData;
pub use head::{Head, Heads};
pub use ids::{CollectionName, Crc, Digest, DocumentId, Epoch, FormatError, Revision};
pub use problem::{Problem, ProblemKind};
