//! The public keys of an issuer, from a JSON Web Key Set (RFC 7517).

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;

/// Most keys of a set.
const MAX_KEYS: usize = 64;
/// Largest set, in bytes.
pub(super) const MAX_SET: u64 = 256 << 10;

/// The keys of an issuer that verify signatures of tokens.
#[derive(Debug, Default)]
pub(super) struct Keys(Vec<Key>);

#[derive(Debug)]
struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

impl Keys {
    /// Reads a set. A key of another kind or for another use is left out.
    ///
    /// # Errors
    /// When it is no set, is too large, or has no key that can be used.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let set: Set = serde_json::from_slice(bytes)
            .map_err(|error| format!("it is no JSON Web Key Set: {error}"))?;
        if set.keys.len() > MAX_KEYS {
            return Err(format!("it has more than {MAX_KEYS} keys"));
        }
        let keys: Vec<_> = set.keys.into_iter().filter_map(key).collect();
        if keys.is_empty() {
            return Err("it has no key for RS256, ES256 or EdDSA".to_owned());
        }
        Ok(Self(keys))
    }

    /// The keys that may have signed a token with this header. A token without a key id is verified
    /// only where there is no choice.
    pub(super) fn find<'a>(
        &'a self,
        id: Option<&'a str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &'a DecodingKey> {
        let of_algorithm = self.0.iter().filter(move |key| key.algorithm == algorithm);
        let is_only = of_algorithm.clone().count() == 1;
        of_algorithm
            .filter(move |key| match id {
                Some(id) => key.id.as_deref() == Some(id),
                None => is_only,
            })
            .map(|key| &key.key)
    }
}

fn key(value: Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(value).ok()?;
    let common = &jwk.common;
    let is_for_signatures = common
        .public_key_use
        .as_ref()
        .is_none_or(|known| *known == PublicKeyUse::Signature)
        && common
            .key_operations
            .as_ref()
            .is_none_or(|known| known.contains(&KeyOperations::Verify));
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            Algorithm::ES256
        }
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            Algorithm::EdDSA
        }
        // A symmetric key in a set that anybody can read is no secret.
        _ => return None,
    };
    let named = common.key_algorithm.as_ref();
    let expected = match algorithm {
        Algorithm::RS256 => KeyAlgorithm::RS256,
        Algorithm::ES256 => KeyAlgorithm::ES256,
        _ => KeyAlgorithm::EdDSA,
    };
    if !is_for_signatures || named.is_some_and(|named| *named != expected) {
        return None;
    }
    Some(Key {
        id: common.key_id.clone(),
        algorithm,
        key: DecodingKey::from_jwk(&jwk).ok()?,
    })
}
