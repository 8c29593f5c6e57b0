//! The secret of a store, and the proofs that are made with it.
//!
//! A proof says that a revision was committed in an epoch. Only a holder of the secret can make one,
//! so a proof that a replica hands back is evidence, and any other claim is not. The secret is
//! created with the store, never leaves it through the API, and is restored with it. Nothing is
//! stored here.

use std::fmt;

use contract::{CollectionName, Crc, Epoch, Head, Proof, Replaced, Revision, proof::CODE_BYTES};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The first part of every message. Another form of the message gets another number.
const VERSION: &str = "confcast-proof-1";

/// Epoch, secret and earlier lineages of a store: what a transaction reads before anything else.
#[derive(Debug, Clone)]
pub struct StoreIdentity {
    /// The epoch that the store is in.
    pub epoch: Epoch,
    /// The secret that it was created with.
    pub secret: StoreSecret,
    /// The lineages that it had before.
    pub replaces: Replaced,
}

/// 32 random bytes that a store was created with.
#[derive(Clone)]
pub struct StoreSecret([u8; Self::BYTES]);

impl StoreSecret {
    /// Length of a secret, in bytes.
    pub const BYTES: usize = 32;

    /// A new secret, for a new store.
    pub fn generate() -> Self {
        // The generator of `rand` is seeded by the operating system and suits keys.
        Self(rand::random())
    }

    /// A stored secret.
    ///
    /// # Errors
    /// When it does not have [`Self::BYTES`] bytes.
    pub fn from_bytes(bytes: &[u8]) -> anyhow::Result<Self> {
        bytes
            .try_into()
            .map(Self)
            .map_err(|_length| anyhow::anyhow!("the secret of the store is not 32 bytes long"))
    }

    /// The secret as it is stored. Nothing else may show it.
    pub fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// The proof that `revision` of a collection was committed in `epoch`. `crc` is that of the value
    /// of the change, if it has one.
    pub fn prove(
        &self,
        epoch: Epoch,
        collection: &CollectionName,
        revision: Revision,
        crc: Option<Crc>,
    ) -> Proof {
        let crc = crc.unwrap_or(Crc(0));
        let full = self
            .message(epoch, collection, revision, crc)
            .finalize()
            .into_bytes();
        let mut code = [0; CODE_BYTES];
        code.copy_from_slice(&full[..CODE_BYTES]);
        Proof { crc, code }
    }

    /// The same head in the epoch `to`, with its proof there. The checksum of the newest change is
    /// kept.
    pub fn prove_head(&self, head: Head, to: Epoch) -> Head {
        let crc = head.proof.map(|proof| proof.crc);
        Head {
            epoch: to,
            proof: Some(self.prove(to, &head.collection, head.revision, crc)),
            ..head
        }
    }

    /// Whether a proof was made with this secret for exactly this epoch, collection and revision.
    /// It takes the same time whatever the code is.
    pub fn verifies(
        &self,
        epoch: Epoch,
        collection: &CollectionName,
        revision: Revision,
        proof: &Proof,
    ) -> bool {
        self.message(epoch, collection, revision, proof.crc)
            .verify_truncated_left(&proof.code)
            .is_ok()
    }

    fn message(
        &self,
        epoch: Epoch,
        collection: &CollectionName,
        revision: Revision,
        crc: Crc,
    ) -> Hmac<Sha256> {
        let mut message = <Hmac<Sha256> as KeyInit>::new_from_slice(&self.0)
            .expect("HMAC takes a key of any length (RFC 2104 section 2)");
        // No part can contain the separator, so no two messages are the same text.
        message.update(format!("{VERSION}\n{epoch}\n{collection}\n{revision}\n{crc}").as_bytes());
        message
    }
}

impl fmt::Debug for StoreSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreSecret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: Epoch = Epoch {
        lineage: 7,
        counter: 1,
    };

    fn name(text: &str) -> CollectionName {
        text.parse().expect("a name")
    }

    #[test]
    fn a_proof_verifies_for_its_own_position_only() {
        let secret = StoreSecret::generate();
        let a = name("A");
        let proof = secret.prove(EPOCH, &a, 12, Some(Crc(5)));
        assert!(secret.verifies(EPOCH, &a, 12, &proof));
        let next = Epoch {
            counter: 2,
            ..EPOCH
        };
        let other = Epoch {
            lineage: 8,
            ..EPOCH
        };
        assert!(!secret.verifies(next, &a, 12, &proof), "another epoch");
        assert!(!secret.verifies(other, &a, 12, &proof), "another lineage");
        assert!(!secret.verifies(EPOCH, &name("B"), 12, &proof));
        assert!(!secret.verifies(EPOCH, &a, 13, &proof));
        let crc = Proof {
            crc: Crc(6),
            ..proof
        };
        assert!(!secret.verifies(EPOCH, &a, 12, &crc), "another value");
        let other = StoreSecret::generate();
        assert!(!other.verifies(EPOCH, &a, 12, &proof), "another store");
    }

    #[test]
    fn a_secret_comes_back_from_its_bytes_and_is_never_shown() {
        let secret = StoreSecret::generate();
        let stored = StoreSecret::from_bytes(secret.as_bytes()).expect("32 bytes");
        let (a, none) = (name("A"), None);
        assert_eq!(
            stored.prove(EPOCH, &a, 0, none),
            secret.prove(EPOCH, &a, 0, none)
        );
        assert!(StoreSecret::from_bytes(&[0; 31]).is_err());
        assert_eq!(format!("{secret:?}"), "StoreSecret");
    }
}
