//! All mistakes in the settings at once, before anything starts.
//!
//! Programs take every setting as text (clap reads flags and environment) and give each to
//! [`SettingChecks`], which goes on after the first mistake, so that the operator sees all of them in one
//! go. It never prints a value marked secret.

use std::{fmt, str::FromStr};

/// Exit code for wrong settings: `EX_USAGE` of sysexits.h.
pub const EXIT_CODE: i32 = 64;

/// Collects mistakes while settings are read.
#[derive(Debug, Default)]
pub struct SettingChecks {
    mistakes: Vec<String>,
}

/// Everything that is wrong, one line each.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub struct SettingsError(pub Vec<String>);

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.0.len() == 1 {
            "setting is"
        } else {
            "settings are"
        };
        write!(f, "{} {plural} wrong:", self.0.len())?;
        self.0
            .iter()
            .try_for_each(|mistake| write!(f, "\n  {mistake}"))
    }
}

impl SettingChecks {
    /// Reads a setting by its type's own parser. `None` means that a mistake was noted.
    pub fn parse<T: FromStr>(&mut self, name: &str, given: &str) -> Option<T>
    where
        T::Err: fmt::Display,
    {
        self.check(name, given, given.parse::<T>())
    }

    /// Takes a value that was read by other means.
    pub fn check<T, E: fmt::Display>(
        &mut self,
        name: &str,
        given: &str,
        result: Result<T, E>,
    ) -> Option<T> {
        result
            .map_err(|error| self.mistake(name, format_args!("{given:?}: {error}")))
            .ok()
    }

    /// Notes a mistake in words; for secrets, without the value.
    pub fn mistake(&mut self, name: &str, what: impl fmt::Display) {
        self.mistakes.push(format!("{name}={what}"));
    }

    /// The settings, if nothing was wrong with any of them. `settings` may be `None` only after a
    /// mistake.
    ///
    /// # Errors
    /// All mistakes, in the order they were met.
    pub fn finish<T>(mut self, settings: Option<T>) -> Result<T, SettingsError> {
        match settings {
            Some(settings) if self.mistakes.is_empty() => Ok(settings),
            _ => {
                self.mistakes.dedup();
                Err(SettingsError(self.mistakes))
            }
        }
    }
}

/// The setting, or its default: an empty value counts as unset, because many deployments cannot
/// leave a variable out.
pub fn or<'a>(text: &'a str, default: &'a str) -> &'a str {
    if text.is_empty() { default } else { text }
}

/// The entries of a list with commas in between; empty ones are not there.
pub fn listed(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
}

/// `true` or `false`, as every boolean setting is spelled.
///
/// # Errors
/// When it is anything else.
pub fn boolean(text: &str) -> Result<bool, &'static str> {
    match text.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("expected true or false"),
    }
}

/// A whole number from 1.
///
/// # Errors
/// When it is anything else.
pub fn positive(text: &str) -> Result<u64, &'static str> {
    text.parse()
        .ok()
        .filter(|number| *number > 0)
        .ok_or("expected a whole number from 1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_is_told() {
        let mut checks = SettingChecks::default();
        let port = checks.parse::<u16>("PORT", "eighty");
        let ttl = checks.check("TTL", "0", positive("0"));
        let enabled = checks.check("ENABLED", "true", boolean("true"));
        let settings = (|| Some((port?, ttl?, enabled?)))();
        let SettingsError(mistakes) = checks.finish(settings).expect_err("two are wrong");
        assert_eq!(mistakes.len(), 2);
        assert!(
            mistakes[0].starts_with("PORT=") && mistakes[1].starts_with("TTL="),
            "{mistakes:?}"
        );
    }
}
