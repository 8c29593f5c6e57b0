//! Options of the harness programs, read from environment variables.

use std::str::FromStr;

use anyhow::Context;

/// The number in a variable, or a default if the variable is not set or empty.
///
/// # Errors
/// When the value is not a number of this type.
pub fn number_or<T: FromStr>(name: &str, default: T) -> anyhow::Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => text.parse().with_context(|| format!("{name}={text}")),
        _ => Ok(default),
    }
}
