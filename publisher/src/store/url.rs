//! The address of a store, as the setting `AURA_CONFIGURATION_STORE_URL` gives it.
//!
//! Parsing checks the form only; nothing is opened or reached here.

use std::{fmt, path::PathBuf, str::FromStr};

/// Where a store is.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// `file:DIR`: the embedded store in this folder.
    Embedded(PathBuf),
    /// `mongodb://HOST/DATABASE` or `mongodb+srv://HOST/DATABASE`. The URL may hold a password, so
    /// `Debug` omits it.
    Mongo {
        /// The whole URL.
        url: String,
        /// The database that the URL names.
        database: String,
    },
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded(folder) => write!(f, "file:{}", folder.display()),
            Self::Mongo { database, .. } => write!(f, "mongodb://…/{database}"),
        }
    }
}

impl FromStr for StoreUrl {
    /// The expected form of the URL.
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(folder) = text.strip_prefix("file:") {
            return if folder.is_empty() {
                Err("name a folder: file:DIR")
            } else {
                Ok(Self::Embedded(folder.into()))
            };
        }
        let Some((_scheme, rest)) = text
            .split_once("://")
            .filter(|(scheme, _)| scheme.starts_with("mongodb"))
        else {
            return Err("expected file:DIR or mongodb://HOST/DATABASE");
        };
        // The driver would take `test` where a URL names no database: a publisher must not write
        // there by accident.
        let database = rest
            .split_once('/')
            .map(|(_hosts, path)| path.split('?').next().unwrap_or_default());
        match database {
            Some(database) if !database.is_empty() => Ok(Self::Mongo {
                url: text.into(),
                database: database.into(),
            }),
            _ => Err("name the database: mongodb://HOST/DATABASE"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_folder_or_a_database_and_hides_its_password() {
        assert_eq!("file:data".parse(), Ok(StoreUrl::Embedded("data".into())));
        let url = "mongodb://u:secret@a:1,b:2/conf?replicaSet=rs0";
        let parsed: StoreUrl = url.parse().expect("valid");
        assert_eq!(
            parsed,
            StoreUrl::Mongo {
                url: url.into(),
                database: "conf".into()
            }
        );
        assert!(!format!("{parsed:?}").contains("secret"));
        for invalid in [
            "file:",
            "data",
            "mongodb://host",
            "mongodb://host/",
            "mongodb://host/?a=b",
            "http://host/db",
        ] {
            assert!(invalid.parse::<StoreUrl>().is_err(), "{invalid}");
        }
    }
}
