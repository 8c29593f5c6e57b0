//! The configuration of a service, held in its memory and kept in step with a publisher.
//!
//! ```toml
//! [dependencies]
//! replica = { path = "../confcast/replica" }
//! serde = { version = "1", features = ["derive"] }
//! tokio = { version = "1", features = ["macros", "rt-multi-thread", "signal"] }
//! ```
//!
//! A collection has a type. What is read comes from memory, and is there as soon as the first load
//! is:
//!
//! ```no_run
//! use replica::{Builder, Config};
//! use serde::Deserialize;
//!
//! #[derive(Deserialize)]
//! struct Flag {
//!     enabled: bool,
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let config = Config::new("my-service-1", ["http://127.0.0.1:8080"], ["FeatureFlags"])?;
//!     let replica = Builder::new(config).collection::<Flag>("FeatureFlags")?.build()?;
//!     let flags = replica.collection::<Flag>("FeatureFlags")?;
//!
//!     // It follows until this is over; a service would serve here until it is asked to stop.
//!     let service = async {
//!         replica.ready().await;
//!         println!("dark mode: {}", flags.get("dark-mode").is_some_and(|flag| flag.enabled));
//!         tokio::signal::ctrl_c().await
//!     };
//!     Ok(replica.run(service).await?)
//! }
//! ```
//!
//! `AURA_CONFIGURATION_COLLECTIONS=FeatureFlags target/debug/publisher` is a publisher for it.
//! Changes come by its live feed, within milliseconds, and what a feed missed comes with the
//! check-ins, ten seconds apart at most. Other ways are set in [`Config::events`]: mount the routes
//! that a sidecar calls (`actix`, with the feature of that name), hand events over
//! yourself ([`Replica::receive`]), take them from Redis (feature `redis`), or have none.
//!
//! Handlers are told everything first, then each change with the value before and after:
//!
//! ```
//! use replica::{Builder, Config, Event, Mistake, ReplicaState};
//!
//! # #[derive(serde::Deserialize)]
//! # struct Flag { enabled: bool }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Mistake> {
//! let config = Config::new("my-service-1", ["http://127.0.0.1:1"], ["FeatureFlags"])?;
//! let replica = Builder::new(config)
//!     // The end of its name says what it is told of.
//!     .handler("AuditFeatureFlags", |event: Event<Flag>| async move {
//!         match event {
//!             Event::Resync(all) => println!("{} flags at revision {}", all.len(), all.revision()),
//!             Event::Change(change) => println!("{:?} {}: {}", change.op, change.id, change.revision),
//!         }
//!         // An error leads to another resync, after a while, for this handler alone.
//!         Ok(())
//!     })?
//!     .build()?;
//!
//! // Nobody publishes there, and nothing is made up: it says that it is loading for as long as that is so.
//! let mut states = replica.states();
//! let looked = tokio::time::Duration::from_millis(20);
//! replica.run(tokio::time::sleep(looked)).await;
//! assert_eq!(*states.borrow_and_update(), ReplicaState::Loading);
//!
//! // A mistake is told before anything runs, with its mend.
//! let mistake = replica.collection::<Flag>("Flags").expect_err("it is not followed");
//! assert!(mistake.to_string().contains("to the builder"));
//! # Ok(())
//! # }
//! ```
//!
//! Reading order: [`Replica`] (the handle), [`Builder`], [`view`] (what readers see, and how far it
//! may be trusted), `typed` (the same as values of the service's own types), `handlers` (who is
//! told of changes), `intake` (what becomes of an event), `unrevisioned` (events of a publisher
//! that follows the source document only), `origin` (the publisher as a client sees it), `sync`
//! (the loop), `check_in` (say where it is, hear where everything stands), `healing` (deltas and
//! loads), `keeping` and `disk` (last known good), `arrivals` (deaf and competing intakes), `ring`
//! (the newest changes, for those who follow this replica), `live` (the feed of another, followed),
//! `redis` (events that are fetched) and `document` (a replica of one document), both with the
//! feature `redis`, `actix` (the routes that a sidecar calls), with that feature.
//!
//! This crate gives futures and spawns nothing: whoever embeds it runs [`Replica::run`] under its
//! own supervision. Unless its feature `actix` is on it serves no HTTP and knows no web framework
//! or sidecar.

#[cfg(feature = "actix")]
pub mod actix;
mod answer;
mod arrivals;
mod builder;
mod check_in;
mod disk;
#[cfg(feature = "redis")]
pub mod document;
mod error;
mod handlers;
mod healing;
mod intake;
mod keeping;
mod list;
mod live;
mod origin;
#[cfg(feature = "redis")]
mod redis;
mod replica;
mod ring;
mod shown;
mod sync;
mod typed;
mod unrevisioned;
pub mod view;
mod writer;

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

pub use answer::Answer;
#[cfg(feature = "redis")]
pub use broker;
pub use builder::{Builder, Mistake};
use contract::CollectionName;
pub use contract::{DocumentId, Operation, status::ReplicaState};
pub use error::OriginError;
pub use handlers::{Change, Event, HandlerError};
pub use replica::Replica;
pub use reqwest::{Url, header::HeaderValue};
pub use ring::Ring;
pub use state::{CollectionState as RawCollection, Root};
pub use typed::{Collection, Pin, Snapshot};
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
    /// Where this replica answers, when publishers and operators may know.
    pub base_url: Option<Url>,
    /// The longest time between two check-ins.
    pub check_in: Duration,
    /// Where events come from.
    pub events: Events,
    /// Where the last known good is kept; nowhere when it is `None`.
    pub snapshot_dir: Option<PathBuf>,
    /// What a sidecar asks callers of its API for; sent to publishers behind a Dapr invocation URL
    /// and to nobody else. Mark it sensitive, so that it is never shown.
    pub sidecar_token: Option<HeaderValue>,
    /// What callers of this replica's event route must know, as `dapr-api-token`. It is sent with
    /// every check-in, so that a publisher that posts events itself knows a subscriber from
    /// anybody who has opened a port. Mark it sensitive.
    pub app_token: Option<HeaderValue>,
}

/// Where events come from.
#[derive(Debug, Clone)]
pub enum Events {
    /// Nowhere: changes are heard of at the check-in.
    None,
    /// Whoever embeds the replica hands them over ([`Replica::receive`]): a sidecar or a publisher
    /// posts them.
    Posted,
    /// The replica follows the live feed of its publishers, or of another subscriber.
    Feed,
    /// The replica takes them straight from Redis.
    #[cfg(feature = "redis")]
    Redis(Box<broker::RedisConfig>),
}

#[cfg(test)]
mod tests;
