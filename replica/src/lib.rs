//! The configuration of a service, held in its memory and kept in step with a publisher.
//!
//! Reading order: [`Replica`] (the handle), [`view`] (what readers see, and how far it may be trusted), `intake` (what
//! becomes of an event), `unrevisioned` (events of a publisher that follows the source document only), `origin` (the
//! publisher as a client sees it), `sync` (the loop that loads, compares and heals).
//!
//! This crate gives futures and spawns nothing: whoever embeds it runs [`Replica::run`] under its own supervision. It
//! serves no HTTP and knows no web framework, broker or sidecar.

mod answer;
mod error;
mod intake;
mod list;
mod origin;
mod replica;
mod sync;
mod unrevisioned;
pub mod view;
mod writer;

use std::{collections::BTreeSet, time::Duration};

use contract::CollectionName;
pub use reqwest::{Url, header::HeaderValue};
pub use state::{Collection, Root};

pub use answer::Answer;
pub use error::OriginError;
pub use replica::Replica;
pub use view::View;

/// What a replica must be told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the replica in status and logs.
    pub instance: String,
    /// The collections it follows.
    pub collections: BTreeSet<CollectionName>,
    /// Where publishers answer, tried in turn. A path in it (a Dapr invocation URL) is kept.
    pub publishers: Vec<Url>,
    /// The longest time between two readings of the heads.
    pub check_in: Duration,
    /// What a sidecar asks callers of its API for; sent to publishers behind a Dapr invocation URL and to nobody else.
    /// Mark it sensitive, so that it is never shown.
    pub sidecar_token: Option<HeaderValue>,
}

#[cfg(test)]
mod tests;
