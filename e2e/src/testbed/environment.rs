//! What the programs of this crate are told by their environment.

use std::str::FromStr;

use anyhow::Context;

/// A number of the environment; the default where there is none.
///
/// # Errors
/// When it is no such number.
pub fn number_or<T: FromStr>(name: &str, default: T) -> anyhow::Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => text.parse().with_context(|| format!("{name}={text}")),
        _ => Ok(default),
    }
}
