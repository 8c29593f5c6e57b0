//! A SHA-256 hash (FIPS 180-4) as 64 lower-case hexadecimal digits.
//!
//! It names bytes that an attacker must not be able to replace. [`crate::Crc`] and [`crate::Digest`]
//! find faults and no attacks. Nothing here keeps a secret.

use std::{fmt, str::FromStr};

use sha2::Digest as _;

use crate::ids::{FormatError, strings};

/// A SHA-256 hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256(pub [u8; 32]);

impl Sha256 {
    /// All zeros: the hash of nothing that exists.
    pub const ZERO: Self = Self([0; 32]);

    /// The hash of some parts, one after the other. A caller that hashes several texts has to make sure
    /// that their limits are unambiguous.
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut hash = sha2::Sha256::new();
        for part in parts {
            hash.update(part);
        }
        Self(hash.finalize().into())
    }
}

strings!(; numbers: Sha256);

impl FromStr for Sha256 {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let parse = || {
            let valid = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            if text.len() != 64 || !text.bytes().all(valid) {
                return None;
            }
            let mut hash = [0; 32];
            for (byte, at) in hash.iter_mut().zip((0..64).step_by(2)) {
                *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
            }
            Some(Self(hash))
        };
        parse().ok_or_else(|| FormatError::new("SHA-256", text, "64 lower-case hexadecimal digits"))
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first vector is of FIPS 180-4.
    #[test]
    fn a_hash_has_one_text_form() {
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let hash = Sha256::of(&[b"a", b"bc"]);
        assert_eq!(hash.to_string(), text);
        assert_eq!(text.parse(), Ok(hash));
        for bad in ["", &text[1..], &text.to_uppercase(), &"é".repeat(32)] {
            assert!(bad.parse::<Sha256>().is_err(), "{bad}");
        }
    }
}
