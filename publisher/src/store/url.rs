//! The address of a store, as the setting `AURA_CONFIGURATION_STORE_URL` gives it.
//!
//! Parsing checks the form only; nothing is opened or reached here.

use std::{fmt, path::PathBuf, str::FromStr};

use contract::{SecretUrl, secret_url::SecretUrlError};

/// Where a store is.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// `file:DIR`: the embedded store in this folder.
    Embedded(PathBuf),
    /// `mongodb://HOST/DATABASE` or `mongodb+srv://HOST/DATABASE`.
    Mongo {
        /// The whole URL; the driver parses its list of hosts.
        url: SecretUrl<String>,
        /// The database that the URL names.
        database: String,
    },
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded(folder) => write!(f, "file:{}", folder.display()),
            Self::Mongo { url, .. } => write!(f, "{url}"),
        }
    }
}

/// Why a text is no address of a store. It never repeats the text, which may have a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreUrlError {
    /// The scheme is unknown, or there is none.
    #[error("expected file:DIR or mongodb://HOST/DATABASE")]
    Scheme,
    /// A folder is missing, or has white space around its name.
    #[error("name a folder: file:DIR")]
    Folder,
    /// The database is missing.
    #[error("name the database: mongodb://HOST/DATABASE")]
    Database,
    /// The database is one of MongoDB itself.
    #[error("{0} is a database of MongoDB itself: name another one, as mongodb://HOST/confcast")]
    Reserved(&'static str),
    /// It is no URL.
    #[error(transparent)]
    Url(#[from] SecretUrlError),
    /// The driver cannot use the URL.
    #[error("{0}")]
    Driver(String),
}

impl FromStr for StoreUrl {
    type Err = StoreUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(folder) = text.strip_prefix("file:") {
            return if folder.is_empty() || folder.trim() != folder {
                Err(StoreUrlError::Folder)
            } else {
                Ok(Self::Embedded(folder.into()))
            };
        }
        if !["mongodb://", "mongodb+srv://"]
            .iter()
            .any(|scheme| text.starts_with(scheme))
        {
            return Err(StoreUrlError::Scheme);
        }
        let url: SecretUrl<String> = text.parse()?;
        // The driver would take `test` where a URL names no database: a publisher must not write
        // there by accident.
        let (_scheme, rest) = text.split_once("://").ok_or(StoreUrlError::Scheme)?;
        let database = rest
            .split_once('/')
            .map(|(_hosts, path)| path.split('?').next().unwrap_or_default())
            .filter(|database| !database.is_empty())
            .ok_or(StoreUrlError::Database)?
            .to_owned();
        if let Some(reserved) = mongo_json::server::reserved(&database) {
            return Err(StoreUrlError::Reserved(reserved));
        }
        super::mongo::check_url(&url).map_err(StoreUrlError::Driver)?;
        Ok(Self::Mongo { url, database })
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
                url: url.parse().expect("valid"),
                database: "conf".into()
            }
        );
        assert_eq!(format!("{parsed:?}"), "mongodb://…@a:1,b:2/conf");
        assert!(!format!("{parsed:?}").contains("secret"));
        for reserved in ["admin", "config", "local"] {
            let url = format!("mongodb://u:secret@host/{reserved}?authSource=admin");
            let refused = Err(StoreUrlError::Reserved(reserved));
            assert_eq!(url.parse::<StoreUrl>(), refused);
        }
        for invalid in [
            "file:",
            "data",
            "mongodb://host",
            "mongodb://host/",
            "mongodb://host/?a=b",
            "http://host/db",
            "mongodbs://host/db",
            "file: data",
            "mongodb://host/da ta",
            // A character of the password that was not encoded.
            "mongodb://u:sec/ret@host/db",
            "mongodb://u:sec@ret@host/db",
            "mongodb://u:sec?ret@host/db",
            "mongodb://u:sec#ret@host/db",
            "mongodb://u:sec%ret@host/db",
            "mongodb://u:secret@host:port/db",
            "mongodb://u:secret@host/db?replicaSet",
            "mongodb://u:secret@host/db?maxPoolSize=secret",
        ] {
            let error = invalid.parse::<StoreUrl>().expect_err(invalid);
            let shown = format!("{error} {error:?}");
            assert!(
                !shown.contains("sec") && !shown.contains("ret@"),
                "{invalid}: {shown}"
            );
        }
    }
}
