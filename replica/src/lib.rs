//! The configuration of a service, held in memory and kept in step with a publisher.
//!
//! ```toml
//! [dependencies]
//! replica = { path = "../confcast/replica" }
//! serde = { version = "1", features = ["derive"] }
//! tokio = { version = "1", features = ["macros", "rt-multi-thread", "signal"] }
//! ```
//!
//! A collection has a type. Reads come from memory and have values as soon as the first load is done:
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
//!     // The replica follows until this future ends; a service would serve here until it is stopped.
//!     let service = async {
//!         // An error when documents do not fit the type; it names them.
//!         replica.ready().await?;
//!         println!("dark mode: {}", flags.get("dark-mode").is_some_and(|flag| flag.enabled));
//!         Ok(tokio::signal::ctrl_c().await?)
//!     };
//!     replica.run(service).await
//! }
//! ```
//!
//! `AURA_CONFIGURATION_COLLECTIONS=FeatureFlags target/debug/publisher` is a publisher for it.
//! Changes come by its live feed, within milliseconds; what the feed missed comes with the check-ins,
//! at most ten seconds apart. [`Config::events`] sets another source: mount the routes that a sidecar
//! calls (`actix`, with the feature of that name), pass events yourself ([`Replica::receive`]), take
//! them from Redis (feature `redis`), or have none.
//!
//! Handlers are notified of the whole collection first, then of each change with the value before and
//! after:
//!
//! ```
//! use replica::{BuildError, Builder, Config, ReplicaState, Update};
//!
//! # #[derive(serde::Deserialize)]
//! # struct Flag { enabled: bool }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BuildError> {
//! let config = Config::new("my-service-1", ["http://127.0.0.1:1"], ["FeatureFlags"])?;
//! let replica = Builder::new(config)
//!     // The name ends with the collection that the handler is notified of.
//!     .handler("AuditFeatureFlags", |update: Update<Flag>| async move {
//!         match update {
//!             Update::Resync(all) => println!("{} flags at revision {}", all.len(), all.revision()),
//!             Update::Changed(change) => println!("{:?} {}: {}", change.op, change.id, change.revision),
//!         }
//!         // After an error the next notification of this handler is a resync.
//!         Ok(())
//!     })?
//!     .build()?;
//!
//! // No publisher answers there, so the replica stays in the state loading.
//! let mut states = replica.states();
//! let duration = tokio::time::Duration::from_millis(20);
//! replica.run(tokio::time::sleep(duration)).await;
//! assert_eq!(*states.borrow_and_update(), ReplicaState::Loading);
//!
//! // An error says how to fix it.
//! let error = replica.collection::<Flag>("Flags").expect_err("it is not followed");
//! assert!(error.to_string().contains("to the builder"));
//! # Ok(())
//! # }
//! ```
//!
//! Reading order: [`Replica`] (the handle), [`Config`], [`Builder`], `cache` (owns all state: the
//! writer, the [`View`] that readers see, the newest changes of each collection), `source` (what the
//! publishers are asked for), `intake` (how events come in, what becomes of them, and what is
//! counted), `sync` (the loop: check-in, catch-up, load), `persist` (the last known good
//! configuration on disk), `typed` (values of the service's own types, and handlers), and with the
//! feature `redis` `document` (a replica of one document).
//!
//! This crate returns futures and spawns no task: the service runs [`Replica::run`] under its own
//! supervision. Without its feature `actix` it serves no HTTP and depends on no web framework.

mod builder;
mod cache;
mod change_traces;
mod config;
#[cfg(feature = "redis")]
pub mod document;
mod failure_log;
mod freshness;
#[cfg(feature = "actix")]
#[doc(hidden)]
pub mod fuzz_support;
mod intake;
mod persist;
mod replica;
mod source;
mod sync;
mod typed;

#[cfg(feature = "redis")]
pub use broker;
pub use builder::{BuildError, Builder};
pub use cache::{ChangeBuffer, View};
pub use client::{ClientFiles, CredentialError, CredentialSettings, Credentials, TokenSource};
pub use config::{Config, Events, Follow};
pub use contract::signature::PublicKeys;
pub use contract::{DocumentId, Operation, SecretUrl, status::ReplicaState};
pub use freshness::NotFresh;
#[cfg(feature = "actix")]
pub use intake::dapr as actix;
pub use intake::{EventKeys, EventKeysError, EventOutcome};
pub use persist::CopyOnDisk;
pub use replica::Replica;
pub use reqwest::{Url, header::HeaderValue};
pub use secrets::{KeyProvider, SecretKeys, provider::KeysError};
pub use source::SourceError;
pub use state::{CollectionState as RawCollection, Root};
pub use typed::{
    Collection, DocumentChange, FirstLoad, HandlerError, NotReady, PartialLoad, Pin, Secret,
    SecretStore, Snapshot, Update,
};

#[cfg(test)]
mod tests;
