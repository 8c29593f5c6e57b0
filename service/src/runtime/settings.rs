//! Checks of settings: all errors are reported at once, before anything starts.
//!
//! Programs take every setting as text. [`read`] has clap read flags and environment, trims every
//! text, and refuses those that no setting can have. The program then hands each text to
//! [`SettingChecks`], which continues after the first error. No value that the caller marks as
//! secret is printed, and none of the setting of a file that may be the content of the file. Nothing
//! is opened.

use std::{ffi::OsString, fmt, net::SocketAddr, path::Path, str::FromStr};

use ::tls::regular_file;
use clap::{Arg, ArgAction, ArgMatches, Parser, parser::ValueSource};
use contract::text::{is_hidden, paths::ShownPath};
use tracing::warn;

mod text_parser;

use self::text_parser::TrimmedText;

/// How the name of a setting ends whose value is the path of a file.
const FILE_SETTING: &str = "_FILE";

/// Collects errors while settings are read.
#[derive(Debug, Default)]
pub struct SettingChecks {
    /// One line per error, in the order of the checks.
    errors: Vec<String>,
}

/// Every setting that is wrong, as one line each: `NAME="value": what was expected`, or `NAME is not
/// set: why it is needed`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub struct SettingsError(pub Vec<String>);

/// The flag that checks the settings and starts nothing: for a program that runs next with them.
const CHECK: &str = "check-settings";

/// Why the command line and the environment give no settings.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// All settings are right, and nothing else was asked for.
    #[error("all settings are right")]
    OnlyChecked,
    /// The command line cannot be parsed, or asks for help.
    #[error(transparent)]
    CommandLine(#[from] clap::Error),
    /// Settings are wrong.
    #[error(transparent)]
    Settings(#[from] SettingsError),
}

/// Reads the settings of a program: the texts of flags and environment, trimmed, then `check`.
///
/// The one place that says what the text of every setting may be: UTF-8, without control and other
/// hidden characters. White space around it is removed, because secrets that are mounted as files
/// end in a line feed. An empty text counts as unset; one that is white space alone is refused,
/// because a store or a token was meant to be there.
///
/// # Errors
/// All mistakes together. For a text that is refused here, the mistakes of `check` are
/// left out.
pub fn read<O: Parser, S>(
    arguments: impl IntoIterator<Item: Into<OsString> + Clone>,
    check: impl FnOnce(O) -> Result<S, SettingsError>,
) -> Result<S, ReadError> {
    let check_only = Arg::new(CHECK)
        .long(CHECK)
        .action(ArgAction::SetTrue)
        .help("Check all settings, print each that is wrong, and end: 0 when none is, else 64");
    let command = O::command().arg(check_only).mut_args(|argument| {
        // `--help` shows the values of variables, and this one may be the content of the file.
        let is_file = argument.get_env().is_some_and(|name| {
            name.to_str()
                .is_some_and(|name| name.ends_with(FILE_SETTING))
        });
        let argument = if is_file {
            argument.hide_env_values(true)
        } else {
            argument
        };
        if argument.get_action().takes_values() {
            argument.value_parser(TrimmedText)
        } else {
            argument
        }
    });
    let mut matches = command.clone().try_get_matches_from(arguments)?;
    let mut errors = Vec::new();
    let mut refused = Vec::new();
    for argument in command.get_arguments() {
        let Some(wrong) = wrong_text(&matches, argument.get_id().as_str()) else {
            continue;
        };
        let variable = argument.get_env().and_then(|name| name.to_str());
        let name = variable.unwrap_or(argument.get_id().as_str());
        errors.push(format!("{name}=…: {wrong}"));
        refused.extend([format!("{name}="), format!("{name} is not set")]);
    }
    let options = O::from_arg_matches_mut(&mut matches)?;
    let SettingsError(further) = match check(options) {
        Ok(_settings) if errors.is_empty() && matches.get_flag(CHECK) => {
            return Err(ReadError::OnlyChecked);
        }
        Ok(settings) if errors.is_empty() => return Ok(settings),
        Ok(_incomplete) => SettingsError(Vec::new()),
        Err(further) => further,
    };
    let is_new = |error: &String| !refused.iter().any(|name| error.starts_with(name));
    errors.extend(further.into_iter().filter(is_new));
    Err(SettingsError(errors).into())
}

/// What is wrong with the text of an argument, if it was given. The value is never repeated.
fn wrong_text(matches: &ArgMatches, id: &str) -> Option<String> {
    if matches.value_source(id) == Some(ValueSource::DefaultValue) {
        return None;
    }
    // Arguments of another type, as `--help`, have no text.
    for raw in matches.try_get_raw(id).ok()?? {
        let Some(text) = raw.to_str() else {
            return Some("expected UTF-8".to_owned());
        };
        let trimmed = text.trim();
        if trimmed.is_empty() && !text.is_empty() {
            return Some("it is white space alone".to_owned());
        }
        if let Some(hidden) = trimmed.chars().find(|character| is_hidden(*character)) {
            return Some(format!(
                "the character U+{:04X} is not allowed",
                u32::from(hidden)
            ));
        }
    }
    None
}

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
            .map_err(|error| {
                if name.ends_with(FILE_SETTING) {
                    let path = ShownPath(Path::new(given));
                    self.error(name, format_args!("{path}: {error}"));
                } else {
                    self.error(name, format_args!("{given:?}: {error}"));
                }
            })
            .ok()
    }

    /// Records an error in words. Leave the value of a secret out of them: the line is logged.
    ///
    /// Use it for rules that concern several settings; [`SettingChecks::check`] is for one value.
    pub fn error(&mut self, name: &str, what: impl fmt::Display) {
        self.errors.push(format!("{name}={what}"));
    }

    /// Records that a setting is missing that another one needs.
    pub fn missing(&mut self, name: &str, reason: impl fmt::Display) {
        self.errors.push(format!("{name} is not set: {reason}"));
    }

    /// Takes over the errors of settings that were checked elsewhere.
    pub fn extend(&mut self, SettingsError(errors): SettingsError) {
        self.errors.extend(errors);
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

/// Logs a warning when every user of the host can read or change a file with a private key. It is no
/// error: in a container a mounted file has the mode of the mount, and other users are not there.
pub fn warn_of_open_key(name: &str, path: &Path) {
    if let Some(mode) = regular_file::open_to_all(path) {
        let path = ShownPath(path);
        warn!(
            "{name}={path}: every user of this host can read or change this private key (mode \
             {mode:03o}): chmod 640, or defaultMode: 0440 for a Kubernetes Secret"
        );
    }
}

/// A token, which is sent in a header. `Some(None)` when it is unset, `None` when an error was
/// recorded; the error does not contain the token.
pub fn token(checks: &mut SettingChecks, name: &str, text: &str) -> Option<Option<String>> {
    if text.is_empty() {
        return Some(None);
    }
    if !text
        .bytes()
        .all(|byte| byte.is_ascii_graphic() || byte == b' ')
    {
        checks.error(
            name,
            "…: it cannot be sent in a header, expected visible ASCII",
        );
        return None;
    }
    Some(Some(text.to_owned()))
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

/// Reads the address and port that a service listens on.
///
/// # Errors
/// For any other text, also for the name of a host: it may have several addresses.
pub fn listen_address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_other| {
        "expected an IP address and a port, for example 127.0.0.1:8080, or 0.0.0.0:8080 for every \
         address of the host"
    })
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

    #[test]
    fn an_address_to_listen_on_names_its_form() {
        assert!(listen_address("[::1]:8080").is_ok());
        for text in ["localhost:8080", ":8080", "0.0.0.0"] {
            let error = listen_address(text).expect_err(text);
            assert!(error.contains("0.0.0.0:8080"), "{text}: {error}");
        }
    }

    #[derive(Parser)]
    struct Options {
        #[arg(long, env = "TEST_ONLY_STORE", default_value = "file:data")]
        store: String,
        #[arg(long, env = "TEST_ONLY_TOKEN", default_value = "")]
        token: String,
        #[arg(long, env = "TEST_ONLY_PORT", default_value = "1")]
        port: String,
    }

    fn options(arguments: &[&str]) -> Result<(String, String, u16), Vec<String>> {
        let read = read(
            std::iter::once(&"program").chain(arguments),
            |options: Options| {
                let mut checks = SettingChecks::default();
                let port = checks.parse("TEST_ONLY_PORT", &options.port);
                let token = token(&mut checks, "TEST_ONLY_TOKEN", &options.token);
                let settings = (|| Some((options.store, token?.unwrap_or_default(), port?)))();
                checks.finish(settings)
            },
        );
        read.map_err(|error| match error {
            ReadError::Settings(SettingsError(errors)) => errors,
            other => vec![other.to_string()],
        })
    }

    #[test]
    fn settings_can_be_checked_alone_and_are_refused_as_at_a_start() {
        let checked = |port| options(&["--check-settings", "--port", port]);
        assert_eq!(checked("1"), Err(vec!["all settings are right".to_owned()]));
        assert_eq!(checked("many"), options(&["--port", "many"]));
    }

    #[test]
    fn white_space_around_a_value_is_removed() {
        let read = options(&[
            "--store",
            "file:data\n",
            "--token",
            " tok \r\n",
            "--port= 80 ",
        ]);
        assert_eq!(read, Ok(("file:data".to_owned(), "tok".to_owned(), 80)));
        // An empty value counts as unset, which the check decides.
        assert_eq!(
            options(&["--token="]).map(|(_, token, _)| token),
            Ok(String::new())
        );
    }

    #[test]
    fn texts_that_no_setting_can_have_are_refused_with_all_other_mistakes() {
        let errors = options(&["--store", "file:a\nb", "--token", " \n", "--port", "x"]);
        let errors = errors.expect_err("three mistakes");
        assert_eq!(errors.len(), 3, "{errors:?}");
        assert_eq!(
            errors[0],
            "TEST_ONLY_STORE=…: the character U+000A is not allowed"
        );
        assert_eq!(errors[1], "TEST_ONLY_TOKEN=…: it is white space alone");
        assert!(errors[2].starts_with("TEST_ONLY_PORT=\"x\""), "{errors:?}");
        let errors = options(&["--port", "\u{feff}80"]).expect_err("a hidden character");
        assert_eq!(
            errors,
            ["TEST_ONLY_PORT=…: the character U+FEFF is not allowed"]
        );
    }
}
