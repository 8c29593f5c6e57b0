//! The address of the database of a projection. Parsing checks the form only; nothing is reached here.

use std::{fmt, str::FromStr};

use contract::{SecretUrl, secret_url::SecretUrlError};
use mongodb::options::ConnectionString;

/// `mongodb://HOST/DATABASE` or `mongodb+srv://HOST/DATABASE`. It is shown without a password.
#[derive(Clone, PartialEq, Eq)]
pub struct ProjectionUrl {
    /// The whole URL; the driver parses its list of hosts.
    pub(crate) url: SecretUrl<String>,
    /// The database that it names.
    pub(crate) database: String,
}

/// Why a text is no address of a projection. It never repeats the text, which may have a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProjectionUrlError {
    /// The scheme is unknown, or there is none.
    #[error("expected mongodb://HOST/DATABASE")]
    Scheme,
    /// The database is missing.
    #[error("name the database: mongodb://HOST/DATABASE")]
    Database,
    /// The database is one of MongoDB itself.
    #[error("{0} is a database of MongoDB itself: name another one, as mongodb://HOST/views")]
    Reserved(&'static str),
    /// It is no URL.
    #[error(transparent)]
    Url(#[from] SecretUrlError),
    /// The driver cannot use it.
    #[error("the MongoDB driver cannot read it: check hosts, ports, %-encoding and parameters")]
    Driver,
}

impl FromStr for ProjectionUrl {
    type Err = ProjectionUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rest = ["mongodb://", "mongodb+srv://"]
            .iter()
            .find_map(|scheme| text.strip_prefix(scheme))
            .ok_or(ProjectionUrlError::Scheme)?;
        let url: SecretUrl<String> = text.parse()?;
        // The driver would take `test` where a URL names no database.
        let database = rest
            .split_once('/')
            .map(|(_hosts, path)| path.split('?').next().unwrap_or_default())
            .filter(|database| !database.is_empty())
            .ok_or(ProjectionUrlError::Database)?
            .to_owned();
        if let Some(reserved) = mongo_json::server::reserved(&database) {
            return Err(ProjectionUrlError::Reserved(reserved));
        }
        ConnectionString::parse(url.expose()).map_err(|_secret| ProjectionUrlError::Driver)?;
        Ok(Self { url, database })
    }
}

impl fmt::Display for ProjectionUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.url, f)
    }
}

impl fmt::Debug for ProjectionUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_database_and_hides_its_password() {
        let url: ProjectionUrl = "mongodb://u:hunter2@a:1,b:2/views?replicaSet=rs0"
            .parse()
            .expect("a URL");
        assert_eq!(url.database, "views");
        let shown = format!("{url} {url:?}");
        assert!(
            shown.contains("a:1,b:2") && !shown.contains("hunter"),
            "{shown}"
        );
        let refused = |text: &str| text.parse::<ProjectionUrl>().expect_err(text);
        assert_eq!(refused("file:data"), ProjectionUrlError::Scheme);
        for none in ["mongodb://a:1", "mongodb://a:1/", "mongodb://a:1/?w=1"] {
            assert_eq!(refused(none), ProjectionUrlError::Database);
        }
        assert_eq!(refused("mongodb://a:port/x"), ProjectionUrlError::Driver);
        let reserved = ProjectionUrlError::Reserved("admin");
        assert_eq!(refused("mongodb://a:1/Admin?w=1"), reserved);
    }
}
