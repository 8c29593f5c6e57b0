//! The keys: the private key of a publisher, and the public keys of a replica. They are read from
//! PEM texts as OpenSSL writes them. A private key is never shown. Nothing here reads a file.

use std::fmt;

use ed25519_dalek::{
    Signature, Signer as _, SigningKey as Ed25519Key, VerifyingKey,
    pkcs8::{
        DecodePrivateKey as _, DecodePublicKey as _, EncodePrivateKey as _, EncodePublicKey as _,
        KeypairBytes, spki::der::pem::LineEnding,
    },
};
use sha2::{Digest as _, Sha256};

use super::{EventSignature, KeyId, Statement};

/// Public keys of a replica, at most.
pub const MAX_KEYS: usize = 16;
/// What ends each public key in a PEM text (RFC 7468 section 13).
const END: &str = "-----END PUBLIC KEY-----";
/// What begins a public key.
const BEGIN: &str = "-----BEGIN PUBLIC KEY-----";

/// Why a text is no key. It quotes nothing of the text, which may be a private key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is no private key.
    #[error(
        "it is no Ed25519 private key in PEM, as `openssl genpkey -algorithm ed25519` writes it"
    )]
    NotPrivate,
    /// It has something that is no public key.
    #[error(
        "its public key {0} is no Ed25519 public key in PEM, as `openssl pkey -pubout` writes it"
    )]
    NotPublic(usize),
    /// It has none.
    #[error("it has no public key in PEM (`-----BEGIN PUBLIC KEY-----`)")]
    NoKeys,
    /// It has too many.
    #[error("it has more than {MAX_KEYS} public keys")]
    TooMany,
    /// It has a private key, which no replica may have.
    #[error("it has a private key; only publishers may have one")]
    HasPrivate,
}

/// The private key of a publisher.
#[derive(Clone)]
pub struct SigningKey {
    id: KeyId,
    key: Ed25519Key,
}

impl SigningKey {
    /// The key with this seed (RFC 8032 section 5.1.5): 32 bytes from the random numbers of the
    /// system.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self::of(Ed25519Key::from_bytes(seed))
    }

    fn of(key: Ed25519Key) -> Self {
        Self {
            id: key_id(&key.verifying_key()),
            key,
        }
    }

    /// The key of a PEM text (PKCS #8, RFC 8410).
    ///
    /// # Errors
    /// When the text is no private key of Ed25519.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        Ed25519Key::from_pkcs8_pem(text)
            .map(Self::of)
            .map_err(|_quotes_nothing| KeyError::NotPrivate)
    }

    /// The private key as a PEM text, which OpenSSL reads as well.
    ///
    /// # Errors
    /// Never in practice.
    pub fn to_pem(&self) -> Result<String, KeyError> {
        // Without the public key (version 1), because OpenSSL 3 reads no version 2.
        let bytes = KeypairBytes {
            secret_key: self.key.to_bytes(),
            public_key: None,
        };
        let text = bytes.to_pkcs8_pem(LineEnding::LF);
        text.map(|text| text.to_string())
            .map_err(|_quotes_nothing| KeyError::NotPrivate)
    }

    /// The name of the key pair.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The public key alone.
    pub fn public(&self) -> PublicKeys {
        PublicKeys(vec![(self.id, self.key.verifying_key())])
    }

    /// The signature of a statement. It is the same each time (RFC 8032 section 5.1.6).
    pub fn sign(&self, statement: &Statement<'_>) -> EventSignature {
        EventSignature {
            key: self.id,
            bytes: self.key.sign(&statement.encode()).to_bytes(),
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.id)
    }
}

/// The public keys whose signatures count, in the order of their text; none twice.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKeys(Vec<(KeyId, VerifyingKey)>);

/// Why the origin of an event is not proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnprovenEvent {
    /// It has no signature, or none of the right form.
    #[error("it has no signature")]
    Unsigned,
    /// Its signature names a key that is not known.
    #[error("its signature is of the key {0}, which is not among the public keys")]
    UnknownKey(KeyId),
    /// Its signature is not of this event, or of another key pair.
    #[error("its signature of the key {0} is not of this event")]
    WrongSignature(KeyId),
}

impl UnprovenEvent {
    /// All words of [`UnprovenEvent::as_str`].
    pub const WORDS: [&str; 3] = ["unsigned", "unknown-key", "wrong-signature"];

    /// The word for status, metrics and dead letters.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unsigned => "unsigned",
            Self::UnknownKey(_) => "unknown-key",
            Self::WrongSignature(_) => "wrong-signature",
        }
    }
}

impl PublicKeys {
    /// The keys of a PEM text: one `PUBLIC KEY` after the other, with any text between them.
    ///
    /// # Errors
    /// When it has no key, more than [`MAX_KEYS`], a weak one, or a private one.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        if text.contains("PRIVATE KEY-----") {
            return Err(KeyError::HasPrivate);
        }
        let mut keys = Self(Vec::new());
        for (index, piece) in text.split_inclusive(END).enumerate() {
            let Some(begin) = piece.find(BEGIN) else {
                // The text behind the last key; a key that only ends is none.
                if piece.contains(END) {
                    return Err(KeyError::NotPublic(index + 1));
                }
                continue;
            };
            let key = VerifyingKey::from_public_key_pem(&piece[begin..])
                .ok()
                // For such a key anybody can make signatures.
                .filter(|key| !key.is_weak())
                .ok_or(KeyError::NotPublic(index + 1))?;
            keys = keys.with(&Self(vec![(key_id(&key), key)]));
            if keys.0.len() > MAX_KEYS {
                return Err(KeyError::TooMany);
            }
        }
        if keys.0.is_empty() {
            return Err(KeyError::NoKeys);
        }
        Ok(keys)
    }

    /// The keys as a PEM text, with the id of each before it.
    ///
    /// # Errors
    /// Never in practice.
    pub fn to_pem(&self) -> Result<String, KeyError> {
        let mut text = String::new();
        for (index, (id, key)) in self.0.iter().enumerate() {
            let pem = key.to_public_key_pem(LineEnding::LF);
            let pem = pem.map_err(|_impossible| KeyError::NotPublic(index + 1))?;
            text.push_str(&format!("key {id}\n{pem}"));
        }
        Ok(text)
    }

    /// The ids of the keys.
    pub fn ids(&self) -> impl Iterator<Item = KeyId> + '_ {
        self.0.iter().map(|(id, _key)| *id)
    }

    /// These keys and others.
    #[must_use]
    pub fn with(mut self, others: &Self) -> Self {
        for (id, key) in &others.0 {
            if !self.0.iter().any(|(known, _key)| known == id) {
                self.0.push((*id, *key));
            }
        }
        self
    }

    /// The first of these keys.
    #[must_use]
    pub fn first(mut self, count: usize) -> Self {
        self.0.truncate(count);
        self
    }

    /// These keys without one.
    #[must_use]
    pub fn without(mut self, id: KeyId) -> Self {
        self.0.retain(|(known, _key)| *known != id);
        self
    }

    /// Whether a signature is of a statement, and made with one of the keys.
    ///
    /// # Errors
    /// When it is not, or there is none.
    pub fn verify(
        &self,
        statement: &Statement<'_>,
        signature: Option<&EventSignature>,
    ) -> Result<(), UnprovenEvent> {
        let EventSignature { key: id, bytes } = signature.ok_or(UnprovenEvent::Unsigned)?;
        let known = self.0.iter().find(|(known, _key)| known == id);
        let (_id, key) = known.ok_or(UnprovenEvent::UnknownKey(*id))?;
        // Strict: one signature for each statement, and no key of small order.
        key.verify_strict(&statement.encode(), &Signature::from_bytes(bytes))
            .map_err(|_wrong| UnprovenEvent::WrongSignature(*id))
    }
}

impl fmt::Debug for PublicKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.ids()).finish()
    }
}

fn key_id(key: &VerifyingKey) -> KeyId {
    let hash: [u8; 32] = Sha256::digest(key.as_bytes()).into();
    let mut id = [0; 8];
    id.copy_from_slice(&hash[..8]);
    KeyId(u64::from_be_bytes(id))
}
