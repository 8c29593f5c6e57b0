//! Validated names and numbers. A value of one of these types is valid and needs no other check.
//!
//! Every type is serialised as the string (or number) of the protocol. A text is checked once, when
//! it is parsed; nothing here depends on the context of a value.

use std::{fmt, marker::PhantomData, str::FromStr};

use serde::{Deserializer, Serialize, de::Visitor};
use smol_str::SmolStr;
use xxhash_rust::xxh3::xxh3_64;

/// Position of a change in its collection: 1 for the first, then one more for each change, without
/// gaps. 0 = empty.
pub type Revision = u64;

/// A text that does not have the form of its type. The message names the type and the expected
/// form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {given:?} is not valid: expected {expected}")]
pub struct FormatError {
    what: &'static str,
    given: String,
    expected: &'static str,
}

impl FormatError {
    /// The text, cut to the length that a message shows.
    pub fn given(&self) -> &str {
        &self.given
    }

    pub(crate) fn new(what: &'static str, given: &str, expected: &'static str) -> Self {
        // The text may be megabytes long; the message shows enough of it to recognise it.
        Self {
            what,
            given: given.chars().take(140).collect(),
            expected,
        }
    }
}

/// Name of a configuration collection, which is also its topic (requirement A5): a letter, then at
/// most 63 of `A-Z a-z 0-9 _`. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct CollectionName(SmolStr);

impl CollectionName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CollectionName {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let valid = text.len() <= 64
            && text.starts_with(|first: char| first.is_ascii_alphabetic())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if valid {
            Ok(Self(text.into()))
        } else {
            Err(FormatError::new(
                "collection",
                text,
                "a letter, then at most 63 of A-Z a-z 0-9 _",
            ))
        }
    }
}

impl fmt::Display for CollectionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Id of a document in its collection: 1 to 128 of `A-Z a-z 0-9 . _ : -`, but neither `.` nor `..`,
/// because clients remove these from a path (RFC 3986 section 5.2.4). Cloning is cheap. An id of up
/// to 23 bytes is stored in place, so comparing the ids of a map follows no pointers.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct DocumentId(SmolStr);

impl DocumentId {
    /// Longest id, in bytes.
    pub const MAX_LEN: usize = 128;

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A document can be looked up by the text of its id.
impl std::borrow::Borrow<str> for DocumentId {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for DocumentId {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl FromStr for DocumentId {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let valid = (1..=Self::MAX_LEN).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte))
            && !matches!(text, "." | "..");
        if valid {
            Ok(Self(text.into()))
        } else {
            Err(FormatError::new(
                "id",
                text,
                "1 to 128 of A-Z a-z 0-9 . _ : - but not . or ..",
            ))
        }
    }
}

impl fmt::Display for DocumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which history a revision belongs to: `<lineage>-<counter>`, for example `9f86d081-1`.
///
/// The lineage is generated once, when a store is initialised; the counter is then 1. When a restored
/// database is declared, the counter grows to at least the milliseconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch {
    /// Eight random hexadecimal digits that identify the store.
    pub lineage: u32,
    /// Counts the declared histories of the store, from 1.
    pub counter: u64,
}

impl Epoch {
    /// The lineage alone, as it is written in an epoch.
    pub fn lineage_name(self) -> Lineage {
        Lineage(self.lineage)
    }
}

/// The lineage of an [`Epoch`], alone: 8 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lineage(pub u32);

impl FromStr for Lineage {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        hex(text, 8)
            .map(|number| Self(number as u32))
            .ok_or_else(|| FormatError::new("lineage", text, "8 lower-case hexadecimal digits"))
    }
}

impl fmt::Display for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl FromStr for Epoch {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let parse = || {
            let (lineage, counter) = text.split_once('-')?;
            let epoch = Self {
                lineage: hex(lineage, 8)? as u32,
                counter: counter.parse().ok()?,
            };
            // `u64::parse` accepts a sign and leading zeroes; an epoch has one form only.
            counter
                .starts_with(|first: char| matches!(first, '1'..='9'))
                .then_some(epoch)
        };
        parse().ok_or_else(|| {
            FormatError::new(
                "epoch",
                text,
                "8 hexadecimal digits, a dash, and a number from 1",
            )
        })
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{}", self.lineage, self.counter)
    }
}

/// CRC-32C of a canonical JSON text, written as 8 lower-case hexadecimal digits. It detects damage
/// and says nothing about order.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Crc(pub u32);

impl Crc {
    /// The length of its text, in bytes.
    pub const LEN: usize = 8;

    /// The checksum of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(crc32c::crc32c(bytes))
    }
}

impl FromStr for Crc {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        hex(text, Self::LEN)
            .map(|number| Self(number as u32))
            .ok_or_else(|| FormatError::new("crc", text, "8 lower-case hexadecimal digits"))
    }
}

impl fmt::Display for Crc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// Order-independent sum over the live documents of a collection, written as 16 hexadecimal digits.
///
/// Each document contributes XXH3-64 (seed 0) of `id ‖ 0x00 ‖ revision u64 LE ‖ crc u32 LE`;
/// contributions are added and subtracted with wrapping arithmetic, so publisher and replica can
/// both keep it incrementally.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Digest(pub u64);

impl Digest {
    /// The digest with one more live document.
    #[must_use]
    pub fn with(self, id: &DocumentId, revision: Revision, crc: Crc) -> Self {
        Self(self.0.wrapping_add(contribution(id, revision, crc)))
    }

    /// The digest without a document that it holds.
    #[must_use]
    pub fn without(self, id: &DocumentId, revision: Revision, crc: Crc) -> Self {
        Self(self.0.wrapping_sub(contribution(id, revision, crc)))
    }
}

fn contribution(id: &DocumentId, revision: Revision, crc: Crc) -> u64 {
    let id = id.as_str().as_bytes();
    let mut bytes = [0; DocumentId::MAX_LEN + 13];
    let (text, rest) = bytes.split_at_mut(id.len());
    text.copy_from_slice(id);
    rest[1..9].copy_from_slice(&revision.to_le_bytes());
    rest[9..13].copy_from_slice(&crc.0.to_le_bytes());
    xxh3_64(&bytes[..id.len() + 13])
}

impl FromStr for Digest {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        hex(text, 16)
            .map(Self)
            .ok_or_else(|| FormatError::new("digest", text, "16 lower-case hexadecimal digits"))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Types that are strings of the protocol: read with `FromStr`, and shown with `Display` in messages
/// too. `numbers` are written with `Display`.
macro_rules! strings {
    ($($name:ty),*; numbers: $($number:ty),*) => {
        $(
            impl<'de> serde::Deserialize<'de> for $name {
                fn deserialize<D: serde::Deserializer<'de>>(
                    deserializer: D,
                ) -> Result<Self, D::Error> {
                    crate::ids::read(deserializer)
                }
            }

            impl std::fmt::Debug for $name {
                fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    std::fmt::Display::fmt(self, f)
                }
            }
        )*
        $(
            $crate::ids::strings!($number; numbers:);

            impl serde::Serialize for $number {
                fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    serializer.collect_str(self)
                }
            }
        )*
    };
}
pub(crate) use strings;

strings!(CollectionName, DocumentId; numbers: Lineage, Epoch, Crc, Digest);

/// Parses a string without copying it first.
pub(crate) fn read<'de, D: Deserializer<'de>, T: FromStr<Err = FormatError>>(
    deserializer: D,
) -> Result<T, D::Error> {
    struct Text<T>(PhantomData<T>);
    impl<T: FromStr<Err = FormatError>> Visitor<'_> for Text<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
    }
    deserializer.deserialize_str(Text(PhantomData))
}

/// The number of exactly 32 lower-case hexadecimal digits.
pub(crate) fn hex_32(text: &str) -> Option<u128> {
    let (high, low) = text.split_at_checked(16)?;
    Some(u128::from(hex(high, 16)?) << 64 | u128::from(hex(low, 16)?))
}

/// The number of exactly so many lower-case hexadecimal digits, at most 16.
pub(crate) fn hex(text: &str, digits: usize) -> Option<u64> {
    let valid = text.len() == digits
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    valid.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_accepted_up_to_their_limits() {
        let longest = "a".repeat(128);
        assert!(longest.parse::<DocumentId>().is_ok());
        assert!("a:b.c_D-9".parse::<DocumentId>().is_ok());
        for bad in ["", "a b", "a/b", "ü", ".", "..", &"a".repeat(129)] {
            assert!(bad.parse::<DocumentId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn no_collection_name_is_a_name_that_the_store_uses_itself() {
        assert!("ChannelConfiguration".parse::<CollectionName>().is_ok());
        for bad in [
            "",
            "_heads",
            "9a",
            "a.b",
            "a$b",
            "system.views",
            &"a".repeat(65),
        ] {
            assert!(bad.parse::<CollectionName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_epoch_has_one_text_form() {
        let epoch: Epoch = "0f86d081-12".parse().expect("valid");
        assert_eq!(
            epoch,
            Epoch {
                lineage: 0x0f86_d081,
                counter: 12
            }
        );
        for bad in [
            "0f86d081-0",
            "0F86D081-1",
            "f86d081-1",
            "0f86d081-01",
            "0f86d081",
            "0f86d081-+1",
        ] {
            assert!(bad.parse::<Epoch>().is_err(), "{bad}");
        }
    }

    #[test]
    fn crc_is_the_castagnoli_checksum() {
        // RFC 3720 appendix B.4: 32 bytes of zeroes.
        assert_eq!(Crc::of(&[0; 32]).to_string(), "8a9136aa");
    }

    #[test]
    fn digest_does_not_depend_on_order() {
        let a = "a".parse().expect("id");
        let b = "b".parse().expect("id");
        let there = Digest::default().with(&a, 1, Crc(7)).with(&b, 2, Crc(8));
        let back = Digest::default().with(&b, 2, Crc(8)).with(&a, 1, Crc(7));
        assert_eq!(there, back);
        assert_eq!(
            there.without(&a, 1, Crc(7)).without(&b, 2, Crc(8)),
            Digest::default()
        );
        assert_ne!(
            there,
            Digest::default().with(&a, 2, Crc(7)).with(&b, 1, Crc(8))
        );
    }
}
