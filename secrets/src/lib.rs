//! Sealing of secret values: the encryption of what `x-secret` marks in a schema.
//!
//! A sealed value is `{"$secret": "<text>"}` in its document ([`contract::secrets`]). [`sealed`] is
//! the text and its encryption, [`keys`] the keys of a process, [`exchange`] how they are made and
//! exchanged, [`provider`] where they come from, [`draft`] a document that is about to be sealed, and
//! [`document`] opens and wraps the sealed values of a whole document.
//!
//! Only [`provider`] does I/O. Nothing here knows a schema, decides who may read, or logs. Keys and
//! opened values are overwritten when they are dropped, as far as they are held here; a copy that a
//! caller makes is the caller's.

pub mod document;
pub mod draft;
pub mod exchange;
pub mod keys;
pub mod provider;
pub mod sealed;

pub use draft::Draft;
pub use keys::{KeyId, Keyring, KeyringError};
pub use provider::{KeyProvider, SecretKeys};
pub use sealed::{OpenError, Place, Plain, Sealed};

/// Fills a buffer with random bytes that nobody can predict.
pub type Entropy = fn(&mut [u8]);

/// The generator of the process, which the operating system seeds.
pub fn system_entropy(bytes: &mut [u8]) {
    rand::Rng::fill_bytes(&mut rand::rng(), bytes);
}
