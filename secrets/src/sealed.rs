//! A sealed value as text, and its encryption.
//!
//! ```text
//! v1.<key id>.<revision>.<wrapped data key>.<nonce>.<ciphertext>
//! ```
//!
//! Each value has a data key of its own, 32 random bytes. XChaCha20-Poly1305 encrypts the value with
//! the data key, and the data key with the key of the keyring that is named. Both are bound to the
//! place of the value, see [`Place`]: a text that is moved does not open. The binary parts are
//! base64url without padding (RFC 4648 section 5); the wrapped data key begins with its nonce.
//!
//! The value is its JSON, filled with spaces to a multiple of [`PADDING`] bytes, so that a text shows
//! the length of a password only roughly. Another encryption gets another version at the front.

use std::{fmt, str::FromStr};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use contract::{CollectionName, DocumentId, Revision};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::{
    Entropy,
    keys::{KEY_BYTES, KeyId, Keyring},
};

/// The version of the form and of the encryption.
const VERSION: &str = "v1";
/// A value is padded to a multiple of this, in bytes.
pub const PADDING: usize = 32;
/// Bytes of a nonce.
const NONCE_BYTES: usize = 24;
/// Bytes that the encryption adds.
const TAG_BYTES: usize = 16;
/// Bytes of a data key with its nonce and tag.
const WRAPPED_BYTES: usize = NONCE_BYTES + KEY_BYTES + TAG_BYTES;
/// Most bytes of a text: four times a document of the largest size is far beyond it.
const MAX_TEXT: usize = 16 << 20;

/// Where a value is sealed. It is authenticated with the value, so a text opens nowhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// The collection.
    pub collection: &'a CollectionName,
    /// The document.
    pub id: &'a DocumentId,
    /// JSON pointer (RFC 6901) to the value.
    pub pointer: &'a str,
}

impl Place<'_> {
    /// What is authenticated: each part with its length before it, so that no two places give the
    /// same bytes.
    fn associated(&self, purpose: &str, revision: Revision, key: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let parts = [
            purpose,
            self.collection.as_str(),
            self.id.as_str(),
            self.pointer,
            key,
        ];
        for part in parts {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part.as_bytes());
        }
        bytes.extend_from_slice(&revision.to_be_bytes());
        bytes
    }
}

/// A value in plain text, as JSON. It is overwritten when it is dropped, and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Plain(Zeroizing<String>);

impl Plain {
    /// The JSON of a value.
    pub fn of(value: &Value) -> Self {
        Self(Zeroizing::new(value.to_string()))
    }

    /// The JSON. What shows it is the responsibility of the caller.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The value.
    pub fn to_value(&self) -> Option<Value> {
        serde_json::from_str(&self.0).ok()
    }
}

impl fmt::Debug for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Plain")
    }
}

/// Why a value cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The text has not the form of a sealed value.
    #[error("it is no sealed value")]
    Form,
    /// It was sealed with a key that is not in the keyring.
    #[error("it is sealed with the key {0}, which this process does not have")]
    UnknownKey(KeyId),
    /// It was changed, or sealed for another place, or with another key of the same id.
    #[error("it was sealed for another document or place, or it was changed")]
    Refused,
}

/// A sealed value, read from its text and not opened.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed {
    key: KeyId,
    revision: Revision,
    wrapped: Vec<u8>,
    nonce: [u8; NONCE_BYTES],
    ciphertext: Vec<u8>,
}

impl Sealed {
    /// Seals a value with the active key. `revision` is that of the change which brings it.
    ///
    /// `None` when the value is larger than the encryption takes, which no document is.
    pub fn seal(
        plain: &Plain,
        place: Place<'_>,
        revision: Revision,
        keys: &Keyring,
        entropy: Entropy,
    ) -> Option<Self> {
        let mut data_key = Zeroizing::new([0; KEY_BYTES]);
        entropy(data_key.as_mut_slice());
        let mut nonce = [0; NONCE_BYTES];
        entropy(&mut nonce);
        let mut padded = Zeroizing::new(Vec::with_capacity(padded_len(plain.0.len())));
        padded.extend_from_slice(plain.0.as_bytes());
        padded.resize(padded_len(plain.0.len()), b' ');
        let associated = place.associated(VALUE, revision, "");
        let ciphertext = encrypt(&data_key, &nonce, &padded, &associated)?;
        let key = keys.active();
        Some(Self {
            wrapped: wrap(&data_key, key, place, revision, keys, entropy)?,
            key: key.clone(),
            revision,
            nonce,
            ciphertext,
        })
    }

    /// Opens the value.
    ///
    /// # Errors
    /// When it was not sealed for this place with a key of the keyring.
    pub fn open(&self, place: Place<'_>, keys: &Keyring) -> Result<Plain, OpenError> {
        let data_key = self.data_key(place, keys)?;
        let associated = place.associated(VALUE, self.revision, "");
        let padded = decrypt(&data_key, &self.nonce, &self.ciphertext, &associated)?;
        let text = std::str::from_utf8(&padded).map_err(|_error| OpenError::Refused)?;
        Ok(Plain(Zeroizing::new(text.trim_end_matches(' ').to_owned())))
    }

    /// The same value with its data key wrapped by the active key. The value itself is not opened.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn rewrap(
        &self,
        place: Place<'_>,
        keys: &Keyring,
        entropy: Entropy,
    ) -> Result<Self, OpenError> {
        let data_key = self.data_key(place, keys)?;
        let key = keys.active();
        let wrapped = wrap(&data_key, key, place, self.revision, keys, entropy);
        Ok(Self {
            wrapped: wrapped.ok_or(OpenError::Refused)?,
            key: key.clone(),
            ..self.clone()
        })
    }

    fn data_key(
        &self,
        place: Place<'_>,
        keys: &Keyring,
    ) -> Result<Zeroizing<[u8; KEY_BYTES]>, OpenError> {
        let key = keys.key(&self.key);
        let key = key.ok_or_else(|| OpenError::UnknownKey(self.key.clone()))?;
        let associated = place.associated(DATA_KEY, self.revision, self.key.as_str());
        let (nonce, wrapped) = self
            .wrapped
            .split_first_chunk::<NONCE_BYTES>()
            .ok_or(OpenError::Form)?;
        let data_key = decrypt(key, nonce, wrapped, &associated)?;
        let data_key = <[u8; KEY_BYTES]>::try_from(data_key.as_slice());
        data_key
            .map(Zeroizing::new)
            .map_err(|_length| OpenError::Refused)
    }

    /// The key that its data key is wrapped with.
    pub fn key(&self) -> &KeyId {
        &self.key
    }

    /// The revision of the change that brought the value.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Most bytes of the text of a value whose JSON has so many bytes.
    pub fn max_len(plain: usize) -> usize {
        // Version, dots, key id, revision; the rest as base64.
        let fixed = VERSION.len() + 5 + 32 + 20;
        let encoded = |bytes: usize| bytes.div_ceil(3) * 4;
        fixed
            + encoded(WRAPPED_BYTES)
            + encoded(NONCE_BYTES)
            + encoded(padded_len(plain) + TAG_BYTES)
    }
}

impl fmt::Display for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        write!(
            f,
            "{VERSION}.{}.{}.{}.{}.{}",
            self.key,
            self.revision,
            text(&self.wrapped),
            text(&self.nonce),
            text(&self.ciphertext)
        )
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({}, {})", self.key, self.revision)
    }
}

impl FromStr for Sealed {
    type Err = OpenError;

    fn from_str(text: &str) -> Result<Self, OpenError> {
        if text.len() > MAX_TEXT {
            return Err(OpenError::Form);
        }
        let parts: Vec<&str> = text.split('.').collect();
        let [VERSION, key, revision, wrapped, nonce, ciphertext] = parts.as_slice() else {
            return Err(OpenError::Form);
        };
        let bytes = |text: &str| {
            let bytes = BASE64_URL_SAFE_NO_PAD.decode(text);
            bytes.map_err(|_error| OpenError::Form)
        };
        let number: Revision = revision.parse().map_err(|_error| OpenError::Form)?;
        let wrapped = bytes(wrapped)?;
        let nonce = bytes(nonce)?
            .try_into()
            .map_err(|_length| OpenError::Form)?;
        // One text for one value: `+1` and `01` are not `1`.
        if number.to_string() != *revision || wrapped.len() != WRAPPED_BYTES {
            return Err(OpenError::Form);
        }
        Ok(Self {
            key: key.parse().map_err(|_error| OpenError::Form)?,
            revision: number,
            wrapped,
            nonce,
            ciphertext: bytes(ciphertext)?,
        })
    }
}

/// What the encryption of a value is for, so that no text of one purpose opens for another.
const VALUE: &str = "confcast-secret-value-1";
/// What the encryption of a data key is for.
const DATA_KEY: &str = "confcast-secret-data-key-1";

fn padded_len(plain: usize) -> usize {
    plain.max(1).div_ceil(PADDING) * PADDING
}

fn wrap(
    data_key: &Zeroizing<[u8; KEY_BYTES]>,
    id: &KeyId,
    place: Place<'_>,
    revision: Revision,
    keys: &Keyring,
    entropy: Entropy,
) -> Option<Vec<u8>> {
    let mut nonce = [0; NONCE_BYTES];
    entropy(&mut nonce);
    let associated = place.associated(DATA_KEY, revision, id.as_str());
    let encrypted = encrypt(keys.key(id)?, &nonce, data_key.as_slice(), &associated)?;
    Some([&nonce[..], &encrypted].concat())
}

fn encrypt(
    key: &[u8; KEY_BYTES],
    nonce: &[u8; NONCE_BYTES],
    message: &[u8],
    associated: &[u8],
) -> Option<Vec<u8>> {
    let cipher = XChaCha20Poly1305::new(key.into());
    let payload = Payload {
        msg: message,
        aad: associated,
    };
    cipher.encrypt(&XNonce::from(*nonce), payload).ok()
}

fn decrypt(
    key: &[u8; KEY_BYTES],
    nonce: &[u8; NONCE_BYTES],
    encrypted: &[u8],
    associated: &[u8],
) -> Result<Zeroizing<Vec<u8>>, OpenError> {
    let cipher = XChaCha20Poly1305::new(key.into());
    let payload = Payload {
        msg: encrypted,
        aad: associated,
    };
    let opened = cipher.decrypt(&XNonce::from(*nonce), payload);
    opened
        .map(Zeroizing::new)
        .map_err(|_error| OpenError::Refused)
}

#[cfg(test)]
mod tests;
