//! Checks of settings: all errors are reported at once, before anything starts.
//!
//! Programs take every setting as text (clap reads flags and environment) and hand each text to
//! [`SettingChecks`], which continues after the first error. It never prints a value that the
//! caller marks as secret, and it never reads the environment itself.

use std::{fmt, str::FromStr};

/// Collects errors while settings are read.
#[derive(Debug, Default)]
pub struct SettingChecks {
    /// One line per error, in the order of the checks.
    errors: Vec<String>,
}

/// Every setting that is wrong, as one line each: `NAME="value": what was expected`.
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
        self.0.iter().try_for_each(|error| write!(f, "\n  {error}"))
    }
}

impl SettingChecks {
    /// Reads a setting with the parser of its type. `None` means that an error was recorded. The error
    /// repeats the text, so a secret must not be read this way.
    pub fn parse<T: FromStr>(&mut self, name: &str, given: &str) -> Option<T>
    where
        T::Err: fmt::Display,
    {
        self.check(name, given, given.parse::<T>())
    }

    /// Takes a value that was read by other means. `None` means that an error was recorded.
    pub fn check<T, E: fmt::Display>(
        &mut self,
        name: &str,
        given: &str,
        result: Result<T, E>,
    ) -> Option<T> {
        result
            .map_err(|error| self.error(name, format_args!("{given:?}: {error}")))
            .ok()
    }

    /// Records an error in words. Leave the value of a secret out of them: the line is logged.
    ///
    /// Use it for rules that concern several settings; [`SettingChecks::check`] is for one value.
    pub fn error(&mut self, name: &str, what: impl fmt::Display) {
        self.errors.push(format!("{name}={what}"));
    }

    /// The settings, when no error was recorded. `settings` may be `None` only after an error.
    ///
    /// # Errors
    /// All errors, in the order in which they were recorded.
    pub fn finish<T>(mut self, settings: Option<T>) -> Result<T, SettingsError> {
        match settings {
            Some(settings) if self.errors.is_empty() => Ok(settings),
            _ => {
                // A variable that is checked twice in a row is reported once.
                self.errors.dedup();
                Err(SettingsError(self.errors))
            }
        }
    }
}

/// The text, or the default when the text is empty. An empty value counts as unset because many
/// deployment tools cannot omit a variable.
pub fn or<'a>(text: &'a str, default: &'a str) -> &'a str {
    if text.is_empty() { default } else { text }
}

/// The entries of a list that is separated by commas, trimmed; empty entries are left out.
pub fn listed(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
}

/// Reads `true` or `false`, in any case.
///
/// # Errors
/// For any other text.
pub fn boolean(text: &str) -> Result<bool, &'static str> {
    match text.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("expected true or false"),
    }
}

/// Reads a whole number from 1.
///
/// # Errors
/// For any other text.
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
    fn all_errors_are_reported_at_once() {
        let mut checks = SettingChecks::default();
        let port = checks.parse::<u16>("PORT", "eighty");
        let ttl = checks.check("TTL", "0", positive("0"));
        let enabled = checks.check("ENABLED", "true", boolean("true"));
        let settings = (|| Some((port?, ttl?, enabled?)))();
        let SettingsError(errors) = checks.finish(settings).expect_err("two are wrong");
        assert_eq!(errors.len(), 2);
        assert!(
            errors[0].starts_with("PORT=") && errors[1].starts_with("TTL="),
            "{errors:?}"
        );
    }
}
