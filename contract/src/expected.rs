//! The state that a document must have for a write to happen: one type for the conditions of HTTP
//! (RFC 9110 section 13.1), of change sets, of units of work and of the command line.
//!
//! Nothing here reads a header or a document.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Visitor, ser::Error as _};

use crate::ids::{Crc, FormatError, Revision};

/// The expected state of a document.
///
/// In JSON it is a revision, 0 for a document that must not exist, or one of the texts `any`,
/// `absent`, `present`, `<revision>` and `<revision>-<crc>`. The forms that only lists of entity tags
/// have ([`Expected::OneOf`] and those after it) are no JSON: a change set cannot say them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Expected {
    /// Any state.
    #[default]
    Any,
    /// The document does not exist: `If-None-Match: *`.
    Absent,
    /// The document exists: `If-Match: *`.
    Present,
    /// The document has this version: `If-Match: "<revision>"` or `"<revision>-<crc>"`.
    Exactly(Version),
    /// The document has one of these versions: `If-Match` with a list. None when it is empty.
    OneOf(Vec<Version>),
    /// The document does not exist, or has none of these versions: `If-None-Match` with a list.
    NoneOf(Vec<Version>),
    /// Both hold: both header fields (RFC 9110 section 13.2.2).
    Both(Box<[Expected; 2]>),
}

/// A version of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// Its revision.
    pub revision: Revision,
    /// Its checksum; without it the revision alone decides.
    pub crc: Option<Crc>,
}

impl Expected {
    /// The document has this revision; 0 = it does not exist.
    pub fn revision(revision: Revision) -> Self {
        match revision {
            // Revision 0 is that of a document that was never written.
            0 => Self::Absent,
            revision => Self::Exactly(Version {
                revision,
                crc: None,
            }),
        }
    }

    /// Whether nothing is expected.
    pub fn is_any(&self) -> bool {
        *self == Self::Any
    }

    /// Whether a document in this state is as expected; `None` for one that does not exist.
    pub fn holds(&self, stored: Option<(Revision, Crc)>) -> bool {
        let is_one_of = |versions: &[Version]| {
            stored.is_some_and(|stored| versions.iter().any(|version| version.is(stored)))
        };
        match self {
            Self::Any => true,
            Self::Absent => stored.is_none(),
            Self::Present => stored.is_some(),
            Self::Exactly(version) => is_one_of(&[*version]),
            Self::OneOf(versions) => is_one_of(versions),
            Self::NoneOf(versions) => !is_one_of(versions),
            Self::Both(both) => both.iter().all(|each| each.holds(stored)),
        }
    }

    /// The header fields of a request that say the same: names and values.
    pub fn fields(&self) -> Vec<(&'static str, String)> {
        const MATCH: &str = "If-Match";
        const NONE_MATCH: &str = "If-None-Match";
        let list = |versions: &[Version]| {
            let tags: Vec<_> = versions
                .iter()
                .map(|version| format!("\"{version}\""))
                .collect();
            tags.join(", ")
        };
        match self {
            Self::Any => Vec::new(),
            Self::Absent => vec![(NONE_MATCH, "*".to_owned())],
            Self::Present => vec![(MATCH, "*".to_owned())],
            Self::Exactly(version) => vec![(MATCH, list(&[*version]))],
            Self::OneOf(versions) => vec![(MATCH, list(versions))],
            Self::NoneOf(versions) => vec![(NONE_MATCH, list(versions))],
            Self::Both(both) => both.iter().flat_map(Self::fields).collect(),
        }
    }
}

impl Version {
    fn is(self, (revision, crc): (Revision, Crc)) -> bool {
        self.revision == revision && self.crc.is_none_or(|expected| expected == crc)
    }
}

/// `<revision>` or `<revision>-<crc>`: the entity tag of a document, without its quotes.
impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.crc {
            None => write!(f, "{}", self.revision),
            Some(crc) => write!(f, "{}-{crc}", self.revision),
        }
    }
}

impl FromStr for Version {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let parsed = match text.split_once('-') {
            None => text.parse().ok().map(|revision| (revision, None)),
            Some((revision, crc)) => revision
                .parse()
                .ok()
                .zip(crc.parse().ok())
                .map(|(revision, crc)| (revision, Some(crc))),
        };
        parsed
            .map(|(revision, crc)| Self { revision, crc })
            .ok_or_else(|| FormatError::new("version", text, "<revision> or <revision>-<crc>"))
    }
}

/// `any`, `absent`, `present`, a revision, or an entity tag with its quotes or without.
impl FromStr for Expected {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        match text {
            "any" => Ok(Self::Any),
            "absent" | "0" => Ok(Self::Absent),
            "present" => Ok(Self::Present),
            text => {
                let quoted = text
                    .strip_prefix('"')
                    .and_then(|rest| rest.strip_suffix('"'));
                match quoted.unwrap_or(text).parse() {
                    Ok(version) => Ok(Self::Exactly(version)),
                    Err(_other) => {
                        let expected = "any, absent, present, <revision> or <revision>-<crc>";
                        Err(FormatError::new("expected state", text, expected))
                    }
                }
            }
        }
    }
}

impl Serialize for Expected {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Any => serializer.serialize_str("any"),
            // As revision 0, which earlier versions read as well.
            Self::Absent => serializer.serialize_u64(0),
            Self::Present => serializer.serialize_str("present"),
            Self::Exactly(Version {
                revision,
                crc: None,
            }) => serializer.serialize_u64(*revision),
            Self::Exactly(version) => serializer.collect_str(version),
            Self::OneOf(_) | Self::NoneOf(_) | Self::Both(_) => {
                Err(S::Error::custom("a list of versions is no JSON"))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Expected {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct State;

        impl Visitor<'_> for State {
            type Value = Expected;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "a revision, 0, or \"any\", \"absent\", \"present\", \"<revision>-<crc>\"",
                )
            }

            /// As a member that is absent.
            fn visit_unit<E: serde::de::Error>(self) -> Result<Expected, E> {
                Ok(Expected::Any)
            }

            fn visit_u64<E: serde::de::Error>(self, revision: u64) -> Result<Expected, E> {
                Ok(Expected::revision(revision))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Expected, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(State)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CRC: Crc = Crc(0x6a4d_3f2e);

    fn read(json: &str) -> serde_json::Result<Expected> {
        serde_json::from_str(json)
    }

    #[test]
    fn each_form_is_read_and_comes_back_as_json() {
        let seven = |crc| Expected::Exactly(Version { revision: 7, crc });
        for (json, expected, again) in [
            ("0", Expected::Absent, "0"),
            ("\"absent\"", Expected::Absent, "0"),
            ("\"any\"", Expected::Any, "\"any\""),
            ("null", Expected::Any, "\"any\""),
            ("\"present\"", Expected::Present, "\"present\""),
            ("7", seven(None), "7"),
            ("\"7\"", seven(None), "7"),
            ("\"7-6a4d3f2e\"", seven(Some(CRC)), "\"7-6a4d3f2e\""),
            (r#""\"7-6a4d3f2e\"""#, seven(Some(CRC)), "\"7-6a4d3f2e\""),
        ] {
            assert_eq!(read(json).expect(json), expected);
            assert_eq!(serde_json::to_string(&expected).expect(json), again);
        }
        for bad in ["-1", "1.5", "\"\"", "\"W/7\"", "\"7-\"", "[7]", "true"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(serde_json::to_string(&Expected::OneOf(Vec::new())).is_err());
    }

    #[test]
    fn each_form_holds_where_it_says() {
        let version = |revision, crc| Version { revision, crc };
        let all = [
            (Expected::Any, [true, true, true]),
            (Expected::Absent, [true, false, false]),
            (Expected::Present, [false, true, true]),
            (Expected::revision(0), [true, false, false]),
            (Expected::revision(7), [false, true, false]),
            (
                Expected::Exactly(version(7, Some(CRC))),
                [false, true, false],
            ),
            (
                Expected::Exactly(version(7, Some(Crc(1)))),
                [false, false, false],
            ),
            (Expected::OneOf(Vec::new()), [false, false, false]),
            (
                Expected::OneOf(vec![version(9, None), version(8, None)]),
                [false, false, true],
            ),
            (Expected::NoneOf(Vec::new()), [true, true, true]),
            (
                Expected::NoneOf(vec![version(7, None)]),
                [true, false, true],
            ),
            (
                Expected::Both(Box::new([
                    Expected::Present,
                    Expected::NoneOf(vec![version(7, None)]),
                ])),
                [false, false, true],
            ),
        ];
        for (expected, holds) in all {
            let states = [None, Some((7, CRC)), Some((8, CRC))];
            assert_eq!(
                states.map(|state| expected.holds(state)),
                holds,
                "{expected:?}"
            );
        }
    }
}
