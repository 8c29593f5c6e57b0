//! The wire protocol: every type that publishers, replicas and their clients exchange.
//!
//! Reading order:
//! - [`ids`]: validated names and numbers; [`canonical`]: the canonical form of a JSON value;
//! - [`document`], [`listing`]: documents and lists of documents;
//! - [`change`], [`context`], [`set`], [`expected`]: the change log, the context of a request, change
//!   sets, and conditions of writes;
//! - [`history`], [`rollback`], [`named_snapshot`]: the past of documents, and the way back to it;
//! - [`head`], [`snapshot`]: the head of a collection, and a complete copy with its proof;
//! - [`feed`], [`event`], [`sidecar`]: how changes reach a replica;
//! - [`signature`]: the signatures of events, and the keys that make and check them;
//! - [`fleet`], [`status`], [`applied`]: check-ins, the status of a replica, and writes that wait for
//!   replicas;
//! - [`dead_letter`]: events that no replica took;
//! - [`references`]: what a document refers to, by its schema; [`problem`]: every error answer;
//! - [`access`]: rights, roles, and what a caller may do; [`audit`]: the log of who did what;
//! - [`formats`], [`release`]: the numbers of what is written and sent, and what a program says of itself;
//! - [`text`], [`sha256`], [`secret_url`], [`environment`], [`json_file`]: what all programs show and read alike.
//!
//! With the feature `utoipa`, the types describe themselves as JSON Schemas for OpenAPI documents.
//!
//! This crate is pure: it does no I/O, reads no clock, and depends on no web framework, database,
//! runtime or SDK.

pub mod access;
pub mod applied;
pub mod apply_delays;
pub mod audit;
pub mod canonical;
pub mod change;
pub mod context;
pub mod dead_letter;
pub mod document;
pub mod environment;
pub mod event;
pub mod expected;
pub mod feed;
pub mod fleet;
pub mod formats;
pub mod head;
pub mod history;
pub mod ids;
pub mod json_file;
pub mod lenient;
pub mod listing;
pub mod named_snapshot;
pub mod objects;
mod places;
pub mod problem;
pub mod proof;
pub mod references;
pub mod release;
pub mod repair;
pub mod rollback;
#[cfg(feature = "utoipa")]
pub mod schema;
pub mod secret_url;
pub mod secrets;
pub mod set;
pub mod sha256;
pub mod sidecar;
pub mod signature;
pub mod snapshot;
pub mod status;
pub mod text;
pub mod token;

pub use canonical::{CanonicalJson, JsonError};
pub use change::{Change, ChangeSet, FeedPage, Operation, SetPart};
pub use context::{Context, TraceParent};
pub use document::{Document, Written};
pub use event::EventData;
pub use expected::{Expected, Version};
pub use head::{Head, Heads, Replaced};
pub use ids::{CollectionName, Crc, Digest, DocumentId, Epoch, FormatError, Lineage, Revision};
pub use places::PlacesError;
pub use problem::{Problem, ProblemKind};
pub use proof::Proof;
pub use secret_url::SecretUrl;
