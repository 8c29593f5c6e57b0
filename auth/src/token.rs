//! The text of a bearer token: how it is made, recognised and hashed.
//!
//! A token is `cct_` and 48 characters of base64url (RFC 4648 section 5) without padding: 32 random
//! bytes and their CRC-32C. The checksum proves nothing; it finds a token that was cut or mistyped,
//! and tells a scanner for secrets that a text is a token. Nothing here knows which tokens are valid.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use contract::token::{PREFIX, TokenHash};
use sha2::{Digest, Sha256};

/// Random bytes of a token.
const RANDOM: usize = 32;
/// Bytes of its checksum.
const CHECKSUM: usize = 4;

/// A token in plain text. It is shown once, to the caller that made it.
pub struct SecretToken(String);

impl SecretToken {
    /// A new token from the random generator of the operating system.
    pub fn generate() -> Self {
        Self::of(&rand::random())
    }

    fn of(random: &[u8; RANDOM]) -> Self {
        let checksum = crc32c::crc32c(random).to_be_bytes();
        let bytes = [&random[..], &checksum].concat();
        Self(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// The token as text, where it is handed over.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The hash that is kept of it.
    pub fn hash(&self) -> TokenHash {
        hash(&self.0)
    }
}

/// Without the token.
impl fmt::Debug for SecretToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretToken({})", self.hash().id())
    }
}

/// Whether a text has the form of a token, with the right checksum.
pub(crate) fn is_well_formed(text: &str) -> bool {
    let decoded = text
        .strip_prefix(PREFIX)
        .and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
    decoded.is_some_and(|bytes| {
        bytes.len() == RANDOM + CHECKSUM
            && bytes[RANDOM..] == crc32c::crc32c(&bytes[..RANDOM]).to_be_bytes()
    })
}

/// SHA-256 of a token. No slow hash is needed: what is hashed are 256 random bits, which nobody can
/// try out, and no password.
pub(crate) fn hash(token: &str) -> TokenHash {
    let hex = Sha256::digest(token.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>();
    hex.parse().expect("64 hexadecimal digits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_its_form_and_no_two_are_the_same() {
        let (one, other) = (SecretToken::generate(), SecretToken::generate());
        assert_ne!(one.expose(), other.expose());
        assert!(is_well_formed(one.expose()) && one.expose().len() == 52);
        assert!(!format!("{one:?}").contains(one.expose()));
    }

    #[test]
    fn a_token_that_was_cut_or_mistyped_is_recognised() {
        let token = SecretToken::of(&[7; RANDOM]).0;
        assert!(is_well_formed(&token));
        let mut mistyped = token.clone();
        mistyped.replace_range(10..11, if &token[10..11] == "a" { "b" } else { "a" });
        for wrong in [&token[..51], &token[1..], &mistyped, "cct_", ""] {
            assert!(!is_well_formed(wrong), "{wrong}");
        }
    }
}
