//! The original of a dead letter: foreign bytes within their bound, as text where they are text.

use base64::{
    Engine, alphabet,
    engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD},
};
use serde::{Deserialize, Serialize};

use super::MAX_ORIGINAL;

/// An original as a letter carries it. At most one member is present; both are absent in lists, and
/// where no byte of it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Original {
    /// The bytes, when they are UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The bytes in base64 (RFC 4648 section 4), when they are not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "utoipa",
        schema(pattern = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$")
    )]
    pub base64: Option<String>,
}

/// The original is no base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("base64 is expected (RFC 4648 section 4)")]
pub struct OriginalError;

/// The first [`MAX_ORIGINAL`] bytes; of a text, up to the end of a character.
pub fn kept(original: &[u8]) -> &[u8] {
    let Some((first, _rest)) = original.split_at_checked(MAX_ORIGINAL) else {
        return original;
    };
    match std::str::from_utf8(first) {
        // The last character was cut.
        Err(error) if error.error_len().is_none() => &first[..error.valid_up_to()],
        _whole_or_no_text => first,
    }
}

impl Original {
    /// These bytes, at most [`MAX_ORIGINAL`] of them.
    pub fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(kept(bytes)) {
            Ok("") => Self::default(),
            Ok(text) => Self {
                text: Some(text.to_owned()),
                base64: None,
            },
            Err(_no_text) => Self {
                text: None,
                base64: Some(STANDARD.encode(kept(bytes))),
            },
        }
    }

    /// The bytes.
    ///
    /// # Errors
    /// When `base64` is none.
    pub fn bytes(&self) -> Result<Vec<u8>, OriginalError> {
        match (&self.text, &self.base64) {
            (Some(text), _) => Ok(text.as_bytes().to_vec()),
            (None, Some(encoded)) => decode(encoded),
            (None, None) => Ok(Vec::new()),
        }
    }
}

/// The bytes of a text in base64.
///
/// # Errors
/// When it is none.
pub fn decode(encoded: &str) -> Result<Vec<u8>, OriginalError> {
    // The bits after the last byte say nothing, and some encoders leave them as they are.
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
    );
    LENIENT.decode(encoded).map_err(|_invalid| OriginalError)
}
