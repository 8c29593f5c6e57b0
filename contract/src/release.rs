//! What a running program says of itself, so that an upgrade can be planned: its version, the number
//! of its protocol, and what it reads. Nothing is decided by it, and it has no values of settings.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    access::routes::Service,
    formats,
    ids::{FormatError, strings},
};

/// Longest version, in bytes.
pub const MAX_VERSION: usize = 64;
/// Most names of settings that a program lists.
pub const MAX_SETTINGS: usize = 256;

/// The version of a program, as Semantic Versioning writes it: 1 to 64 of `A-Z a-z 0-9 . + -`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReleaseVersion(String);

strings!(; numbers: ReleaseVersion);

impl ReleaseVersion {
    /// The version of the programs of this repository.
    pub fn own() -> Self {
        Self(env!("CARGO_PKG_VERSION").to_owned())
    }
}

impl fmt::Display for ReleaseVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ReleaseVersion {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b".+-".contains(&byte);
        if (1..=MAX_VERSION).contains(&text.len()) && text.bytes().all(is_known) {
            Ok(Self(text.to_owned()))
        } else {
            Err(FormatError::new(
                "version",
                text,
                "1 to 64 of A-Z a-z 0-9 . + -",
            ))
        }
    }
}

/// Where a publisher keeps its documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// A file that one process has open.
    Embedded,
    /// A database that several publishers may share.
    MongoDb,
}

/// Body of `GET /v1/version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Release {
    /// `publisher` or `subscriber`.
    pub service: String,
    /// The version of the program.
    #[cfg_attr(
        feature = "utoipa",
        schema(value_type = String, min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9.+-]+$")
    )]
    pub version: ReleaseVersion,
    /// See [`formats::PROTOCOL`].
    pub protocol: u32,
    /// The store of a publisher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreRelease>,
    /// The format of the copy on disk that a subscriber writes, where it keeps one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy_format: Option<u32>,
    /// The names of the settings that its environment has, and no values.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[cfg_attr(feature = "utoipa", schema(max_items = 256))]
    pub settings: BTreeSet<String>,
}

/// What kind of store a publisher has, and the format of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct StoreRelease {
    /// The kind.
    pub kind: StoreKind,
    /// The format that this program reads and writes; it opens no other. See [`formats::STORE`].
    pub format: u64,
}

impl Release {
    /// That of this version of a service. `settings` are the names of all variables of its environment.
    pub fn own(service: Service, settings: impl IntoIterator<Item = String>) -> Self {
        Self {
            service: service.as_str().to_owned(),
            version: ReleaseVersion::own(),
            protocol: formats::PROTOCOL,
            store: None,
            copy_format: None,
            settings: settings
                .into_iter()
                .filter(|name| name.starts_with(crate::environment::PREFIX) && name.len() <= 128)
                .take(MAX_SETTINGS)
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_has_bounds() {
        let own = ReleaseVersion::own();
        assert_eq!(own.to_string().parse(), Ok(own));
        for text in ["", "1 0", "1\n", "é", &"1".repeat(65)] {
            assert!(text.parse::<ReleaseVersion>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn only_names_of_this_project_are_listed_and_no_more_than_fit() {
        let names = (0..1_000).map(|number| format!("AURA_{number}"));
        let others = ["PATH".to_owned(), format!("AURA_{}", "X".repeat(200))];
        let release = Release::own(Service::Publisher, others.into_iter().chain(names));
        assert_eq!(release.settings.len(), MAX_SETTINGS);
        assert!(release.settings.iter().all(|name| name.len() < 10));
    }
}
