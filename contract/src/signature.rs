//! Signatures of events (Ed25519, RFC 8032): what is signed, and the text form of a signature.
//!
//! A publisher signs the [`Statement`] of a change when it writes the event; a replica that has the
//! public keys makes the same statement of what it received, and applies the change only when the
//! signature is of that statement. Everything that decides what a replica holds is part of the
//! statement. The envelope, `metadata`, `pubSubName`, `crc`, `time` and the context of the request
//! are not: they decide nothing, and intermediaries may add to them. Nothing here reads a file or
//! says what becomes of an event.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};

use crate::{
    canonical::CanonicalJson,
    change::{Change, ChangeSet, Operation},
    ids::{CollectionName, DocumentId, Epoch, FormatError, Revision, hex, strings},
    proof::Proof,
};

mod keys;

pub use keys::{KeyError, MAX_KEYS, PublicKeys, SigningKey, UnprovenEvent};

/// The first bytes of every statement: a signature of something else, made with the same key, is
/// never one of an event. The number is the version of the encoding.
pub const DOMAIN: &[u8] = b"confcast event 1\0";

/// The name of a key pair: the first 8 bytes of the SHA-256 of its public key, 16 lower-case
/// hexadecimal digits. It is made of the key, so no file has to name it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(u64);

/// The signature of an event: `<key id>.<base64url>`, 103 characters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct EventSignature {
    /// The key that made it.
    pub key: KeyId,
    /// Its bytes (RFC 8032 section 5.1.6).
    bytes: [u8; 64],
}

/// SHA-256 of the canonical text of a value: base64url without padding, 43 characters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ValueHash([u8; 32]);

strings!(; numbers: KeyId, EventSignature, ValueHash);

impl ValueHash {
    /// The hash of a value.
    pub fn of(value: &CanonicalJson) -> Self {
        Self(Sha256::digest(value.as_str()).into())
    }
}

/// What the signature of an event is of. Two statements that differ have different bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statement<'a> {
    /// The collection.
    pub collection: &'a CollectionName,
    /// The effect.
    pub op: Operation,
    /// The document.
    pub id: &'a DocumentId,
    /// The position in the collection.
    pub revision: Revision,
    /// The epoch of `revision`.
    pub epoch: Epoch,
    /// See [`Change::last_set`].
    pub last_set: Revision,
    /// The new value; `None` for a deletion. It is the same whether the event carries the value or
    /// only its hash.
    pub value: Option<ValueHash>,
    /// See [`Change::change_set`].
    pub change_set: Option<&'a ChangeSet>,
    /// See [`Change::proof`].
    pub proof: Option<Proof>,
}

impl<'a> Statement<'a> {
    /// The statement of a committed change.
    pub fn of(change: &'a Change) -> Self {
        Self {
            collection: &change.collection,
            op: change.op,
            id: &change.id,
            revision: change.revision,
            epoch: change.epoch,
            last_set: change.last_set,
            value: change.config_data.as_ref().map(ValueHash::of),
            change_set: change.change_set.as_ref(),
            proof: change.proof,
        }
    }

    /// The bytes that are signed: [`DOMAIN`], then each member in the order of the fields. Numbers
    /// are 8 bytes, little endian. A text is its length as a number and its bytes. A member that may
    /// be absent begins with a byte, 0 or 1. A change set is its id, the number of its parts, and the
    /// parts.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(512);
        bytes.extend_from_slice(DOMAIN);
        text(&mut bytes, self.collection.as_str());
        bytes.push(match self.op {
            Operation::Create => 1,
            Operation::Update => 2,
            Operation::Delete => 3,
        });
        text(&mut bytes, self.id.as_str());
        number(&mut bytes, self.revision);
        number(&mut bytes, self.epoch.lineage.into());
        number(&mut bytes, self.epoch.counter);
        number(&mut bytes, self.last_set);
        if let Some(ValueHash(hash)) = present(&mut bytes, self.value) {
            bytes.extend_from_slice(&hash);
        }
        if let Some(set) = present(&mut bytes, self.change_set) {
            text(&mut bytes, &set.id);
            number(&mut bytes, set.parts.len() as u64);
            for part in &set.parts {
                text(&mut bytes, part.collection.as_str());
                number(&mut bytes, part.first);
                number(&mut bytes, part.last);
            }
        }
        if let Some(proof) = present(&mut bytes, self.proof) {
            number(&mut bytes, proof.crc.0.into());
            bytes.extend_from_slice(&proof.code);
        }
        bytes
    }
}

fn number(bytes: &mut Vec<u8>, number: u64) {
    bytes.extend_from_slice(&number.to_le_bytes());
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    number(bytes, text.len() as u64);
    bytes.extend_from_slice(text.as_bytes());
}

fn present<T>(bytes: &mut Vec<u8>, member: Option<T>) -> Option<T> {
    bytes.push(member.is_some().into());
    member
}

impl FromStr for KeyId {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        hex(text, 16)
            .map(Self)
            .ok_or_else(|| FormatError::new("key id", text, "16 lower-case hexadecimal digits"))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for EventSignature {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let parse = || {
            let (key, signature) = text.split_once('.')?;
            Some(Self {
                key: key.parse().ok()?,
                bytes: base64url(signature)?,
            })
        };
        parse().ok_or_else(|| {
            FormatError::new(
                "signature",
                text,
                "a key id, a dot and 64 bytes in base64url",
            )
        })
    }
}

impl fmt::Display for EventSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.key, URL_SAFE_NO_PAD.encode(self.bytes))
    }
}

impl FromStr for ValueHash {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        base64url(text)
            .map(Self)
            .ok_or_else(|| FormatError::new("hash", text, "32 bytes in base64url"))
    }
}

impl fmt::Display for ValueHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

/// Exactly `N` bytes, in their one text form (RFC 4648 section 5, without padding).
fn base64url<const N: usize>(text: &str) -> Option<[u8; N]> {
    // Before it is decoded: a text may be megabytes long.
    let expected = (N * 4).div_ceil(3);
    (text.len() == expected)
        .then(|| URL_SAFE_NO_PAD.decode(text).ok())??
        .try_into()
        .ok()
}

#[cfg(test)]
mod tests;
