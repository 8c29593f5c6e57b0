//! Fuzz targets: one function for each decoder of bytes that a peer, a broker, a disk or a store can
//! choose. Each takes any bytes and panics when a promise is broken.
//!
//! A promise is more than "no panic": what is read is written and read again as the same, two ways to
//! read agree, and what is shown has no secret. The engine that chooses the bytes is in
//! `tests/targets.rs`. Nothing here is part of a service.

#[cfg(feature = "services")]
mod callers;
mod credentials;
mod disk;
mod events;
mod requests;
#[cfg(feature = "services")]
mod services;
mod texts;

#[cfg(feature = "services")]
pub use callers::{authorization, claims, credential_files, issuer_keys};
pub use credentials::{audit, keys};
pub use disk::{image, image_proven, keyring, sealed};
pub use events::event_data;
pub use requests::{
    change_set, check_in, dead_letter, feed, history, problem, rollback, schema, snapshot,
};
#[cfg(feature = "services")]
pub use services::{cloud_event, redis_channel};
pub use texts::{canonical, escaped, names, secret_url};

use std::fmt::Debug;

// With coverage every binary needs libFuzzer to be linked, also the one of the tests of this library.
#[cfg(test)]
use bolero as _;
use contract::objects;
use serde::{Serialize, de::DeserializeOwned};

/// Reads a value strictly, writes it and reads it again: both are the same. The value, when it could
/// be read.
fn again<T: DeserializeOwned + Serialize + PartialEq + Debug>(json: &[u8]) -> Option<T> {
    let first: T = objects::from_slice(json).ok()?;
    let written = serde_json::to_vec(&first).expect("what was read can be written");
    let second: T = objects::from_slice(&written).unwrap_or_else(|error| {
        let written = String::from_utf8_lossy(&written);
        panic!("what was written cannot be read: {error}: {written}")
    });
    assert_eq!(first, second, "written and read again");
    Some(first)
}
