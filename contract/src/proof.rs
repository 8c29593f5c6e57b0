//! The proof that a revision was committed: a text that only the store can make and check.
//!
//! Every head and every change has one. A replica keeps the proof of the highest revision that it
//! knows and hands it back in its check-ins, so that a store which was restored can tell a lost
//! change from a claim. Nothing here makes or checks a proof: that needs the secret of the store.

use std::{fmt, str::FromStr};

use crate::ids::{Crc, FormatError, hex_32, strings};

/// Length of the authentication code, in bytes: HMAC-SHA256, truncated (RFC 2104 section 5).
pub const CODE_BYTES: usize = 16;

/// The proof of one committed revision: 40 lower-case hexadecimal digits, the checksum of the value
/// (zeros when there is none) and the authentication code over epoch, collection, revision and
/// checksum. Only the publishers of the store look into it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Proof {
    /// Checksum of the value of the change; 0 for a deletion, and where there is no change.
    pub crc: Crc,
    /// The authentication code.
    pub code: [u8; CODE_BYTES],
}

strings!(; numbers: Proof);

impl FromStr for Proof {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let parse = || {
            let (crc, digits) = text.split_at_checked(8)?;
            Some(Self {
                crc: crc.parse().ok()?,
                code: hex_32(digits)?.to_be_bytes(),
            })
        };
        parse().ok_or_else(|| FormatError::new("proof", text, "40 lower-case hexadecimal digits"))
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:032x}", self.crc, u128::from_be_bytes(self.code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_has_one_text_form() {
        let text = "00c0ffee000102030405060708090a0b0c0d0e0f";
        let proof: Proof = text.parse().expect("valid");
        assert_eq!((proof.crc, proof.code[15]), (Crc(0x00c0_ffee), 15));
        assert_eq!(proof.to_string(), text);
        let long = format!("{text}0");
        for bad in [
            "",
            &text[1..],
            &long,
            &text.to_uppercase(),
            &text.replace('0', "+"),
        ] {
            assert!(bad.parse::<Proof>().is_err(), "{bad}");
        }
        assert!("é".repeat(20).parse::<Proof>().is_err(), "not ASCII");
    }
}
