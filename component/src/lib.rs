//! The Dapr component: the configuration as `pubsub.confcast`, without a broker, and as `state.confcast`.
//!
//! It is a subscriber (crate `subscriber`: a replica behind HTTP) with one more door: a gRPC service on
//! a socket, which a sidecar finds when it starts. Reading order: [`settings`], [`app`], `door` (the
//! methods), `pubsub` (subscriptions and publishing), `state`, `instances` (whether it can work).
//!
//! It decides nothing about changes: the replica and the publishers do.

pub mod app;
mod door;
mod init;
mod instances;
pub mod proto;
mod publisher;
mod pubsub;
pub mod settings;
pub mod socket;
mod state;
mod status;
