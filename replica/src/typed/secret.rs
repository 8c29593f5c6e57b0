//! A value that is not shown: for the members of a service's own types that hold secrets.

use std::fmt;

use serde::Deserialize;

/// A value that `Debug` does not show. It is read as a `T`.
///
/// ```
/// #[derive(Debug, serde::Deserialize)]
/// struct Database {
///     host: String,
///     password: replica::Secret<String>,
/// }
///
/// let text = r#"{"host": "db", "password": "hunter2"}"#;
/// let database: Database = serde_json::from_str(text).expect("it fits");
/// assert_eq!(database.password.expose(), "hunter2");
/// assert!(!format!("{database:?}").contains("hunter2"));
/// ```
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    /// The value. What shows it is the responsibility of the caller.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}
