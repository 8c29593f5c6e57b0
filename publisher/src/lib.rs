//! The publisher: owns the configuration, and publishes an event for every committed change.
//!
//! A service in Rust embeds it: build a [`Publisher`] from [`Settings`], and write in units of work
//! ([`embed`], with an example). The program `publisher` is the same with the HTTP API. Everything
//! else in this crate is private.
//!
//! A write passes these modules, in this order:
//!
//! 1. `api` reads an HTTP request, or [`embed`] takes changes from the same process.
//! 2. `write` checks change sets, queues the command, and commits the queue in groups.
//! 3. `decide` holds the rules: which changes a group makes of the stored documents.
//! 4. `store` commits documents, heads and change records in one transaction.
//! 5. `outbox` sends each committed change to the `transport` until it is published.
//!
//! A publisher holds no state of its own outside the store: any number of publishers may serve one
//! MongoDB.

#![allow(
    unreachable_pub,
    reason = "the private modules are the boundary; `pub` inside them means: for other modules"
)]

mod api;
mod app;
mod audit;
mod dead_letters;
mod decide;
pub mod embed;
mod feed_watch;
mod fleet;
mod metrics;
mod outbox;
mod policy;
mod probe;
mod repair;
mod rollback;
mod schema_folder;
mod secret_rotation;
mod settings;
mod store;
mod token_watch;
mod transport;
mod write;

pub use app::Publisher;
pub use outbox::retention::RetentionPolicy;
pub use settings::{Args, Events, Settings, TransportSettings};
pub use store::StoreUrl;

/// Internals that the benchmark compares with: no part of the public interface.
#[doc(hidden)]
pub mod bench_support;

#[cfg(doctest)]
#[doc = include_str!("../../docs/publishing.md")]
mod documented {}
