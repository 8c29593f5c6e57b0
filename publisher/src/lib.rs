//! The publisher: owns the configuration and tells everybody of every committed change.
//!
//! The way of a write, top to bottom: [`routes`] read the request, [`writer`] gathers it into a
//! group, [`fold`] decides, [`store`] commits documents, heads and change records in one
//! transaction, [`relay`] sends each change to the event [`manager`] until it is published.
//! [`feed`] tells those who follow the log live that it has grown.
//!
//! A service in Rust embeds it, and writes in units of work: [`unit`](mod@unit) has an example, and
//! hands its writes to the same [`writer`]. What holds for every change set, however it came, is in
//! [`members`].
//!
//! [`openapi`] describes the routes to other programs.
//!
//! A publisher holds no state of its own: any number of them may serve one store.

// The futures of the relay nest deeper than the default limit of 128.
#![recursion_limit = "256"]

pub mod api;
pub mod app;
pub mod decide;
pub mod embed;
pub mod fleet;
pub mod metrics;
pub mod outbox;
pub mod settings;
pub mod store;
pub mod transport;
pub mod write;

#[cfg(doctest)]
#[doc = include_str!("../../docs/publishing.md")]
mod documented {}
