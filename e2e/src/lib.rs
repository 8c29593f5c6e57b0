//! Real parts for tests: MongoDB, Redis, Dapr sidecars and our own binaries, each on free ports in
//! a folder of its own, killed when dropped.
//!
//! Nothing here is a double of anything. A test never skips because a part is missing: [`parts`]
//! provides it.

pub mod chaos;
pub mod client;
pub mod environment;
pub mod follow;
pub mod mongod;
pub mod parts;
pub mod process;
pub mod redis;
pub mod services;
pub mod sidecar;
pub mod stage;
pub mod wait;
