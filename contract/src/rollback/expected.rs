//! What a rollback expects of the state that it changes.
//!
//! Nothing here compares it with a state.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Visitor};

use crate::{
    expected::Version,
    ids::{Epoch, FormatError, Revision},
};

/// The state that a rollback changes. A revision alone may be that of another history after a
/// database was restored; the other forms may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RollbackExpected {
    /// A JSON number: the revision of a document, 0 = it does not exist; or a revision of the present
    /// epoch of a collection.
    Revision(Revision),
    /// `<revision>-<crc>`: the entity tag of a document, without its quotes.
    Document(Version),
    /// `<epoch>-<revision>` of a collection, as in `Confcast-Revision`.
    Collection(Epoch, Revision),
}

const FORMS: &str = "a revision, \"<revision>-<crc>\" of a document or \"<epoch>-<revision>\" of a \
                     collection";

impl fmt::Display for RollbackExpected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Revision(revision) => write!(f, "{revision}"),
            Self::Document(version) => write!(f, "{version}"),
            Self::Collection(epoch, revision) => write!(f, "{epoch}-{revision}"),
        }
    }
}

impl FromStr for RollbackExpected {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        // The epoch has a dash itself, the version of a document has one dash at most.
        let of_collection = || {
            let (epoch, revision) = text.rsplit_once('-')?;
            Some(Self::Collection(
                epoch.parse().ok()?,
                revision.parse().ok()?,
            ))
        };
        let of_document = || match text.parse().ok()? {
            Version {
                revision,
                crc: None,
            } => Some(Self::Revision(revision)),
            version => Some(Self::Document(version)),
        };
        of_collection()
            .or_else(of_document)
            .ok_or_else(|| FormatError::new("expected state", text, FORMS))
    }
}

impl Serialize for RollbackExpected {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Revision(revision) => serializer.serialize_u64(*revision),
            _tag => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for RollbackExpected {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct State;

        impl Visitor<'_> for State {
            type Value = RollbackExpected;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(FORMS)
            }

            fn visit_u64<E: serde::de::Error>(self, revision: u64) -> Result<Self::Value, E> {
                Ok(RollbackExpected::Revision(revision))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(State)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Crc;

    #[test]
    fn each_form_is_read_and_comes_back() {
        let epoch = Epoch {
            lineage: 0x702c_c15b,
            counter: 1,
        };
        let version = Version {
            revision: 7,
            crc: Some(Crc(0x6a4d_3f2e)),
        };
        for (json, expected) in [
            ("7", RollbackExpected::Revision(7)),
            ("\"7-6a4d3f2e\"", RollbackExpected::Document(version)),
            ("\"702cc15b-1-41\"", RollbackExpected::Collection(epoch, 41)),
        ] {
            let read: RollbackExpected = serde_json::from_str(json).expect(json);
            assert_eq!(read, expected);
            assert_eq!(serde_json::to_string(&read).expect("JSON"), json);
        }
        for bad in ["-1", "\"\"", "\"702cc15b-1-\"", "\"702cc15b-0-3\"", "[7]"] {
            assert!(
                serde_json::from_str::<RollbackExpected>(bad).is_err(),
                "{bad}"
            );
        }
    }
}
